#pragma once
/* smartproxyctl: the tables for people. */
#include <jansson.h>
#include <stdbool.h>

void ctl_print_status(const json_t *answer);
void ctl_print_routes(const json_t *answer);
void ctl_print_certs(const json_t *answer);
void ctl_print_ports(const json_t *answer);
void ctl_print_connections(const json_t *answer);
void ctl_print_upstreams(const json_t *answer);
void ctl_print_applied(const json_t *answer);
/* The proxy's error on stderr: message, problems, who holds the port. */
void ctl_print_error(const json_t *answer, long status);
