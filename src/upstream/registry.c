/* Targets by identity: what two of them differ in, how long one lives. Control thread.
 *
 *   made       registry_get; its name is looked up from now on
 *   wanted     ref_cnt > 0: some group holds it
 *   going      registry_put of the last group: look-ups and checks end, each worker closes what it keeps idle
 *              (close_task) and says so when its last connection and ticket are gone (registry_worker_let_go)
 *   gone       the last worker has said so: freed on the control loop (free_task) */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"
#include "smartproxy/rand.h"

#define BUCKET_CNT SP_ARRAY_LEN(((struct upstreams *)NULL)->buckets)

enum err upstreams_new(unsigned worker_cnt, struct loop *control_loop, struct resolver *resolver,
		       struct upstreams **ret_upstreams)
{
	struct upstreams *us = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*us));
	if (us == NULL)
		return ERR_NOMEM;
	list_init(&us->all);
	list_init(&us->clients);
	list_init(&us->to_ask);
	us->worker_cnt = worker_cnt;
	us->control_loop = control_loop;
	us->resolver = resolver;
	us->min_ttl_ms = 1000;
	us->max_ttl_ms = INT64_C(3600000);
	*ret_upstreams = us;
	return ERR_OK;
}

enum err upstreams_configure(struct upstreams *us, const struct config *config)
{
	us->client_round++;
	if (us->resolver != NULL) {
		struct resolver_settings settings = { .servers = config->dns.servers,
						      .server_cnt = config->dns.server_cnt,
						      .timeout_ms = config->dns.timeout_ms };
		enum err e = resolver_configure(us->resolver, &settings);
		if (e != ERR_OK)
			return e;
	}
	us->min_ttl_ms = config->dns.min_ttl_ms;
	us->max_ttl_ms = config->dns.max_ttl_ms;
	return ERR_OK;
}

/* No other thread knows it, or knows it any more. The registry may be gone. */
static void destroy(struct upstream *u) SP_TSA(no_thread_safety_analysis);
static void destroy(struct upstream *u)
{
	list_remove(&u->link);
	for (unsigned i = 0; i < u->worker_cnt; i++)
		tls_session_fini(&u->pools[i].session);
	client_put(u->client);
	free(u->addrs);
	free(u);
}

void upstreams_free(struct upstreams *us)
{
	if (us == NULL)
		return;
	us->is_ending = true;
	while (!list_is_empty(&us->all)) {
		struct upstream *u = SP_CONTAINER_OF(us->all.next, struct upstream, link);
		list_remove(&u->link);
		names_stop(u);
		health_stop(u);
		bool is_posted = u->ref_cnt == 0 &&
				 atomic_load_explicit(&u->closing_cnt, memory_order_acquire) == 0;
		if (!is_posted) /* else its free_task is in the control loop's inbox */
			destroy(u);
	}
	while (!list_is_empty(&us->clients)) /* of those */
		list_remove(us->clients.next);
	free(us);
}

void upstreams_set_loops(struct upstreams *us, struct loop *const *loops)
{
	us->loops = loops;
}

void registry_format_name(char *dst, size_t cap, const char *host, uint16_t port)
{
	bool is_v6 = strchr(host, ':') != NULL && host[0] != '[';
	size_t len = text_format(dst, cap, is_v6 ? "[%s]" : "%s", host);
	if (port != 0)
		(void)text_format(dst + len, cap - len, ":%u", (unsigned)port);
}

/* What two targets must have in common to share connections, health and counters. '\n' is in none of its
 * parts. */
static enum err format_identity(char *dst, const struct config_upstream *group,
				const struct config_target *target, const char *name,
				const char *tls_identity, const char *server_name)
{
	char text[UPSTREAM_IDENTITY_MAX + 1];
	size_t len = text_format(text, sizeof(text), "%s\n%s\n%d\n%s\n%s",
				 group->name == NULL ? "" : group->name, name,
				 (int)target->proxy_protocol, tls_identity, server_name);
	if (len >= UPSTREAM_IDENTITY_MAX)
		return ERR_INVALID;
	memcpy(dst, text, len + 1);
	return ERR_OK;
}

static struct upstream **bucket_of(struct upstreams *us, const char *identity)
{
	return &us->buckets[rand_hash(identity, strlen(identity)) % BUCKET_CNT];
}

static struct upstream *make(struct upstreams *us)
{
	size_t bytes = sizeof(struct upstream) + us->worker_cnt * sizeof(struct upstream_pool);
	bytes = (bytes + 63) & ~(size_t)63;
	struct upstream *u = fault_hits(FAULT_MALLOC) ? NULL : aligned_alloc(64, bytes);
	if (u == NULL)
		return NULL;
	memset(u, 0, bytes);
	u->registry = us;
	u->worker_cnt = us->worker_cnt;
	atomic_init(&u->closing_cnt, us->worker_cnt);
	list_init(&u->link);
	for (unsigned i = 0; i < us->worker_cnt; i++) {
		list_init(&u->pools[i].idle);
		list_init(&u->pools[i].waiting);
		u->pools[i].upstream = u;
		u->pools[i].wake_task.run = ticket_wake;
	}
	return u;
}

