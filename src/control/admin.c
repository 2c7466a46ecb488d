/* One connection of the admin API:
 *
 *   state   step          waits for               leaves to
 *   HEAD    step_head     client, deadline        BODY | WRITE (refused)
 *   BODY    step_body     client, deadline        HANDLE
 *   HANDLE  step_handle   the API's answer        WRITE
 *   WRITE   step_write    client writable         HEAD | LINGER | closed
 *   LINGER  step_linger   client's end, 2 s       closed
 *
 * Events are level-triggered and only asked for in the states that want them. */
#include "admin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "admin_socket.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"
#include "smartproxy/list.h"
#include "smartproxy/log.h"
#include "wire/h1.h"

#define ROOM         "control"
#define HEAD_MAX     65536
#define READ_BYTES   16384
#define LINGER_MS    2000
#define OUT_HEAD_MAX 512
#define STEPS_MAX    32  /* of one connection in one turn of the loop */
#define PAUSE_MS     100 /* without accepting, when descriptors are out */

enum conn_state { CONN_HEAD, CONN_BODY, CONN_HANDLE, CONN_WRITE, CONN_LINGER, CONN_CLOSED };

struct admin {
	struct loop *loop;
	struct io io;              /* the listening socket */
	struct timer resume_timer; /* no accept before it: descriptors are out */
	admin_handler *handle;
	void *arg;
	struct list conns;
	size_t conn_cnt;
	size_t body_bytes; /* announced by the requests whose bodies are held */
	struct admin_socket socket;
};

struct admin_conn {
	struct list link;
	struct io io;
	struct timer timer;
	struct task drive_task; /* goes on at the end of the turn */
	struct task free_task;
	struct admin *admin;
	enum conn_state state;
	char *in; /* the request so far and what came behind it; NULL while empty */
	size_t in_len, in_cap;
	struct wire_h1_scan scan;
	size_t head_len, body_len;
	size_t held_bytes; /* its part of admin->body_bytes */
	bool wants_close, is_head_method, is_driving, is_drive_due;
	bool has_answered;                    /* one request at least */
	const char *field_name, *field_value; /* one more for the answer */
	char out_head[OUT_HEAD_MAX];
	size_t out_head_len;
	const char *out_body;
	size_t out_body_len;
	struct text out_text; /* what out_body points into, or empty */
	size_t sent;          /* of head and body */
	void (*gone)(void *arg);
	void *gone_arg;
};

static void free_conn(struct task *task)
{
	free(SP_CONTAINER_OF(task, struct admin_conn, free_task));
}

/* Its body is not held any more. */
static void release_body(struct admin_conn *conn)
{
	conn->admin->body_bytes -= conn->held_bytes;
	conn->held_bytes = 0;
}

/* The request is not needed any more. */
static void drop_input(struct admin_conn *conn)
{
	free(conn->in);
	conn->in = NULL;
	conn->in_len = conn->in_cap = 0;
	release_body(conn);
}

static void close_conn(struct admin_conn *conn)
{
	if (conn->state == CONN_CLOSED)
		return;
	conn->state = CONN_CLOSED;
	if (conn->gone != NULL)
		conn->gone(conn->gone_arg);
	conn->gone = NULL;
	loop_timer_disarm(conn->admin->loop, &conn->timer);
	int fd = conn->io.fd;
	loop_remove(conn->admin->loop, &conn->io);
	(void)close(fd);
	drop_input(conn);
	text_fini(&conn->out_text);
	list_remove(&conn->link);
	conn->admin->conn_cnt--;
	conn->free_task.run = free_conn;
	loop_defer(conn->admin->loop, &conn->free_task);
}

static void wait_for(struct admin_conn *conn, uint32_t events)
{
	if (loop_change(conn->admin->loop, &conn->io, events) != ERR_OK)
		close_conn(conn);
}

static void arm(struct admin_conn *conn, int64_t wait_ms)
{
	loop_timer_arm(conn->admin->loop, &conn->timer, loop_now_ms(conn->admin->loop) + wait_ms);
}

void admin_answer_field(struct admin_conn *conn, const char *name, const char *value)
{
	conn->field_name = name;
	conn->field_value = value;
}

