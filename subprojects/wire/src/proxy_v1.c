#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "proxy.h"

/* Moves over text, which has to be there. */
static enum wire_step expect(const char **at, const char *end, const char *text)
{
	for (; *text != '\0'; text++, (*at)++) {
		if (*at == end)
			return WIRE_MORE;
		if (**at != *text)
			return WIRE_FAIL;
	}
	return WIRE_DONE;
}

static enum wire_step read_port(const char **at, const char *end, uint16_t *ret_port)
{
	unsigned port = 0;
	enum wire_step step = wire_proxy_number_read(at, end, UINT16_MAX, &port);
	*ret_port = (uint16_t)port;
	return step;
}

/* "TCP4 192.0.2.1 192.0.2.2 1024 443", behind it CRLF; one space each. At most 104 bytes with the rest. */
static enum wire_step read_tcp(const char **at, const char *end, struct wire_proxy *proxy)
{
	enum wire_step step = expect(at, end, "TCP");
	if (step != WIRE_DONE)
		return step;
	if (*at == end)
		return WIRE_MORE;
	bool is_v6 = **at == '6';
	proxy->family = is_v6 ? WIRE_PROXY_TCP6 : WIRE_PROXY_TCP4;
	enum wire_step (*read_ip)(const char **, const char *, uint8_t *) =
		is_v6 ? wire_proxy_ipv6_read : wire_proxy_ipv4_read;
	step = expect(at, end, is_v6 ? "6 " : "4 ");
	if (step == WIRE_DONE)
		step = read_ip(at, end, proxy->src);
	if (step == WIRE_DONE)
		step = expect(at, end, " ");
	if (step == WIRE_DONE)
		step = read_ip(at, end, proxy->dst);
	if (step == WIRE_DONE)
		step = expect(at, end, " ");
	if (step == WIRE_DONE)
		step = read_port(at, end, &proxy->src_port);
	if (step == WIRE_DONE)
		step = expect(at, end, " ");
	if (step == WIRE_DONE)
		step = read_port(at, end, &proxy->dst_port);
	return step;
}

/* "UNKNOWN", and behind a space anything that can be read, which is ignored. stop: where the line ends at
 * the latest. */
static enum wire_step read_unknown(const char **at, const char *end, const char *stop,
				   bool *ret_is_too_large)
{
	enum wire_step step = expect(at, end, "UNKNOWN");
	if (step != WIRE_DONE)
		return step;
	if (*at < end && **at != '\r' && **at != ' ')
		return WIRE_FAIL;
	for (; *at < end && **at != '\r'; (*at)++) {
		*ret_is_too_large = *at == stop;
		if (*at == stop || **at < ' ' || **at > '~')
			return WIRE_FAIL;
	}
	return *at < end ? WIRE_DONE : WIRE_MORE;
}

enum wire_step wire_proxy_v1_read(const uint8_t *data, size_t len, struct wire_proxy *proxy,
				  size_t *ret_used, enum wire_proxy_reason *ret_reason)
{
	const char *at = (const char *)data;
	const char *end = at + len;
	const char *stop = at + WIRE_PROXY_V1_MAX - 2;
	bool is_too_large = false;
	enum wire_step step = expect(&at, end, "PROXY ");
	if (step == WIRE_FAIL)
		*ret_reason = WIRE_PROXY_NO_SIGNATURE;
	if (step != WIRE_DONE)
		return step;
	if (at == end)
		return WIRE_MORE;
	proxy->version = 1;
	if (*at == 'U')
		step = read_unknown(&at, end, stop, &is_too_large);
	else
		step = read_tcp(&at, end, proxy);
	if (step == WIRE_DONE)
		step = expect(&at, end, "\r\n");
	if (step == WIRE_FAIL)
		*ret_reason = is_too_large ? WIRE_PROXY_TOO_LARGE : WIRE_PROXY_BAD_LINE;
	if (step == WIRE_DONE)
		*ret_used = (size_t)(at - (const char *)data);
	return step;
}

size_t wire_proxy_write_v1(const struct wire_proxy *proxy, char *dst, size_t cap)
{
	char line[WIRE_PROXY_V1_MAX + 1] = "PROXY UNKNOWN\r\n";
	char src[INET6_ADDRSTRLEN];
	char target[INET6_ADDRSTRLEN];
	bool is_v6 = proxy->family == WIRE_PROXY_TCP6;
	int family = is_v6 ? AF_INET6 : AF_INET;
	int n = (int)strlen(line);
	if (proxy->family != WIRE_PROXY_LOCAL) {
		if (inet_ntop(family, proxy->src, src, sizeof(src)) == NULL ||
		    inet_ntop(family, proxy->dst, target, sizeof(target)) == NULL)
			return 0;
		n = snprintf(line, sizeof(line), "PROXY TCP%c %s %s %u %u\r\n", is_v6 ? '6' : '4',
			     src, target, proxy->src_port, proxy->dst_port);
	}
	if (n < 0 || (size_t)n > cap)
		return 0;
	memcpy(dst, line, (size_t)n);
	return (size_t)n;
}
