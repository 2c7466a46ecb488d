/* Answers of our own: the steps of ANSWER and REPLY (the table is in exchange.c). What they answer with
 * was decided in ROUTE or ADMIT, or by exchange_reply_with. */
#include <string.h>

#include "exchange.h"

enum move answer_redirect(struct exchange *x)
{
	const struct config_action_data *action = &x->route->config->action;
	struct route_redirect values = {
		.host = { x->request.host_name, (uint32_t)x->request.host_name_len },
		.path = x->request.path,
		.query = x->request.query,
		.port = x->conn->port,
	};
	if (x->request.target_form == WIRE_TARGET_ASTERISK)
		values.path = (struct wire_span){ "/", 1 };
	if (x->request.host_name_len == 0 && strstr(action->location, "{host}") != NULL)
		return exchange_reply_with(x, 400, EXCHANGE_END_BAD_REQUEST);
	size_t cap = strlen(action->location) + 1;
	for (const char *at = action->location; (at = strchr(at, '{')) != NULL; at++)
		cap += x->request.host_name_len + 3 * (size_t)x->request.target.len + 8;
	if (cap > LOCATION_MAX)
		cap = LOCATION_MAX;
	char *dst = arena_alloc(&x->arena, cap);
	if (dst == NULL)
		return exchange_reply_with(x, 503, EXCHANGE_END_NO_MEMORY);
	x->location = route_expand_location(action->location, &values, dst, cap);
	if (x->location == NULL)
		return exchange_reply_with(x, 414, EXCHANGE_END_TOO_LARGE);
	return exchange_set_state(x, EXCHANGE_ANSWER);
}

/* A local answer keeps the connection when the request's body is short: it is read and dropped
 * first. */
enum move answer_await_body(struct exchange *x)
{
	char sink[4096];
	while (!x->request_body.is_done) {
		if (x->request.wants_continue || x->request_body.total > DISCARD_MAX ||
		    x->request_body.left > DISCARD_MAX)
			break;
		size_t len = 0;
		enum step step = x->client->read_body(x, sink, sizeof(sink), &len);
		if (step == STEP_READ || step == STEP_WRITE)
			return MOVE_WAIT;
		if (step != STEP_DONE && x->request_body.reason != WIRE_OK)
			return exchange_reply_with(x, 400, EXCHANGE_END_BAD_REQUEST);
		if (step != STEP_DONE)
			return exchange_give_up(x, EXCHANGE_END_CLIENT_GONE);
	}
	return exchange_set_state(x, EXCHANGE_REPLY);
}

static bool start_reply(struct exchange *x)
{
	bool is_error_text = x->reply_text == NULL && x->reply != 204 && x->reply != 304;
	if (is_error_text) {
		x->reply_text = arena_printf(&x->arena, "%u %s\n", x->reply,
					     wire_h1_status_phrase(x->reply));
		x->reply_text_len = x->reply_text == NULL ? 0 : strlen(x->reply_text);
	}
	if (!x->request_body.is_done || x->worker->is_draining)
		x->wants_close = true;
	if (!head_write_reply(x))
		return false;
	x->is_head_sent = true;
	x->status = x->reply;
	bool has_body = x->request.method != WIRE_METHOD_HEAD && x->reply != 204 && x->reply != 304;
	if (!has_body)
		x->reply_text_len = 0;
	return true;
}

enum move answer_send(struct exchange *x)
{
	struct worker *w = x->worker;
	if (!x->is_head_sent && !start_reply(x))
		return exchange_give_up(x, EXCHANGE_END_NO_MEMORY);
	for (;;) {
		size_t len = buf_space(&x->to_client.buf);
		if (x->to_client.buf.data == NULL && x->reply_text_len > 0) {
			if (!buf_reserve(&x->to_client.buf, &w->bufs))
				return exchange_give_up(x, EXCHANGE_END_NO_MEMORY);
			len = buf_space(&x->to_client.buf);
		}
		if (len > x->reply_text_len)
			len = x->reply_text_len;
		if (len > 0) {
			(void)buf_append(&x->to_client.buf, x->reply_text, len);
			x->reply_text += len;
			x->reply_text_len -= len;
		}
		x->to_client.is_ended = x->reply_text_len == 0;
		enum step step = x->client->flush(x);
		if (step == STEP_FAIL)
			return exchange_give_up(x, EXCHANGE_END_CLIENT_GONE);
		if (step != STEP_DONE)
			return MOVE_WAIT;
		if (x->to_client.is_ended)
			return exchange_set_state(x, EXCHANGE_FINISH);
	}
}
