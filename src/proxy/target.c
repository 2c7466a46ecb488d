/* From a route to a ready connection, for exchanges and tunnels alike.
 *
 * phase    step      waits for                                leaves to
 * CHOOSE   choose    nothing (upstream_choose)                QUEUE | CONNECT | fail(503)
 * QUEUE    wait      a place at the target, queue_timeout     CONNECT | fail(503)
 * CONNECT  connect   TCP, PROXY header, TLS: timeouts.connect READY | CONNECT (next address) | CHOOSE
 *                                                             (next target) | fail(502, 503, 504)
 * READY              the owner, which reports and releases    CHOOSE (target_retry) | CONNECT (..._same)
 *
 * Invariants: a ticket is held in CONNECT and READY and waited for in QUEUE; up is NULL but in CONNECT and
 * READY. A target is reported as failed only when none of its addresses could be reached, so that one dead
 * address of a name does not eject all of them. */
#include <string.h>

#include "proxy.h"

#define ADDR_TRIES_MAX   4 /* addresses of one name tried for one request */
#define TLS_LOG_PAUSE_MS 1000

static struct upstream_worker *worker_of(struct target *t)
{
	return &t->conn->worker->upstream;
}

static void enter(struct target *t, enum target_phase phase)
{
	t->phase = phase;
	t->phase_ms = loop_now_ms(t->conn->worker->loop);
}

static enum step fail(struct target *t, unsigned status, enum exchange_end end)
{
	t->status = status;
	t->end = end;
	target_release(t, false);
	return STEP_FAIL;
}

static void on_up(struct upstream_conn *up)
{
	struct target *t = up->owner;
	conn_run(t->conn);
}

/* Comes from whoever gave the place back, maybe deep in another connection's run: this one has its own. */
static void on_turn(struct upstream_ticket *ticket)
{
	struct target *t = ticket->owner;
	conn_post(t->conn);
}

/* ---- CHOOSE ---- */

static enum step choose(struct target *t)
{
	struct upstream_worker *w = worker_of(t);
	const struct upstream_group *group = t->route->group;
	for (;;) {
		/* What went wrong before says more than that nothing is left. */
		if (upstream_choose(w, group, &t->choice) != ERR_OK)
			return t->status != 0 ? fail(t, t->status, t->end)
					      : fail(t, 503, EXCHANGE_END_NO_TARGET);
		t->addr_try_cnt = 0;
		t->ticket.on_turn = on_turn;
		t->ticket.owner = t;
		enum step step = upstream_enter(w, group, &t->choice, &t->ticket);
		if (step != STEP_FAIL) {
			enter(t, step == STEP_DONE ? TARGET_CONNECT : TARGET_QUEUE);
			return STEP_DONE;
		}
		/* Nothing was sent to it: another one costs no retry. */
		t->status = 503;
		t->end = EXCHANGE_END_QUEUE_FULL;
	}
}

/* ---- CONNECT ---- */

static void log_tls_failure(struct target *t, enum upstream_failure failure, const char *why)
{
	struct worker *w = t->conn->worker;
	int64_t now_ms = loop_now_ms(w->loop);
	if (w->tls_logged_ms > 0 && now_ms - w->tls_logged_ms < TLS_LOG_PAUSE_MS)
		return;
	w->tls_logged_ms = now_ms;
	const char *what = "TLS with target failed";
	const char *remedy = "does this port speak TLS 1.2 or 1.3?";
	if (failure == UPSTREAM_FAILURE_VERIFY) {
		what = "target's certificate does not verify";
		remedy = "mend the certificate, or set ca_file or server_name in tls.upstream";
	}
	log_warn("proxy", "%s conn=%llu route=%s target=%s why=\"%s\": %s", what,
		 (unsigned long long)t->conn->id, t->route->config->name,
		 upstream_name(t->choice.upstream), why, remedy);
}

static void note_failure(struct target *t, enum upstream_failure failure, const char *why)
{
	switch (failure) {
	case UPSTREAM_FAILURE_TLS:
	case UPSTREAM_FAILURE_VERIFY:
		t->status = 502;
		t->end = EXCHANGE_END_UPSTREAM_TLS;
		log_tls_failure(t, failure, why);
		break;
	case UPSTREAM_FAILURE_CONNECT_TIMEOUT:
		t->status = 504;
		t->end = EXCHANGE_END_CONNECT_TIMEOUT;
		break;
	case UPSTREAM_FAILURE_UNRESOLVED:
		t->status = 503;
		t->end = EXCHANGE_END_NO_TARGET;
		break;
	default:
		t->status = 502;
		t->end = EXCHANGE_END_CONNECT_FAILED;
		break;
	}
	log_debug("proxy", "connect failed conn=%llu target=%s failure=%s why=%s",
		  (unsigned long long)t->conn->id, upstream_name(t->choice.upstream),
		  upstream_failure_name(failure), why);
}

/* The next address of this target, else the next target, else the end. STEP_DONE: run on. */
static enum step go_on(struct target *t, enum upstream_failure failure, const char *why)
{
	note_failure(t, failure, why);
	struct upstream *u = t->choice.upstream;
	unsigned addr_cnt = upstream_addr_cnt(u);
	if (addr_cnt > ADDR_TRIES_MAX)
		addr_cnt = ADDR_TRIES_MAX;
	if (failure != UPSTREAM_FAILURE_UNRESOLVED && ++t->addr_try_cnt < addr_cnt) {
		t->choice.addr_ix++;
		upstream_conn_close(t->up);
		t->up = NULL;
		enter(t, TARGET_CONNECT);
		return STEP_DONE;
	}
	target_report(t, failure, why);
	return target_retry(t) ? STEP_DONE : fail(t, t->status, t->end);
}

