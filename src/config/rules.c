#include "rules.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define DOMAIN_MAX   253 /* RFC 1035, 2.3.4, in text form */
#define LABEL_MAX    63
#define NAME_MAX     128
#define USER_MAX     32
#define SEGMENTS_MAX 127 /* of a path; what the route room compiles */

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* RFC 9110, 5.6.2 */
static bool is_tchar(char c)
{
	return is_digit(c) || is_letter(c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool has_only(const char *text, const char *more)
{
	for (; *text; text++)
		if (!is_digit(*text) && !is_letter(*text) && !strchr(more, *text))
			return false;
	return true;
}

static bool has_control_or_space(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text <= ' ' || *text == 0x7f)
			return true;
	return false;
}

static bool has_high(const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text & 0x80)
			return true;
	return false;
}

static void lower(char *text)
{
	for (; *text; text++)
		if (*text >= 'A' && *text <= 'Z')
			*text = (char)(*text + ('a' - 'A'));
}

/* Bytes of the UTF-8 sequence at s (RFC 3629, 4), 0: none. */
static unsigned utf8_len(const unsigned char *s)
{
	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		return (s[1] & 0xc0) == 0x80 ? 2 : 0;
	if (s[0] >= 0xe0 && s[0] <= 0xef) {
		bool is_good = (s[1] & 0xc0) == 0x80 && (s[2] & 0xc0) == 0x80 &&
			       !(s[0] == 0xe0 && s[1] < 0xa0) && !(s[0] == 0xed && s[1] > 0x9f);
		return is_good ? 3 : 0;
	}
	if (s[0] >= 0xf0 && s[0] <= 0xf4) {
		bool is_good = (s[1] & 0xc0) == 0x80 && (s[2] & 0xc0) == 0x80 &&
			       (s[3] & 0xc0) == 0x80 && !(s[0] == 0xf0 && s[1] < 0x90) &&
			       !(s[0] == 0xf4 && s[1] > 0x8f);
		return is_good ? 4 : 0;
	}
	return 0;
}

const char *rule_body(char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	while (*s) {
		unsigned len = utf8_len(s);
		if (!len)
			return "text in UTF-8";
		s += len;
	}
	return NULL;
}

const char *rule_text(char *text)
{
	for (const char *s = text; *s; s++)
		if ((unsigned char)*s < ' ' || *s == 0x7f)
			return "text without control characters";
	return rule_body(text);
}

const char *rule_file(char *text)
{
	return *text ? rule_text(text) : "a path that is not empty";
}

