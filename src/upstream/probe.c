/* One attempt of a health check. Control thread.
 *
 *   state      step        waits for            goes to
 *   connect    connected   writable             preface
 *   preface    preface     writable             TCP: over; HTTPS: handshake; HTTP: request
 *   handshake  handshake   readable, writable   request
 *   request    request     writable             answer
 *   answer     answer      readable             over
 *   refused    -           the timer (at once)  over
 *
 * One timer bounds all of it. over() is the only end but for probe_cancel(). */
#include "probe.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/socket.h"
#include "wire/h1.h"
#include "wire/proxy.h"

#define HEAD_MAX    16384 /* bytes of the answer's head */
#define FIELDS_MAX  WIRE_FIELDS_MAX
#define PREFACE_MAX WIRE_PROXY_V1_MAX

enum state { CONNECT, PREFACE, HANDSHAKE, REQUEST, ANSWER, REFUSED };

struct probe {
	struct io io;
	struct timer timer; /* deadline */
	struct task free_task;
	struct loop *loop;
	void (*on_done)(void *owner, const struct probe_result *result);
	void *owner;
	enum state state;
	enum config_check_type type;
	unsigned status_first, status_last;
	int64_t timeout_ms;
	struct tls_conn *tls;
	struct tls_client *client; /* HTTPS */
	unsigned tls_ctx_ix;
	char server_name[256];
	uint8_t preface[PREFACE_MAX];
	size_t preface_len, sent; /* sent: of what the state sends */
	struct text request;
	char *head; /* HEAD_MAX */
	size_t head_len;
	struct wire_h1_scan scan;
	enum upstream_failure failure;
	char why[PROBE_WHY_MAX];
};

static void free_probe(struct task *task)
{
	free(SP_CONTAINER_OF(task, struct probe, free_task));
}

void probe_cancel(struct probe *probe)
{
	if (probe == NULL)
		return;
	tls_conn_free(probe->tls);
	probe->tls = NULL;
	loop_timer_disarm(probe->loop, &probe->timer);
	if (probe->io.fd >= 0) {
		int fd = probe->io.fd;
		loop_remove(probe->loop, &probe->io);
		(void)close(fd);
	}
	text_fini(&probe->request);
	free(probe->head);
	probe->head = NULL;
	probe->free_task.run = free_probe;
	loop_defer(probe->loop, &probe->free_task);
}

static void over(struct probe *probe) SP_ON_CONTROL;
static void over(struct probe *probe)
{
	struct probe_result result = {
		.failure = probe->failure,
		.is_unreached = probe->state == CONNECT || probe->state == REFUSED,
		.why = probe->why,
	};
	probe_cancel(probe); /* its memory is there until the turn ends */
	probe->on_done(probe->owner, &result);
}

