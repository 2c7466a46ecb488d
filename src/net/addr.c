#include "smartproxy/addr.h"

#include <arpa/inet.h>
#include <string.h>

#include "smartproxy/text.h"

static void set_v4(struct addr *a, struct in_addr ip, uint16_t port_be)
{
	memset(a, 0, sizeof(*a));
	a->v4.sin_family = AF_INET;
	a->v4.sin_addr = ip;
	a->v4.sin_port = port_be;
	a->len = sizeof(a->v4);
}

/* A mapped address becomes IPv4. */
static void set_v6(struct addr *a, const struct in6_addr *ip, uint16_t port_be, uint32_t scope_id)
{
	if (IN6_IS_ADDR_V4MAPPED(ip)) {
		struct in_addr v4;
		memcpy(&v4, &ip->s6_addr[12], sizeof(v4));
		set_v4(a, v4, port_be);
		return;
	}
	memset(a, 0, sizeof(*a));
	a->v6.sin6_family = AF_INET6;
	a->v6.sin6_addr = *ip;
	a->v6.sin6_port = port_be;
	a->v6.sin6_scope_id = scope_id;
	a->len = sizeof(a->v6);
}

enum err addr_parse(const char *ip, uint16_t port, struct addr *ret_addr)
{
	char bare[INET6_ADDRSTRLEN];
	size_t len = strlen(ip);
	bool is_bracketed = len >= 2 && ip[0] == '[' && ip[len - 1] == ']';
	if (is_bracketed) {
		ip++;
		len -= 2;
	}
	if (len >= sizeof(bare))
		return ERR_SYNTAX;
	memcpy(bare, ip, len);
	bare[len] = '\0';
	struct in_addr v4;
	struct in6_addr v6;
	if (!is_bracketed && inet_pton(AF_INET, bare, &v4) == 1)
		set_v4(ret_addr, v4, htons(port));
	else if (inet_pton(AF_INET6, bare, &v6) == 1)
		set_v6(ret_addr, &v6, htons(port), 0);
	else
		return ERR_SYNTAX;
	return ERR_OK;
}

void addr_from_sockaddr(const struct sockaddr_storage *ss, struct addr *ret_addr)
{
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	switch (ss->ss_family) {
	case AF_INET:
		memcpy(&v4, ss, sizeof(v4));
		set_v4(ret_addr, v4.sin_addr, v4.sin_port);
		break;
	case AF_INET6:
		memcpy(&v6, ss, sizeof(v6));
		set_v6(ret_addr, &v6.sin6_addr, v6.sin6_port, v6.sin6_scope_id);
		break;
	default: /* a Unix socket: no address */
		memset(ret_addr, 0, sizeof(*ret_addr));
	}
}

uint16_t addr_port(const struct addr *a)
{
	switch (a->sa.sa_family) {
	case AF_INET:
		return ntohs(a->v4.sin_port);
	case AF_INET6:
		return ntohs(a->v6.sin6_port);
	default:
		return 0;
	}
}

void addr_set_port(struct addr *a, uint16_t port)
{
	if (a->sa.sa_family == AF_INET)
		a->v4.sin_port = htons(port);
	else if (a->sa.sa_family == AF_INET6)
		a->v6.sin6_port = htons(port);
}

bool addr_is_equal(const struct addr *a, const struct addr *b)
{
	if (a->sa.sa_family != b->sa.sa_family || addr_port(a) != addr_port(b))
		return false;
	switch (a->sa.sa_family) {
	case AF_INET:
		return a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
	case AF_INET6:
		return a->v6.sin6_scope_id == b->v6.sin6_scope_id &&
		       IN6_ARE_ADDR_EQUAL(&a->v6.sin6_addr, &b->v6.sin6_addr);
	default:
		return true;
	}
}

/* Once for each client: inet_ntop would print by a format. */
static void format_v4(char *dst, const struct in_addr *ip)
{
	uint8_t bytes[4];
	memcpy(bytes, ip, sizeof(bytes));
	for (int i = 0; i < 4; i++) {
		unsigned n = bytes[i];
		if (n >= 100)
			*dst++ = (char)('0' + n / 100);
		if (n >= 10)
			*dst++ = (char)('0' + n / 10 % 10);
		*dst++ = (char)('0' + n % 10);
		*dst++ = i < 3 ? '.' : '\0';
	}
}

