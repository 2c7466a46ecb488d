/* The registry of listener sets and the changes to it. */
#include "smartproxy/listener.h"

#include <stdlib.h>
#include <string.h>

#include "listener_socket.h"
#include "port_holder.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/list.h"
#include "smartproxy/log.h"
#include "sock_diag.h"

#define LOOK_EVERY 8 /* sets, between two looks at the deadline */

struct listeners {
	unsigned sockets_per_set;
	int backlog;
	struct held_set **sets; /* room for what the change under way opened */
	size_t cnt, cap;
	struct listener_change *change; /* under way: between open and commit or abort */
	uint64_t bind_cnt;
};

enum err listeners_new(unsigned sockets_per_set, int backlog, struct listeners **ret_listeners)
{
	SP_ASSERT(sockets_per_set > 0);
	struct listeners *ls = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*ls));
	if (ls == NULL)
		return ERR_NOMEM;
	ls->sockets_per_set = sockets_per_set;
	ls->backlog = backlog;
	*ret_listeners = ls;
	return ERR_OK;
}

static struct held_set *held_of(struct listener_set *set)
{
	return SP_CONTAINER_OF(set, struct held_set, set);
}

static void log_set(const char *what, const struct listener_set *set)
{
	char addr[ADDR_TEXT_MAX];
	log_info("net", "%s address=%s sockets=%u id=%llu", what,
		 addr_format(addr, sizeof(addr), &set->addr), set->socket_cnt,
		 (unsigned long long)set->id);
}

static void log_port_error(const struct port_error *e)
{
	struct text text = { 0 };
	port_error_text(e, &text);
	log_error("net", "%s", text.data != NULL ? text.data : err_text(e->code));
	text_fini(&text);
}

/* Closes and frees a set that is in no registry. */
static enum err close_set(struct held_set *held, struct port_error *reterr)
{
	enum err e = held_set_close(held, reterr);
	if (e != ERR_OK)
		log_port_error(reterr);
	held_set_free(held);
	return e;
}

void listeners_free(struct listeners *ls)
{
	if (ls == NULL)
		return;
	SP_ASSERT(ls->change == NULL);
	struct port_error ignored;
	for (size_t i = 0; i < ls->cnt; i++) {
		log_set("listener closes", &ls->sets[i]->set);
		(void)close_set(ls->sets[i], &ignored);
	}
	free(ls->sets);
	free(ls);
}

static struct held_set *find_set(struct listeners *ls, const struct addr *addr)
{
	for (size_t i = 0; i < ls->cnt; i++) {
		if (addr_is_equal(&ls->sets[i]->set.addr, addr))
			return ls->sets[i];
	}
	return NULL;
}

static void free_change(struct listener_change *change)
{
	if (change == NULL)
		return;
	free(change->opened);
	free(change->dropped);
	free(change);
}

static enum err new_change(struct listeners *ls, size_t wanted_cnt,
			   struct listener_change **ret_change)
{
	struct listener_change *change =
		fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*change));
	if (change == NULL)
		return ERR_NOMEM;
	change->opened = calloc(wanted_cnt + 1, sizeof(struct listener_set *));
	change->dropped = calloc(ls->cnt + 1, sizeof(struct listener_set *));
	bool has_room = change->opened != NULL && change->dropped != NULL;
	if (has_room && ls->cap < ls->cnt + wanted_cnt) { /* so that commit cannot fail */
		size_t cap = (ls->cnt + wanted_cnt) * 2;
		struct held_set **sets =
			fault_hits(FAULT_MALLOC)
				? NULL
				: realloc(ls->sets, cap * sizeof(struct held_set *));
		has_room = sets != NULL;
		ls->sets = has_room ? sets : ls->sets;
		ls->cap = has_room ? cap : ls->cap;
	}
	if (!has_room) {
		free_change(change);
		return ERR_NOMEM;
	}
	*ret_change = change;
	return ERR_OK;
}

static bool is_overlapping(const struct held_set *held, const struct addr *addr)
{
	SP_ASSERT(held != NULL);
	struct diag_socket bound = { .addr = held->set.addr };
	return diag_conflicts(&bound, addr);
}

