#pragma once
/* control: the HTTP/1.1 server of the admin API, on a Unix socket and on the control loop. It knows
 * messages, not what they mean.
 *
 * Threads: control thread. Lifetime: admin_new to admin_free; a connection lives until it is closed
 * by either side, and an answer may come in a later turn. Limits: 64 connections, a head of 64 KiB,
 * a body of ADMIN_BODY_MAX, bodies of ADMIN_BODIES_MAX together by the lengths that their heads announce (503 and
 * Retry-After beyond), 30 s for a whole request. Security: whoever may connect (mode of the
 * socket) may do everything; the bytes are parsed by wire, as a stranger's. Standards: RFC 9112. */
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/err.h"
#include "smartproxy/loop.h"
#include "smartproxy/rcu.h"
#include "smartproxy/text.h"

#define ADMIN_BODY_MAX   ((size_t)256 << 20) /* PUT and POST */
#define ADMIN_BODIES_MAX ADMIN_BODY_MAX /* of all connections: one that large, or many small ones */
#define ADMIN_RETRY_S    "1"            /* the field Retry-After of an answer 503 */
#define ADMIN_CONNS_MAX  64
#define ADMIN_REQUEST_MS 30000
#define ADMIN_IDLE_MS    60000

struct admin;
struct admin_conn;
struct admin_request {
	const char *method;
	const char *path;  /* without the query */
	const char *query; /* after '?'; "" when none */
	const char *body;
	size_t body_len;
};
/* Calls admin_answer once, now or in a later turn; the request is valid during the call only. */
typedef void admin_handler(void *arg, struct admin_conn *conn, const struct admin_request *request);

/* Binds path with these permissions. A socket file that nobody answers on is replaced; one that
 * somebody does gives ERR_LOCKED. The reason has been logged. */
enum err admin_new(struct loop *loop, const char *path, unsigned mode, admin_handler *handle,
		   void *arg, struct admin **ret_admin) SP_ON_CONTROL SP_MUST_USE;
/* Closes all connections, removes the socket file. NULL is allowed. */
void admin_free(struct admin *admin) SP_ON_CONTROL;
/* body's contents are taken over (also when it has failed: then the answer is a 503). */
void admin_answer(struct admin_conn *conn, unsigned status, const char *type, struct text *body);
/* One header field more for the answer to come; static strings. */
void admin_answer_field(struct admin_conn *conn, const char *name, const char *value);
/* gone(arg) is called when the connection ends before its answer was given; NULL: nobody cares. */
void admin_on_gone(struct admin_conn *conn, void (*gone)(void *arg), void *arg);
size_t admin_conn_cnt(const struct admin *admin);
