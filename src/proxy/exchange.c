/* One request and its answer.
 *
 * state       step               waits for                 leaves to
 * READ_HEAD   step_read_head     client, header deadline   ROUTE | REPLY(4xx) | close
 * ROUTE       step_route         nothing (one section)     ADMIT | ANSWER(token) | REPLY(404, 421)
 * ADMIT       step_admit         nothing                   CONNECT | ANSWER | REPLY(405, 413)
 * CONNECT     step_connect       a pooled or new upstream  SEND_HEAD | REPLY(502, 503, 504)
 * SEND_HEAD   step_send_head     nothing                   AWAIT_HEAD
 * AWAIT_HEAD  step_await_head    upstream, deadline        RELAY | CONNECT (retry) | REPLY(4xx, 502, 504)
 * RELAY       step_relay         either side, idle         FINISH | close
 * ANSWER      answer_await_body  the request's body        REPLY
 * REPLY       answer_send        client writable           FINISH | close
 * FINISH      step_finish        nothing                   the next request | close
 *
 * Invariants: generation is pinned from ROUTE on; up is NULL before CONNECT and after FINISH; the
 * request's body flows in AWAIT_HEAD and RELAY, whatever the answer does. exchange_set_state is the
 * only writer of the state. The steps stand in the order of the table; ANSWER's and REPLY's are those
 * of answer.c. */
#include "exchange.h"

#include <stdlib.h>
#include <string.h>

static const uint16_t allowed[EXCHANGE_STATE_CNT] = {
	[EXCHANGE_READ_HEAD] = 1u << EXCHANGE_ROUTE | 1u << EXCHANGE_REPLY,
	[EXCHANGE_ROUTE] = 1u << EXCHANGE_ADMIT | 1u << EXCHANGE_ANSWER | 1u << EXCHANGE_REPLY,
	[EXCHANGE_ADMIT] = 1u << EXCHANGE_CONNECT | 1u << EXCHANGE_ANSWER | 1u << EXCHANGE_REPLY,
	[EXCHANGE_CONNECT] = 1u << EXCHANGE_SEND_HEAD | 1u << EXCHANGE_REPLY,
	[EXCHANGE_SEND_HEAD] = 1u << EXCHANGE_AWAIT_HEAD | 1u << EXCHANGE_REPLY,
	[EXCHANGE_AWAIT_HEAD] =
		1u << EXCHANGE_RELAY | 1u << EXCHANGE_CONNECT | 1u << EXCHANGE_REPLY,
	[EXCHANGE_RELAY] = 1u << EXCHANGE_FINISH,
	[EXCHANGE_ANSWER] = 1u << EXCHANGE_REPLY,
	[EXCHANGE_REPLY] = 1u << EXCHANGE_FINISH,
	[EXCHANGE_FINISH] = 0,
};

/* When the present state is overdue. */
static int64_t due_ms(const struct exchange *x)
{
	const struct worker_settings *s = &x->worker->settings;
	int64_t due;
	switch (x->state) {
	case EXCHANGE_READ_HEAD:
		due = x->state_ms + s->header_ms;
		break;
	case EXCHANGE_CONNECT:
		due = x->state_ms + s->connect_ms;
		break;
	case EXCHANGE_AWAIT_HEAD:
		/* However the head comes: single bytes and 1xx of a target give it no more time. */
		due = x->sent_ms > 0 ? x->sent_ms + s->response_ms
				     : x->progress_ms + (x->to_upstream.is_ended ? s->response_ms
										 : s->idle_ms);
		break;
	default:
		due = x->progress_ms + s->idle_ms;
		break;
	}
	/* A reply that says so is still to be sent. */
	int64_t end_ms = x->start_ms + s->total_ms;
	bool is_last_word = x->state == EXCHANGE_REPLY && x->state_ms >= end_ms;
	if (s->total_ms > 0 && end_ms < due && !is_last_word)
		due = end_ms;
	return due;
}

enum move exchange_set_state(struct exchange *x, enum exchange_state state)
{
	SP_ASSERT((allowed[x->state] >> state & 1) != 0);
	x->state = state;
	x->state_ms = loop_now_ms(x->worker->loop);
	if (x->progress_ms < x->state_ms)
		x->progress_ms = x->state_ms;
	conn_arm_timer(x->conn, due_ms(x));
	return MOVE_NEXT;
}

/* ---- the end of every exchange ---- */

