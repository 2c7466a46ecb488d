#pragma once
/* proxy: helpers of the connection machine (the table is in conn.c). */
#include "proxy.h"

#define ALERT_DECODE_ERROR      50
#define ALERT_INTERNAL_ERROR    80
#define ALERT_UNRECOGNIZED_NAME 112

/* The only writer of the state: a connection only goes forward. */
void conn_set_state(struct conn *conn, enum conn_state state);
/* A new one: from now on it ends by conn_close. False: closed, the loop cannot watch it. */
bool conn_open(struct conn *conn);
/* After whatever may have sent: the loop tells when there is room again, if there was none. */
void conn_await_room(struct conn *conn);
/* Behind accept and the PROXY header, if there was one: to HELLO, HTTP or TUNNEL, as its listener is. True: run
 * on. */
bool conn_begin(struct conn *conn);
/* Counts the connection for its client's address. False: closed, it was one too many. */
bool conn_enter_address(struct conn *conn);
void conn_unpin(struct conn *conn);
/* A short read emptied the socket, unless an end waits behind it, or it stopped at urgent data: the next arrival is
 * a new edge. */
void conn_note_drained(struct conn *conn);
/* A fatal alert in a record of its own (RFC 8446, 6.2): OpenSSL has not taken over, or never will. */
void conn_send_alert(struct conn *conn, uint8_t description);

/* Steps. True: go on at once; false: wait, or closed. */
bool conn_step_proxy(struct conn *conn);
bool conn_step_hello(struct conn *conn);
bool conn_step_handshake(struct conn *conn);
/* A listener of raw TCP: a route is known before any byte. The connection may be closed on return. False: an update
 * has just made something else of the listener, nothing was done. */
bool conn_open_tcp(struct conn *conn);

/* Payload that came from or went to the client, once each: no PROXY header, nothing of a handshake. */
static inline void conn_count_in(struct conn *conn, size_t len)
{
	conn->bytes_in += len;
	conn->active_ms = loop_now_ms(conn->worker->loop);
	stat_add(&conn->worker->stats.client_bytes_in, len);
}
static inline void conn_count_out(struct conn *conn, size_t len)
{
	conn->bytes_out += len;
	conn->active_ms = loop_now_ms(conn->worker->loop);
	stat_add(&conn->worker->stats.client_bytes_out, len);
}