/* Whether a set of ours that is bound already keeps addr from being bound exclusively. */
static bool overlaps_own(const struct listeners *ls, const struct listener_change *change,
			 const struct addr *addr)
{
	for (size_t i = 0; i < ls->cnt; i++) {
		if (is_overlapping(ls->sets[i], addr))
			return true;
	}
	for (size_t i = 0; i < change->opened_cnt; i++) {
		if (is_overlapping(held_of(change->opened[i]), addr))
			return true;
	}
	return false;
}

struct own_sets {
	const struct listeners *ls;
	const struct listener_change *change;
};

static bool is_own_inode(void *arg, uint32_t inode)
{
	const struct own_sets *own = arg;
	for (size_t i = 0; i < own->ls->cnt; i++) {
		if (held_set_has_inode(own->ls->sets[i], inode))
			return true;
	}
	for (size_t i = 0; i < own->change->opened_cnt; i++) {
		if (held_set_has_inode(held_of(own->change->opened[i]), inode))
			return true;
	}
	return false;
}

/* Somebody else who listens there as well, under our uid and with SO_REUSEPORT or between our bind
 * and listen. */
static enum err refuse_foreign(const struct listeners *ls, const struct listener_change *change,
			       const struct addr *addr, struct port_error *reterr)
{
	struct own_sets own = { ls, change };
	struct port_error holder;
	if (holder_find(addr, false, is_own_inode, &own, &holder) != ERR_OK)
		return ERR_OK;
	*reterr = holder;
	return holder.code;
}

/* The set is in change->opened when this succeeds. */
static enum err bind_new(struct listeners *ls, struct listener_change *change,
			 const struct addr *addr, struct port_error *reterr)
{
	bool is_shared = overlaps_own(ls, change, addr);
	enum err e = is_shared ? refuse_foreign(ls, change, addr, reterr) : ERR_OK;
	if (e != ERR_OK)
		return e;
	struct held_set *held = held_set_new(addr, ls->sockets_per_set);
	if (held == NULL) {
		*reterr = (struct port_error){ .code = ERR_NOMEM, .addr = *addr };
		return ERR_NOMEM;
	}
	e = held_set_bind(held, is_shared, &ls->bind_cnt, reterr);
	if (e != ERR_OK) {
		held_set_free(held);
		return e;
	}
	change->opened[change->opened_cnt++] = &held->set;
	return ERR_OK;
}

/* ERR_TIMEOUT: the update's time is over at this address, the ix-th. */
static enum err check_time(size_t ix, int64_t deadline_ms, const struct addr *addr,
			   struct port_error *reterr)
{
	if (deadline_ms == 0 || ix % LOOK_EVERY != 0 || clock_now_ms() < deadline_ms)
		return ERR_OK;
	*reterr = (struct port_error){ .code = ERR_TIMEOUT, .addr = *addr };
	return ERR_TIMEOUT;
}

static enum err listen_all(const struct listeners *ls, const struct listener_change *change,
			   int64_t deadline_ms, struct port_error *reterr)
{
	for (size_t i = 0; i < change->opened_cnt; i++) {
		struct held_set *held = held_of(change->opened[i]);
		if (held->is_dropped) /* taken back: it listens */
			continue;
		enum err e = check_time(i, deadline_ms, &held->set.addr, reterr);
		if (e == ERR_OK)
			e = held_set_listen(held, ls->backlog, reterr);
		if (e == ERR_OK)
			e = refuse_foreign(ls, change, &held->set.addr, reterr);
		if (e != ERR_OK)
			return e;
	}
	return ERR_OK;
}

static bool is_in(const struct addr *addr, const struct addr *wanted, size_t wanted_cnt)
{
	for (size_t i = 0; i < wanted_cnt; i++) {
		if (addr_is_equal(addr, &wanted[i]))
			return true;
	}
	return false;
}

