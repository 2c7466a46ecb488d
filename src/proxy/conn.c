/* One client connection.
 *
 * state      step            waits for                        leaves to
 * HELLO      step_hello      a ClientHello, timeouts.header   HANDSHAKE | CLOSED
 * HANDSHAKE  step_handshake  OpenSSL, timeouts.header         HTTP | CLOSED
 * HTTP       step_http       exchanges, one after another     LINGER | CLOSED
 * LINGER     step_linger     the client's end, 64 KiB or 1 s  CLOSED
 *
 * A plain connection starts in HTTP. Events only mark what is possible and call conn_run, the one
 * driver. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy.h"
#include "smartproxy/fault.h"
#include "smartproxy/text.h"

#define REQUESTS_A_RUN 64

static void set_state(struct conn *conn, enum conn_state state)
{
	SP_ASSERT(state > conn->state); /* a connection only goes forward */
	conn->state = state;
}

static void free_conn(struct task *task)
{
	struct conn *conn = SP_CONTAINER_OF(task, struct conn, free_task);
	if (conn->is_posted)
		conn->is_left_to_post = true; /* run_task is still in the inbox */
	else
		free(conn);
}

void conn_close(struct conn *conn)
{
	if (conn->state == CONN_CLOSED)
		return;
	struct worker *w = conn->worker;
	if (conn->exchange != NULL)
		exchange_drop(conn->exchange, EXCHANGE_END_CLIENT_GONE);
	set_state(conn, CONN_CLOSED);
	int fd = conn->io.fd;
	loop_timer_disarm(w->loop, &conn->timer);
	loop_remove(w->loop, &conn->io);
	tls_conn_free(conn->tls);
	conn->tls = NULL;
	(void)close(fd);
	buf_release(&conn->in, &w->bufs);
	list_remove(&conn->link);
	__atomic_store_n(&w->stats.connections_open, w->stats.connections_open - 1,
			 __ATOMIC_RELAXED);
	conn->free_task.run = free_conn;
	loop_defer(w->loop, &conn->free_task);
}

static void run_posted(struct task *task)
{
	struct conn *conn = SP_CONTAINER_OF(task, struct conn, run_task);
	conn->is_posted = false;
	if (conn->state != CONN_CLOSED)
		conn_run(conn);
	else if (conn->is_left_to_post)
		free(conn); /* else free_task is still to come */
}

void conn_post(struct conn *conn)
{
	if (conn->is_posted)
		return;
	conn->is_posted = true;
	conn->run_task.run = run_posted;
	loop_post(conn->worker->loop, &conn->run_task);
}

/* ---- transport ---- */

