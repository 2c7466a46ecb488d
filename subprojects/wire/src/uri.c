#include "wire/uri.h"

#include <arpa/inet.h>
#include <string.h>

#include "chars.h"

#define LABEL_MAX 63 /* RFC 1035, 2.3.4 */

/* 1 to 65535 in at most 5 digits. */
static bool read_port(const char *text, size_t len, uint16_t *ret_port)
{
	if (len == 0 || len > 5)
		return false;
	uint32_t port = 0;
	for (size_t i = 0; i < len; i++) {
		if (!wire_is_digit(text[i]))
			return false;
		port = port * 10 + (uint32_t)(text[i] - '0');
	}
	if (port == 0 || port > UINT16_MAX)
		return false;
	*ret_port = (uint16_t)port;
	return true;
}

static bool normalise_name(const char *name, size_t len, char *dst, size_t *ret_len)
{
	if (len > 0 && name[len - 1] == '.')
		len--;
	if (len == 0 || len >= WIRE_HOST_MAX)
		return false;
	size_t label_len = 0;
	for (size_t i = 0; i < len; i++) {
		if (!wire_is_char(name[i], WIRE_CHAR_HOST))
			return false;
		if (name[i] == '.') {
			if (label_len == 0)
				return false;
			label_len = 0;
		} else if (++label_len > LABEL_MAX) {
			return false;
		}
		dst[i] = wire_lower(name[i]);
	}
	if (label_len == 0)
		return false;
	dst[len] = '\0';
	*ret_len = len;
	return true;
}

/* text is between the brackets; the result is the form of RFC 5952, so that equal addresses are
 * equal text. */
static bool normalise_v6(const char *text, size_t len, char *dst, size_t *ret_len)
{
	char copy[INET6_ADDRSTRLEN];
	struct in6_addr addr;
	if (len >= sizeof(copy))
		return false;
	memcpy(copy, text, len);
	copy[len] = '\0';
	if (strlen(copy) != len || inet_pton(AF_INET6, copy, &addr) != 1 ||
	    inet_ntop(AF_INET6, &addr, dst, WIRE_HOST_MAX) == NULL)
		return false;
	*ret_len = strlen(dst);
	return true;
}

bool wire_host_normalise(const char *host, size_t len, char *dst, size_t *ret_len,
			 uint16_t *ret_port)
{
	uint16_t port = 0;
	size_t host_len;
	bool is_v6 = len > 0 && host[0] == '[';
	if (is_v6) {
		const char *bracket = memchr(host, ']', len);
		if (bracket == NULL)
			return false;
		host_len = (size_t)(bracket - host) + 1;
		if (host_len < len && host[host_len] != ':')
			return false;
	} else {
		const char *colon = len > 0 ? memchr(host, ':', len) : NULL;
		host_len = colon != NULL ? (size_t)(colon - host) : len;
	}
	if (host_len < len && !read_port(host + host_len + 1, len - host_len - 1, &port))
		return false;
	size_t dst_len;
	if (!(is_v6 ? normalise_v6(host + 1, host_len - 2, dst, &dst_len)
		    : normalise_name(host, host_len, dst, &dst_len)))
		return false;
	*ret_len = dst_len;
	*ret_port = port;
	return true;
}

/* '/' or '\\', which some servers take for '/'. */
static bool is_slash(char c)
{
	return c == '/' || c == '\\';
}

/* Reads one escape or character that is not plain at *at and appends its normal form to dst[*out]. *has_hidden is set
 * by a slash that separates no segments here, but may where the path is decoded. */