static void list_dropped(const struct listeners *ls, const struct addr *wanted, size_t wanted_cnt,
			 struct listener_change *change)
{
	for (size_t i = 0; i < ls->cnt; i++) {
		struct held_set *held = ls->sets[i];
		if (!held->is_dropped && !is_in(&held->set.addr, wanted, wanted_cnt))
			change->dropped[change->dropped_cnt++] = &held->set;
	}
}

/* Opened sets that were bound by this change are closed. */
static void undo(struct listener_change *change)
{
	struct port_error ignored;
	for (size_t i = 0; i < change->opened_cnt; i++) {
		struct held_set *held = held_of(change->opened[i]);
		if (!held->is_dropped)
			(void)close_set(held, &ignored);
	}
	free_change(change);
}

static enum err bind_all(struct listeners *ls, struct listener_change *change,
			 const struct addr *wanted, size_t wanted_cnt, int64_t deadline_ms,
			 struct port_error *reterr)
{
	for (size_t i = 0; i < wanted_cnt; i++) {
		struct held_set *held = find_set(ls, &wanted[i]);
		if (is_in(&wanted[i], wanted, i)) /* named twice */
			continue;
		enum err e = check_time(i, deadline_ms, &wanted[i], reterr);
		if (e == ERR_OK && held == NULL)
			e = bind_new(ls, change, &wanted[i], reterr);
		else if (e == ERR_OK && held->is_dropped)
			change->opened[change->opened_cnt++] = &held->set;
		if (e != ERR_OK)
			return e;
	}
	return ERR_OK;
}

enum err listeners_open(struct listeners *ls, const struct addr *wanted, size_t wanted_cnt,
			int64_t deadline_ms, struct listener_change **ret_change,
			struct port_error *reterr)
{
	struct listener_change *change = NULL;
	enum err e = ls->change != NULL ? ERR_BUSY : new_change(ls, wanted_cnt, &change);
	if (e != ERR_OK) {
		*reterr = (struct port_error){ .code = e };
		if (wanted_cnt > 0)
			reterr->addr = wanted[0];
		return e;
	}
	e = bind_all(ls, change, wanted, wanted_cnt, deadline_ms, reterr);
	if (e == ERR_OK)
		e = listen_all(ls, change, deadline_ms, reterr);
	if (e != ERR_OK) {
		undo(change);
		return e;
	}
	list_dropped(ls, wanted, wanted_cnt, change);
	ls->change = change;
	*ret_change = change;
	return ERR_OK;
}

void listeners_commit(struct listeners *ls, struct listener_change *change)
{
	SP_ASSERT(change == ls->change);
	ls->change = NULL;
	for (size_t i = 0; i < change->opened_cnt; i++) {
		struct held_set *held = held_of(change->opened[i]);
		if (!held->is_dropped)
			ls->sets[ls->cnt++] = held;
		held->is_dropped = false;
		log_set("listener opens", &held->set);
	}
	for (size_t i = 0; i < change->dropped_cnt; i++)
		held_of(change->dropped[i])->is_dropped = true;
	free_change(change);
}

void listeners_abort(struct listeners *ls, struct listener_change *change)
{
	SP_ASSERT(change == ls->change);
	ls->change = NULL;
	undo(change);
}

enum err listeners_close(struct listeners *ls, struct listener_set *set, struct port_error *reterr)
{
	size_t ix = 0;
	while (ix < ls->cnt && &ls->sets[ix]->set != set)
		ix++;
	SP_ASSERT(ix < ls->cnt);
	ls->cnt--;
	memmove(&ls->sets[ix], &ls->sets[ix + 1], (ls->cnt - ix) * sizeof(struct held_set *));
	log_set("listener closes", set);
	return close_set(held_of(set), reterr);
}

size_t listeners_cnt(const struct listeners *ls)
{
	return ls->cnt;
}

struct listener_set *listeners_at(const struct listeners *ls, size_t ix)
{
	SP_ASSERT(ix < ls->cnt);
	return &ls->sets[ix]->set;
}

uint64_t listeners_bind_cnt(const struct listeners *ls)
{
	return ls->bind_cnt;
}
