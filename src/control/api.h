#pragma once
/* control: what the admin API's requests mean. Threads: control thread. */
#include "admin.h"
#include "smartproxy/err.h"
#include "smartproxy/text.h"
#include "state.h"

/* An admin_handler; arg: struct control. */
void api_handle(void *arg, struct admin_conn *conn, const struct admin_request *request);
/* The one place where an error becomes an HTTP status. */
unsigned api_status(enum err e);
/* Decodes the value of one key of a query string ("name=%2A.a.example"). *ret_value is malloc'ed,
 * NULL when the key is not there. ERR_SYNTAX: a bad %-escape, or NUL. */
enum err api_query_value(const char *query, const char *key, char **ret_value) SP_MUST_USE;

/* metrics.c: the Prometheus text format 0.0.4. */
void metrics_write(const struct control *control, struct text *ret_text) SP_ON_CONTROL;