void admin_on_gone(struct admin_conn *conn, void (*gone)(void *arg), void *arg)
{
	conn->gone = gone;
	conn->gone_arg = arg;
}

static void drive_soon(struct admin_conn *conn)
{
	if (conn->is_drive_due)
		return;
	conn->is_drive_due = true;
	loop_defer(conn->admin->loop, &conn->drive_task);
}

/* An answer that has begun can be ended: its head needs no memory, and its body is there. */
void admin_answer(struct admin_conn *conn, unsigned status, const char *type, struct text *body)
{
	static const char no_memory[] =
		"{\"error\":{\"code\":\"nomem\",\"message\":\"out of memory\",\"problems\":[]}}\n";
	SP_ASSERT(conn->state != CONN_WRITE && conn->state != CONN_CLOSED);
	bool has_failed = body->has_failed;
	if (has_failed) {
		status = 503;
		type = "application/json";
	}
	size_t len = has_failed ? sizeof(no_memory) - 1 : body->len;
	conn->gone = NULL;
	conn->out_body = has_failed ? no_memory : body->data;
	conn->out_body_len = conn->is_head_method ? 0 : len;
	conn->out_text = *body;
	*body = (struct text){ 0 };
	bool has_field = conn->field_name != NULL;
	conn->out_head_len = text_format(
		conn->out_head, sizeof(conn->out_head),
		"HTTP/1.1 %u %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s%s%s%s"
		"Cache-Control: no-store\r\n%s\r\n",
		status, wire_h1_status_phrase(status), type, len, has_field ? conn->field_name : "",
		has_field ? ": " : "", has_field ? conn->field_value : "", has_field ? "\r\n" : "",
		conn->wants_close ? "Connection: close\r\n" : "");
	SP_ASSERT(conn->out_head_len < sizeof(conn->out_head) - 1);
	conn->field_name = conn->field_value = NULL;
	conn->state = CONN_WRITE;
	arm(conn, ADMIN_REQUEST_MS);
	if (!conn->is_driving)
		drive_soon(conn);
}

/* What the server itself refuses; the rest of the stream cannot be framed, so it ends. The message is static. */
static void refuse(struct admin_conn *conn, unsigned status, const char *code, const char *message)
{
	struct text body = { 0 };
	text_printf(&body, "{\"error\":{\"code\":\"%s\",\"message\":\"%s\",\"problems\":[]}}\n",
		    code, message);
	conn->wants_close = true;
	drop_input(conn);
	admin_answer(conn, status, "application/json", &body);
}

/* Room for at least one byte more, at most max in all. */
static bool make_room(struct admin_conn *conn, size_t max)
{
	if (conn->in_len < conn->in_cap)
		return true;
	size_t cap = conn->in_cap == 0 ? READ_BYTES : conn->in_cap * 2;
	if (cap > max)
		cap = max;
	if (cap <= conn->in_len)
		return false;
	char *in = fault_hits(FAULT_MALLOC) ? NULL : realloc(conn->in, cap);
	if (in == NULL)
		return false;
	conn->in = in;
	conn->in_cap = cap;
	return true;
}

/* False: none yet, or closed. */
static bool receive(struct admin_conn *conn)
{
	ssize_t got = recv(conn->io.fd, conn->in + conn->in_len, conn->in_cap - conn->in_len, 0);
	if (got > 0) {
		conn->in_len += (size_t)got;
		return true;
	}
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		wait_for(conn, EPOLLIN);
	else
		close_conn(conn);
	return false;
}

static size_t body_max(const struct wire_h1_request *request)
{
	bool has_body = request->method == WIRE_METHOD_PUT || request->method == WIRE_METHOD_POST;
	return has_body ? ADMIN_BODY_MAX : 0;
}

static bool parse_head(struct admin_conn *conn, struct wire_field *fields,
		       struct wire_h1_request *ret_request)
{
	static const struct wire_h1_limits limits = { .target_bytes = 8192,
						      .field_cnt = WIRE_FIELDS_MAX };
	enum wire_reason reason =
		wire_h1_parse_request(conn->in, conn->head_len, &limits, fields, ret_request);
	if (reason == WIRE_OK)
		return true;
	refuse(conn, wire_h1_status(reason), "bad_request", wire_reason_name(reason));
	return false;
}

