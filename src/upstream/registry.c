/* Targets by identity. Control thread. */
#include <netdb.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"
#include "smartproxy/rand.h"

#define BUCKET_CNT 4096

struct upstreams {
	struct upstream *buckets[BUCKET_CNT];
	struct list all;
	unsigned worker_cnt;
	struct loop *control_loop;
	struct loop *const *loops;
};

enum err upstreams_new(unsigned worker_cnt, struct loop *control_loop,
		       struct upstreams **ret_upstreams)
{
	struct upstreams *us = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*us));
	if (us == NULL)
		return ERR_NOMEM;
	list_init(&us->all);
	us->worker_cnt = worker_cnt;
	us->control_loop = control_loop;
	*ret_upstreams = us;
	return ERR_OK;
}

void upstreams_free(struct upstreams *us)
{
	if (us == NULL)
		return;
	while (!list_is_empty(&us->all)) {
		struct upstream *u = SP_CONTAINER_OF(us->all.next, struct upstream, link);
		list_remove(&u->link);
		if (u->ref_cnt > 0)
			free(u); /* else its free_task is in the control loop's inbox */
	}
	free(us);
}

void upstreams_set_loops(struct upstreams *us, struct loop *const *loops)
{
	us->loops = loops;
}

static enum err resolve(struct upstream *u, const char *host, uint16_t port, struct text *reterr)
{
	if (addr_parse(host, port, &u->addrs[0]) == ERR_OK) {
		u->addr_cnt = 1;
		return ERR_OK;
	}
	struct addrinfo hints = { .ai_family = AF_UNSPEC,
				  .ai_socktype = SOCK_STREAM,
				  .ai_flags = AI_ADDRCONFIG };
	struct addrinfo *list = NULL;
	int rc = getaddrinfo(host, NULL, &hints, &list);
	if (rc != 0) {
		text_printf(reterr,
			    "target \"%s\" cannot be resolved (%s): write its address, or mend the "
			    "name service of this "
			    "machine and load the configuration again",
			    host, gai_strerror(rc));
		return ERR_NOENT;
	}
	for (const struct addrinfo *ai = list; ai != NULL && u->addr_cnt < UPSTREAM_ADDRS_MAX;
	     ai = ai->ai_next) {
		struct sockaddr_storage ss = { 0 };
		memcpy(&ss, ai->ai_addr, ai->ai_addrlen < sizeof(ss) ? ai->ai_addrlen : sizeof(ss));
		addr_from_sockaddr(&ss, &u->addrs[u->addr_cnt]);
		addr_set_port(&u->addrs[u->addr_cnt++], port);
	}
	freeaddrinfo(list);
	return u->addr_cnt > 0 ? ERR_OK : ERR_NOENT;
}

static enum err make(struct upstreams *us, const char *name, const char *host, uint16_t port,
		     struct upstream **ret_upstream, struct text *reterr)
{
	size_t bytes = sizeof(struct upstream) + us->worker_cnt * sizeof(struct upstream_pool);
	bytes = (bytes + 63) & ~(size_t)63;
	struct upstream *u = fault_hits(FAULT_MALLOC) ? NULL : aligned_alloc(64, bytes);
	if (u == NULL)
		return ERR_NOMEM;
	memset(u, 0, bytes);
	u->registry = us;
	(void)text_format(u->name, sizeof(u->name), "%s", name);
	enum err e = resolve(u, host, port, reterr);
	if (e != ERR_OK) {
		free(u);
		return e;
	}
	for (unsigned i = 0; i < us->worker_cnt; i++)
		list_init(&u->pools[i].idle);
	*ret_upstream = u;
	return ERR_OK;
}

enum err upstream_get(struct upstreams *us, const char *host, uint16_t port,
		      struct upstream **ret_upstream, struct text *reterr)
{
	char name[UPSTREAM_NAME_MAX];
	bool is_v6 = strchr(host, ':') != NULL && host[0] != '[';
	size_t len =
		text_format(name, sizeof(name), is_v6 ? "[%s]:%u" : "%s:%u", host, (unsigned)port);
	struct upstream **link = &us->buckets[rand_hash(name, len) % BUCKET_CNT];
	for (struct upstream *u = *link; u != NULL; u = u->next) {
		if (strcmp(u->name, name) == 0) {
			u->ref_cnt++;
			*ret_upstream = u;
			return ERR_OK;
		}
	}
	struct upstream *u = NULL;
	enum err e = make(us, name, host, port, &u, reterr);
	if (e != ERR_OK)
		return e;
	u->ref_cnt = 1;
	u->next = *link;
	*link = u;
	list_append(&us->all, &u->link);
	*ret_upstream = u;
	return ERR_OK;
}

/* On the control loop, after every worker has closed what it kept idle. */
static void free_upstream(struct task *task)
{
	struct upstream *u = SP_CONTAINER_OF(task, struct upstream, free_task);
	list_remove(&u->link);
	free(u);
}

static void close_idle_on_worker(struct task *task)
{
	struct upstream_pool *pool = SP_CONTAINER_OF(task, struct upstream_pool, close_task);
	struct upstream *u = pool->upstream;
	pool_close_idle(pool);
	if (atomic_fetch_sub_explicit(&u->closing_cnt, 1, memory_order_acq_rel) == 1) {
		u->free_task.run = free_upstream;
		loop_post(u->registry->control_loop, &u->free_task);
	}
}

void upstream_put(struct upstreams *us, struct upstream *u)
{
	SP_ASSERT(u->ref_cnt > 0);
	if (--u->ref_cnt > 0)
		return;
	struct upstream **link = &us->buckets[rand_hash(u->name, strlen(u->name)) % BUCKET_CNT];
	while (*link != u)
		link = &(*link)->next;
	*link = u->next;
	if (us->loops == NULL) {
		list_remove(&u->link);
		free(u);
		return;
	}
	/* No exchange holds it: the generation that did has lost its last pin. Only idle
	 * connections are left. */
	atomic_store_explicit(&u->closing_cnt, us->worker_cnt, memory_order_relaxed);
	for (unsigned i = 0; i < us->worker_cnt; i++) {
		u->pools[i].upstream = u;
		u->pools[i].close_task.run = close_idle_on_worker;
		loop_post(us->loops[i], &u->pools[i].close_task);
	}
}

const char *upstream_name(const struct upstream *u)
{
	return u->name;
}

const struct addr *upstream_addr(const struct upstream *u, unsigned ix)
{
	return &u->addrs[ix % u->addr_cnt];
}

unsigned upstream_addr_cnt(const struct upstream *u)
{
	return u->addr_cnt;
}

void upstream_worker_close_idle(struct upstream_worker *w, struct upstreams *us)
{
	LIST_FOREACH(pos, &us->all)
	pool_close_idle(&SP_CONTAINER_OF(pos, struct upstream, link)->pools[w->ix]);
}
