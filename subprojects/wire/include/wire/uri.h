#pragma once
/* wire: host and path normalisation (RFC 3986, 3.2.2 and 6.2.2). Pure functions, no allocation.
 * Threads: any. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_HOST_MAX 255 /* bytes with NUL */

/* Splits and normalises a Host value or SNI name: lower case, one trailing dot dropped, port split
 * off (0: none given), IPv6 literal without its brackets. Valid: registered name of letters,
 * digits, '-', '_', '.', IPv4, "[v6]". false: anything else (userinfo, empty, bad port, over-long,
 * empty label). dst holds WIRE_HOST_MAX bytes. */
bool wire_host_normalise(const char *host, size_t len, char *dst, size_t *ret_len,
			 uint16_t *ret_port);

/* Normal form of a path for matching (never for forwarding): percent-encoded unreserved characters
 * decoded, other escapes upper-cased, "//" merged, "." and ".." removed. dst has room for len
 * bytes. false: a bad escape, an escaped NUL, ".." above the root, or a "." or ".." that is set off by an escaped slash or a
 * backslash, escaped or not, or a ".." behind a segment that has such a slash: the paths of "/a/..%2fb" and "/a%2fb/../c"
 * are other ones wherever that is decoded. Such slashes are otherwise left as they are. Result starts with '/'. */
bool wire_path_normalise(const char *path, size_t len, char *dst, size_t *ret_len);
