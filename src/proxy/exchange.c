/* One request and its answer.
 *
 * state       step               waits for                 leaves to
 * READ_HEAD   step_read_head     client, header deadline   ROUTE | REPLY(4xx) | close
 * ROUTE       decide_route       nothing (one section)     ADMIT | ANSWER(token) | REPLY(404, 421)
 * ADMIT       decide_admit       nothing                   CONNECT | ANSWER | REPLY(405, 413, 426, 503)
 * CONNECT     step_connect       target.c: a place at a    SEND_HEAD | REPLY(502, 503, 504)
 *                                target, a connection
 * SEND_HEAD   step_send_head     nothing                   AWAIT_HEAD
 * AWAIT_HEAD  step_await_head    upstream, deadline        RELAY | CONNECT (retry) | REPLY(4xx, 502, 504)
 *                                                          | a tunnel (101)
 * RELAY       step_relay         either side, idle         FINISH | close
 * ANSWER      answer_await_body  the request's body        REPLY
 * REPLY       answer_send        client writable           FINISH | close
 * FINISH      step_finish        nothing                   the next request | close
 *
 * Invariants: generation is pinned from ROUTE on; to.up is NULL but from the end of CONNECT to FINISH;
 * the request's body flows in AWAIT_HEAD and RELAY, whatever the answer does. exchange_set_state is the
 * only writer of the state; the driver arms the timer, where a step waits. The steps stand in the order of
 * the table; those of ROUTE and ADMIT are in decide.c, those of ANSWER and REPLY in answer.c, the parts of
 * AWAIT_HEAD and RELAY in relay.c. */
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
		due = target_due_ms(&x->to);
		if (due == INT64_MAX)
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
	return MOVE_NEXT;
}

/* ---- the end of every exchange ---- */

void exchange_report(struct exchange *x, enum upstream_failure failure, const char *why)
{
	if (x->has_reported || x->to.phase != TARGET_READY)
		return;
	x->has_reported = true;
	target_report(&x->to, failure, why);
}

/* By the status of its answer. */
static void report_status(struct exchange *x)
{
	unsigned status = x->response.status;
	bool is_failure = status == 500 || status == 502 || status == 503 || status == 504;
	exchange_report(x, is_failure ? UPSTREAM_FAILURE_STATUS : UPSTREAM_FAILURE_NONE,
			is_failure ? wire_h1_status_phrase(status) : NULL);
}

static void free_exchange(struct exchange *x)
{
	struct worker *w = x->worker;
	/* The client has gone, or its connection has to: the target has said what it had to say. */
	if (x->response.status >= 200)
		report_status(x);
	x->upstream->abort(x);
	if (x->generation != NULL)
		generation_unpin(x->generation, w->ix);
	buf_release(&x->up_in, &w->bufs);
	flow_release(x, &x->to_upstream);
	flow_release(x, &x->to_client);
	arena_fini(&x->arena);
	if (w->free_exchange_cnt >= EXCHANGES_KEPT) {
		free(x);
		return;
	}
	list_init(&x->link);
	list_prepend(&w->free_exchanges, &x->link); /* the warmest is taken first */
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
	x->conn->end = x->end;
}

