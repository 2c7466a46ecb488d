#include "scan.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static inline bool is_ctl(char c)
{
	unsigned char byte = (unsigned char)c;
	return (byte < 0x20 && byte != '\t') || byte == 0x7f;
}

size_t wire_scan_ctl_portable(const char *data, size_t len)
{
	size_t i = 0;
	while (i < len && !is_ctl(data[i]))
		i++;
	return i;
}

#if defined(__x86_64__)
/* Bit i is set when byte i is a CTL. min(x, 0x1f) == x is the unsigned x <= 0x1f that SSE and AVX
 * lack. */
__attribute__((target("sse4.2"))) static inline unsigned mask_16(const char *at)
{
	__m128i bytes = _mm_loadu_si128((const __m128i *)at);
	__m128i low = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
	__m128i tab = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\t'));
	__m128i del = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x7f));
	return (unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_andnot_si128(tab, low), del));
}

__attribute__((target("avx2"))) static inline unsigned mask_32(const char *at)
{
	__m256i bytes = _mm256_loadu_si256((const __m256i *)at);
	__m256i low = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1f)), bytes);
	__m256i tab = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('\t'));
	__m256i del = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(0x7f));
	return (unsigned)_mm256_movemask_epi8(_mm256_or_si256(_mm256_andnot_si256(tab, low), del));
}

__attribute__((target("sse4.2"))) size_t wire_scan_ctl_sse(const char *data, size_t len)
{
	size_t i = 0;
	for (; len - i >= 16; i += 16) {
		unsigned mask = mask_16(data + i);
		if (mask != 0)
			return i + (size_t)__builtin_ctz(mask);
	}
	return i + wire_scan_ctl_portable(data + i, len - i);
}

__attribute__((target("avx2"))) size_t wire_scan_ctl_avx2(const char *data, size_t len)
{
	size_t i = 0;
	for (; len - i >= 32; i += 32) {
		unsigned mask = mask_32(data + i);
		if (mask != 0)
			return i + (size_t)__builtin_ctz(mask);
	}
	return i + wire_scan_ctl_sse(data + i, len - i);
}

/* __builtin_cpu_supports reads a constant that libgcc fills at start: one load and one branch a
 * call. */
size_t wire_scan_ctl(const char *data, size_t len)
{
	if (__builtin_cpu_supports("avx2"))
		return wire_scan_ctl_avx2(data, len);
	if (__builtin_cpu_supports("sse4.2"))
		return wire_scan_ctl_sse(data, len);
	return wire_scan_ctl_portable(data, len);
}
#else
size_t wire_scan_ctl(const char *data, size_t len)
{
	return wire_scan_ctl_portable(data, len);
}
#endif
