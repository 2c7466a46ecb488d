/* One direction of a tunnel: bytes, and then the end, from its source to its sink.
 *
 * It copies through a buffer of the pool until the flow is bulky (several reads in a row that filled the buffer)
 * and both ends are plain sockets; then it goes by splice through a pipe, until little comes at a time. Flags of
 * both sockets are sticky: only EAGAIN clears them, and a read that was shorter than it could have been. A source
 * that has sent urgent data is copied: splice never gets past it.
 *
 * A spliced source that is gathered from (gather.h) wakes the worker for GATHER_BYTES, by SO_RCVLOWAT, and for its end,
 * a reset or urgent bytes, which need no mark to be told. What is less, the short timer finds. */
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "conn.h"
#include "tunnel.h"

#define BULK_READS       2
#define BULK_BYTES       (64 << 10)
#define SPLICE_ROUND_CNT 4 /* rounds of PUMP_ROUNDS_MAX that one filling of a pipe counts for */

/* ---- the two ends ---- */

static bool *readable(struct tunnel *t, const struct stream *s)
{
	return s->is_up ? &t->conn->is_readable : &t->to.up->is_readable;
}

static bool is_urgent(const struct tunnel *t, const struct stream *s)
{
	return s->is_up ? t->conn->is_urgent : t->to.up->is_urgent;
}

static bool has_hung_up(const struct tunnel *t, const struct stream *s)
{
	return s->is_up ? t->conn->has_hung_up : t->to.up->has_hung_up;
}

static void count_target_in(struct tunnel *t, size_t len)
{
	t->conn->active_ms = loop_now_ms(t->conn->worker->loop);
	stat_add(&t->conn->worker->stats.upstream_bytes_in, len);
}

static enum step read_source(struct tunnel *t, const struct stream *s, void *dst, size_t cap,
			     size_t *ret_len)
{
	if (s->is_up)
		return conn_recv(t->conn, dst, cap, ret_len);
	if (!t->to.up->is_readable)
		return STEP_READ;
	enum step step = upstream_conn_read(t->to.up, dst, cap, ret_len);
	if (step == STEP_DONE)
		count_target_in(t, *ret_len);
	return step;
}

/* What was handed on, once: payload, without the head of a 101. */
static void count_sent(struct tunnel *t, struct stream *s, size_t len)
{
	struct worker_stats *stats = &t->conn->worker->stats;
	size_t head = len < s->head_bytes ? len : s->head_bytes;
	s->head_bytes -= (uint32_t)head;
	s->sent_bytes += len;
	stat_add(s->is_up ? &stats->tunnel_bytes_in : &stats->tunnel_bytes_out, len - head);
	if (s->is_up) {
		t->conn->active_ms = loop_now_ms(t->conn->worker->loop);
		stat_add(&stats->upstream_bytes_out, len);
	}
}

/* The target has ended: its end is passed on right behind what is left of its bytes. One that was reset is not, and
 * a reset would take them along. */
static bool is_end_behind(const struct upstream_conn *up)
{
	return up->has_hung_up && !up->is_broken;
}

/* What was reset is not written to: the failure of that write would take the reset along, and the read that is to find
 * it behind the last bytes would find an end in good order. */
static bool is_sink_broken(const struct tunnel *t, const struct stream *s)
{
	return s->is_up ? t->to.up->is_broken : t->conn->is_broken;
}

static enum step write_sink(struct tunnel *t, struct stream *s, const void *src, size_t len,
			    size_t *ret_len)
{
	if (is_sink_broken(t, s))
		return STEP_FAIL;
	if (!s->is_up) {
		t->conn->is_ending = is_end_behind(t->to.up);
		return conn_send(t->conn, src, len, ret_len);
	}
	if (!t->to.up->is_writable)
		return STEP_WRITE;
	return upstream_conn_write(t->to.up, src, len, ret_len);
}

/* The sink takes no more. Had it ended its own side before, what it still has for the other one is worth
 * having; else this is a reset. */
static enum stream_state fail_sink(struct tunnel *t, struct stream *s)
{
	s->has_failed = true;
	bool has_sink_hung_up = s->is_up ? t->to.up->has_hung_up : t->conn->has_hung_up;
	stream_release(t, s);
	return has_sink_hung_up ? STREAM_ENDED : STREAM_SINK_RESET;
}

