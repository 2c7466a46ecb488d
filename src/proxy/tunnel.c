/* Bytes both ways: raw TCP, TLS passed through, TCP behind TLS, an upgraded WebSocket.
 *
 * state    step     waits for                                          leaves to
 * CONNECT  connect  target_run: choose, queue, connect, their deadlines RELAY | END
 * RELAY    relay    either side; timeouts.tunnel_idle, tunnel_max       END
 * END      end                                                          the connection lingers or is closed
 *
 * An upgraded WebSocket starts in RELAY. In CONNECT the generation is pinned and what the client sends is
 * collected, as much as one buffer holds; in RELAY nothing of a generation is held, so that a tunnel of last week
 * keeps only its target alive. Each direction ends by itself: an end of one side is passed on when all before it
 * was, and the other direction goes on for as long as it likes; a reset ends both, and is passed on as a reset. No
 * timer of HTTP touches a tunnel. end is the only way out: one reason, one record, everything given back. */
#include "tunnel.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "conn.h"
#include "smartproxy/alloc.h"
#include "smartproxy/fault.h"
#include "smartproxy/text.h"

static void set_state(struct tunnel *t, enum tunnel_state state)
{
	SP_ASSERT(state > t->state);
	t->state = state;
}

static int64_t now_of(const struct tunnel *t)
{
	return loop_now_ms(t->conn->worker->loop);
}

/* ---- END ---- */

static void unpin(struct tunnel *t)
{
	if (t->generation != NULL)
		generation_unpin(t->generation, t->conn->worker->ix);
	t->generation = NULL;
	t->to.route = NULL;
}

static void record(struct tunnel *t, enum exchange_end end)
{
	const struct exchange *x = t->exchange;
	struct access_record r = {
		.conn = t->conn,
		.exchange = x,
		.route = t->route,
		.upstream = tunnel_upstream_name(t),
		.end = end,
		.status = x == NULL ? 0 : x->status,
		.duration_ms = now_of(t) - (x == NULL ? t->start_ms : x->start_ms),
		.bytes_in = t->up.sent_bytes,
		.bytes_out = t->down.sent_bytes + (x == NULL ? 0 : x->to_client.sent_bytes),
		.tries = t->to.choice.tried_cnt,
	};
	if (x == NULL)
		access_log_record(&r);
	else
		exchange_end_upgraded(t->exchange, &r);
}

static void end_tunnel(struct tunnel *t, enum exchange_end end)
{
	struct conn *conn = t->conn;
	struct worker *w = conn->worker;
	set_state(t, TUNNEL_END);
	record(t, end);
	stream_release(t, &t->up);
	stream_release(t, &t->down);
	target_release(&t->to, false);
	unpin(t);
	stat_sub(&w->stats.tunnels_open, 1);
	conn->tunnel = NULL;
	conn->end = end;
	free(t);
}

void tunnel_drop(struct tunnel *t, enum exchange_end end)
{
	end_tunnel(t, end);
}

/* In good order: FIN, behind close_notify through TLS. */
static void finish(struct tunnel *t, enum exchange_end end)
{
	struct conn *conn = t->conn;
	end_tunnel(t, end);
	conn_linger(conn);
}

static void set_reset(int fd)
{
	const struct linger reset = { .l_onoff = 1 };
	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
}

/* One side was reset: so is the other. */
static void reset(struct tunnel *t, bool is_client)
{
	struct conn *conn = t->conn;
	struct upstream_conn *up = t->to.up;
	up->has_hung_up = true; /* so that no close_notify makes a clean end of it */
	set_reset(is_client ? up->io.fd : conn->io.fd);
	end_tunnel(t, is_client ? EXCHANGE_END_CLIENT_GONE : EXCHANGE_END_UPSTREAM_GONE);
	conn_close(conn);
}

/* ---- RELAY ---- */

/* time_ms 0: never. */
static int64_t due_after(int64_t begin_ms, int64_t time_ms)
{
	return time_ms > 0 ? begin_ms + time_ms : INT64_MAX;
}