static enum step fail(struct probe *probe, enum upstream_failure failure, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static enum step fail(struct probe *probe, enum upstream_failure failure, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	(void)vsnprintf(probe->why, sizeof(probe->why), fmt, args);
	va_end(args);
	probe->failure = failure;
	return STEP_FAIL;
}

/* ---- steps ---- */

static enum step connected(struct probe *probe)
{
	const char *why;
	enum err e = socket_connect_result(probe->io.fd, &why);
	if (e == ERR_OK)
		return STEP_DONE;
	return fail(probe,
		    e == ERR_TIMEOUT ? UPSTREAM_FAILURE_CONNECT_TIMEOUT : UPSTREAM_FAILURE_REFUSED,
		    "connect: %s", why);
}

static enum step send_bytes(struct probe *probe, const void *data, size_t len)
{
	while (probe->sent < len) {
		const char *from = (const char *)data + probe->sent;
		size_t done = 0;
		enum step step =
			probe->tls != NULL
				? tls_conn_write(probe->tls, from, len - probe->sent, &done)
				: socket_send(probe->io.fd, from, len - probe->sent, &done);
		if (step == STEP_EOF || step == STEP_FAIL)
			return fail(probe, UPSTREAM_FAILURE_CLOSED,
				    "closed before it took the whole request");
		if (step != STEP_DONE)
			return step;
		probe->sent += done;
	}
	probe->sent = 0;
	return STEP_DONE;
}

static enum step preface(struct probe *probe)
{
	return send_bytes(probe, probe->preface, probe->preface_len);
}

static enum step handshake(struct probe *probe)
{
	if (probe->tls == NULL) {
		struct tls_connect connect = { .client = probe->client,
					       .ctx_ix = probe->tls_ctx_ix,
					       .fd = probe->io.fd,
					       .server_name = probe->server_name,
					       .alpn = "http/1.1" };
		enum err e = tls_conn_connect(&connect, &probe->tls);
		if (e != ERR_OK)
			return fail(probe, UPSTREAM_FAILURE_TLS, "TLS: %s", err_text(e));
	}
	enum step step = tls_conn_handshake(probe->tls);
	if (step == STEP_EOF)
		return fail(probe, UPSTREAM_FAILURE_TLS, "TLS: closed within the handshake");
	if (step == STEP_FAIL)
		return fail(probe,
			    tls_conn_has_verify_failed(probe->tls) ? UPSTREAM_FAILURE_VERIFY
								   : UPSTREAM_FAILURE_TLS,
			    "TLS: %s", tls_conn_error(probe->tls));
	return step;
}

static enum step request(struct probe *probe)
{
	return send_bytes(probe, probe->request.data, probe->request.len);
}

static enum step read_bytes(struct probe *probe, size_t *ret_len)
{
	char *at = probe->head + probe->head_len;
	size_t room = HEAD_MAX - probe->head_len;
	if (probe->tls != NULL)
		return tls_conn_read(probe->tls, at, room, ret_len);
	return socket_recv(probe->io.fd, at, room, ret_len);
}

/* A head is whole. STEP_READ: it was an interim one (RFC 9110, 15.2), which is dropped. */
static enum step judge(struct probe *probe, size_t len)
{
	struct wire_field fields[FIELDS_MAX];
	struct wire_h1_limits limits = { .target_bytes = HEAD_MAX, .field_cnt = FIELDS_MAX };
	struct wire_h1_response response;
	enum wire_reason reason =
		wire_h1_parse_response(probe->head, len, &limits, fields, &response);
	if (reason != WIRE_OK)
		return fail(probe, UPSTREAM_FAILURE_BAD_RESPONSE, "its answer is not HTTP: %s",
			    wire_reason_name(reason));
	if (response.status < 200 && response.status != 101) {
		memmove(probe->head, probe->head + len, probe->head_len - len);
		probe->head_len -= len;
		probe->scan = (struct wire_h1_scan){ 0 };
		return STEP_READ;
	}
	if (response.status < probe->status_first || response.status > probe->status_last)
		return fail(probe, UPSTREAM_FAILURE_STATUS, "status %u instead of %u to %u",
			    response.status, probe->status_first, probe->status_last);
	return STEP_DONE;
}

/* Looks through what is there. STEP_READ: more is needed. */
static enum step look(struct probe *probe)
{
	enum step step = STEP_READ;
	while (step == STEP_READ) {
		size_t len = 0;
		enum wire_step found =
			wire_h1_scan_head(&probe->scan, probe->head, probe->head_len, &len);
		if (found == WIRE_FAIL)
			return fail(probe, UPSTREAM_FAILURE_BAD_RESPONSE,
				    "its answer is not HTTP: %s",
				    wire_reason_name(probe->scan.reason));
		if (found == WIRE_MORE)
			return STEP_READ;
		step = judge(probe, len);
	}
	return step;
}

static enum step answer(struct probe *probe)
{
	for (;;) {
		if (probe->head_len == HEAD_MAX)
			return fail(probe, UPSTREAM_FAILURE_BAD_RESPONSE,
				    "the head of its answer has more than %d bytes", HEAD_MAX);
		size_t len = 0;
		enum step step = read_bytes(probe, &len);
		if (step == STEP_EOF || step == STEP_FAIL)
			return fail(probe, UPSTREAM_FAILURE_CLOSED,
				    "closed before the end of the head of its answer");
		if (step != STEP_DONE)
			return step;
		probe->head_len += len;
		step = look(probe);
		if (step != STEP_READ)
			return step;
	}
}

/* ---- the driver ---- */

static bool next_state(const struct probe *probe, enum state *ret_state)
{
	switch (probe->state) {
	case CONNECT:
		*ret_state = PREFACE;
		return true;
	case PREFACE:
		*ret_state = probe->type == CONFIG_CHECK_HTTPS ? HANDSHAKE : REQUEST;
		return probe->type != CONFIG_CHECK_TCP;
	case HANDSHAKE:
		*ret_state = REQUEST;
		return true;
	case REQUEST:
		*ret_state = ANSWER;
		return true;
	default:
		return false;
	}
}

static void drive(struct probe *probe) SP_ON_CONTROL;
static void drive(struct probe *probe)
{
	static enum step (*const steps[])(struct probe * probe) = { [CONNECT] = connected,
								    [PREFACE] = preface,
								    [HANDSHAKE] = handshake,
								    [REQUEST] = request,
								    [ANSWER] = answer };
	while (probe->state != REFUSED) {
		enum step step = steps[probe->state](probe);
		if (step == STEP_READ || step == STEP_WRITE)
			return;
		if (step != STEP_DONE || !next_state(probe, &probe->state)) {
			over(probe);
			return;
		}
	}
}

static void on_ready(struct io *io, uint32_t events)
{
	sp_role_assume_control();
	(void)events;
	drive(SP_CONTAINER_OF(io, struct probe, io));
}

static void on_deadline(struct timer *timer)
{
	sp_role_assume_control();
	struct probe *probe = SP_CONTAINER_OF(timer, struct probe, timer);
	if (probe->state == CONNECT)
		(void)fail(probe, UPSTREAM_FAILURE_CONNECT_TIMEOUT,
			   "no connection within %" PRId64 " ms", probe->timeout_ms);
	else if (probe->state == HANDSHAKE)
		(void)fail(probe, UPSTREAM_FAILURE_TLS, "TLS: no handshake within %" PRId64 " ms",
			   probe->timeout_ms);
	else if (probe->state != REFUSED)
		(void)fail(probe, UPSTREAM_FAILURE_RESPONSE_TIMEOUT,
			   "no answer within %" PRId64 " ms", probe->timeout_ms);
	over(probe);
}

/* ---- start ---- */

/* ERR_NETWORK: refused at once, which is the target's fault. */
static enum err start_connect(struct probe *probe, const struct addr *addr)
{
	const char *why;
	bool has_first_bytes = probe->type != CONFIG_CHECK_TCP;
	enum err e = socket_connect(addr, has_first_bytes, &probe->io.fd, &why);
	if (e == ERR_NETWORK)
		(void)fail(probe, UPSTREAM_FAILURE_REFUSED, "connect: %s", why);
	if (e != ERR_OK)
		return e;
	e = loop_add(probe->loop, &probe->io, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
	if (e != ERR_OK) {
		(void)close(probe->io.fd);
		probe->io.fd = -1;
	}
	return e;
}

static enum err write_bytes(struct probe *probe, const struct probe_plan *plan)
{
	struct wire_proxy none = { .version = plan->proxy_protocol == CONFIG_PROXY_V2 ? 2 : 1,
				   .family = WIRE_PROXY_LOCAL };
	if (plan->proxy_protocol == CONFIG_PROXY_V1)
		probe->preface_len =
			wire_proxy_write_v1(&none, (char *)probe->preface, PREFACE_MAX);
	else if (plan->proxy_protocol == CONFIG_PROXY_V2)
		probe->preface_len = wire_proxy_write_v2(&none, probe->preface, PREFACE_MAX);
	if (plan->type == CONFIG_CHECK_TCP)
		return ERR_OK;
	text_printf(&probe->request,
		    "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: smartproxy-check\r\nAccept: */*\r\n"
		    "Connection: close\r\n\r\n",
		    plan->path, plan->host);
	probe->head = malloc(HEAD_MAX);
	return probe->request.has_failed || probe->head == NULL ? ERR_NOMEM : ERR_OK;
}

enum err probe_start(struct loop *loop, const struct probe_plan *plan,
		     void (*on_done)(void *owner, const struct probe_result *result), void *owner,
		     struct probe **ret_probe)
{
	struct probe *probe = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*probe));
	if (probe == NULL)
		return ERR_NOMEM;
	probe->io = (struct io){ .fd = -1, .on_ready = on_ready };
	probe->timer.on_due = on_deadline;
	probe->loop = loop;
	probe->on_done = on_done;
	probe->owner = owner;
	probe->type = plan->type;
	probe->status_first = plan->status_first;
	probe->status_last = plan->status_last;
	probe->timeout_ms = plan->timeout_ms;
	probe->client = plan->tls;
	probe->tls_ctx_ix = plan->tls_ctx_ix;
	(void)text_format(probe->server_name, sizeof(probe->server_name), "%s",
			  plan->server_name == NULL ? "" : plan->server_name);
	enum err e = write_bytes(probe, plan);
	if (e == ERR_OK)
		e = start_connect(probe, &plan->addr);
	if (e != ERR_OK && e != ERR_NETWORK) {
		text_fini(&probe->request);
		free(probe->head);
		free(probe);
		return e;
	}
	probe->state = e == ERR_OK ? CONNECT : REFUSED;
	loop_timer_arm(loop, &probe->timer,
		       clock_now_ms() + (probe->state == REFUSED ? 0 : plan->timeout_ms));
	*ret_probe = probe;
	return ERR_OK;
}