/* An end that was cut in the one TLS is none in good order in the other. */
static void pass_cut(struct tls_conn *from, struct tls_conn *to)
{
	if (from != NULL && to != NULL && tls_conn_is_cut(from))
		tls_conn_forgo_notify(to);
}

/* FIN, behind close_notify through TLS. The last end of two plain sockets is told by their close. */
static enum stream_state pass_end(struct tunnel *t, struct stream *s)
{
	const struct stream *other = s->is_up ? &t->down : &t->up;
	bool is_last = other->is_ended && t->conn->tls == NULL && t->to.up->tls == NULL;
	if (is_last) {
		s->is_ended = true;
		return STREAM_ENDED;
	}
	if (s->is_up) {
		pass_cut(t->conn->tls, t->to.up->tls);
		upstream_conn_shutdown(t->to.up);
	} else {
		struct conn *conn = t->conn;
		pass_cut(t->to.up->tls, conn->tls);
		if (conn->tls != NULL && tls_conn_close_notify(conn->tls) == STEP_WRITE) {
			conn->is_writable = false;
			return STREAM_WAITS;
		}
		(void)shutdown(conn->io.fd, SHUT_WR);
	}
	s->is_ended = true;
	return STREAM_ENDED;
}

/* ---- by copying ---- */

static void judge_bulk(struct tunnel *t, struct stream *s, bool is_full)
{
	s->full_cnt = !is_full ? 0 : s->full_cnt < BULK_READS ? s->full_cnt + 1 : BULK_READS;
	if (s->full_cnt < BULK_READS || s->sent_bytes < BULK_BYTES || s->is_unspliceable ||
	    t->conn->tls != NULL || t->to.up->tls != NULL)
		return;
	s->is_bulky = true;
	s->run_bytes = 0;
	stat_add(&t->conn->worker->stats.splices, 1);
}

/* STEP_DONE: the buffer has bytes. */
static enum step fill(struct tunnel *t, struct stream *s)
{
	if (buf_len(&s->behind) > 0) {
		buf_release(&s->buf, &t->conn->worker->bufs);
		s->buf = s->behind;
		s->behind = (struct buf){ 0 };
		return STEP_DONE;
	}
	if (s->is_eof)
		return STEP_EOF;
	if (!*readable(t, s)) /* before a buffer is taken for nothing */
		return STEP_READ;
	if (!buf_reserve(&s->buf, &t->conn->worker->bufs))
		return STEP_MORE;
	size_t len = 0, space = buf_space(&s->buf);
	enum step step = read_source(t, s, buf_tail(&s->buf), space, &len);
	s->buf.end += (uint32_t)len;
	s->is_eof = step == STEP_EOF;
	if (step == STEP_DONE)
		judge_bulk(t, s, len == space && len >= BUF_BYTES);
	return step;
}

static enum step drain(struct tunnel *t, struct stream *s)
{
	while (buf_len(&s->buf) > 0) {
		size_t len = 0;
		enum step step = write_sink(t, s, buf_at(&s->buf), buf_len(&s->buf), &len);
		if (step != STEP_DONE)
			return step;
		buf_consume(&s->buf, len);
		count_sent(t, s, len);
	}
	return STEP_DONE;
}

/* BUSY: a round was made. */
static enum stream_state copy(struct tunnel *t, struct stream *s)
{
	if (buf_len(&s->buf) == 0) {
		enum step step = fill(t, s);
		if (step == STEP_EOF)
			return pass_end(t, s);
		if (step == STEP_FAIL)
			return STREAM_SOURCE_RESET;
		if (step == STEP_MORE)
			return STREAM_NO_MEMORY;
		if (step != STEP_DONE)
			return STREAM_WAITS;
	}
	enum step step = drain(t, s);
	if (step == STEP_FAIL)
		return fail_sink(t, s);
	return step == STEP_DONE ? STREAM_BUSY : STREAM_WAITS;
}

/* ---- gathering ---- */

static int source_fd(const struct tunnel *t, const struct stream *s)
{
	return s->is_up ? t->conn->io.fd : t->to.up->io.fd;
}