static void free_exchange(struct exchange *x)
{
	struct worker *w = x->worker;
	if (x->up != NULL)
		x->upstream->abort(x);
	if (x->generation != NULL)
		generation_unpin(x->generation, w->ix);
	buf_release(&x->up_in, &w->bufs);
	buf_release(&x->to_upstream.buf, &w->bufs);
	buf_release(&x->to_client.buf, &w->bufs);
	arena_fini(&x->arena);
	if (w->free_exchange_cnt >= EXCHANGES_KEPT) {
		free(x);
		return;
	}
	list_init(&x->link);
	list_append(&w->free_exchanges, &x->link);
	w->free_exchange_cnt++;
}

/* The one place where an exchange ends: reason, counters, log record, reset. */
static void end_exchange(struct exchange *x)
{
	struct worker *w = x->worker;
	stat_add(&w->stats.ends[x->end], 1);
	if (x->status >= 100 && x->status < 600)
		stat_add(&w->stats.responses[x->status / 100], 1);
	access_log_write(x);
	x->conn->exchange = NULL;
}

void exchange_drop(struct exchange *x, enum exchange_end end)
{
	x->end = end;
	end_exchange(x);
	free_exchange(x);
}

enum move exchange_give_up(struct exchange *x, enum exchange_end end)
{
	const struct client_side *client = x->client;
	x->end = end;
	end_exchange(x);
	client->abort(x);
	free_exchange(x);
	return MOVE_GONE;
}

enum move exchange_reply_with(struct exchange *x, unsigned status, enum exchange_end end)
{
	x->reply = status;
	x->end = end;
	/* What it was to be instead goes with it. */
	x->reply_text = NULL;
	x->reply_text_len = 0;
	x->location = NULL;
	/* What follows a message that was refused cannot be told from its rest. */
	if (end == EXCHANGE_END_BAD_REQUEST || end == EXCHANGE_END_TOO_LARGE)
		x->wants_close = true;
	if (x->is_head_sent)
		return exchange_give_up(x, end);
	if (x->up != NULL)
		x->upstream->abort(x);
	return exchange_set_state(x, EXCHANGE_REPLY);
}

/* ---- steps, in the order of the table ---- */

static enum move step_read_head(struct exchange *x)
{
	enum step step = x->client->read_head(x);
	if (step == STEP_DONE)
		return exchange_set_state(x, EXCHANGE_ROUTE);
	if (step != STEP_FAIL)
		return MOVE_WAIT;
	return x->reply == 0 ? exchange_give_up(x, x->end) : exchange_set_state(x, EXCHANGE_REPLY);
}

static bool normalise_target(struct exchange *x)
{
	const struct wire_h1_request *request = &x->request;
	uint16_t port = 0;
	if (request->host.len > 0 &&
	    !wire_host_normalise(request->host.at, request->host.len, x->host, &x->host_len, &port))
		return false;
	if (request->target_form == WIRE_TARGET_ASTERISK ||
	    request->target_form == WIRE_TARGET_AUTHORITY)
		return true; /* no path: only routes without one match */
	return wire_path_normalise(request->path.at, request->path.len, x->path, &x->path_len);
}

/* The challenge route comes before everything else on its port (RFC 8555, 8.3). */
static bool find_challenge(struct exchange *x, const struct generation *g) SP_RCU_READER;
static bool find_challenge(struct exchange *x, const struct generation *g)
{
	static const char prefix[] = CHALLENGE_PATH_PREFIX;
	const size_t prefix_len = sizeof(prefix) - 1;
	const struct wire_span *path = &x->request.path;
	if (!g->has_challenge_route || x->conn->port != g->challenge_port || x->conn->tls != NULL ||
	    path->len <= prefix_len || memcmp(path->at, prefix, prefix_len) != 0)
		return false;
	if (x->request.method != WIRE_METHOD_GET && x->request.method != WIRE_METHOD_HEAD)
		return false;
	return challenge_find(x->worker->challenges, x->host, x->host_len, path->at + prefix_len,
			      path->len - prefix_len, x->challenge, &x->reply_text_len);
}

/* A certificate was chosen by SNI: a request for a name of another certificate does not belong here
 * (RFC 9110, 15.5.20). */
static bool is_misdirected(const struct exchange *x, const struct generation *g) SP_RCU_READER;
static bool is_misdirected(const struct exchange *x, const struct generation *g)
{
	const struct conn *conn = x->conn;
	if (conn->tls == NULL || !conn->has_sni || x->host_len == 0)
		return false;
	const struct tls_slot *slot = route_find_slot(g->routes, conn->port, x->host, x->host_len);
	return slot == NULL || tls_slot_hash(slot) != conn->slot_hash;
}

