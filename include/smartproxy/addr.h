#pragma once
/* net: IP addresses, ports and CIDR blocks. IPv4-mapped IPv6 addresses are kept as IPv4. Threads:
 * any. */
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "smartproxy/err.h"

#define ADDR_TEXT_MAX 64 /* "[v6]:port" with NUL */

struct addr {
	union {
		struct sockaddr sa;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	};
	socklen_t len;
};

/* ip: "192.0.2.1", "::1" or "[::1]"; no names. port in host order. */
enum err addr_parse(const char *ip, uint16_t port, struct addr *ret_addr) SP_MUST_USE;
/* Normalises a kernel address (mapped IPv6 becomes IPv4). */
void addr_from_sockaddr(const struct sockaddr_storage *ss, struct addr *ret_addr);
uint16_t addr_port(const struct addr *a);
void addr_set_port(struct addr *a, uint16_t port);
bool addr_is_equal(const struct addr *a, const struct addr *b);
/* "192.0.2.1:80", "[::1]:80"; dst holds ADDR_TEXT_MAX. Returns dst. */
const char *addr_format(char *dst, size_t cap, const struct addr *a);
/* Without the port and brackets. */
const char *addr_format_ip(char *dst, size_t cap, const struct addr *a);

struct cidr {
	uint8_t family; /* AF_INET or AF_INET6 */
	uint8_t prefix_len;
	uint8_t bytes[16];
};
/* "10.0.0.0/8", "2001:db8::/32", or a single address. Bits beyond the prefix must be zero. */
enum err cidr_parse(const char *text, struct cidr *ret_cidr) SP_MUST_USE;
bool cidr_has(const struct cidr *c, const struct addr *a);
