/* Bodies both ways, and what a target that fails within them leads to: parts of AWAIT_HEAD and RELAY (the
 * table is in exchange.c). */
#include <string.h>

#include "exchange.h"

/* Others get their turn. */
static bool is_turn_over(const struct flow *flow, int round, uint64_t sent_before)
{
	return round == PUMP_ROUNDS_MAX || flow->sent_bytes - sent_before >= PUMP_BYTES_MAX;
}

enum move relay_request(struct exchange *x)
{
	struct flow *flow = &x->to_upstream;
	uint64_t sent_before = flow->sent_bytes;
	for (int round = 0; !flow->has_failed; round++) {
		/* A head and the first bytes of its body go out together. */
		enum step filled = flow_fill(x, flow);
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
		if (is_turn_over(flow, round, sent_before)) {
			conn_post(x->conn);
			return MOVE_NEXT;
		}
	}
	return MOVE_NEXT;
}

/* Safe to send once more (RFC 9110, 9.2.2), as far as the request goes. */
static bool is_repeatable(const struct exchange *x)
{
	bool has_answered = x->informational_cnt > 0 || buf_len(&x->up_in) > 0;
	if (x->has_body_started || has_answered)
		return false;
	return x->to_upstream.sent_bytes == 0 || wire_method_is_idempotent(x->request.method);
}

static enum move start_again(struct exchange *x)
{
	buf_release(&x->up_in, &x->worker->bufs);
	x->up_scan = (struct wire_h1_scan){ 0 };
	flow_release(x, &x->to_upstream);
	x->to_upstream = (struct flow){ 0 };
	x->sent_ms = 0;
	x->has_reported = false;
	return exchange_set_state(x, EXCHANGE_CONNECT);
}

/* What of an answer is wrong behind its head, or does not belong where it stands. */
static void refuse_answer(struct exchange *x, const char *why)
{
	exchange_report(x, UPSTREAM_FAILURE_BAD_RESPONSE, why);
	refusal_of_answer(x, why, "", 0);
}

enum move relay_failed(struct exchange *x)
{
	enum wire_reason reason = x->response_body.reason;
	bool may_repeat = reason == WIRE_OK && is_repeatable(x);
	/* One that lay in the pool may have been closed at any time: that says nothing of the target. */
	if (may_repeat && x->to.up->is_reused && !x->has_retried) {
		x->has_retried = true;
		target_retry_same(&x->to);
		return start_again(x);
	}
	log_debug("proxy", "upstream failed conn=%llu target=%s reason=%s",
		  (unsigned long long)x->conn->id, x->upstream_name, wire_reason_name(reason));
	if (reason != WIRE_OK) {
		exchange_report(x, UPSTREAM_FAILURE_BAD_RESPONSE, wire_reason_name(reason));
		return exchange_reply_with(x, 502, EXCHANGE_END_UPSTREAM_BAD);
	}
	exchange_report(x, UPSTREAM_FAILURE_CLOSED, "closed before its answer");
	x->to.status = 502; /* what it is when nothing else is left to try */
	x->to.end = EXCHANGE_END_UPSTREAM_GONE;
	if (may_repeat && target_retry(&x->to))
		return start_again(x);
	return exchange_reply_with(x, 502, EXCHANGE_END_UPSTREAM_GONE);
}

void relay_frame_answer(struct exchange *x)
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

static enum move switch_protocols(struct exchange *x)
{
	bool is_wanted = x->request.websocket == WIRE_WEBSOCKET_OK && x->response.is_websocket;
	if (!is_wanted) {
		refuse_answer(x, "an upgrade that nobody asked for");
		return exchange_reply_with(x, 502, EXCHANGE_END_UPSTREAM_BAD);
	}
	if (!x->client->write_head(x, &x->response))
		return exchange_reply_with(x, 502, EXCHANGE_END_UPSTREAM_BAD);
	x->is_head_sent = true;
	x->status = 101;
	exchange_report(x, UPSTREAM_FAILURE_NONE, NULL);
	tunnel_upgrade(x);
	return MOVE_GONE;
}

enum move relay_informational(struct exchange *x)
{
	if (x->response.status == 101)
		return switch_protocols(x);
	if (++x->informational_cnt > INFORMATIONAL_MAX) {
		refuse_answer(x, "too many 1xx");
		return exchange_reply_with(x, 502, EXCHANGE_END_UPSTREAM_BAD);
	}
	/* Ours was sent already, or was not wanted. */
	if (x->response.status == 100 || x->request.minor == 0)
		return MOVE_NEXT;
	return x->client->write_head(x, &x->response)
		       ? MOVE_NEXT
		       : exchange_reply_with(x, 502, EXCHANGE_END_UPSTREAM_BAD);
}

static enum move cut_answer(struct exchange *x)
{
	enum wire_reason reason = x->response_body.reason;
	if (reason != WIRE_OK) {
		refuse_answer(x, wire_reason_name(reason));
		return exchange_give_up(x, EXCHANGE_END_UPSTREAM_BAD);
	}
	const struct tls_conn *tls = x->to.up->tls;
	exchange_report(x, UPSTREAM_FAILURE_CLOSED,
			tls != NULL && tls_conn_is_cut(tls)
				? "closed within its answer, TLS without close_notify"
				: "closed within its answer");
	return exchange_give_up(x, EXCHANGE_END_UPSTREAM_GONE);
}

enum move relay_answer(struct exchange *x)
{
	struct flow *flow = &x->to_client;
	uint64_t sent_before = flow->sent_bytes;
	for (int round = 0;; round++) {
		enum step filled = flow_fill(x, flow);
		enum step sent = x->client->flush(x);
		if (sent == STEP_FAIL)
			return exchange_give_up(x, EXCHANGE_END_CLIENT_GONE);
		if (filled == STEP_FAIL || filled == STEP_EOF)
			return cut_answer(x);
		if (sent != STEP_DONE)
			return MOVE_WAIT;
		if (flow->is_ended)
			return MOVE_NEXT;
		if (filled != STEP_DONE)
			return MOVE_WAIT;
		if (is_turn_over(flow, round, sent_before)) {
			conn_post(x->conn);
			return MOVE_WAIT;
		}
	}
}
