#pragma once
/* control: the state of the proxy as JSON. Control thread. Each returns a new reference, or NULL
 * when memory is out. */
#include <jansson.h>

#include "smartproxy/listener.h"
#include "state.h"
#include "update.h"

json_t *report_status(const struct control *control) SP_ON_CONTROL;
json_t *report_listeners(const struct control *control) SP_ON_CONTROL;
json_t *report_certificates(const struct control *control) SP_ON_CONTROL;
/* {"message", "address", "port", "holder": null or {"pid", "name", "uid"}} */
json_t *report_port_error(const struct port_error *error);
/* {"error": {"code", "message", "problems": [...]}}, with the port's fields when it is about one.
 */
json_t *report_error(enum err code, const char *message, const struct config_problems *problems,
		     const struct port_error *port);
/* RFC 3339, or null for "none" (0). */
json_t *report_time(int64_t unix_s);
/* Text that may hold bytes of a network: escaped, so that it is valid UTF-8; "" for NULL. */
json_t *report_text(const char *text);
json_t *report_upstreams(const struct control *control) SP_ON_CONTROL;
/* At most max connections; asks every worker. ERR_TIMEOUT, ERR_NOMEM. */
enum err report_connections(const struct control *control, size_t max, json_t **ret_json)
	SP_ON_CONTROL SP_MUST_USE;