static bool copy_special(const char **at, const char *end, char *dst, size_t *out, bool *has_hidden)
{
	static const char digits[] = "0123456789ABCDEF";
	char c = *(*at)++;
	if (c != '%') {
		dst[(*out)++] = c;
		*has_hidden |= is_slash(c);
		return (unsigned char)c > 0x20 && c != 0x7f;
	}
	if (end - *at < 2)
		return false;
	int high = wire_hex_value((*at)[0]);
	int low = wire_hex_value((*at)[1]);
	*at += 2;
	if (high < 0 || low < 0 || high + low == 0)
		return false;
	char decoded = (char)(high * 16 + low);
	if (wire_is_char(decoded, WIRE_CHAR_UNRESERVED)) {
		dst[(*out)++] = decoded;
		return true;
	}
	*has_hidden |= is_slash(decoded);
	dst[(*out)++] = '%';
	dst[(*out)++] = digits[high];
	dst[(*out)++] = digits[low];
	return true;
}

/* Whether a hidden slash begins at text, in normal form. */
static bool is_hidden_slash(const char *text)
{
	return *text == '\\' ||
	       (*text == '%' && (memcmp(text + 1, "2F", 2) == 0 || memcmp(text + 1, "5C", 2) == 0));
}

/* Ends the segment dst[start..*out), which follows a '/': drops it, takes it back with the one before, or keeps it. One
 * with a hidden slash is not taken back: it is several segments to a server that decodes it. */
static bool close_segment(char *dst, size_t start, size_t *out, bool is_last)
{
	size_t len = *out - start;
	if (len == 0)
		return true;
	if (len == 1 && dst[start] == '.') {
		*out = start;
		return true;
	}
	if (len == 2 && dst[start] == '.' && dst[start + 1] == '.') {
		if (start == 1)
			return false;
		for (start--; dst[start - 1] != '/'; start--) {
			if (is_hidden_slash(dst + start - 1))
				return false;
		}
		*out = start;
		return true;
	}
	if (!is_last)
		dst[(*out)++] = '/';
	return true;
}

/* What the character or escape at *at stands for; the escapes are known to be good. */
static char read_char(const char **at)
{
	char c = *(*at)++;
	if (c != '%')
		return c;
	c = (char)(wire_hex_value((*at)[0]) * 16 + wire_hex_value((*at)[1]));
	*at += 2;
	return c;
}

static bool is_dots(size_t part_len, size_t dot_cnt)
{
	return dot_cnt == part_len && (dot_cnt == 1 || dot_cnt == 2);
}

/* Whether some part between slashes of any kind is "." or ".." and has a hidden slash at its side: a server that
 * decodes it goes another way than close_segment did. */
static bool has_hidden_dots(const char *path, size_t len)
{
	const char *end = path + len;
	size_t part_len = 0, dot_cnt = 0;
	bool is_after_hidden = false;
	for (const char *at = path; at < end;) {
		bool is_plain = *at == '/';
		char c = read_char(&at);
		if (!is_slash(c)) {
			part_len++;
			dot_cnt += c == '.';
			continue;
		}
		if (is_dots(part_len, dot_cnt) && (is_after_hidden || !is_plain))
			return true;
		is_after_hidden = !is_plain;
		part_len = dot_cnt = 0;
	}
	return is_after_hidden && is_dots(part_len, dot_cnt);
}

bool wire_path_normalise(const char *path, size_t len, char *dst, size_t *ret_len)
{
	if (len == 0 || path[0] != '/')
		return false;
	const char *at = path + 1;
	const char *end = path + len;
	size_t out = 0;
	bool has_hidden = false;
	dst[out++] = '/';
	size_t start = out;
	while (at < end) {
		if (wire_is_char(*at, WIRE_CHAR_PLAIN)) {
			dst[out++] = *at++;
			continue;
		}
		if (*at != '/') {
			if (!copy_special(&at, end, dst, &out, &has_hidden))
				return false;
			continue;
		}
		at++;
		if (!close_segment(dst, start, &out, false))
			return false;
		start = out;
	}
	if (!close_segment(dst, start, &out, true) || (has_hidden && has_hidden_dots(path, len)))
		return false;
	*ret_len = out;
	return true;
}
