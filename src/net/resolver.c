/* A look-up lives as long as c-ares has it; its query may be cancelled, or answered, before. */
#include "smartproxy/resolver.h"

#include <ares.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "dns_channel.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/log.h"
#include "smartproxy/text.h"

#define ADDRS_MAX   16
#define POLL_MAX    64
#define TIMEOUT_MS  2000
#define RESOLV_CONF "/etc/resolv.conf"

/* When resolv.conf was as it has been read. */
struct stamp {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime;
};

struct resolver {
	struct loop *loop;
	struct list channels;        /* all that have look-ups, and current */
	struct dns_channel *current; /* NULL: to be opened */
	unsigned live_cnt;           /* look-ups whose query is not cancelled */
	bool is_ending;
	/* The settings of current, owned. */
	struct resolver_settings settings;
	struct stamp stamp;
};

struct lookup {
	struct resolver *resolver;
	struct dns_channel *channel;
	struct resolver_query *query; /* NULL: cancelled */
};

/* ---- answers ---- */

static void answer_error(struct resolver_query *query, enum err error, const char *why)
{
	const struct resolver_answer answer = { .error = error, .why = why };
	query->state = NULL;
	query->on_done(query, &answer);
}

static const struct {
	int status;
	enum err error;
	const char *why;
} failures[] = {
	{ ARES_ENOTFOUND, ERR_NOENT, "the name does not exist" },
	{ ARES_ENODATA, ERR_NOENT, "the name has no address" },
	{ ARES_EBADNAME, ERR_NOENT, "it is not a valid host name" },
	{ ARES_ETIMEOUT, ERR_TIMEOUT, "no DNS server answered in time" },
	{ ARES_ECONNREFUSED, ERR_NETWORK, "no DNS server can be reached" },
	{ ARES_ESERVFAIL, ERR_NETWORK, "the DNS server failed (SERVFAIL)" },
	{ ARES_EREFUSED, ERR_NETWORK, "the DNS server refused the query (REFUSED)" },
	{ ARES_ENOTIMP, ERR_NETWORK, "the DNS server does not know the query (NOTIMP)" },
	{ ARES_EFORMERR, ERR_NETWORK, "the DNS server found the query malformed (FORMERR)" },
	{ ARES_EBADRESP, ERR_NETWORK, "the DNS server's answer is malformed" },
	{ ARES_ENOMEM, ERR_NOMEM, "out of memory" },
	{ ARES_EDESTRUCTION, ERR_CLOSED, "shutting down" },
};

static void answer_failure(struct resolver_query *query, int status)
{
	for (size_t i = 0; i < SP_ARRAY_LEN(failures); i++) {
		if (failures[i].status == status) {
			answer_error(query, failures[i].error, failures[i].why);
			return;
		}
	}
	answer_error(query, ERR_NETWORK, ares_strerror(status));
}

static bool has_addr(const struct addr *addrs, size_t cnt, const struct addr *addr)
{
	for (size_t i = 0; i < cnt; i++) {
		if (addr_is_equal(&addrs[i], addr))
			return true;
	}
	return false;
}

/* Returns the number of addresses. */
static size_t collect(const struct ares_addrinfo *info, struct addr addrs[ADDRS_MAX])
{
	size_t cnt = 0;
	for (const struct ares_addrinfo_node *node = info->nodes; node != NULL && cnt < ADDRS_MAX;
	     node = node->ai_next) {
		struct sockaddr_storage ss = { 0 };
		bool is_known = node->ai_family == AF_INET || node->ai_family == AF_INET6;
		if (!is_known || node->ai_addrlen > sizeof(ss))
			continue;
		memcpy(&ss, node->ai_addr, node->ai_addrlen);
		addr_from_sockaddr(&ss, &addrs[cnt]);
		addr_set_port(&addrs[cnt], 0);
		cnt += !has_addr(addrs, cnt, &addrs[cnt]);
	}
	return cnt;
}

/* Of the addresses and of the aliases on the way to them. */
static uint32_t find_ttl_s(const struct ares_addrinfo *info)
{
	int ttl_s = INT32_MAX;
	for (const struct ares_addrinfo_node *node = info->nodes; node != NULL;
	     node = node->ai_next)
		ttl_s = node->ai_ttl < ttl_s ? node->ai_ttl : ttl_s;
	for (const struct ares_addrinfo_cname *cname = info->cnames; cname != NULL;
	     cname = cname->next)
		ttl_s = cname->ttl < ttl_s ? cname->ttl : ttl_s;
	/* RFC 2181, 8: a TTL with the top bit set is 0. */
	return ttl_s > 0 ? (uint32_t)ttl_s : 0;
}

static void answer_addrs(struct resolver_query *query, const struct ares_addrinfo *info)
{
	struct addr addrs[ADDRS_MAX];
	const struct resolver_answer answer = {
		.error = ERR_OK,
		.why = "",
		.addrs = addrs,
		.addr_cnt = collect(info, addrs),
		.ttl_s = find_ttl_s(info),
	};
	if (answer.addr_cnt == 0) {
		answer_failure(query, ARES_ENODATA);
		return;
	}
	query->state = NULL;
	query->on_done(query, &answer);
}