const char *rule_socket_path(char *text)
{
	if (strlen(text) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return "a path of at most 107 bytes, as the kernel limits those of Unix sockets";
	return rule_file(text);
}

const char *rule_user(char *text)
{
	if (strlen(text) > USER_MAX || !has_only(text, "_.-") || *text == '-')
		return "a name of the system's users or groups: letters, digits, \"_\", \".\" and "
		       "\"-\"";
	return NULL;
}

const char *rule_email(char *text)
{
	const char *at = strchr(text, '@');
	if (!at || at == text || !at[1] || strchr(at + 1, '@') || has_control_or_space(text) ||
	    strchr(text, ','))
		return "one address such as \"ops@example.com\"";
	return rule_text(text);
}

const char *rule_https_url(char *text)
{
	static const char scheme[] = "https://";
	const char *host = text + sizeof(scheme) - 1;
	if (strncmp(text, "http://", 7) == 0)
		return "an https:// URL: ACME runs over HTTPS only (RFC 8555, 6.1)";
	if (strncmp(text, scheme, sizeof(scheme) - 1) != 0 || *host == '\0' || *host == '/' ||
	    has_control_or_space(text) || has_high(text))
		return "an https:// URL";
	return NULL;
}

const char *rule_ciphers(char *text)
{
	return has_only(text, "-_+!:@=") ? NULL : "names of ciphers with \":\" between them";
}

const char *rule_name(char *text)
{
	if (!*text || strlen(text) > NAME_MAX || !has_only(text, "-_.:/@"))
		return "1 to 128 letters, digits and \"-_.:/@\"";
	return NULL;
}

static void strip_brackets(char *text)
{
	size_t len = strlen(text);
	if (len <= 2 || text[0] != '[' || text[len - 1] != ']')
		return;
	for (size_t i = 0; i < len - 2; i++)
		text[i] = text[i + 1];
	text[len - 2] = '\0';
}

static int family_of(const char *ip)
{
	return strchr(ip, ':') ? AF_INET6 : AF_INET;
}

/* The address's one form, where it is not longer than what was written. */
const char *rule_ip(char *text)
{
	unsigned char bytes[16];
	char canonical[INET6_ADDRSTRLEN];
	size_t len = strlen(text);
	strip_brackets(text);
	int family = family_of(text);
	if (inet_pton(family, text, bytes) != 1)
		return "an IPv4 or IPv6 address, such as \"192.0.2.1\" or \"2001:db8::1\"";
	if (inet_ntop(family, bytes, canonical, sizeof(canonical)) && strlen(canonical) <= len)
		memcpy(text, canonical, strlen(canonical) + 1);
	return NULL;
}

const char *rule_cidr(char *text)
{
	static const char wanted[] =
		"an address or a block such as \"10.0.0.0/8\" or \"2001:db8::/32\"";
	unsigned char bytes[16];
	char ip[INET6_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	if (len >= sizeof(ip))
		return wanted;
	memcpy(ip, text, len);
	ip[len] = '\0';
	int family = family_of(ip);
	if (inet_pton(family, ip, bytes) != 1)
		return wanted;
	if (!slash)
		return NULL;
	unsigned bits = family == AF_INET ? 32 : 128, prefix = 0;
	const char *s = slash + 1;
	if (!is_digit(*s) || strlen(s) > 3 || (*s == '0' && s[1]))
		return wanted;
	while (is_digit(*s))
		prefix = prefix * 10 + (unsigned)(*s++ - '0');
	if (*s || prefix > bits)
		return wanted;
	for (unsigned bit = prefix; bit < bits; bit++)
		if (bytes[bit / 8] >> (7 - bit % 8) & 1)
			return "a block whose bits beyond the prefix are zero, as in "
			       "\"10.0.0.0/8\" "
			       "(for one address leave out the prefix)";
	return NULL;
}

/* Labels of letters, digits, '-' and what more has; dots between them. */
static bool is_dns_name(const char *text, const char *more)
{
	size_t label_len = 0;
	if (strlen(text) > DOMAIN_MAX || !has_only(text, more))
		return false;
	for (const char *s = text; *s; s++) {
		if (*s != '.') {
			if (++label_len > LABEL_MAX || (*s == '-' && label_len == 1))
				return false;
			continue;
		}
		if (label_len == 0 || s[-1] == '-')
			return false;
		label_len = 0;
	}
	return label_len > 0 && text[strlen(text) - 1] != '-';
}

static void drop_trailing_dot(char *text)
{
	size_t len = strlen(text);
	if (len > 1 && text[len - 1] == '.')
		text[len - 1] = '\0';
}

const char *rule_host(char *text)
{
	if (strchr(text, ':') || *text == '[') {
		const char *wanted = rule_ip(text);
		return wanted ? "an address or a host name; the port is a key of its own" : NULL;
	}
	if (has_high(text))
		return "the A-label (xn--...) of an internationalised name";
	lower(text);
	drop_trailing_dot(text);
	return is_dns_name(text, "-._") ? NULL : "an address or a host name";
}

const char *rule_domain(char *text)
{
	const char *name = text;
	if (has_high(text))
		return "the A-label of an internationalised name: write \"xn--bcher-kva.example\", "
		       "not its Unicode form";
	lower(text);
	drop_trailing_dot(text);
	if (strncmp(name, "**.", 3) == 0)
		name += 3;
	else if (strncmp(name, "*.", 2) == 0)
		name += 2;
	if (strcmp(name, "*") == 0)
		return "a domain; to match any, leave out the key";
	if (strchr(name, '*'))
		return "a wildcard as the whole first label only: \"*.example.com\" (one label) or "
		       "\"**.example.com\" (one or more)";
	if (strchr(name, ':') || strchr(name, '/'))
		return "a domain without scheme, port and path";
	if (!is_dns_name(name, "-."))
		return "a domain: labels of letters, digits and inner hyphens with dots between "
		       "them, "
		       "such as \"example.com\"";
	return NULL;
}

static const char *check_segment(const char *s, size_t len, bool is_last)
{
	if (len == 0)
		return is_last ? NULL
			       : "a path without \"//\": paths are normalised before they match";
	if ((len == 1 && s[0] == '.') || (len == 2 && s[0] == '.' && s[1] == '.'))
		return "a path without \".\" and \"..\": paths are normalised before they match";
	if (memchr(s, '*', len) && !(len == 1 && is_last))
		return "\"*\" only as the whole last segment, as in \"/api/*\"";
	if (s[0] != ':')
		return NULL;
	for (size_t i = 1; i < len; i++)
		if (!is_letter(s[i]) && !is_digit(s[i]) && s[i] != '_')
			return "a name of letters, digits and \"_\" after \":\", as in "
			       "\"/users/:id\"";
	return len > 1 ? NULL : "a name after \":\", as in \"/users/:id\"";
}

/* Escapes as requests have them when they are matched: what needs none is plain, digits are capitals. */
static void normalise_escapes(char *text)
{
	char *out = text;
	for (const char *s = text; *s; s++) {
		if (*s != '%') {
			*out++ = *s;
			continue;
		}
		char pair[3] = { s[1], s[2], '\0' };
		char c = (char)strtoul(pair, NULL, 16);
		s += 2;
		if (is_digit(c) || is_letter(c) || (c && strchr("-._~", c))) {
			*out++ = c;
			continue;
		}
		*out++ = '%';
		for (size_t i = 0; i < 2; i++)
			*out++ = (char)(pair[i] >= 'a' ? pair[i] - 'a' + 'A' : pair[i]);
	}
	*out = '\0';
}

const char *rule_path(char *text)
{
	if (*text != '/')
		return "a path that begins with \"/\"";
	if (strpbrk(text, "?#"))
		return "a path without query and fragment";
	if (has_control_or_space(text) || has_high(text))
		return "a path in ASCII; write other bytes and spaces as %XX";
	for (const char *s = strchr(text, '%'); s; s = strchr(s + 1, '%'))
		if (!is_hex(s[1]) || !is_hex(s[2]))
			return "two hexadecimal digits after \"%\"";
	if (strstr(text, "%00"))
		return "a path without \"%00\": no such request is let in";
	normalise_escapes(text);
	size_t segment_cnt = 0;
	for (const char *s = text; (s = strchr(s, '/')) != NULL; s++)
		segment_cnt++;
	if (segment_cnt > SEGMENTS_MAX)
		return "a path of at most 127 segments";
	for (const char *s = text + 1;;) {
		size_t len = strcspn(s, "/");
		const char *wanted = check_segment(s, len, s[len] == '\0');
		if (wanted || s[len] == '\0')
			return wanted;
		s += len + 1;
	}
}

const char *rule_method(char *text)
{
	if (!*text || strlen(text) > 32)
		return "a request method, such as \"GET\"";
	for (const char *s = text; *s; s++) {
		if (!is_tchar(*s))
			return "a request method, such as \"GET\"";
		if (*s >= 'a' && *s <= 'z')
			return "a request method in capitals, such as \"GET\": methods are "
			       "case-sensitive (RFC 9110, 9.1)";
	}
	return NULL;
}

static const char *check_field_name(const char *text)
{
	for (const char *s = text; *s; s++)
		if (!is_tchar(*s))
			return "the name of a header field, such as \"X-Real-IP\"";
	return *text && strlen(text) <= NAME_MAX ? NULL : "the name of a header field";
}

const char *rule_match_field_name(char *text)
{
	lower(text);
	return check_field_name(text);
}

const char *rule_reply_field_name(char *text)
{
	static const char *const own[] = { "content-length", "transfer-encoding",
					   "connection",     "keep-alive",
					   "upgrade",        "trailer",
					   "date",           "te" };
	char lowered[NAME_MAX + 1];
	const char *wanted = check_field_name(text);
	if (wanted)
		return wanted;
	memcpy(lowered, text, strlen(text) + 1);
	lower(lowered);
	for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++)
		if (strcmp(lowered, own[i]) == 0)
			return "a field that the proxy does not write itself";
	return NULL;
}

const char *rule_field_value(char *text)
{
	size_t len = strlen(text);
	for (const char *s = text; *s; s++)
		if (((unsigned char)*s < ' ' && *s != '\t') || *s == 0x7f)
			return "a value without control characters";
	if (len &&
	    (text[0] == ' ' || text[0] == '\t' || text[len - 1] == ' ' || text[len - 1] == '\t'))
		return "a value without space at its ends";
	return rule_body(text);
}

const char *rule_location(char *text)
{
	static const char *const names[] = { "{host}", "{path}", "{query}", "{port}" };
	if (!*text || has_control_or_space(text) || has_high(text))
		return "a URL in ASCII without spaces";
	for (const char *s = text; *s;) {
		size_t step = 1;
		if (*s == '}')
			return "a \"{\" before each \"}\"";
		for (size_t i = 0; *s == '{' && i < sizeof(names) / sizeof(names[0]); i++)
			if (strncmp(s, names[i], strlen(names[i])) == 0)
				step = strlen(names[i]);
		if (*s == '{' && step == 1)
			return "no other names in braces than {host}, {path}, {query} and {port}";
		s += step;
	}
	if (*text == '/' || *text == '{' || strstr(text, "://"))
		return NULL;
	return "a URL such as \"https://{host}{path}\", or a path that begins with \"/\"";
}

/* origin-form (RFC 9112, 3.2.1) */
const char *rule_check_path(char *text)
{
	if (*text != '/')
		return "a path that begins with \"/\"";
	if (has_control_or_space(text) || has_high(text) || strchr(text, '#'))
		return "a path in ASCII without fragment; write other bytes and spaces as %XX";
	return NULL;
}

/* RFC 6265, 4.1.1 */
const char *rule_cookie_name(char *text)
{
	return check_field_name(text) ? "the name of a cookie, such as \"smartproxy\"" : NULL;
}

/* RFC 7301, 3.1 */
const char *rule_alpn(char *text)
{
	if (!*text || strlen(text) > 255 || has_control_or_space(text))
		return "the name of a protocol, such as \"h2\" or \"http/1.1\"";
	return NULL;
}

static bool is_port(const char *text)
{
	unsigned port = 0;
	if (*text == '0')
		return false;
	for (; is_digit(*text) && port <= 65535; text++)
		port = port * 10 + (unsigned)(*text - '0');
	return *text == '\0' && port > 0 && port <= 65535;
}

const char *rule_server(char *text)
{
	static const char wanted[] = "an address, with a port or without: \"192.0.2.53\", "
				     "\"127.0.0.1:5353\", \"2001:db8::53\" or "
				     "\"[2001:db8::53]:5353\"";
	char ip[INET6_ADDRSTRLEN + 2];
	unsigned char bytes[16];
	const char *colon = strrchr(text, ':'), *port = NULL;
	bool has_brackets = *text == '[';
	/* More than one colon and no brackets: an IPv6 address alone. */
	bool is_before_port = has_brackets ? colon && colon[-1] == ']' : strchr(text, ':') == colon;
	if (colon && is_before_port)
		port = colon + 1;
	size_t len = port ? (size_t)(colon - text) : strlen(text);
	if (len >= sizeof(ip) || (port && !is_port(port)))
		return wanted;
	memcpy(ip, text, len);
	ip[len] = '\0';
	if (has_brackets)
		strip_brackets(ip);
	int family = has_brackets ? AF_INET6 : family_of(ip);
	if (inet_pton(family, ip, bytes) != 1)
		return wanted;
	if (!port)
		memcpy(text, ip, strlen(ip) + 1);
	return NULL;
}