/* Who it is, before anybody looks for it. client is taken. */
static void fill(struct upstream *u, const struct config_upstream *group,
		 const struct config_target *target, struct upstream_client *client,
		 const char *server_name)
{
	(void)text_format(u->host, sizeof(u->host), "%s", target->host);
	(void)text_format(u->group, sizeof(u->group), "%s", group->name == NULL ? "" : group->name);
	(void)text_format(u->server_name, sizeof(u->server_name), "%s", server_name);
	u->port = target->port;
	u->proxy_protocol = target->proxy_protocol;
	u->client = client;
	u->tls = client == NULL ? NULL : client_tls(client);
}

enum err registry_get(struct upstreams *us, const struct config_upstream *group,
		      const struct config_target *target, const struct config_upstream_tls *tls,
		      struct upstream **ret_upstream, struct text *reterr)
{
	char name[UPSTREAM_NAME_MAX], identity[UPSTREAM_IDENTITY_MAX];
	struct upstream_client *client = NULL;
	const char *server_name = "";
	enum err e = ERR_OK;
	if (tls != NULL) {
		server_name = tls->server_name != NULL ? tls->server_name : target->host;
		e = client_get(us, tls, &client, reterr);
		if (e != ERR_OK)
			return e;
	}
	registry_format_name(name, sizeof(name), target->host, target->port);
	e = format_identity(identity, group, target, name,
			    client == NULL ? "" : tls_client_identity(client_tls(client)),
			    server_name);
	if (e != ERR_OK) {
		text_printf(reterr,
			    "target %s: the names of it, of its group and of its certificate are "
			    "too long together",
			    name);
		goto out;
	}
	struct upstream **link = bucket_of(us, identity);
	struct upstream *u = *link;
	while (u != NULL && strcmp(u->identity, identity) != 0)
		u = u->next;
	if (u != NULL) {
		u->ref_cnt++;
		*ret_upstream = u;
		goto out;
	}
	u = make(us);
	e = u == NULL ? ERR_NOMEM : ERR_OK;
	if (e != ERR_OK)
		goto out;
	fill(u, group, target, client, server_name);
	client = NULL;
	memcpy(u->name, name, sizeof(name));
	memcpy(u->identity, identity, sizeof(identity));
	u->ref_cnt = 1;
	e = names_start(u);
	if (e != ERR_OK) {
		destroy(u);
		goto out;
	}
	u->next = *link;
	*link = u;
	list_append(&us->all, &u->link);
	*ret_upstream = u;
out:
	client_put(client);
	return e;
}

/* On the control loop, after every worker has let go. */
static void free_upstream(struct task *task)
{
	struct upstream *u = SP_CONTAINER_OF(task, struct upstream, free_task);
	destroy(u);
}

void registry_hold(struct upstream *u)
{
	(void)atomic_fetch_add_explicit(&u->closing_cnt, 1, memory_order_relaxed);
}

void registry_release(struct upstream *u)
{
	struct loop *control_loop = u->registry->control_loop;
	if (atomic_fetch_sub_explicit(&u->closing_cnt, 1, memory_order_acq_rel) == 1) {
		u->free_task.run = free_upstream;
		loop_post(control_loop, &u->free_task);
	}
}

void registry_worker_let_go(struct upstream_pool *pool)
{
	SP_ASSERT(pool->is_going && !pool->has_closed);
	pool->has_closed = true;
	registry_release(pool->upstream);
}

static void close_on_worker(struct task *task)
{
	struct upstream_pool *pool = SP_CONTAINER_OF(task, struct upstream_pool, close_task);
	pool->is_going = true;
	pool_close_idle(pool);
	if (!pool->has_closed)
		pool_settle(pool);
}

void registry_put(struct upstreams *us, struct upstream *u)
{
	SP_ASSERT(u->ref_cnt > 0);
	if (--u->ref_cnt > 0)
		return;
	struct upstream **link = bucket_of(us, u->identity);
	while (*link != u)
		link = &(*link)->next;
	*link = u->next;
	names_stop(u);
	health_stop(u);
	if (us->loops == NULL) {
		destroy(u);
		return;
	}
	/* No request holds it by a generation any more; connections and tickets may. */
	for (unsigned i = 0; i < us->worker_cnt; i++) {
		u->pools[i].close_task.run = close_on_worker;
		loop_post(us->loops[i], &u->pools[i].close_task);
	}
}

const char *upstream_name(const struct upstream *u)
{
	return u->name;
}

void upstream_worker_close_idle(struct upstream_worker *w, struct upstreams *us)
{
	LIST_FOREACH(pos, &us->all)
	pool_close_idle(&SP_CONTAINER_OF(pos, struct upstream, link)->pools[w->ix]);
}