void exchange_end_upgraded(struct exchange *x, const struct access_record *record)
{
	struct worker_stats *stats = &x->worker->stats;
	stat_add(&stats->ends[record->end], 1);
	stat_add(&stats->responses[x->status / 100], 1);
	access_log_record(record);
	free_exchange(x);
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

/* target_run and target_time_out say alike what is next. */
static enum move follow_target(struct exchange *x, enum step step)
{
	if (x->to.choice.upstream != NULL)
		x->upstream_name = upstream_name(x->to.choice.upstream);
	if (step == STEP_DONE)
		return exchange_set_state(x, EXCHANGE_SEND_HEAD);
	if (step == STEP_FAIL)
		return exchange_reply_with(x, x->to.status, x->to.end);
	return MOVE_WAIT;
}

static enum move step_connect(struct exchange *x)
{
	return follow_target(x, target_run(&x->to));
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

static enum move step_await_head(struct exchange *x)
{
	enum move move = relay_request(x);
	if (move != MOVE_NEXT || x->state != EXCHANGE_AWAIT_HEAD)
		return move;
	for (;;) {
		if (x->client->flush(x) == STEP_FAIL)
			return exchange_give_up(x, EXCHANGE_END_CLIENT_GONE);
		enum step step = x->upstream->read_head(x, &x->response);
		if (step == STEP_READ || step == STEP_WRITE)
			return MOVE_WAIT;
		if (step != STEP_DONE)
			return relay_failed(x);
		if (x->response.status >= 200)
			break;
		move = relay_informational(x);
		if (move != MOVE_NEXT || x->state != EXCHANGE_AWAIT_HEAD)
			return move;
	}
	relay_frame_answer(x);
	if (!x->client->write_head(x, &x->response))
		return exchange_reply_with(x, 502, EXCHANGE_END_UPSTREAM_BAD);
	x->is_head_sent = true;
	x->status = x->response.status;
	return exchange_set_state(x, EXCHANGE_RELAY);
}

static enum move step_relay(struct exchange *x)
{
	if (!x->to_upstream.is_ended || !flow_is_empty(&x->to_upstream)) {
		enum move move = relay_request(x);
		if (move == MOVE_GONE)
			return move;
	}
	enum move move = relay_answer(x);
	return move == MOVE_NEXT ? exchange_set_state(x, EXCHANGE_FINISH) : move;
}

static enum move step_finish(struct exchange *x)
{
	report_status(x);
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
		[EXCHANGE_READ_HEAD] = step_read_head, [EXCHANGE_ROUTE] = decide_route,
		[EXCHANGE_ADMIT] = decide_admit,       [EXCHANGE_CONNECT] = step_connect,
		[EXCHANGE_SEND_HEAD] = step_send_head, [EXCHANGE_AWAIT_HEAD] = step_await_head,
		[EXCHANGE_RELAY] = step_relay,         [EXCHANGE_ANSWER] = answer_await_body,
		[EXCHANGE_REPLY] = answer_send,        [EXCHANGE_FINISH] = step_finish,
	};
	enum move move;
	do
		move = steps[x->state](x);
	while (move == MOVE_NEXT);
	if (move == MOVE_WAIT)
		conn_arm_timer(x->conn, due_ms(x));
}

/* The target has all that came of the request, and more is due: its silence is no fault of its own. */
static bool waits_for_client(const struct exchange *x)
{
	const struct flow *flow = &x->to_upstream;
	return flow_is_empty(flow) && !flow->is_ended && !flow->has_failed;
}

static enum move await_head_time_out(struct exchange *x)
{
	if (waits_for_client(x))
		return exchange_reply_with(x, 408, EXCHANGE_END_CLIENT_IDLE);
	exchange_report(x, UPSTREAM_FAILURE_RESPONSE_TIMEOUT, "timeouts.response has passed");
	return exchange_reply_with(x, 504, EXCHANGE_END_UPSTREAM_TIMEOUT);
}

static enum move relay_time_out(struct exchange *x)
{
	if (!flow_is_empty(&x->to_client) || waits_for_client(x))
		return exchange_give_up(x, EXCHANGE_END_CLIENT_IDLE);
	exchange_report(x, UPSTREAM_FAILURE_RESPONSE_TIMEOUT,
			"timeouts.idle has passed in its answer");
	return exchange_give_up(x, EXCHANGE_END_UPSTREAM_TIMEOUT);
}

static enum move time_out(struct exchange *x)
{
	const struct worker_settings *s = &x->worker->settings;
	if (s->total_ms > 0 && loop_now_ms(x->worker->loop) >= x->start_ms + s->total_ms &&
	    x->state != EXCHANGE_READ_HEAD && x->state != EXCHANGE_REPLY)
		return x->state == EXCHANGE_RELAY || x->is_head_sent
			       ? exchange_give_up(x, EXCHANGE_END_TOTAL_TIMEOUT)
			       : exchange_reply_with(x, 504, EXCHANGE_END_TOTAL_TIMEOUT);
	switch (x->state) {
	case EXCHANGE_READ_HEAD:
		x->wants_close = true;
		return exchange_reply_with(x, 408, EXCHANGE_END_HEADER_TIMEOUT);
	case EXCHANGE_CONNECT:
		return follow_target(x, target_time_out(&x->to));
	case EXCHANGE_AWAIT_HEAD:
		return await_head_time_out(x);
	case EXCHANGE_ANSWER:
		return exchange_reply_with(x, 408, EXCHANGE_END_CLIENT_IDLE);
	case EXCHANGE_RELAY:
		return relay_time_out(x);
	default:
		return exchange_give_up(x, EXCHANGE_END_CLIENT_IDLE);
	}
}

void exchange_on_timer(struct exchange *x)
{
	enum move move = MOVE_WAIT;
	if (loop_now_ms(x->worker->loop) >= due_ms(x))
		move = time_out(x);
	if (move == MOVE_NEXT)
		exchange_run(x);
	else if (move == MOVE_WAIT)
		conn_arm_timer(x->conn, due_ms(x));
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
	memset(x, 0, offsetof(struct exchange, request.host_name));
	worker_refresh_settings(w);
	x->worker = w;
	x->conn = conn;
	x->client = &client_h1;
	x->upstream = &upstream_h1;
	arena_init(&x->arena, EXCHANGE_ARENA_CAP, &w->arena_cache);
	x->start_ms = x->state_ms = x->progress_ms = loop_now_ms(w->loop);
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