static int64_t idle_due_ms(const struct tunnel *t)
{
	return due_after(t->conn->active_ms, t->conn->worker->settings.tunnel_idle_ms);
}

static int64_t life_due_ms(const struct tunnel *t)
{
	return due_after(t->start_ms, t->conn->worker->settings.tunnel_max_ms);
}

static void arm_relay_timer(struct tunnel *t)
{
	int64_t idle_ms = idle_due_ms(t), life_ms = life_due_ms(t);
	int64_t due_ms = idle_ms < life_ms ? idle_ms : life_ms;
	if (due_ms < INT64_MAX)
		conn_arm_timer(t->conn, due_ms);
	else
		loop_timer_disarm(t->conn->worker->loop, &t->conn->timer);
}

/* False: the tunnel is gone. */
static bool pump(struct tunnel *t, struct stream *s)
{
	switch (stream_pump(t, s)) {
	case STREAM_BUSY:
		conn_post(t->conn);
		return true;
	case STREAM_SOURCE_RESET:
		reset(t, s->is_up);
		return false;
	case STREAM_SINK_RESET:
		stream_hand_on(t, s->is_up ? &t->down : &t->up);
		reset(t, !s->is_up);
		return false;
	case STREAM_NO_MEMORY:
		finish(t, EXCHANGE_END_NO_MEMORY);
		return false;
	default:
		return true;
	}
}

/* Reset where no read tells: behind its own end, or while the target takes no more of it. What could be handed
 * on was. */
static bool is_client_lost(const struct tunnel *t)
{
	const struct conn *conn = t->conn;
	return conn->is_broken && !stream_is_over(&t->down) && !conn->is_posted;
}

static void relay(struct tunnel *t)
{
	SP_ASSERT(t->to.up != NULL);
	/* A side that has hung up is read before it is written to: the answer of one that takes no more is not lost. */
	struct stream *first = t->to.up->has_hung_up ? &t->down : &t->up;
	struct stream *second = first == &t->up ? &t->down : &t->up;
	if (!pump(t, first) || !pump(t, second))
		return;
	if (stream_is_over(&t->up) && stream_is_over(&t->down))
		finish(t, t->down.has_failed ? EXCHANGE_END_CLIENT_GONE : EXCHANGE_END_DONE);
	else if (is_client_lost(t))
		reset(t, true);
}

static void begin_relay(struct tunnel *t)
{
	unpin(t);
	set_state(t, TUNNEL_RELAY);
	arm_relay_timer(t);
}

/* ---- CONNECT ---- */

static void give_up(struct tunnel *t, enum exchange_end end)
{
	struct conn *conn = t->conn;
	if (t->is_passthrough)
		conn_send_alert(conn, ALERT_INTERNAL_ERROR);
	finish(t, end);
}

static void leave_client(struct tunnel *t)
{
	struct conn *conn = t->conn;
	end_tunnel(t, EXCHANGE_END_CLIENT_GONE);
	conn_close(conn);
}

static void arm_connect_timer(struct tunnel *t)
{
	conn_arm_timer(t->conn, target_due_ms(&t->to));
}

/* False: there is no client any more. One that has ended may wait for an answer (a half-close) and keeps its place,
 * but a ClientHello that nothing follows leads to nothing. */
static bool collect(struct tunnel *t)
{
	enum step step = t->conn->is_broken ? STEP_FAIL : stream_collect(t, &t->up);
	return step != STEP_FAIL && (step != STEP_EOF || !t->is_passthrough);
}

static void go_on(struct tunnel *t, enum step step)
{
	if (step == STEP_DONE) {
		target_report(&t->to, UPSTREAM_FAILURE_NONE, NULL);
		begin_relay(t);
		relay(t);
	} else if (step == STEP_FAIL) {
		give_up(t, t->to.end);
	} else {
		arm_connect_timer(t);
	}
}