static bool set_low_water(const struct tunnel *t, const struct stream *s, int bytes)
{
	return setsockopt(source_fd(t, s), SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes)) == 0;
}

static uint32_t queued_bytes(const struct tunnel *t, const struct stream *s)
{
	int bytes = 0;
	return ioctl(source_fd(t, s), SIOCINQ, &bytes) == 0 && bytes > 0 ? (uint32_t)bytes : 0;
}

static void leave_gathering(struct tunnel *t, struct stream *s)
{
	if (!s->gather.is_on)
		return;
	gather_leave(&s->gather);
	loop_short_timer_disarm(&s->gather_timer);
	(void)set_low_water(t, s, 1);
	s->portion_bytes = 0;
	*readable(t, s) = true; /* what there is has not been told */
}

static void on_gather_due(struct short_timer *timer)
{
	struct stream *s = SP_CONTAINER_OF(timer, struct stream, gather_timer);
	struct tunnel *t = s->is_up ? SP_CONTAINER_OF(s, struct tunnel, up)
				    : SP_CONTAINER_OF(s, struct tunnel, down);
	struct loop *loop = t->conn->worker->loop;
	switch (gather_look(&s->gather, loop_now_us(loop), queued_bytes(t, s))) {
	case GATHER_WAIT:
		loop_short_timer_arm(loop, timer);
		return;
	case GATHER_TAKE:
		*readable(t, s) = true;
		break;
	default:
		leave_gathering(t, s);
	}
	conn_run(t->conn);
}

/* The source is empty. */
static void judge_speed(struct tunnel *t, struct stream *s)
{
	struct loop *loop = t->conn->worker->loop;
	if (s->gather.is_on || !loop_has_short_timers(loop) ||
	    !gather_end_run(&s->gather, loop_now_us(loop)) || !set_low_water(t, s, GATHER_BYTES))
		return;
	gather_enter(&s->gather);
	s->gather_timer.on_due = on_gather_due;
	stat_add(&t->conn->worker->stats.gathers, 1);
}

static enum stream_state await_source(struct tunnel *t, struct stream *s)
{
	struct loop *loop = t->conn->worker->loop;
	if (s->gather.is_on && s->gather_timer.due_us == 0) {
		gather_wait(&s->gather, loop_now_us(loop), s->portion_bytes);
		s->portion_bytes = 0;
		loop_short_timer_arm(loop, &s->gather_timer);
	}
	return STREAM_WAITS;
}

/* What is there at its begin is a portion: what comes while it is handed on is of the next one. */
static void begin_portion(struct tunnel *t, struct stream *s)
{
	loop_short_timer_disarm(&s->gather_timer);
	if (!s->gather.is_on || s->portion_bytes > 0)
		return;
	s->portion_bytes = queued_bytes(t, s);
	gather_take(&s->gather, s->portion_bytes);
}

/* A rest that is less than what a fill takes (a pipe has few slots) is the begin of the next one. */
static void count_portion(struct tunnel *t, struct stream *s, uint32_t len)
{
	if (!s->gather.is_on) {
		gather_count(&s->gather, len);
		return;
	}
	s->portion_bytes -= len < s->portion_bytes ? len : s->portion_bytes;
	*readable(t, s) = s->portion_bytes >= len;
}

/* ---- by splice ---- */

static void leave_bulk(struct tunnel *t, struct stream *s)
{
	leave_gathering(t, s);
	s->is_bulky = false;
	s->full_cnt = 0;
}

/* BUSY: the pipe has bytes, or copying goes on instead. */
static enum stream_state fill_pipe(struct tunnel *t, struct stream *s)
{
	if (s->is_eof)
		return pass_end(t, s);
	if (!*readable(t, s))
		return await_source(t, s);
	begin_portion(t, s);
	if (s->pipe == NULL)
		s->pipe = pipe_take(t->conn->worker);
	if (s->pipe == NULL) {
		leave_bulk(t, s);
		return STREAM_BUSY;
	}
	size_t len = 0;
	enum step step = s->is_up ? pipe_recv_client(s->pipe, t->conn, SIZE_MAX, &len)
				  : pipe_recv_target(s->pipe, t->to.up, SIZE_MAX, &len);
	switch (step) {
	case STEP_DONE:
		s->run_bytes += s->run_bytes < BULK_BYTES ? (uint32_t)len : 0;
		count_portion(t, s, (uint32_t)len);
		if (!s->is_up)
			count_target_in(t, len);
		return STREAM_BUSY;
	case STEP_READ:
		if (s->run_bytes > 0 && s->run_bytes < BUF_BYTES)
			leave_bulk(t, s);
		else
			judge_speed(t, s);
		s->full_cnt = 0;
		s->run_bytes = 0;
		return await_source(t, s);
	case STEP_MORE:
		leave_bulk(t, s);
		s->is_unspliceable = true;
		return STREAM_BUSY;
	default:
		return STREAM_SOURCE_RESET;
	}
}