static void on_answer(void *arg, int status, int timeout_cnt, struct ares_addrinfo *info)
{
	struct lookup *lookup = arg;
	struct resolver_query *query = lookup->query;
	(void)timeout_cnt;
	lookup->channel->lookup_cnt--;
	if (query != NULL)
		lookup->resolver->live_cnt--;
	free(lookup);
	if (query != NULL && status == ARES_SUCCESS && info != NULL)
		answer_addrs(query, info);
	else if (query != NULL)
		answer_failure(query, status);
	ares_freeaddrinfo(info);
}

/* ---- settings ---- */

static void settings_fini(struct resolver_settings *settings)
{
	for (size_t i = 0; i < settings->server_cnt; i++)
		free((char *)settings->servers[i]);
	free((void *)settings->servers);
	free((char *)settings->resolv_conf);
	*settings = (struct resolver_settings){ 0 };
}

static enum err copy_settings(const struct resolver_settings *settings,
			      struct resolver_settings *ret_copy)
{
	struct resolver_settings copy = { .timeout_ms = settings->timeout_ms };
	const char **servers = fault_hits(FAULT_MALLOC)
				       ? NULL
				       : calloc(settings->server_cnt + 1, sizeof(*servers));
	if (servers == NULL)
		return ERR_NOMEM;
	copy.servers = servers;
	bool has_failed = false;
	for (size_t i = 0; i < settings->server_cnt; i++) {
		servers[i] = strdup(settings->servers[i]);
		has_failed = has_failed || servers[i] == NULL;
	}
	copy.server_cnt = settings->server_cnt;
	if (settings->resolv_conf != NULL) {
		copy.resolv_conf = strdup(settings->resolv_conf);
		has_failed = has_failed || copy.resolv_conf == NULL;
	}
	if (has_failed) {
		settings_fini(&copy);
		return ERR_NOMEM;
	}
	*ret_copy = copy;
	return ERR_OK;
}

static bool is_same_path(const char *a, const char *b)
{
	return strcmp(a == NULL ? RESOLV_CONF : a, b == NULL ? RESOLV_CONF : b) == 0;
}

static bool is_same_settings(const struct resolver_settings *a, const struct resolver_settings *b)
{
	if (a->timeout_ms != b->timeout_ms || a->server_cnt != b->server_cnt ||
	    !is_same_path(a->resolv_conf, b->resolv_conf))
		return false;
	for (size_t i = 0; i < a->server_cnt; i++) {
		if (strcmp(a->servers[i], b->servers[i]) != 0)
			return false;
	}
	return true;
}

/* All zero: there is no such file. */
static struct stamp take_stamp(const struct resolver_settings *settings)
{
	struct stat st;
	const char *path = settings->resolv_conf == NULL ? RESOLV_CONF : settings->resolv_conf;
	if (stat(path, &st) != 0)
		return (struct stamp){ 0 };
	return (struct stamp){ st.st_dev, st.st_ino, st.st_size, st.st_mtim };
}

static bool is_same_stamp(const struct stamp *a, const struct stamp *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       a->mtime.tv_sec == b->mtime.tv_sec && a->mtime.tv_nsec == b->mtime.tv_nsec;
}

/* A channel for later look-ups takes the place of current. */
static enum err replace_channel(struct resolver *r, const struct resolver_settings *settings)
{
	struct stamp stamp = take_stamp(settings);
	struct dns_channel *channel = NULL;
	enum err e = dns_channel_open(r->loop, settings, &channel);
	if (e != ERR_OK)
		return e;
	list_append(&r->channels, &channel->link);
	dns_channel_retire(r->current);
	r->current = channel;
	r->stamp = stamp;
	return ERR_OK;
}

enum err resolver_configure(struct resolver *r, const struct resolver_settings *settings)
{
	struct resolver_settings copy;
	if (r->current != NULL && is_same_settings(&r->settings, settings))
		return ERR_OK;
	enum err e = copy_settings(settings, &copy);
	if (e != ERR_OK)
		return e;
	e = replace_channel(r, &copy);
	if (e != ERR_OK) {
		settings_fini(&copy);
		return e;
	}
	settings_fini(&r->settings);
	r->settings = copy;
	return ERR_OK;
}

/* The system's settings may change while this process runs (DHCP, a VPN). */
static void follow_system(struct resolver *r)
{
	struct stamp stamp = take_stamp(&r->settings);
	if (r->current != NULL && is_same_stamp(&stamp, &r->stamp))
		return;
	if (r->current != NULL)
		log_info("net", "the resolver's file has changed and is read again file=\"%s\"",
			 r->settings.resolv_conf == NULL ? RESOLV_CONF : r->settings.resolv_conf);
	enum err e = replace_channel(r, &r->settings);
	if (e != ERR_OK)
		log_warn("net", "the resolver cannot be set up anew error=%s", err_name(e));
}

/* ---- queries ---- */

