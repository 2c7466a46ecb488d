#include "nearest.h"

#include <string.h>

#define WORD_MAX 40

static size_t min_of(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Optimal string alignment: insert, delete, replace, swap of neighbours cost 1 each. Case counts
 * nothing. */
static size_t distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
	size_t rows[3][WORD_MAX + 1];
	for (size_t j = 0; j <= b_len; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= a_len; i++) {
		size_t *now = rows[i % 3], *before = rows[(i + 2) % 3],
		       *before2 = rows[(i + 1) % 3];
		now[0] = i;
		for (size_t j = 1; j <= b_len; j++) {
			size_t differs = (a[i - 1] | 0x20) != (b[j - 1] | 0x20);
			now[j] = min_of(min_of(before[j], now[j - 1]) + 1, before[j - 1] + differs);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				now[j] = min_of(now[j], before2[j - 2] + 1);
		}
	}
	return rows[a_len % 3][b_len];
}

void nearest_try(struct nearest *n, const char *candidate)
{
	size_t a_len = strlen(n->word), b_len = strlen(candidate);
	if (!a_len || a_len > WORD_MAX || b_len > WORD_MAX)
		return;
	size_t far = b_len < 3 ? 1 : b_len < 7 ? 2 : 3;
	size_t found = distance(n->word, a_len, candidate, b_len);
	/* "log" for "logging": a beginning of three or more letters is near whatever follows. */
	size_t shorter = min_of(a_len, b_len);
	if (found > far && shorter >= 3 && strncmp(n->word, candidate, shorter) == 0)
		found = far;
	if (found <= far && (!n->best || found < n->distance)) {
		n->best = candidate;
		n->distance = found;
	}
}
