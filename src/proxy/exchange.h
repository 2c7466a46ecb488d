#pragma once
/* proxy: helpers of the exchange machine. */
#include "proxy.h"

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

/* The record of an ended exchange, when an access log is configured. */
void access_log_write(const struct exchange *x);
