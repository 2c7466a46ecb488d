#pragma once
/* The PROXY protocol's two versions, apart. Threads: any. */
#include "wire/proxy.h"

/* As wire_proxy_parse, of bytes that begin with 'P' (version 1) or CR (version 2). len is at least 1. */
enum wire_step wire_proxy_v1_read(const uint8_t *data, size_t len, struct wire_proxy *proxy,
				  size_t *ret_used, enum wire_proxy_reason *ret_reason);
enum wire_step wire_proxy_v2_read(const uint8_t *data, size_t len, struct wire_proxy *proxy,
				  size_t *ret_used, enum wire_proxy_reason *ret_reason);

/* IP addresses as version 1 writes them, read as far as they are there: DONE at the first byte behind one
 * (*at moves there), MORE: the bytes up to end are the beginning of one, FAIL: of none. */
enum wire_step wire_proxy_ipv4_read(const char **at, const char *end, uint8_t *dst);
enum wire_step wire_proxy_ipv6_read(const char **at, const char *end, uint8_t *dst);
/* Digits without a leading zero, up to limit. */
enum wire_step wire_proxy_number_read(const char **at, const char *end, unsigned limit,
				      unsigned *ret_number);
