/* The scans: each way that this CPU has gives what the portable one gives, from every start and at
 * every alignment. */
#include "../src/scan.h"
#include "fuzz.h"

static void check_scans(const char *data, size_t len)
{
	size_t want = wire_scan_ctl_portable(data, len);
	CHECK(want <= len);
	CHECK(wire_scan_ctl(data, len) == want);
#if defined(__x86_64__)
	if (__builtin_cpu_supports("sse4.2"))
		CHECK(wire_scan_ctl_sse(data, len) == want);
	if (__builtin_cpu_supports("avx2"))
		CHECK(wire_scan_ctl_avx2(data, len) == want);
#endif
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	for (size_t shift = 0; shift < 32; shift++) {
		/* the block ends with the data, so that a vector read too far is seen */
		char *copy = malloc(shift + len + (len == 0));
		CHECK(copy != NULL);
		if (len > 0)
			memcpy(copy + shift, data, len);
		check_scans(copy + shift, len);
		free(copy);
	}
	for (size_t start = 0; start < len; start++)
		check_scans((const char *)data + start, len - start);
	return 0;
}
