/* HTTP/1.1 towards the client: the first implementation of struct client_side (RFC 9112). */
#include <string.h>
#include <sys/socket.h>

#include "pipe.h"
#include "proxy.h"

static enum step refuse(struct exchange *x, unsigned status, enum exchange_end end)
{
	x->reply = status;
	x->end = end;
	x->wants_close = true;
	return STEP_FAIL;
}

/* head: what there is of it. Out of the way of those that are good. */
__attribute__((cold, noinline)) static enum step refuse_head(struct exchange *x,
							     enum wire_reason reason,
							     const char *head, size_t len)
{
	unsigned status = wire_h1_status(reason);
	refusal_of_request(x, reason, status, head, len);
	return refuse(x, status,
		      status == 414 || status == 431 ? EXCHANGE_END_TOO_LARGE
						     : EXCHANGE_END_BAD_REQUEST);
}

/* Copies the head into the exchange's arena and parses it there: it stays for retries while the
 * buffer goes on. */
static enum step take_head(struct exchange *x, size_t head_len)
{
	struct conn *conn = x->conn;
	struct worker *w = x->worker;
	char *head = arena_alloc(&x->arena, head_len);
	if (head == NULL)
		return refuse(x, 503, EXCHANGE_END_NO_MEMORY);
	memcpy(head, buf_at(&conn->in), head_len);
	buf_consume(&conn->in, head_len);
	buf_release_if_empty(&conn->in, &w->bufs);
	conn->scan.head = (struct wire_h1_scan){ 0 };
	conn->request_cnt++;
	stat_add(&w->stats.requests, 1);
	struct wire_h1_limits limits = { .target_bytes = w->settings.target_bytes,
					 .field_cnt = w->settings.field_cnt };
	struct wire_h1_request *request = &x->request;
	enum wire_reason reason =
		wire_h1_parse_request(head, head_len, &limits, w->fields, request);
	if (reason != WIRE_OK)
		return refuse_head(x, reason, head, head_len);
	request->fields = arena_alloc(&x->arena, request->field_cnt * sizeof(*request->fields));
	if (request->fields == NULL)
		return refuse(x, 503, EXCHANGE_END_NO_MEMORY);
	memcpy(request->fields, w->fields, request->field_cnt * sizeof(*request->fields));
	x->wants_close = request->wants_close || w->is_draining;
	x->request_body.framing = request->is_chunked ? FRAMING_CHUNKED
				  : request->has_length && request->content_length > 0
					  ? FRAMING_LENGTH
					  : FRAMING_NONE;
	x->request_body.left = request->content_length;
	x->request_body.is_done = x->request_body.framing == FRAMING_NONE;
	return STEP_DONE;
}

static enum step more_head(struct exchange *x)
{
	struct conn *conn = x->conn;
	if (buf_len(&conn->in) >= x->worker->settings.head_bytes)
		return refuse_head(x, WIRE_HEAD_TOO_LARGE, buf_at(&conn->in), buf_len(&conn->in));
	if (!buf_reserve(&conn->in, &x->worker->bufs) && !buf_grow(&conn->in, &x->worker->bufs))
		return refuse(x, 503, EXCHANGE_END_NO_MEMORY);
	size_t len = 0;
	enum step step = conn_recv(conn, buf_tail(&conn->in), buf_space(&conn->in), &len);
	if (step == STEP_DONE) {
		conn->in.end += (uint32_t)len;
	} else if (step == STEP_EOF || step == STEP_FAIL) {
		/* Not one whole head: nobody to answer. */
		return refuse(x, 0, EXCHANGE_END_CLIENT_GONE);
	}
	return step;
}

static enum step read_head(struct exchange *x)
{
	struct conn *conn = x->conn;
	for (;;) {
		size_t head_len = 0;
		enum wire_step found = WIRE_MORE;
		if (buf_len(&conn->in) > 0)
			found = wire_h1_scan_head(&conn->scan.head, buf_at(&conn->in),
						  buf_len(&conn->in), &head_len);
		if (found == WIRE_FAIL)
			return refuse_head(x, conn->scan.head.reason, buf_at(&conn->in),
					   buf_len(&conn->in));
		if (found == WIRE_DONE)
			return head_len > x->worker->settings.head_bytes
				       ? refuse_head(x, WIRE_HEAD_TOO_LARGE, buf_at(&conn->in),
						     buf_len(&conn->in))
				       : take_head(x, head_len);
		enum step step = more_head(x);
		if (step != STEP_DONE)
			return step;
	}
}

