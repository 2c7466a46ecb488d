/* HTTP/1.1 towards the target: the first implementation of struct upstream_side (RFC 9112). */
#include <string.h>

#include "pipe.h"
#include "proxy.h"

#define HEAD_ROOM 512

static void count_sent(struct exchange *x, size_t len)
{
	x->to_upstream.sent_bytes += len;
	stat_add(&x->worker->stats.upstream_bytes_out, len);
	x->progress_ms = loop_now_ms(x->worker->loop);
}

static enum step flush(struct exchange *x)
{
	struct flow *flow = &x->to_upstream;
	size_t len = 0;
	while (buf_len(&flow->buf) > 0) {
		enum step step = upstream_conn_write(x->to.up, buf_at(&flow->buf),
						     buf_len(&flow->buf), &len);
		if (step != STEP_DONE)
			return step;
		buf_consume(&flow->buf, len);
		count_sent(x, len);
	}
	while (pipe_len(flow->pipe) > 0) {
		enum step step = pipe_send_target(flow->pipe, x->to.up, &len);
		if (step != STEP_DONE)
			return step;
		count_sent(x, len);
	}
	flow_settle(x, flow);
	return STEP_DONE;
}

static enum step recv_some(struct exchange *x, void *dst, size_t cap, size_t *ret_len)
{
	if (!x->to.up->is_readable)
		return STEP_READ;
	enum step step = upstream_conn_read(x->to.up, dst, cap, ret_len);
	const struct tls_conn *tls = x->to.up->tls;
	if (step == STEP_EOF && tls != NULL && tls_conn_is_cut(tls))
		return STEP_FAIL; /* whoever sent that FIN, it is no end of a body (RFC 9112, 9.8) */
	if (step == STEP_DONE) {
		stat_add(&x->worker->stats.upstream_bytes_in, *ret_len);
		x->progress_ms = loop_now_ms(x->worker->loop);
	}
	return step;
}

/* head: what there is of it. Out of the way of those that are good. */
__attribute__((cold, noinline)) static enum step refuse_head(struct exchange *x,
							     enum wire_reason reason,
							     const char *head, size_t len)
{
	x->response_body.reason = reason;
	refusal_of_answer(x, wire_reason_name(reason), head, len);
	return STEP_FAIL;
}

static enum step take_head(struct exchange *x, size_t head_len, struct wire_h1_response *response)
{
	struct worker *w = x->worker;
	char *head = arena_alloc(&x->arena, head_len);
	if (head == NULL)
		return STEP_FAIL;
	memcpy(head, buf_at(&x->up_in), head_len);
	buf_consume(&x->up_in, head_len);
	buf_release_if_empty(&x->up_in, &w->bufs);
	x->up_scan = (struct wire_h1_scan){ 0 };
	struct wire_h1_limits limits = { .target_bytes = w->settings.target_bytes,
					 .field_cnt = w->settings.field_cnt };
	enum wire_reason reason =
		wire_h1_parse_response(head, head_len, &limits, w->fields, response);
	if (reason != WIRE_OK)
		return refuse_head(x, reason, head, head_len);
	response->fields = arena_alloc(&x->arena, response->field_cnt * sizeof(*response->fields));
	if (response->fields == NULL)
		return STEP_FAIL;
	memcpy(response->fields, w->fields, response->field_cnt * sizeof(*response->fields));
	return STEP_DONE;
}

/* A head, and as much of the body as is there. The head that is written for the client may be longer than the one
 * that came, and goes before the body all the same (body_pass). */
static bool make_room(struct exchange *x)
{
	struct buf_pool *bufs = &x->worker->bufs;
	if (x->up_in.data != NULL)
		return buf_reserve(&x->up_in, bufs) || buf_grow(&x->up_in, bufs);
	if (!buf_reserve_large(&x->up_in, bufs))
		return false;
	x->up_in.start = x->up_in.end = HEAD_ROOM;
	return true;
}

static enum step read_head(struct exchange *x, struct wire_h1_response *ret_response)
{
	for (;;) {
		size_t head_len = 0;
		enum wire_step found = WIRE_MORE;
		if (buf_len(&x->up_in) > 0)
			found = wire_h1_scan_head(&x->up_scan, buf_at(&x->up_in),
						  buf_len(&x->up_in), &head_len);
		if (found == WIRE_FAIL)
			return refuse_head(x, x->up_scan.reason, buf_at(&x->up_in),
					   buf_len(&x->up_in));
		if (found == WIRE_DONE && head_len <= x->worker->settings.head_bytes)
			return take_head(x, head_len, ret_response);
		if (found == WIRE_DONE || buf_len(&x->up_in) >= x->worker->settings.head_bytes)
			return refuse_head(x, WIRE_HEAD_TOO_LARGE, buf_at(&x->up_in),
					   buf_len(&x->up_in));
		if (!make_room(x))
			return STEP_FAIL;
		size_t len = 0;
		enum step step = recv_some(x, buf_tail(&x->up_in), buf_space(&x->up_in), &len);
		if (step != STEP_DONE) {
			buf_release_if_empty(&x->up_in, &x->worker->bufs);
			return step;
		}
		x->up_in.end += (uint32_t)len;
	}
}

static struct body_reader reader_of(struct exchange *x)
{
	return (struct body_reader){ &x->response_body, &x->up_in, recv_some,
				     x->worker->settings.field_cnt };
}

static bool pass_body(struct exchange *x, struct flow *flow)
{
	struct body_reader reader = reader_of(x);
	return body_pass(x, &reader, flow);
}

static enum step read_body(struct exchange *x, char *dst, size_t cap, size_t *ret_len)
{
	struct body_reader reader = reader_of(x);
	return body_read(x, &reader, dst, cap, ret_len);
}

/* Kept only when the next answer on it cannot be mistaken: everything was sent, everything framed
 * was read, and nothing came behind it. */
static void finish(struct exchange *x)
{
	bool is_clean = x->request_body.is_done && x->to_upstream.is_ended &&
			flow_is_empty(&x->to_upstream) && x->response_body.is_done &&
			x->response_body.framing != FRAMING_CLOSE && buf_len(&x->up_in) == 0 &&
			!x->response.wants_close && x->response.minor >= 1;
	target_release(&x->to, is_clean);
}

static void abort_upstream(struct exchange *x)
{
	target_release(&x->to, false);
	buf_release(&x->up_in, &x->worker->bufs);
	x->up_scan = (struct wire_h1_scan){ 0 };
}

const struct upstream_side upstream_h1 = {
	.write_head = head_write_request,
	.flush = flush,
	.read_head = read_head,
	.read_body = read_body,
	.pass_body = pass_body,
	.finish = finish,
	.abort = abort_upstream,
};