static enum err open_conn(struct target *t)
{
	struct upstream *u = t->choice.upstream;
	const struct conn *conn = t->conn;
	char header[PROXY_HEADER_MAX];
	size_t header_len = 0;
	enum config_proxy_protocol version = upstream_proxy_protocol(u);
	if (version != CONFIG_PROXY_NONE) {
		const char *sni = conn->tls != NULL ? tls_conn_sni(conn->tls) : t->sni;
		header_len = conn_write_proxy_header(conn, version, sni == NULL ? "" : sni, header,
						     sizeof(header));
	} else if (!t->wants_fresh) {
		t->up = upstream_conn_take(worker_of(t), u, upstream_port(u, conn->port));
	}
	if (t->up == NULL) {
		struct upstream_target where = { .upstream = u,
						 .addr_ix = t->choice.addr_ix,
						 .client_port = conn->port,
						 .proxy_header = header,
						 .proxy_header_len = header_len,
						 .alpn = t->alpn,
						 .has_first_bytes = t->has_first_bytes };
		enum err e = upstream_conn_open(worker_of(t), &where, &t->up);
		if (e != ERR_OK)
			return e;
	}
	t->up->owner = t;
	t->up->on_ready = on_up;
	return ERR_OK;
}

static enum step connect_target(struct target *t)
{
	if (t->up == NULL) {
		enum err e = open_conn(t);
		if (e == ERR_NOENT)
			return go_on(t, UPSTREAM_FAILURE_UNRESOLVED, "no address");
		if (e == ERR_NETWORK)
			return go_on(t, UPSTREAM_FAILURE_REFUSED, "refused at once");
		if (e != ERR_OK)
			return fail(t, 503, EXCHANGE_END_NO_MEMORY);
	}
	enum step step = upstream_conn_check(t->up);
	if (step == STEP_DONE) {
		enter(t, TARGET_READY);
		return STEP_DONE;
	}
	if (step != STEP_FAIL)
		return STEP_READ;
	const char *why = t->up->failure_text;
	return go_on(t, t->up->failure, why == NULL ? "" : why);
}

/* ---- driver ---- */

enum step target_run(struct target *t)
{
	enum step step = STEP_DONE;
	while (step == STEP_DONE && t->phase != TARGET_READY) {
		if (t->phase == TARGET_CHOOSE) {
			step = choose(t);
		} else if (t->phase == TARGET_CONNECT) {
			step = connect_target(t);
		} else if (t->ticket.is_held) {
			enter(t, TARGET_CONNECT);
		} else {
			step = STEP_READ;
		}
	}
	return step;
}

uint64_t target_hash_client(const struct conn *conn)
{
	const struct addr *client = &conn->client;
	return client->sa.sa_family == AF_INET6
		       ? upstream_hash(&client->v6.sin6_addr, sizeof(client->v6.sin6_addr))
		       : upstream_hash(&client->v4.sin_addr, sizeof(client->v4.sin_addr));
}

int64_t target_due_ms(const struct target *t)
{
	switch (t->phase) {
	case TARGET_QUEUE:
		return t->phase_ms + upstream_group_config(t->route->group)->queue_timeout_ms;
	case TARGET_CONNECT:
		return t->phase_ms + t->conn->worker->settings.connect_ms;
	default:
		return INT64_MAX;
	}
}

enum step target_time_out(struct target *t)
{
	enum step step = STEP_DONE;
	/* The place may have come in this very turn. */
	if (t->phase == TARGET_QUEUE && !t->ticket.is_held)
		return fail(t, 503, EXCHANGE_END_QUEUE_TIMEOUT);
	if (t->phase == TARGET_CONNECT) {
		stat_add(&worker_of(t)->connect_failures, 1);
		step = go_on(t, UPSTREAM_FAILURE_CONNECT_TIMEOUT, "timeouts.connect has passed");
	}
	return step == STEP_DONE ? target_run(t) : step;
}

void target_report(struct target *t, enum upstream_failure failure, const char *why)
{
	upstream_report(worker_of(t), t->route->group, &t->choice, failure, why);
}

bool target_retry(struct target *t)
{
	const struct upstream_group *group = t->route->group;
	/* Nothing is taken from the budget for a try that there is no target for. */
	if (t->choice.tried_cnt >= upstream_group_config(group)->target_cnt ||
	    !upstream_may_retry(worker_of(t), group, &t->choice))
		return false;
	stat_add(&t->conn->worker->stats.upstream_retries, 1);
	target_release(t, false);
	return true;
}

void target_retry_same(struct target *t)
{
	SP_ASSERT(t->phase == TARGET_READY);
	stat_add(&t->conn->worker->stats.upstream_retries, 1);
	upstream_conn_close(t->up);
	t->up = NULL;
	t->wants_fresh = true;
	enter(t, TARGET_CONNECT);
}

void target_release(struct target *t, bool is_clean)
{
	struct upstream_conn *up = t->up;
	t->up = NULL;
	t->phase = TARGET_CHOOSE;
	if (up != NULL && is_clean)
		upstream_conn_park(up);
	else
		upstream_conn_close(up);
	/* Last: it may wake who waits, and the connection that it is to find must be there. */
	upstream_leave(&t->ticket);
}

void target_move(struct target *from, struct target *to)
{
	SP_ASSERT(from->phase == TARGET_READY);
	*to = *from;
	to->up->owner = to;
	to->ticket.owner = to;
	*from = (struct target){ 0 };
}