static enum step recv_body(struct exchange *x, void *dst, size_t cap, size_t *ret_len)
{
	enum step step = conn_recv(x->conn, dst, cap, ret_len);
	if (step == STEP_DONE)
		x->progress_ms = loop_now_ms(x->worker->loop);
	return step;
}

static struct body_reader reader_of(struct exchange *x)
{
	return (struct body_reader){ &x->request_body, &x->conn->in, recv_body,
				     x->worker->settings.field_cnt };
}

static bool pass_body(struct exchange *x, struct flow *flow)
{
	struct body_reader reader = reader_of(x);
	bool has_passed = body_pass(x, &reader, flow);
	x->has_body_started |= has_passed;
	return has_passed;
}

static enum step read_body(struct exchange *x, char *dst, size_t cap, size_t *ret_len)
{
	struct body_reader reader = reader_of(x);
	x->has_body_started = true;
	enum step step = body_read(x, &reader, dst, cap, ret_len);
	if (step == STEP_FAIL && x->request_body.reason != WIRE_OK)
		refusal_of_request(x, x->request_body.reason, 400, "", 0);
	return step;
}

/* The connection ends behind this answer. */
static bool is_last(const struct exchange *x)
{
	return x->wants_close || !x->request_body.is_done || x->to_client.framing == FRAMING_CLOSE;
}

static void count_sent(struct exchange *x, size_t len)
{
	x->to_client.sent_bytes += len;
	x->progress_ms = loop_now_ms(x->worker->loop);
}

static enum step flush(struct exchange *x)
{
	struct flow *flow = &x->to_client;
	x->conn->is_ending = flow->is_ended && is_last(x);
	size_t len = 0;
	while (buf_len(&flow->buf) > 0) {
		enum step step = conn_send(x->conn, buf_at(&flow->buf), buf_len(&flow->buf), &len);
		if (step != STEP_DONE)
			return step;
		buf_consume(&flow->buf, len);
		count_sent(x, len);
	}
	while (pipe_len(flow->pipe) > 0) {
		enum step step = pipe_send_client(flow->pipe, x->conn, &len);
		if (step != STEP_DONE)
			return step;
		count_sent(x, len);
	}
	flow_settle(x, flow);
	return STEP_DONE;
}

static void finish(struct exchange *x)
{
	struct conn *conn = x->conn;
	if (is_last(x)) {
		/* Behind a body some clients send a CRLF that nobody asked for (RFC 9112, 2.2). */
		conn->has_last_request = x->request.wants_close && x->request_body.is_done &&
					 x->request_body.total == 0;
		conn_linger(conn);
		return;
	}
	if (conn->worker->is_draining) { /* it was not when the head was written */
		conn->is_leaving = true;
		conn->is_readable = true;
	}
	conn_arm_timer(conn, loop_now_ms(conn->worker->loop) + conn->worker->settings.idle_ms);
}

static void abort_client(struct exchange *x)
{
	struct conn *conn = x->conn;
	struct linger reset = { .l_onoff = 1 };
	bool is_alone = conn->request_cnt <= 1 || x->end == EXCHANGE_END_CLIENT_GONE;
	if (x->is_head_sent && x->to_client.framing == FRAMING_CLOSE) {
		/* A body that ends with the connection: only a reset says that it is not whole. */
		(void)setsockopt(conn->io.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		conn_close(conn);
	} else if (is_alone) {
		conn_close(conn);
	} else {
		/* The framing says it, and a reset would take along the answers before this one. */
		if (conn->tls != NULL)
			tls_conn_forgo_notify(conn->tls);
		conn_linger(conn);
	}
}

const struct client_side client_h1 = {
	.read_head = read_head,
	.read_body = read_body,
	.pass_body = pass_body,
	.write_head = head_write_response,
	.flush = flush,
	.finish = finish,
	.abort = abort_client,
};
