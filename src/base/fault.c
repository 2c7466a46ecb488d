#include "smartproxy/fault.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "smartproxy/assert.h"

bool fault_is_on;

static const char *const kind_names[FAULT_KIND_CNT] = { "malloc", "bind",    "fsync",
							"accept", "connect", "write" };
static double probability[FAULT_KIND_CNT];
static char point[64];
static unsigned long point_left;
static uint64_t seed = 1;
/* Guards the draw and the count: failpoints are not on a hot path. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void read_faults(const char *text)
{
	for (int kind = 0; kind < FAULT_KIND_CNT; kind++) {
		const char *at = strstr(text, kind_names[kind]);
		if (at != NULL && at[strlen(kind_names[kind])] == '=')
			probability[kind] = strtod(at + strlen(kind_names[kind]) + 1, NULL);
	}
}

static void read_point(const char *text)
{
	const char *colon = strchr(text, ':');
	size_t len = colon == NULL ? strlen(text) : (size_t)(colon - text);
	if (len >= sizeof(point))
		len = sizeof(point) - 1;
	memcpy(point, text, len);
	point_left = colon == NULL ? 1 : strtoul(colon + 1, NULL, 10);
}

void fault_init(void)
{
	const char *faults = secure_getenv("SMARTPROXY_FAULTS");
	const char *failpoint = secure_getenv("SMARTPROXY_FAILPOINT");
	const char *seed_text = secure_getenv("SMARTPROXY_FAULT_SEED");
	if (seed_text != NULL)
		seed = strtoull(seed_text, NULL, 10);
	/* Spread over all bits: the first draws of a small seed would all be near 0. */
	seed = (seed + 1) * 0x9e3779b97f4a7c15u;
	seed = (seed ^ seed >> 32) | 1;
	if (faults != NULL)
		read_faults(faults);
	if (failpoint != NULL)
		read_point(failpoint);
	fault_is_on = faults != NULL || failpoint != NULL;
}

bool fault_draw(enum fault_kind kind)
{
	if (probability[kind] <= 0)
		return false;
	SP_ASSERT(pthread_mutex_lock(&lock) == 0);
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	bool is_hit = (double)(seed >> 11) / (double)(1ULL << 53) < probability[kind];
	SP_ASSERT(pthread_mutex_unlock(&lock) == 0);
	return is_hit;
}

void fault_pass(const char *name)
{
	if (strcmp(name, point) != 0)
		return;
	SP_ASSERT(pthread_mutex_lock(&lock) == 0);
	bool is_last = point_left > 0 && --point_left == 0;
	SP_ASSERT(pthread_mutex_unlock(&lock) == 0);
	if (is_last)
		(void)kill(getpid(), SIGKILL);
}