static void begin_body(struct admin_conn *conn)
{
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_request request;
	if (!parse_head(conn, fields, &request))
		return;
	conn->wants_close = request.wants_close;
	conn->is_head_method = request.method == WIRE_METHOD_HEAD;
	if (request.is_chunked) {
		refuse(conn, 411, "length_required",
		       "send Content-Length instead of chunked coding");
		return;
	}
	conn->body_len = request.has_length ? (size_t)request.content_length : 0;
	if (conn->body_len > body_max(&request)) {
		refuse(conn, 413, "too_large", "the body is larger than is taken here");
		return;
	}
	if (conn->body_len > ADMIN_BODIES_MAX - conn->admin->body_bytes) {
		admin_answer_field(conn, "Retry-After", ADMIN_RETRY_S);
		refuse(conn, 503, "limit",
		       "other requests have large bodies under way, nothing was changed");
		return;
	}
	conn->held_bytes = conn->body_len;
	conn->admin->body_bytes += conn->held_bytes;
	conn->state = CONN_BODY;
	if (request.wants_continue && conn->in_len == conn->head_len)
		(void)send(conn->io.fd, "HTTP/1.1 100 Continue\r\n\r\n", 25,
			   MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Steps return false when they have to wait. */
static bool step_head(struct admin_conn *conn)
{
	enum wire_step found = conn->in_len == 0 ? WIRE_MORE
						 : wire_h1_scan_head(&conn->scan, conn->in,
								     conn->in_len, &conn->head_len);
	if (found == WIRE_FAIL) {
		refuse(conn, wire_h1_status(conn->scan.reason), "bad_request",
		       wire_reason_name(conn->scan.reason));
		return true;
	}
	if (found == WIRE_DONE) {
		begin_body(conn);
		return true;
	}
	if (conn->in_len >= HEAD_MAX) {
		refuse(conn, 431, "too_large", "the request's head is too large");
		return true;
	}
	if (!make_room(conn, HEAD_MAX)) {
		refuse(conn, 503, "nomem", "out of memory");
		return true;
	}
	bool was_empty = conn->in_len == 0;
	if (!receive(conn))
		return false;
	if (was_empty)
		arm(conn, ADMIN_REQUEST_MS);
	return true;
}

static bool step_body(struct admin_conn *conn)
{
	if (conn->in_len >= conn->head_len + conn->body_len) {
		conn->state = CONN_HANDLE;
		struct wire_field fields[WIRE_FIELDS_MAX];
		struct wire_h1_request parsed;
		if (!parse_head(conn, fields, &parsed))
			return true;
		loop_timer_disarm(conn->admin->loop, &conn->timer);
		struct admin_request request = {
			.method = strndup(parsed.method_text.at, parsed.method_text.len),
			.path = strndup(parsed.path.at, parsed.path.len),
			.query = parsed.query.at == NULL
					 ? strdup("")
					 : strndup(parsed.query.at, parsed.query.len),
			.body = conn->in + conn->head_len,
			.body_len = conn->body_len,
		};
		if (request.method == NULL || request.path == NULL || request.query == NULL)
			refuse(conn, 503, "nomem", "out of memory");
		else
			conn->admin->handle(conn->admin->arg, conn, &request);
		if (conn->in_len == conn->head_len + conn->body_len)
			drop_input(conn); /* the answer may be long in coming */
		free((char *)request.method);
		free((char *)request.path);
		free((char *)request.query);
		return true;
	}
	if (!make_room(conn, conn->head_len + conn->body_len)) {
		refuse(conn, 503, "nomem", "out of memory");
		return true;
	}
	return receive(conn);
}

/* The bytes of this request go; what came behind them is the next one. */
static void begin_next(struct admin_conn *conn)
{
	size_t used = conn->head_len + conn->body_len;
	size_t left = conn->in_len > used ? conn->in_len - used : 0;
	if (left > 0) {
		memmove(conn->in, conn->in + used, left);
		conn->in_len = left;
		release_body(conn);
	} else {
		drop_input(conn);
	}
	conn->head_len = conn->body_len = conn->sent = 0;
	conn->is_head_method = false; /* nothing is known of the next one, should it be refused */
	conn->scan = (struct wire_h1_scan){ 0 };
	text_fini(&conn->out_text);
	conn->state = CONN_HEAD;
	conn->has_answered = true;
	arm(conn, left > 0 ? ADMIN_REQUEST_MS : ADMIN_IDLE_MS);
}

static ssize_t send_rest(const struct admin_conn *conn)
{
	size_t head_len = conn->out_head_len;
	size_t head_at = conn->sent < head_len ? conn->sent : head_len;
	size_t body_at = conn->sent - head_at;
	struct iovec parts[2] = {
		{ (char *)conn->out_head + head_at, head_len - head_at },
		{ conn->out_body == NULL ? NULL : (char *)conn->out_body + body_at,
		  conn->out_body_len - body_at },
	};
	const struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };
	return sendmsg(conn->io.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool step_write(struct admin_conn *conn)
{
	while (conn->sent < conn->out_head_len + conn->out_body_len) {
		ssize_t n = send_rest(conn);
		if (n > 0) {
			conn->sent += (size_t)n;
			arm(conn, ADMIN_REQUEST_MS);
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			wait_for(conn, EPOLLOUT);
		else
			close_conn(conn);
		return false;
	}
	if (!conn->wants_close) {
		begin_next(conn);
		return true;
	}
	/* Closed with unread bytes, the client could lose the answer. */
	(void)shutdown(conn->io.fd, SHUT_WR);
	conn->state = CONN_LINGER;
	arm(conn, LINGER_MS);
	return true;
}

static bool step_linger(struct admin_conn *conn)
{
	char sink[READ_BYTES];
	for (int i = 0; i < 64; i++) {
		ssize_t got = recv(conn->io.fd, sink, sizeof(sink), MSG_DONTWAIT);
		if (got > 0)
			continue;
		if (got < 0 && errno == EAGAIN)
			break;
		close_conn(conn);
		return false;
	}
	wait_for(conn, EPOLLIN);
	return false;
}

/* A client that sends one request after the other gets no more than its share of a turn. */
static void drive(struct admin_conn *conn)
{
	bool goes_on = true;
	conn->is_driving = true;
	for (int steps = 0; goes_on; steps++) {
		if (steps == STEPS_MAX && conn->state != CONN_CLOSED) {
			drive_soon(conn);
			break;
		}
		switch (conn->state) {
		case CONN_HEAD:
			goes_on = step_head(conn);
			break;
		case CONN_BODY:
			goes_on = step_body(conn);
			break;
		case CONN_WRITE:
			goes_on = step_write(conn);
			break;
		case CONN_LINGER:
			goes_on = step_linger(conn);
			break;
		case CONN_HANDLE:
			wait_for(conn, 0);
			goes_on = false;
			break;
		case CONN_CLOSED:
			goes_on = false;
			break;
		}
	}
	conn->is_driving = false;
}

/* free_conn, if it is deferred too, comes behind. */
static void drive_later(struct task *task)
{
	struct admin_conn *conn = SP_CONTAINER_OF(task, struct admin_conn, drive_task);
	conn->is_drive_due = false;
	drive(conn);
}

static void on_conn(struct io *io, uint32_t events)
{
	struct admin_conn *conn = SP_CONTAINER_OF(io, struct admin_conn, io);
	bool is_waiting = conn->state == CONN_HANDLE;
	if ((events & EPOLLERR) != 0 || (is_waiting && (events & EPOLLHUP) != 0))
		close_conn(conn);
	else
		drive(conn);
}

static void on_deadline(struct timer *timer)
{
	struct admin_conn *conn = SP_CONTAINER_OF(timer, struct admin_conn, timer);
	bool is_reading = conn->state == CONN_HEAD || conn->state == CONN_BODY;
	if (is_reading && conn->in_len > 0)
		refuse(conn, 408, "timeout", "the request did not arrive in time");
	else
		close_conn(conn);
}

static void turn_away(int fd)
{
	static const char body[] = "{\"error\":{\"code\":\"limit\",\"message\":\"too many admin "
				   "connections are open\"}}\n";
	char answer[512];
	size_t len = text_format(answer, sizeof(answer),
				 "HTTP/1.1 503 Service Unavailable\r\n"
				 "Content-Type: application/json\r\nContent-Length: %zu\r\n"
				 "Retry-After: " ADMIN_RETRY_S "\r\nConnection: close\r\n\r\n%s",
				 sizeof(body) - 1, body);
	(void)send(fd, answer, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	(void)close(fd);
}

/* Clients that keep connections for later must not lock out the one that has a question now. */
static void close_idle(struct admin *admin)
{
	LIST_FOREACH(link, &admin->conns)
	{
		struct admin_conn *conn = SP_CONTAINER_OF(link, struct admin_conn, link);
		if (conn->state == CONN_HEAD && conn->in_len == 0 && conn->has_answered) {
			close_conn(conn);
			return;
		}
	}
}

static void take(struct admin *admin, int fd)
{
	if (admin->conn_cnt >= ADMIN_CONNS_MAX)
		close_idle(admin);
	struct admin_conn *conn = admin->conn_cnt >= ADMIN_CONNS_MAX || fault_hits(FAULT_MALLOC)
					  ? NULL
					  : calloc(1, sizeof(*conn));
	if (conn == NULL) {
		turn_away(fd);
		return;
	}
	conn->admin = admin;
	conn->io = (struct io){ .fd = fd, .on_ready = on_conn };
	conn->timer.on_due = on_deadline;
	conn->drive_task.run = drive_later;
	if (loop_add(admin->loop, &conn->io, EPOLLIN) != ERR_OK) {
		(void)close(fd);
		free(conn);
		return;
	}
	list_append(&admin->conns, &conn->link);
	admin->conn_cnt++;
	arm(conn, ADMIN_REQUEST_MS);
}

/* Level-triggered, the waiting client would wake the loop again at once. */
static void pause_accept(struct admin *admin)
{
	if (loop_change(admin->loop, &admin->io, 0) == ERR_OK)
		loop_timer_arm(admin->loop, &admin->resume_timer,
			       loop_now_ms(admin->loop) + PAUSE_MS);
}

static void resume_accept(struct timer *timer)
{
	struct admin *admin = SP_CONTAINER_OF(timer, struct admin, resume_timer);
	if (loop_change(admin->loop, &admin->io, EPOLLIN) != ERR_OK)
		pause_accept(admin);
}

static void on_accept(struct io *io, uint32_t events)
{
	(void)events;
	struct admin *admin = SP_CONTAINER_OF(io, struct admin, io);
	for (int i = 0; i < ADMIN_CONNS_MAX; i++) {
		int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			take(admin, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			pause_accept(admin);
		return;
	}
}

enum err admin_new(struct loop *loop, const char *path, unsigned mode, admin_handler *handle,
		   void *arg, struct admin **ret_admin)
{
	struct admin *admin = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*admin));
	if (admin == NULL) {
		log_error(ROOM, "start failed: control socket %s: %s", path, err_text(ERR_NOMEM));
		return ERR_NOMEM;
	}
	admin->loop = loop;
	admin->handle = handle;
	admin->arg = arg;
	admin->io = (struct io){ .fd = -1, .on_ready = on_accept };
	admin->resume_timer.on_due = resume_accept;
	list_init(&admin->conns);
	enum err e = admin_socket_open(path, mode, &admin->socket);
	if (e != ERR_OK) {
		free(admin);
		return e;
	}
	admin->io.fd = admin->socket.fd;
	e = loop_add(loop, &admin->io, EPOLLIN);
	if (e != ERR_OK) {
		log_error(ROOM, "start failed: control socket %s: %s", path, err_text(e));
		admin_socket_close(&admin->socket);
		free(admin);
		return e;
	}
	*ret_admin = admin;
	return ERR_OK;
}

void admin_free(struct admin *admin)
{
	if (admin == NULL)
		return;
	LIST_FOREACH_SAFE(link, &admin->conns)
	close_conn(SP_CONTAINER_OF(link, struct admin_conn, link));
	loop_timer_disarm(admin->loop, &admin->resume_timer);
	loop_remove(admin->loop, &admin->io);
	admin_socket_close(&admin->socket);
	free(admin);
}

size_t admin_conn_cnt(const struct admin *admin)
{
	return admin->conn_cnt;
}