static enum step recv_plain(struct conn *conn, void *dst, size_t cap, size_t *ret_len)
{
	ssize_t n;
	do {
		n = recv(conn->io.fd, dst, cap, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? STEP_READ : STEP_FAIL;
	if (n == 0)
		return STEP_EOF;
	/* A short read emptied the socket, unless an end waits behind it: the next arrival is a new
	 * edge. */
	if ((size_t)n < cap && !conn->has_hung_up)
		conn->is_readable = false;
	*ret_len = (size_t)n;
	return STEP_DONE;
}

enum step conn_recv(struct conn *conn, void *dst, size_t cap, size_t *ret_len)
{
	if (conn->has_eof)
		return STEP_EOF;
	if (!conn->is_readable)
		return STEP_READ;
	enum step step = conn->tls != NULL ? tls_conn_read(conn->tls, dst, cap, ret_len)
					   : recv_plain(conn, dst, cap, ret_len);
	if (step == STEP_READ)
		conn->is_readable = false;
	else if (step == STEP_EOF)
		conn->has_eof = true;
	else if (step == STEP_DONE)
		stat_add(&conn->worker->stats.client_bytes_in, *ret_len);
	return step;
}

enum step conn_send(struct conn *conn, const void *src, size_t len, size_t *ret_len)
{
	if (!conn->is_writable)
		return STEP_WRITE;
	enum step step;
	if (conn->tls != NULL) {
		step = tls_conn_write(conn->tls, src, len, ret_len);
	} else {
		ssize_t n;
		do {
			n = send(conn->io.fd, src, len, MSG_NOSIGNAL);
		} while (n < 0 && errno == EINTR);
		step = n >= 0                                    ? STEP_DONE
		       : errno == EAGAIN || errno == EWOULDBLOCK ? STEP_WRITE
								 : STEP_FAIL;
		*ret_len = n < 0 ? 0 : (size_t)n;
	}
	if (step == STEP_WRITE)
		conn->is_writable = false;
	else if (step == STEP_DONE)
		stat_add(&conn->worker->stats.client_bytes_out, *ret_len);
	return step;
}

/* ---- TLS ---- */

/* A fatal alert in a record of its own (RFC 8446, 6.2), before OpenSSL has taken over. */
static void refuse_hello(struct conn *conn, uint8_t description)
{
	const uint8_t alert[7] = { 21, 3, 1, 0, 2, 2, description };
	(void)send(conn->io.fd, alert, sizeof(alert), MSG_NOSIGNAL);
	stat_add(&conn->worker->stats.tls_failures, 1);
	conn_close(conn);
}

#define ALERT_DECODE_ERROR      50
#define ALERT_INTERNAL_ERROR    80
#define ALERT_UNRECOGNIZED_NAME 112

/* One decision: the slot of this name, and its certificate with a reference. */
static struct tls_cert *choose_certificate(struct conn *conn, const struct wire_hello *hello)
{
	sp_rcu_enter();
	const struct generation *g = generation_current();
	struct tls_cert *cert = NULL;
	struct tls_slot *slot = route_find_slot(g->routes, conn->port, hello->sni, hello->sni_len);
	if (slot != NULL) {
		cert = tls_slot_cert_get(slot);
		conn->slot_hash = tls_slot_hash(slot);
	}
	sp_rcu_leave();
	return cert;
}

static void start_tls(struct conn *conn, const struct wire_hello *hello)
{
	struct worker *w = conn->worker;
	struct tls_cert *cert = choose_certificate(conn, hello);
	if (cert == NULL) {
		log_debug("proxy", "handshake refused conn=%llu sni=%s: no certificate yet",
			  (unsigned long long)conn->id, hello->sni_len > 0 ? hello->sni : "-");
		refuse_hello(conn, ALERT_UNRECOGNIZED_NAME);
		return;
	}
	conn->has_sni = hello->sni_len > 0;
	enum err e = tls_conn_new(w->tls, conn->io.fd, cert, conn->slot_hash, &conn->tls);
	tls_cert_put(cert);
	if (e == ERR_OK)
		e = tls_conn_feed(conn->tls, buf_at(&conn->in), buf_len(&conn->in));
	if (e != ERR_OK) {
		refuse_hello(conn, ALERT_INTERNAL_ERROR);
		return;
	}
	buf_release(&conn->in, &w->bufs);
	conn->scan.head = (struct wire_h1_scan){ 0 };
	set_state(conn, CONN_HANDSHAKE);
}

static const char plain_on_tls[] =
	"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 47\r\n"
	"Connection: close\r\n\r\nThis port takes HTTPS: the request was not TLS.\n";

static void refuse_plain(struct conn *conn)
{
	const char *data = buf_at(&conn->in);
	if (buf_len(&conn->in) > 0 && data[0] >= 'A' && data[0] <= 'Z') {
		(void)send(conn->io.fd, plain_on_tls, sizeof(plain_on_tls) - 1, MSG_NOSIGNAL);
		stat_add(&conn->worker->stats.tls_failures, 1);
		conn_linger(conn);
		return;
	}
	refuse_hello(conn, ALERT_DECODE_ERROR);
}

/* True: go on at once; false: wait, or closed. */
static bool step_hello(struct conn *conn)
{
	struct worker *w = conn->worker;
	for (;;) {
		struct wire_hello hello;
		enum wire_hello_reason reason = WIRE_HELLO_OK;
		enum wire_step found = WIRE_MORE;
		if (buf_len(&conn->in) > 0 &&
		    wire_hello_is_ready(&conn->scan.hello, (const uint8_t *)buf_at(&conn->in),
					buf_len(&conn->in)))
			found = wire_hello_parse((const uint8_t *)buf_at(&conn->in),
						 buf_len(&conn->in), &hello, &reason);
		if (found == WIRE_DONE) {
			start_tls(conn, &hello);
			return conn->state == CONN_HANDSHAKE;
		}
		if (found == WIRE_FAIL && reason == WIRE_HELLO_NOT_TLS) {
			refuse_plain(conn);
			return false;
		}
		if (found == WIRE_FAIL) {
			refuse_hello(conn, ALERT_DECODE_ERROR);
			return false;
		}
		if (!buf_reserve(&conn->in, &w->bufs) && !buf_grow(&conn->in, &w->bufs)) {
			conn_close(conn);
			return false;
		}
		if (buf_space(&conn->in) == 0) {
			refuse_hello(conn, ALERT_DECODE_ERROR);
			return false;
		}
		size_t len = 0;
		enum step step = conn_recv(conn, buf_tail(&conn->in), buf_space(&conn->in), &len);
		if (step == STEP_READ) {
			buf_release_if_empty(&conn->in, &w->bufs);
			return false;
		}
		if (step != STEP_DONE) {
			conn_close(conn);
			return false;
		}
		conn->in.end += (uint32_t)len;
	}
}

static bool step_handshake(struct conn *conn)
{
	struct worker *w = conn->worker;
	enum step step = tls_conn_handshake(conn->tls);
	if (step == STEP_READ || step == STEP_WRITE) {
		conn->is_readable &= step != STEP_READ;
		conn->is_writable &= step != STEP_WRITE;
		return false;
	}
	if (step != STEP_DONE) {
		stat_add(&w->stats.tls_failures, 1);
		log_debug("proxy", "handshake failed conn=%llu: %s", (unsigned long long)conn->id,
			  tls_conn_error(conn->tls));
		conn_close(conn);
		return false;
	}
	struct tls_conn_info info;
	tls_conn_info(conn->tls, &info);
	conn->tls_version = info.version[strlen(info.version) - 1] == '3' ? 13 : 12;
	stat_add(&w->stats.tls_handshakes, 1);
	stat_add(&w->stats.tls_resumed, info.is_resumed);
	conn->is_readable =
		true; /* application data may have come with the handshake's last flight */
	set_state(conn, CONN_HTTP);
	conn_arm_timer(conn, loop_now_ms(w->loop) + w->settings.header_ms);
	return true;
}

/* ---- HTTP ---- */

/* Waits for the first byte of a head; until then the connection owns no buffer. */
static bool read_first(struct conn *conn)
{
	if (buf_len(&conn->in) > 0)
		return true;
	if (!conn->is_readable)
		return false;
	if (!buf_reserve(&conn->in, &conn->worker->bufs)) {
		conn_close(conn);
		return false;
	}
	size_t len = 0;
	enum step step = conn_recv(conn, buf_tail(&conn->in), buf_space(&conn->in), &len);
	if (step == STEP_DONE) {
		conn->in.end += (uint32_t)len;
		return true;
	}
	buf_release(&conn->in, &conn->worker->bufs);
	if (step == STEP_EOF || step == STEP_FAIL)
		conn_close(conn);
	return false;
}

/* True: a request was finished and there may be another one. */
static bool step_http(struct conn *conn)
{
	if (conn->exchange == NULL) {
		if (!read_first(conn))
			return false;
		conn->exchange = exchange_new(conn);
		if (conn->exchange == NULL) {
			conn_close(conn);
			return false;
		}
	}
	exchange_run(conn->exchange);
	return conn->state == CONN_HTTP && conn->exchange == NULL &&
	       (buf_len(&conn->in) > 0 || conn->is_readable);
}

/* ---- the end ---- */

void conn_linger(struct conn *conn)
{
	if (conn->state >= CONN_LINGER)
		return;
	if (conn->tls != NULL)
		(void)tls_conn_close_notify(conn->tls);
	(void)shutdown(conn->io.fd, SHUT_WR);
	if (conn->has_eof) {
		conn_close(conn);
		return;
	}
	buf_release(&conn->in, &conn->worker->bufs);
	set_state(conn, CONN_LINGER);
	conn_arm_timer(conn, loop_now_ms(conn->worker->loop) + LINGER_MS);
	conn->is_readable = true;
	conn_post(conn);
}

static bool step_linger(struct conn *conn)
{
	static _Thread_local char sink[16384];
	while (conn->is_readable) {
		ssize_t n = recv(conn->io.fd, sink, sizeof(sink), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			conn->is_readable = false;
			break;
		}
		if (n > 0)
			conn->linger_bytes += (uint32_t)n;
		if (n <= 0 || conn->linger_bytes > LINGER_MAX) {
			conn_close(conn);
			break;
		}
	}
	return false;
}

/* ---- driver ---- */

void conn_run(struct conn *conn)
{
	static bool (*const steps[])(struct conn * conn) = {
		[CONN_HELLO] = step_hello,
		[CONN_HANDSHAKE] = step_handshake,
		[CONN_HTTP] = step_http,
		[CONN_LINGER] = step_linger,
	};
	if (conn->is_running)
		return;
	conn->is_running = true;
	int turns = REQUESTS_A_RUN;
	while (conn->state != CONN_CLOSED && steps[conn->state](conn)) {
		if (--turns == 0) {
			conn_post(conn);
			break;
		}
	}
	conn->is_running = false;
}

static void on_io(struct io *io, uint32_t events)
{
	struct conn *conn = SP_CONTAINER_OF(io, struct conn, io);
	conn->is_readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	conn->is_writable |= (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
	conn->has_hung_up |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	if ((events & (EPOLLHUP | EPOLLERR)) != 0 && conn->state == CONN_HTTP) {
		/* Both directions are gone: nobody will read an answer. */
		conn_close(conn);
		return;
	}
	conn_run(conn);
}

void conn_arm_timer(struct conn *conn, int64_t due_ms)
{
	loop_timer_arm(conn->worker->loop, &conn->timer, due_ms);
}

static void on_timer(struct timer *timer)
{
	struct conn *conn = SP_CONTAINER_OF(timer, struct conn, timer);
	if (conn->state == CONN_HTTP && conn->exchange != NULL) {
		conn->is_running = true;
		exchange_on_timer(conn->exchange);
		conn->is_running = false;
		if (conn->state == CONN_HTTP && conn->exchange == NULL)
			conn_post(conn);
		return;
	}
	if (conn->state == CONN_HELLO || conn->state == CONN_HANDSHAKE)
		stat_add(&conn->worker->stats.tls_failures, 1);
	conn_close(conn);
}

void conn_accept(struct worker *w, int fd, const struct addr *client, const struct addr *listen)
{
	struct conn *conn = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*conn));
	if (conn == NULL) {
		(void)close(fd);
		stat_add(&w->stats.connections_refused, 1);
		return;
	}
	conn->worker = w;
	conn->io = (struct io){ .fd = fd, .on_ready = on_io };
	conn->timer.on_due = on_timer;
	conn->client = *client;
	conn->listen = *listen;
	conn->port = addr_port(listen);
	conn->id = ++w->next_conn_id * 256 + w->ix;
	conn->is_writable = true;
	/* In most cases the first bytes are there already or come within the loop's next turn. */
	conn->is_readable = true;
	sp_rcu_enter();
	bool is_tls = route_listener_is_tls(generation_current()->routes, &conn->listen);
	sp_rcu_leave();
	conn->state = is_tls ? CONN_HELLO : CONN_HTTP;
	list_append(&w->conns, &conn->link);
	stat_add(&w->stats.connections_accepted, 1);
	stat_add(&w->stats.connections_open, 1);
	if (loop_add(w->loop, &conn->io, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET) != ERR_OK) {
		conn_close(conn);
		return;
	}
	conn_arm_timer(conn, loop_now_ms(w->loop) + w->settings.header_ms);
	conn_run(conn);
}
