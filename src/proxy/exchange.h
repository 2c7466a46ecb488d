#pragma once
/* proxy: helpers of the exchange machine. */
#include "proxy.h"

#define TRIES_MAX 4 /* targets tried for one request before it is a 502 */

/* Takes a pooled connection or starts a new one to the present target; x->up is set on ERR_OK. Goes
 * on to the next target by itself when one cannot even be started. ERR_NETWORK: none is left. */
enum err target_connect(struct exchange *x) SP_MUST_USE;
/* Chooses the next target after a failed one; false: none is left to try. */
bool target_next(struct exchange *x);
/* The record of an ended exchange, when an access log is configured. */
void access_log_write(const struct exchange *x);
