#include "smartproxy/rand.h"

#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#include "smartproxy/assert.h"

void rand_bytes(void *dst, size_t len)
{
	char *at = dst;
	while (len > 0) {
		ssize_t n = getrandom(at, len < 256 ? len : 256, 0);
		SP_ASSERT(n >
			  0); /* requests of up to 256 bytes are not interrupted (getrandom(2)) */
		at += n;
		len -= (size_t)n;
	}
}

/* xorshift64*, seeded once per thread: jitter only. */
static uint64_t next_weak(void)
{
	static _Thread_local uint64_t state;
	while (state == 0)
		rand_bytes(&state, sizeof(state));
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return state * 2685821657736338717ULL;
}

uint32_t rand_below(uint32_t bound)
{
	return (uint32_t)(((next_weak() >> 32) * bound) >> 32);
}

int64_t rand_jitter(int64_t value, unsigned percent)
{
	int64_t span = value / 100 * (int64_t)percent;
	if (span <= 0)
		return value;
	return value - span + (int64_t)(next_weak() % (uint64_t)(2 * span + 1));
}

static uint64_t key[2];
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

static void draw_key(void)
{
	rand_bytes(key, sizeof(key));
}

struct sip {
	uint64_t v0, v1, v2, v3;
};

static inline uint64_t rotate(uint64_t x, unsigned bits)
{
	return x << bits | x >> (64 - bits);
}

static inline void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = rotate(s->v1, 13) ^ s->v0;
	s->v0 = rotate(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = rotate(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = rotate(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = rotate(s->v1, 17) ^ s->v2;
	s->v2 = rotate(s->v2, 32);
}

/* SipHash-2-4 of Aumasson and Bernstein. */
uint64_t rand_hash(const void *data, size_t len)
{
	(void)pthread_once(&key_once, draw_key);
	struct sip s = { key[0] ^ 0x736f6d6570736575ULL, key[1] ^ 0x646f72616e646f6dULL,
			 key[0] ^ 0x6c7967656e657261ULL, key[1] ^ 0x7465646279746573ULL };
	const unsigned char *at = data;
	size_t left = len;
	for (; left >= 8; left -= 8, at += 8) {
		uint64_t word;
		memcpy(&word, at, 8);
		s.v3 ^= word;
		sip_round(&s);
		sip_round(&s);
		s.v0 ^= word;
	}
	uint64_t last = (uint64_t)len << 56;
	for (size_t i = 0; i < left; i++)
		last |= (uint64_t)at[i] << (8 * i);
	s.v3 ^= last;
	sip_round(&s);
	sip_round(&s);
	s.v0 ^= last;
	s.v2 ^= 0xff;
	for (int i = 0; i < 4; i++)
		sip_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}
