#pragma once
/* config, private: the word that a mistyped one was meant to be. */
#include <stddef.h>

struct nearest {
	const char *word; /* what was written */
	const char *best; /* NULL: nothing near enough */
	size_t distance;  /* of best */
};
/* Offers one candidate; keeps it when it is nearer than the best so far. */
void nearest_try(struct nearest *n, const char *candidate);
