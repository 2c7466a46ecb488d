#pragma once
/* Runs of bytes of one kind, 16 at a time where the processor can (SSE2: every x86-64). Threads: any.
 *
 * A skim passes over bytes that belong to the run for certain and stops at the first that may not, or wherever it
 * likes: the caller goes on byte by byte, which is what decides. Nothing outside of start to end is read. */
#include <stdbool.h>
#include <stddef.h>

#if defined(__SSE2__)
#include <emmintrin.h>

/* A bit for each byte that may end the run. */
typedef unsigned wire_skim_ends(__m128i bytes);

__attribute__((always_inline)) static inline const char *wire_skim(const char *start,
								   const char *at, const char *end,
								   wire_skim_ends *ends)
{
	for (; end - at >= 16; at += 16) {
		unsigned mask = ends(_mm_loadu_si128((const __m128i *)at));
		if (mask != 0)
			return at + __builtin_ctz(mask);
	}
	if (end - start < 16)
		return at;
	/* The last ones again, with bytes before them. */
	unsigned mask =
		ends(_mm_loadu_si128((const __m128i *)(end - 16))) >> (16 - (unsigned)(end - at));
	return mask != 0 ? at + __builtin_ctz(mask) : end;
}

static inline __m128i wire_skim_within(__m128i bytes, char low, char high)
{
	__m128i above = _mm_sub_epi8(bytes, _mm_set1_epi8(low));
	return _mm_cmpeq_epi8(_mm_min_epu8(above, _mm_set1_epi8((char)(high - low))), above);
}

/* A CTL but HTAB. */
static inline unsigned wire_skim_ends_text(__m128i bytes)
{
	__m128i low = wire_skim_within(bytes, 0, 0x1f);
	__m128i tab = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\t'));
	__m128i del = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x7f));
	return (unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_andnot_si128(tab, low), del));
}

/* Neither letter, digit nor '-': field names are rarely of anything else. */
static inline unsigned wire_skim_ends_name(__m128i bytes)
{
	__m128i letter = wire_skim_within(_mm_or_si128(bytes, _mm_set1_epi8(0x20)), 'a', 'z');
	__m128i digit = wire_skim_within(bytes, '0', '9');
	__m128i dash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('-'));
	return 0xffff ^
	       (unsigned)_mm_movemask_epi8(_mm_or_si128(_mm_or_si128(letter, digit), dash));
}

/* None of a request target. */
static inline unsigned wire_skim_ends_target(__m128i bytes)
{
	__m128i visible = wire_skim_within(bytes, 0x21, 0x7e);
	__m128i hash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('#'));
	return 0xffff ^ (unsigned)_mm_movemask_epi8(_mm_andnot_si128(hash, visible));
}

#define WIRE_SKIM(start, at, end, kind) wire_skim((start), (at), (end), wire_skim_ends_##kind)
#else
#define WIRE_SKIM(start, at, end, kind) (at)
#endif
