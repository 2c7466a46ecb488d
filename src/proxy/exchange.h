#pragma once
/* proxy: helpers of the exchange machine. */
#include "proxy.h"

#define TRIES_MAX 4 /* targets tried for one request before it is a 502 */

enum move { MOVE_NEXT, MOVE_WAIT, MOVE_GONE };

/* The only writer of the state: asserts the move, arms the timer. MOVE_NEXT. */
enum move exchange_set_state(struct exchange *x, enum exchange_state state);
/* To a reply of our own with that status; the target, if there is one, is given up. Once the head of an
 * answer was sent it is exchange_give_up. */
enum move exchange_reply_with(struct exchange *x, unsigned status, enum exchange_end end);
/* The answer cannot be completed: the client must not take what it has for the whole. MOVE_GONE. */
enum move exchange_give_up(struct exchange *x, enum exchange_end end);

/* Steps of ANSWER and REPLY, and where ADMIT goes for a redirect (answer.c). */
enum move answer_await_body(struct exchange *x);
enum move answer_send(struct exchange *x);
enum move answer_redirect(struct exchange *x);

/* Takes a pooled connection or starts a new one to the present target; x->up is set on ERR_OK. Goes
 * on to the next target by itself when one cannot even be started. ERR_NETWORK: none is left. */
enum err target_connect(struct exchange *x) SP_MUST_USE;
/* Chooses the next target after a failed one; false: none is left to try. */
bool target_next(struct exchange *x);
/* The record of an ended exchange, when an access log is configured. */
void access_log_write(const struct exchange *x);
