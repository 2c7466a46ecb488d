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