enum verdict { VERDICT_ROUTE, VERDICT_CHALLENGE, VERDICT_NONE, VERDICT_MISDIRECTED };

/* One decision, by the root that is published now, also on a connection that served older ones. */
static enum verdict decide(struct exchange *x)
{
	const struct conn *conn = x->conn;
	struct route_request want = {
		.port = conn->port,
		.listen_addr = &conn->listen,
		.host = x->host,
		.host_len = x->host_len,
		.path = x->path,
		.path_len = x->path_len,
		.method = x->request.method_text,
		.fields = x->request.fields,
		.field_cnt = x->request.field_cnt,
		.client = &conn->client,
		.tls_version = conn->tls_version,
	};
	enum verdict verdict = VERDICT_NONE;
	sp_rcu_enter();
	const struct generation *g = generation_current();
	if (find_challenge(x, g)) {
		verdict = VERDICT_CHALLENGE;
	} else if (is_misdirected(x, g)) {
		verdict = VERDICT_MISDIRECTED;
	} else {
		x->route = route_find(g->routes, &want);
		if (x->route != NULL) {
			generation_pin(g, x->worker->ix);
			x->generation = g;
			verdict = VERDICT_ROUTE;
		}
	}
	sp_rcu_leave();
	return verdict;
}

static enum move step_route(struct exchange *x)
{
	x->path = arena_alloc(&x->arena, (size_t)x->request.path.len + 1);
	if (x->path == NULL)
		return exchange_reply_with(x, 503, EXCHANGE_END_NO_MEMORY);
	if (!normalise_target(x))
		return exchange_reply_with(x, 400, EXCHANGE_END_BAD_REQUEST);
	switch (decide(x)) {
	case VERDICT_CHALLENGE:
		challenge_notify(x->worker->challenges);
		stat_add(&x->worker->stats.challenges_served, 1);
		x->reply = 200;
		x->reply_text = x->challenge;
		x->end = EXCHANGE_END_LOCAL;
		return exchange_set_state(x, EXCHANGE_ANSWER);
	case VERDICT_MISDIRECTED:
		return exchange_reply_with(x, 421, EXCHANGE_END_MISDIRECTED);
	case VERDICT_NONE:
		return exchange_reply_with(x, 404, EXCHANGE_END_NO_ROUTE);
	default:
		return exchange_set_state(x, EXCHANGE_ADMIT);
	}
}

static enum move step_admit(struct exchange *x)
{
	const struct config_action_data *action = &x->route->config->action;
	const struct worker_settings *settings = &x->worker->settings;
	if (settings->body_bytes > 0 && x->request.has_length &&
	    x->request.content_length > settings->body_bytes)
		return exchange_reply_with(x, 413, EXCHANGE_END_TOO_LARGE);
	if (x->request.method == WIRE_METHOD_CONNECT || x->request.method == WIRE_METHOD_TRACE) {
		/* Who asked for a tunnel may have sent its first bytes: they are no request (RFC 9110,
		 * 9.3.6). */
		x->wants_close |= x->request.method == WIRE_METHOD_CONNECT;
		return exchange_reply_with(x, 405, EXCHANGE_END_LOCAL);
	}
	x->end = EXCHANGE_END_LOCAL;
	x->reply = action->status;
	switch (action->type) {
	case CONFIG_FORWARD:
		x->end = EXCHANGE_END_DONE;
		x->reply = 0;
		return exchange_set_state(x, EXCHANGE_CONNECT);
	case CONFIG_REDIRECT:
		return answer_redirect(x);
	case CONFIG_RESPOND:
		x->reply_text = action->body;
		x->reply_text_len = action->body_len;
		return exchange_set_state(x, EXCHANGE_ANSWER);
	default:
		return exchange_set_state(x, EXCHANGE_REPLY);
	}
}

static void on_upstream(struct upstream_conn *up)
{
	struct exchange *x = up->owner;
	conn_run(x->conn);
}

