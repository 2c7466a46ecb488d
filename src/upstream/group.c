/* Groups of targets: what a configuration says, with the targets it means and the tables to choose by.
 * Control thread. */
#include <stdlib.h>

#include "pool.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"
#include "smartproxy/rand.h"

static bool is_same_tls(const struct config_upstream_tls *a, const struct config_upstream_tls *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return a->wants_verify == b->wants_verify && text_is_equal(a->ca_file, b->ca_file) &&
	       text_is_equal(a->server_name, b->server_name) &&
	       text_is_equal(a->chain_file, b->chain_file) &&
	       text_is_equal(a->key_file, b->key_file);
}

static struct upstream_group **bucket_of(struct upstreams *us, const struct config_upstream *config)
{
	uintptr_t key = (uintptr_t)config;
	return &us->group_buckets[rand_hash(&key, sizeof(key)) % SP_ARRAY_LEN(us->group_buckets)];
}

static void free_group(struct upstreams *us, struct upstream_group *group)
	SP_TSA(requires_capability(sp_control));
static void free_group(struct upstreams *us, struct upstream_group *group)
{
	for (uint32_t i = 0; i < group->target_cnt; i++) {
		if (group->targets[i].upstream != NULL)
			registry_put(us, group->targets[i].upstream);
	}
	balance_free(group);
	free(group);
}

static uint64_t hash_identity(const struct upstream *u)
{
	char text[sizeof(u->group) + UPSTREAM_NAME_MAX + 1];
	return upstream_hash(text, text_format(text, sizeof(text), "%s\n%s", u->group, u->name));
}

static enum err fill_targets(struct upstreams *us, struct upstream_group *group,
			     struct text *reterr) SP_TSA(requires_capability(sp_control));
static enum err fill_targets(struct upstreams *us, struct upstream_group *group,
			     struct text *reterr)
{
	const struct config_upstream *config = group->config;
	for (uint32_t i = 0; i < group->target_cnt; i++) {
		const struct config_target *from = &config->targets[i];
		struct group_target *t = &group->targets[i];
		enum err e = registry_get(us, config, from, group->tls, &t->upstream, reterr);
		if (e != ERR_OK)
			return e;
		t->weight = from->weight > 0 ? from->weight : 1;
		t->is_backup = from->is_backup;
		t->max_connections =
			from->max_connections > 0 ? from->max_connections : config->max_connections;
		t->hash = hash_identity(t->upstream);
		if (!t->is_backup) {
			group->active[group->active_cnt++] = (uint16_t)i;
			group->weight_sum += t->weight;
		}
	}
	group->backup = group->active + group->active_cnt;
	for (uint32_t i = 0; i < group->target_cnt; i++) {
		if (group->targets[i].is_backup)
			group->backup[group->backup_cnt++] = (uint16_t)i;
	}
	return ERR_OK;
}

static enum err make(struct upstreams *us, const struct config_upstream *config,
		     const struct config_upstream_tls *tls, struct upstream_group **ret_group,
		     struct text *reterr) SP_TSA(requires_capability(sp_control));
static enum err make(struct upstreams *us, const struct config_upstream *config,
		     const struct config_upstream_tls *tls, struct upstream_group **ret_group,
		     struct text *reterr)
{
	if (config->target_cnt >= UINT16_MAX) {
		text_printf(reterr, "%zu targets in one group: at most %d are possible",
			    config->target_cnt, UINT16_MAX - 1);
		return ERR_LIMIT;
	}
	struct upstream_group *group =
		fault_hits(FAULT_MALLOC)
			? NULL
			: calloc(1, sizeof(*group) + config->target_cnt * (sizeof(*group->targets) +
									   sizeof(*group->active)));
	if (group == NULL)
		return ERR_NOMEM;
	group->config = config;
	group->balance = config->balance;
	group->tls = tls;
	group->ref_cnt = 1;
	group->target_cnt = (uint32_t)config->target_cnt;
	group->targets = (struct group_target *)(group + 1);
	group->active = (uint16_t *)(group->targets + config->target_cnt);
	enum err e = fill_targets(us, group, reterr);
	if (e == ERR_OK)
		e = balance_compile(group, us->worker_cnt);
	if (e != ERR_OK) {
		free_group(us, group);
		return e;
	}
	*ret_group = group;
	return ERR_OK;
}

enum err upstream_group_get(struct upstreams *us, const struct config_upstream *config,
			    const struct config_upstream_tls *tls,
			    struct upstream_group **ret_group, struct text *reterr)
{
	struct upstream_group **bucket = bucket_of(us, config);
	for (struct upstream_group *group = *bucket; group != NULL; group = group->bucket_next) {
		if (group->config == config && is_same_tls(group->tls, tls)) {
			group->ref_cnt++;
			*ret_group = group;
			return ERR_OK;
		}
	}
	struct upstream_group *group = NULL;
	enum err e = make(us, config, tls, &group, reterr);
	if (e != ERR_OK)
		return e;
	group->bucket_next = *bucket;
	*bucket = group;
	group->next = us->groups;
	group->link = &us->groups;
	if (group->next != NULL)
		group->next->link = &group->next;
	us->groups = group;
	*ret_group = group;
	return ERR_OK;
}

void upstream_group_put(struct upstreams *us, struct upstream_group *group)
{
	if (group == NULL)
		return;
	SP_ASSERT(group->ref_cnt > 0);
	if (--group->ref_cnt > 0)
		return;
	struct upstream_group **at = bucket_of(us, group->config);
	while (*at != group)
		at = &(*at)->bucket_next;
	*at = group->bucket_next;
	*group->link = group->next;
	if (group->next != NULL)
		group->next->link = group->link;
	free_group(us, group);
}

void upstream_group_apply(struct upstreams *us, struct upstream_group *group)
{
	(void)us;
	if (group->is_applied)
		return;
	group->is_applied = true;
	for (uint32_t i = 0; i < group->target_cnt; i++)
		health_apply(group->targets[i].upstream, group->config);
}

const char *upstream_group_name(const struct upstream_group *group)
{
	return group->config->name == NULL ? "" : group->config->name;
}

enum config_balance upstream_group_balance(const struct upstream_group *group)
{
	return group->balance;
}

const struct config_upstream *upstream_group_config(const struct upstream_group *group)
{
	return group->config;
}