static enum stream_state drain_pipe(struct tunnel *t, struct stream *s)
{
	while (pipe_len(s->pipe) > 0) {
		if (is_sink_broken(t, s))
			return fail_sink(t, s);
		size_t len = 0;
		enum step step = s->is_up ? pipe_send_target(s->pipe, t->to.up, &len)
					  : pipe_send_client(s->pipe, t->conn, &len);
		if (step == STEP_WRITE)
			return STREAM_WAITS;
		if (step != STEP_DONE)
			return fail_sink(t, s);
		count_sent(t, s, len);
	}
	return STREAM_BUSY;
}

static enum stream_state splice_on(struct tunnel *t, struct stream *s)
{
	if (pipe_len(s->pipe) == 0) {
		enum stream_state state = fill_pipe(t, s);
		if (state != STREAM_BUSY || pipe_len(s->pipe) == 0)
			return state;
	}
	return drain_pipe(t, s);
}

/* ---- both ---- */

static void give_pipe(struct tunnel *t, struct stream *s)
{
	pipe_give(t->conn->worker, s->pipe);
	s->pipe = NULL;
}

enum stream_state stream_pump(struct tunnel *t, struct stream *s)
{
	enum stream_state state = STREAM_BUSY;
	if (s->gather.is_on && (is_urgent(t, s) || has_hung_up(t, s)))
		leave_gathering(t, s);
	for (int round = 0; round < PUMP_ROUNDS_MAX && state == STREAM_BUSY; round++) {
		if (stream_is_over(s))
			return STREAM_ENDED;
		bool wants_splice = pipe_len(s->pipe) > 0 ||
				    (s->is_bulky && !is_urgent(t, s) && buf_len(&s->buf) == 0 &&
				     buf_len(&s->behind) == 0);
		state = wants_splice ? splice_on(t, s) : copy(t, s);
		round += wants_splice ? SPLICE_ROUND_CNT - 1 : 0;
	}
	buf_release_if_empty(&s->buf, &t->conn->worker->bufs);
	if (pipe_len(s->pipe) == 0)
		give_pipe(t, s);
	return state;
}

void stream_hand_on(struct tunnel *t, struct stream *s)
{
	*readable(t, s) = true;
	if (pipe_len(s->pipe) > 0 && drain_pipe(t, s) != STREAM_BUSY)
		return;
	for (int round = 0; round < PUMP_ROUNDS_MAX && !stream_is_over(s); round++) {
		if ((buf_len(&s->buf) == 0 && fill(t, s) != STEP_DONE) || drain(t, s) != STEP_DONE)
			return;
	}
}

enum step stream_collect(struct tunnel *t, struct stream *s)
{
	struct buf_pool *bufs = &t->conn->worker->bufs;
	while (!s->is_eof) {
		if (!t->conn->is_readable)
			return STEP_READ;
		if (!buf_reserve(&s->buf, bufs))
			return STEP_WRITE;
		size_t len = 0;
		enum step step = read_source(t, s, buf_tail(&s->buf), buf_space(&s->buf), &len);
		s->buf.end += (uint32_t)len;
		buf_release_if_empty(&s->buf, bufs);
		s->is_eof = step == STEP_EOF;
		if (step != STEP_DONE)
			return step;
	}
	return STEP_EOF;
}

void stream_release(struct tunnel *t, struct stream *s)
{
	struct worker *w = t->conn->worker;
	leave_gathering(t, s);
	buf_release(&s->buf, &w->bufs);
	buf_release(&s->behind, &w->bufs);
	give_pipe(t, s);
}