const char *addr_format_ip(char *dst, size_t cap, const struct addr *a)
{
	char ip[INET6_ADDRSTRLEN] = "-";
	if (a->sa.sa_family == AF_INET)
		format_v4(ip, &a->v4.sin_addr);
	else if (a->sa.sa_family == AF_INET6)
		(void)inet_ntop(AF_INET6, &a->v6.sin6_addr, ip, sizeof(ip));
	(void)text_copy(dst, cap, ip);
	return dst;
}

const char *addr_format(char *dst, size_t cap, const struct addr *a)
{
	char ip[INET6_ADDRSTRLEN];
	(void)addr_format_ip(ip, sizeof(ip), a);
	bool is_v6 = a->sa.sa_family == AF_INET6;
	(void)text_format(dst, cap, "%s%s%s:%u", is_v6 ? "[" : "", ip, is_v6 ? "]" : "",
			  (unsigned)addr_port(a));
	return dst;
}

/* One to three digits, no sign, no leading zero; -1 when text is none. */
static int parse_prefix_len(const char *text)
{
	size_t len = strspn(text, "0123456789");
	if (len == 0 || len > 3 || text[len] != '\0' || (len > 1 && text[0] == '0'))
		return -1;
	int value = 0;
	for (size_t i = 0; i < len; i++)
		value = value * 10 + (text[i] - '0');
	return value;
}

/* The bits of byte ix that belong to the prefix. */
static uint8_t mask_at(unsigned prefix_len, unsigned ix)
{
	if (prefix_len >= (ix + 1) * 8)
		return 0xff;
	return prefix_len <= ix * 8 ? 0 : (uint8_t)(0xff << (8 - prefix_len % 8));
}

enum err cidr_parse(const char *text, struct cidr *ret_cidr)
{
	struct cidr c = { .family = strchr(text, ':') != NULL ? AF_INET6 : AF_INET };
	unsigned bytes_len = c.family == AF_INET ? 4 : 16;
	char ip[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t ip_len = slash != NULL ? (size_t)(slash - text) : strlen(text);
	if (ip_len >= sizeof(ip))
		return ERR_SYNTAX;
	memcpy(ip, text, ip_len);
	ip[ip_len] = '\0';
	if (inet_pton(c.family, ip, c.bytes) != 1)
		return ERR_SYNTAX;
	int prefix_len = slash != NULL ? parse_prefix_len(slash + 1) : (int)bytes_len * 8;
	if (prefix_len < 0)
		return ERR_SYNTAX;
	if (prefix_len > (int)bytes_len * 8)
		return ERR_INVALID;
	c.prefix_len = (uint8_t)prefix_len;
	for (unsigned i = 0; i < bytes_len; i++) {
		if ((c.bytes[i] & (uint8_t)~mask_at(c.prefix_len, i)) != 0)
			return ERR_INVALID;
	}
	struct in6_addr v6;
	memcpy(&v6, c.bytes, sizeof(v6));
	if (c.family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&v6) && c.prefix_len >= 96) {
		c = (struct cidr){ .family = AF_INET, .prefix_len = (uint8_t)(c.prefix_len - 96) };
		memcpy(c.bytes, &v6.s6_addr[12], 4);
	}
	*ret_cidr = c;
	return ERR_OK;
}

bool cidr_has(const struct cidr *c, const struct addr *a)
{
	if (a->sa.sa_family != c->family)
		return false;
	const uint8_t *ip =
		c->family == AF_INET ? (const uint8_t *)&a->v4.sin_addr : a->v6.sin6_addr.s6_addr;
	unsigned whole = c->prefix_len / 8;
	if (memcmp(ip, c->bytes, whole) != 0)
		return false;
	return c->prefix_len % 8 == 0 ||
	       ((ip[whole] ^ c->bytes[whole]) & mask_at(c->prefix_len, whole)) == 0;
}
