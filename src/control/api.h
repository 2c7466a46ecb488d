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
void metrics_head(struct text *t, const char *name, const char *type, const char *help);
void metrics_counter(struct text *t, const char *name, const char *help, uint64_t value);
void metrics_gauge(struct text *t, const char *name, const char *help, int64_t value);
/* A counter of bytes, in two rows by direction. */
void metrics_directions(struct text *t, const char *name, const char *help, uint64_t in_bytes,
			uint64_t out_bytes);
/* A label's value, escaped. */
void metrics_label(struct text *t, const char *value);
/* traffic.c */
void metrics_write_traffic(const struct control *control, const struct worker_stats *stats,
			   struct text *t) SP_ON_CONTROL;
