/* Active checks of targets. Control thread. */
#include "pool.h"

void health_apply(struct upstream *u, const struct config_upstream *config)
{
	(void)u;
	(void)config;
}

void health_stop(struct upstream *u)
{
	(void)u;
}