static void connect_target(struct tunnel *t)
{
	if (!collect(t)) {
		leave_client(t);
		return;
	}
	t->to.has_first_bytes = buf_len(&t->up.buf) > 0;
	go_on(t, target_run(&t->to));
}

/* ---- driver ---- */

void tunnel_run(struct tunnel *t)
{
	if (t->state == TUNNEL_CONNECT)
		connect_target(t);
	else
		relay(t);
}

void tunnel_on_timer(struct tunnel *t)
{
	int64_t now_ms = now_of(t);
	if (t->state == TUNNEL_CONNECT) {
		if (now_ms >= target_due_ms(&t->to))
			go_on(t, target_time_out(&t->to));
		else
			arm_connect_timer(t);
		return;
	}
	if (now_ms >= life_due_ms(t))
		finish(t, EXCHANGE_END_TUNNEL_OVER);
	else if (now_ms >= idle_due_ms(t))
		finish(t, EXCHANGE_END_TUNNEL_IDLE);
	else
		arm_relay_timer(t);
}

/* ---- doors ---- */

static struct tunnel *new_tunnel(struct conn *conn, const struct route *route)
{
	struct worker *w = conn->worker;
	struct tunnel *t = fault_hits(FAULT_MALLOC) ? NULL : alloc_zeroed(sizeof(*t));
	if (t == NULL)
		return NULL;
	t->conn = conn;
	t->start_ms = loop_now_ms(w->loop);
	t->up.is_up = true;
	(void)text_copy(t->route, sizeof(t->route), route->config->name);
	t->up.buf = conn->in;
	conn->in = (struct buf){ 0 };
	conn->tunnel = t;
	conn_set_state(conn, CONN_TUNNEL);
	stat_add(&w->stats.tunnels_opened, 1);
	stat_add(&w->stats.tunnels_open, 1);
	return t;
}

void tunnel_open(struct conn *conn, const struct generation *generation, const struct route *route,
		 const char *sni)
{
	bool is_passthrough = route->config->action.tls_mode == CONFIG_TLS_PASSTHROUGH;
	worker_refresh_settings(conn->worker);
	struct tunnel *t = new_tunnel(conn, route);
	if (t == NULL) {
		generation_unpin(generation, conn->worker->ix);
		if (is_passthrough)
			conn_send_alert(conn, ALERT_INTERNAL_ERROR);
		conn->end = EXCHANGE_END_NO_MEMORY;
		conn_linger(conn);
		return;
	}
	t->generation = generation;
	t->is_passthrough = is_passthrough;
	(void)text_copy(t->sni, sizeof(t->sni), sni);
	t->to = (struct target){
		.conn = conn,
		.route = route,
		.choice.key_hash = target_hash_client(conn),
		.wants_fresh = true,
		.sni = t->sni,
	};
	tunnel_run(t);
}

void tunnel_upgrade(struct exchange *x)
{
	struct conn *conn = x->conn;
	struct worker *w = conn->worker;
	struct tunnel *t = new_tunnel(conn, x->route);
	if (t == NULL) {
		exchange_drop(x, EXCHANGE_END_NO_MEMORY);
		conn_close(conn);
		return;
	}
	conn->exchange = NULL;
	t->exchange = x;
	target_move(&x->to, &t->to);
	t->down.buf = x->to_client.buf;
	t->down.behind = x->up_in;
	t->down.head_bytes = (uint32_t)buf_len(&t->down.buf);
	x->to_client.buf = x->up_in = (struct buf){ 0 };
	buf_release(&x->to_upstream.buf, &w->bufs);
	t->generation = x->generation;
	x->generation = NULL;
	x->route = NULL;
	x->upstream_name = NULL;
	stat_add(&w->stats.websockets_opened, 1);
	begin_relay(t);
	relay(t);
}

const char *tunnel_upstream_name(const struct tunnel *t)
{
	if (t->to.up != NULL)
		return upstream_name(t->to.up->upstream);
	bool is_known = t->generation != NULL && t->to.choice.upstream != NULL;
	return is_known ? upstream_name(t->to.choice.upstream) : "";
}