static enum move step_connect(struct exchange *x)
{
	for (;;) {
		if (x->up == NULL) {
			enum err e = target_connect(x);
			if (e == ERR_LIMIT || e == ERR_NOMEM)
				return exchange_reply_with(x, 503, EXCHANGE_END_NO_MEMORY);
			if (e != ERR_OK)
				return exchange_reply_with(x, 502, EXCHANGE_END_CONNECT_FAILED);
			x->up->owner = x;
			x->up->on_ready = on_upstream;
			x->upstream_name = upstream_name(x->up->upstream);
		}
		enum step step = upstream_conn_check(x->up);
		if (step == STEP_DONE)
			return exchange_set_state(x, EXCHANGE_SEND_HEAD);
		if (step == STEP_WRITE)
			return MOVE_WAIT;
		x->upstream->abort(x);
		if (!target_next(x))
			return exchange_reply_with(x, 502, EXCHANGE_END_CONNECT_FAILED);
		/* A fresh deadline for the next target. */
		x->state_ms = loop_now_ms(x->worker->loop);
	}
}

static enum move step_send_head(struct exchange *x)
{
	static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
	x->to_upstream.framing = x->request.is_chunked ? FRAMING_CHUNKED : FRAMING_LENGTH;
	if (!x->upstream->write_head(x))
		return exchange_reply_with(x, 503, EXCHANGE_END_NO_MEMORY);
	/* The target is there: now the client may send (RFC 9110, 10.1.1), unless it has begun
	 * already. */
	if (x->request.wants_continue && !x->has_continued && !x->request_body.is_done &&
	    buf_len(&x->conn->in) == 0) {
		if (!buf_reserve(&x->to_client.buf, &x->worker->bufs) ||
		    !buf_append(&x->to_client.buf, go_on, sizeof(go_on) - 1))
			return exchange_reply_with(x, 503, EXCHANGE_END_NO_MEMORY);
	}
	x->has_continued = true;
	return exchange_set_state(x, EXCHANGE_AWAIT_HEAD);
}

/* Moves the request's body on. MOVE_NEXT: as far as it goes now. */
static enum move pump_request(struct exchange *x)
{
	struct flow *flow = &x->to_upstream;
	for (int round = 0; !flow->has_failed; round++) {
		/* A head and the first bytes of its body go out together. */
		enum step filled = flow_fill(x, flow, &x->request_body, x->client->read_body);
		if (filled == STEP_FAIL)
			return x->request_body.reason != WIRE_OK
				       ? exchange_reply_with(x, 400, EXCHANGE_END_BAD_REQUEST)
				       : exchange_give_up(x, EXCHANGE_END_CLIENT_GONE);
		int64_t limit = x->worker->settings.body_bytes;
		if (limit > 0 && x->request_body.total > limit)
			return exchange_reply_with(x, 413, EXCHANGE_END_TOO_LARGE);
		enum step sent = x->upstream->flush(x);
		/* A target that takes no more may still have answered: its answer is read first. */
		flow->has_failed = sent == STEP_FAIL;
		if (sent == STEP_DONE && flow->is_ended && x->sent_ms == 0)
			x->sent_ms = loop_now_ms(x->worker->loop);
		if (sent != STEP_DONE || filled != STEP_DONE || flow->is_ended)
			return MOVE_NEXT;
		if (round == PUMP_ROUNDS_MAX) {
			conn_post(x->conn);
			return MOVE_NEXT;
		}
	}
	return MOVE_NEXT;
}

static bool may_retry(const struct exchange *x)
{
	bool has_answered = x->informational_cnt > 0 || buf_len(&x->up_in) > 0;
	if (x->has_retried || !x->up->is_reused || x->has_body_started || has_answered)
		return false;
	return x->to_upstream.sent_bytes == 0 || wire_method_is_idempotent(x->request.method);
}

static enum move retry_fresh(struct exchange *x)
{
	stat_add(&x->worker->stats.upstream_retries, 1);
	x->upstream->abort(x);
	buf_release(&x->to_upstream.buf, &x->worker->bufs);
	x->to_upstream = (struct flow){ 0 };
	x->sent_ms = 0;
	x->has_retried = true;
	return exchange_set_state(x, EXCHANGE_CONNECT);
}

static enum move upstream_failed(struct exchange *x)
{
	enum wire_reason reason = x->response_body.reason;
	if (reason == WIRE_OK && may_retry(x))
		return retry_fresh(x);
	log_debug("proxy", "upstream failed conn=%llu target=%s reason=%s",
		  (unsigned long long)x->conn->id, upstream_name(x->up->upstream),
		  wire_reason_name(reason));
	return exchange_reply_with(
		x, 502, reason != WIRE_OK ? EXCHANGE_END_UPSTREAM_BAD : EXCHANGE_END_UPSTREAM_GONE);
}

