#pragma once
/* proxy: helpers of the exchange machine. */
#include "proxy.h"

enum move { MOVE_NEXT, MOVE_WAIT, MOVE_GONE };

/* The only writer of the state: asserts the move. MOVE_NEXT. */
enum move exchange_set_state(struct exchange *x, enum exchange_state state);
/* To a reply of our own with that status; the target, if there is one, is given up. Once the head of an
 * answer was sent it is exchange_give_up. */
enum move exchange_reply_with(struct exchange *x, unsigned status, enum exchange_end end);
/* The answer cannot be completed: the client must not take what it has for the whole. MOVE_GONE. */
enum move exchange_give_up(struct exchange *x, enum exchange_end end);

/* What became of the target: counted once for each connection that was used; where nothing is known of it, not
 * at all. why as for upstream_report. */
void exchange_report(struct exchange *x, enum upstream_failure failure, const char *why);

/* Steps of ROUTE and ADMIT (decide.c). */
enum move decide_route(struct exchange *x);
enum move decide_admit(struct exchange *x);

/* Parts of AWAIT_HEAD and RELAY (relay.c). */
/* Moves the request's body on. MOVE_NEXT: as far as it goes now. */
enum move relay_request(struct exchange *x);
/* Moves the answer on. MOVE_NEXT: all of it was sent. */
enum move relay_answer(struct exchange *x);
/* The target is gone or not HTTP before its answer began: once more, or 502. */
enum move relay_failed(struct exchange *x);
/* How the answer's body comes and how it goes on (RFC 9112, 6.3). */
void relay_frame_answer(struct exchange *x);
/* A 1xx came. MOVE_GONE also when it became a tunnel. */
enum move relay_informational(struct exchange *x);

/* Steps of ANSWER and REPLY, and where ADMIT goes for a redirect (answer.c). */
enum move answer_await_body(struct exchange *x);
enum move answer_send(struct exchange *x);
enum move answer_redirect(struct exchange *x);

/* The record of an ended exchange, when an access log is configured. */
void access_log_write(const struct exchange *x);
