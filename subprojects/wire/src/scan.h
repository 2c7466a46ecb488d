#pragma once
/* The ways that wire_scan_ctl chooses from, for the tests that prove them equal. Only for a CPU
 * that has them. */
#include "wire/h1.h"

#if defined(__x86_64__)
size_t wire_scan_ctl_sse(const char *data, size_t len);
size_t wire_scan_ctl_avx2(const char *data, size_t len);
#endif