/* How the answer's body comes and how it goes on (RFC 9112, 6.3). */
static void frame_answer(struct exchange *x)
{
	const struct wire_h1_response *response = &x->response;
	struct body_source *source = &x->response_body;
	bool has_body = x->request.method != WIRE_METHOD_HEAD && response->status != 204 &&
			response->status != 304;
	enum framing unsized = x->request.minor == 0 ? FRAMING_CLOSE : FRAMING_CHUNKED;
	x->to_client.framing = FRAMING_LENGTH;
	if (!has_body) {
		source->framing = FRAMING_NONE;
	} else if (response->is_chunked) {
		source->framing = FRAMING_CHUNKED;
		x->to_client.framing = unsized;
	} else if (response->has_length) {
		source->framing = response->content_length > 0 ? FRAMING_LENGTH : FRAMING_NONE;
		source->left = response->content_length;
	} else {
		source->framing = FRAMING_CLOSE;
		x->to_client.framing = unsized;
	}
	source->is_done = source->framing == FRAMING_NONE;
	/* An early answer: whether the client's body will end cannot be said in the head any more.
	 */
	if (x->to_client.framing == FRAMING_CLOSE || !x->request_body.is_done ||
	    x->worker->is_draining)
		x->wants_close = true;
}

static enum move take_informational(struct exchange *x)
{
	if (x->response.status == 101 || ++x->informational_cnt > INFORMATIONAL_MAX)
		return exchange_reply_with(x, 502, EXCHANGE_END_UPSTREAM_BAD);
	/* Ours was sent already, or was not wanted. */
	if (x->response.status == 100 || x->request.minor == 0)
		return MOVE_NEXT;
	return x->client->write_head(x, &x->response)
		       ? MOVE_NEXT
		       : exchange_reply_with(x, 502, EXCHANGE_END_UPSTREAM_BAD);
}

static enum move step_await_head(struct exchange *x)
{
	enum move move = pump_request(x);
	if (move != MOVE_NEXT || x->state != EXCHANGE_AWAIT_HEAD)
		return move;
	for (;;) {
		if (x->client->flush(x) == STEP_FAIL)
			return exchange_give_up(x, EXCHANGE_END_CLIENT_GONE);
		enum step step = x->upstream->read_head(x, &x->response);
		if (step == STEP_READ) {
			/* Sooner than armed when the request has just ended: response, not idle. */
			conn_arm_timer(x->conn, due_ms(x));
			return MOVE_WAIT;
		}
		if (step != STEP_DONE)
			return upstream_failed(x);
		if (x->response.status >= 200)
			break;
		move = take_informational(x);
		if (move != MOVE_NEXT || x->state != EXCHANGE_AWAIT_HEAD)
			return move;
	}
	frame_answer(x);
	if (!x->client->write_head(x, &x->response))
		return exchange_reply_with(x, 502, EXCHANGE_END_UPSTREAM_BAD);
	x->is_head_sent = true;
	x->status = x->response.status;
	return exchange_set_state(x, EXCHANGE_RELAY);
}

/* Moves the answer on. MOVE_NEXT: all of it was sent. */
static enum move pump_answer(struct exchange *x)
{
	struct flow *flow = &x->to_client;
	for (int round = 0;; round++) {
		enum step filled = flow_fill(x, flow, &x->response_body, x->upstream->read_body);
		enum step sent = x->client->flush(x);
		if (sent == STEP_FAIL)
			return exchange_give_up(x, EXCHANGE_END_CLIENT_GONE);
		if (filled == STEP_FAIL || filled == STEP_EOF)
			return exchange_give_up(x, x->response_body.reason != WIRE_OK
							   ? EXCHANGE_END_UPSTREAM_BAD
							   : EXCHANGE_END_UPSTREAM_GONE);
		if (sent != STEP_DONE)
			return MOVE_WAIT;
		if (flow->is_ended)
			return MOVE_NEXT;
		if (filled != STEP_DONE)
			return MOVE_WAIT;
		if (round == PUMP_ROUNDS_MAX) {
			conn_post(x->conn);
			return MOVE_WAIT;
		}
	}
}

static enum move step_relay(struct exchange *x)
{
	if (!x->to_upstream.is_ended || buf_len(&x->to_upstream.buf) > 0) {
		enum move move = pump_request(x);
		if (move == MOVE_GONE)
			return move;
	}
	enum move move = pump_answer(x);
	return move == MOVE_NEXT ? exchange_set_state(x, EXCHANGE_FINISH) : move;
}

static enum move step_finish(struct exchange *x)
{
	if (x->up != NULL)
		x->upstream->finish(x);
	end_exchange(x);
	x->client->finish(x);
	free_exchange(x);
	return MOVE_GONE;
}

