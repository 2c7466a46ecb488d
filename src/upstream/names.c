/* Addresses of targets. Control thread. */
#include <stdlib.h>

#include "pool.h"

const struct upstream_addrs *names_addrs(const struct upstream *u)
	SP_TSA(no_thread_safety_analysis);
const struct upstream_addrs *names_addrs(const struct upstream *u)
{
	return u->addrs;
}

enum err names_start(struct upstream *u)
{
	struct addr addr;
	if (addr_parse(u->host, u->port, &addr) != ERR_OK)
		return ERR_OK;
	struct upstream_addrs *addrs = calloc(1, sizeof(*addrs));
	if (addrs == NULL)
		return ERR_NOMEM;
	addrs->cnt = 1;
	addrs->list[0] = addr;
	(void)sp_rcu_swap(&u->addrs, addrs);
	return ERR_OK;
}

void names_stop(struct upstream *u)
{
	(void)u;
}

int64_t names_ttl_left_s(const struct upstream *u)
{
	(void)u;
	return -1;
}