static bool answer_literal(const char *host, struct resolver_query *query)
{
	struct addr addr;
	if (addr_parse(host, 0, &addr) != ERR_OK)
		return false;
	const struct resolver_answer answer = { ERR_OK, "", &addr, 1, 0 };
	query->on_done(query, &answer);
	return true;
}

static void look_up(struct resolver *r, const char *host, struct resolver_query *query)
{
	static const struct ares_addrinfo_hints hints = { .ai_family = AF_UNSPEC,
							  .ai_socktype = SOCK_STREAM };
	struct lookup *lookup = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*lookup));
	if (lookup == NULL) {
		answer_failure(query, ARES_ENOMEM);
		return;
	}
	struct dns_channel *channel = r->current;
	*lookup = (struct lookup){ r, channel, query };
	query->state = lookup;
	channel->lookup_cnt++;
	r->live_cnt++;
	dns_channel_enter(channel);
	ares_getaddrinfo(channel->ares, host, NULL, &hints, on_answer, lookup);
	dns_channel_leave(channel);
}

void resolver_start(struct resolver *r, const char *host, struct resolver_query *query)
{
	query->state = NULL;
	if (r->is_ending) {
		answer_failure(query, ARES_EDESTRUCTION);
		return;
	}
	if (answer_literal(host, query))
		return;
	follow_system(r);
	if (r->current == NULL)
		answer_error(query, ERR_NETWORK, "the resolver could not be set up");
	else
		look_up(r, host, query);
}

void resolver_cancel(struct resolver *r, struct resolver_query *query)
{
	struct lookup *lookup = query->state;
	if (lookup == NULL)
		return;
	SP_ASSERT(lookup->query == query);
	lookup->query = NULL;
	query->state = NULL;
	r->live_cnt--;
}

/* ---- without the loop ---- */

/* The sockets of all channels, and whose each is. */
struct poll_set {
	struct pollfd fds[POLL_MAX];
	struct dns_channel *channels[POLL_MAX];
	size_t cnt;
};

/* Returns the time until something is to be done, at most left_ms. */
static int64_t fill(const struct resolver *r, struct poll_set *set, int64_t left_ms)
{
	set->cnt = 0;
	LIST_FOREACH(pos, &r->channels)
	{
		struct dns_channel *channel = SP_CONTAINER_OF(pos, struct dns_channel, link);
		size_t cnt = dns_channel_poll(channel, set->fds + set->cnt, POLL_MAX - set->cnt);
		for (size_t i = 0; i < cnt; i++)
			set->channels[set->cnt++] = channel;
		int64_t due_ms = dns_channel_left_ms(channel);
		if (due_ms >= 0 && due_ms < left_ms)
			left_ms = due_ms;
	}
	return left_ms;
}

static void step_timed_out(struct resolver *r)
{
	LIST_FOREACH(pos, &r->channels)
	{
		struct dns_channel *channel = SP_CONTAINER_OF(pos, struct dns_channel, link);
		if (dns_channel_left_ms(channel) == 0) {
			/* The list may be another one afterwards. */
			dns_channel_step(channel, -1, false, false);
			return;
		}
	}
}

/* One socket, as its step may close others and free its channel. */
static void step_first_ready(const struct poll_set *set)
{
	for (size_t i = 0; i < set->cnt; i++) {
		short events = set->fds[i].revents;
		if (events == 0)
			continue;
		bool is_broken = (events & ~(POLLIN | POLLOUT)) != 0;
		bool wants_write = (set->fds[i].events & POLLOUT) != 0;
		dns_channel_step(set->channels[i], set->fds[i].fd,
				 is_broken || (events & POLLIN) != 0,
				 wants_write && (is_broken || (events & POLLOUT) != 0));
		return;
	}
}

void resolver_wait(struct resolver *r, int64_t time_ms)
{
	int64_t end_ms = clock_now_ms() + time_ms;
	while (r->live_cnt > 0) {
		struct poll_set set;
		int64_t left_ms = end_ms - clock_now_ms();
		if (left_ms <= 0)
			return;
		left_ms = fill(r, &set, left_ms < INT32_MAX ? left_ms : INT32_MAX);
		int cnt = poll(set.fds, set.cnt, (int)left_ms);
		if (cnt > 0)
			step_first_ready(&set);
		else
			step_timed_out(r);
	}
}

/* ---- life ---- */

enum err resolver_new(struct loop *loop, struct resolver **ret_resolver)
{
	struct resolver *r = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*r));
	if (r == NULL)
		return ERR_NOMEM;
	if (ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS) {
		free(r);
		return ERR_SYSTEM;
	}
	r->loop = loop;
	r->settings.timeout_ms = TIMEOUT_MS;
	list_init(&r->channels);
	*ret_resolver = r;
	return ERR_OK;
}

void resolver_free(struct resolver *r)
{
	if (r == NULL)
		return;
	r->is_ending = true;
	r->current = NULL;
	while (!list_is_empty(&r->channels))
		dns_channel_close(SP_CONTAINER_OF(r->channels.next, struct dns_channel, link));
	settings_fini(&r->settings);
	ares_library_cleanup();
	free(r);
}