/* ---- driver ---- */

void exchange_run(struct exchange *x)
{
	static enum move (*const steps[EXCHANGE_STATE_CNT])(struct exchange * x) = {
		[EXCHANGE_READ_HEAD] = step_read_head, [EXCHANGE_ROUTE] = step_route,
		[EXCHANGE_ADMIT] = step_admit,         [EXCHANGE_CONNECT] = step_connect,
		[EXCHANGE_SEND_HEAD] = step_send_head, [EXCHANGE_AWAIT_HEAD] = step_await_head,
		[EXCHANGE_RELAY] = step_relay,         [EXCHANGE_ANSWER] = answer_await_body,
		[EXCHANGE_REPLY] = answer_send,        [EXCHANGE_FINISH] = step_finish,
	};
	while (steps[x->state](x) == MOVE_NEXT)
		;
}

static enum move time_out(struct exchange *x)
{
	const struct worker_settings *s = &x->worker->settings;
	if (s->total_ms > 0 && loop_now_ms(x->worker->loop) >= x->start_ms + s->total_ms &&
	    x->state != EXCHANGE_READ_HEAD && x->state != EXCHANGE_REPLY)
		return x->state == EXCHANGE_RELAY || x->is_head_sent
			       ? exchange_give_up(x, EXCHANGE_END_TOTAL_TIMEOUT)
			       : exchange_reply_with(x, 504, EXCHANGE_END_TOTAL_TIMEOUT);
	bool waits_for_client = buf_len(&x->to_upstream.buf) == 0 && !x->to_upstream.is_ended;
	switch (x->state) {
	case EXCHANGE_READ_HEAD:
		x->wants_close = true;
		return exchange_reply_with(x, 408, EXCHANGE_END_HEADER_TIMEOUT);
	case EXCHANGE_CONNECT:
		x->upstream->abort(x);
		if (!target_next(x))
			return exchange_reply_with(x, 504, EXCHANGE_END_CONNECT_TIMEOUT);
		x->state_ms = loop_now_ms(x->worker->loop);
		conn_arm_timer(x->conn, due_ms(x));
		return MOVE_NEXT;
	case EXCHANGE_AWAIT_HEAD:
		return waits_for_client
			       ? exchange_reply_with(x, 408, EXCHANGE_END_CLIENT_IDLE)
			       : exchange_reply_with(x, 504, EXCHANGE_END_UPSTREAM_TIMEOUT);
	case EXCHANGE_ANSWER:
		return exchange_reply_with(x, 408, EXCHANGE_END_CLIENT_IDLE);
	case EXCHANGE_RELAY:
		return exchange_give_up(x, buf_len(&x->to_client.buf) == 0
						   ? EXCHANGE_END_UPSTREAM_TIMEOUT
						   : EXCHANGE_END_CLIENT_IDLE);
	default:
		return exchange_give_up(x, EXCHANGE_END_CLIENT_IDLE);
	}
}

void exchange_on_timer(struct exchange *x)
{
	int64_t due = due_ms(x);
	if (loop_now_ms(x->worker->loop) < due) {
		conn_arm_timer(x->conn, due);
		return;
	}
	if (time_out(x) == MOVE_NEXT)
		exchange_run(x);
}

struct exchange *exchange_new(struct conn *conn)
{
	struct worker *w = conn->worker;
	struct exchange *x;
	if (!list_is_empty(&w->free_exchanges)) {
		x = SP_CONTAINER_OF(w->free_exchanges.next, struct exchange, link);
		list_remove(&x->link);
		w->free_exchange_cnt--;
	} else {
		x = malloc(sizeof(*x));
		if (x == NULL)
			return NULL;
	}
	memset(x, 0, offsetof(struct exchange, challenge));
	worker_refresh_settings(w);
	x->worker = w;
	x->conn = conn;
	x->client = &client_h1;
	x->upstream = &upstream_h1;
	arena_init(&x->arena, EXCHANGE_ARENA_CAP, &w->arena_cache);
	x->start_ms = x->state_ms = x->progress_ms = loop_now_ms(w->loop);
	conn_arm_timer(conn, due_ms(x));
	return x;
}

void exchanges_free(struct worker *w)
{
	while (!list_is_empty(&w->free_exchanges)) {
		struct exchange *x = SP_CONTAINER_OF(w->free_exchanges.next, struct exchange, link);
		list_remove(&x->link);
		free(x);
	}
}
