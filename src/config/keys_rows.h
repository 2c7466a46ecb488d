#pragma once
/* config, private: how a row of the table of keys is written. */
#include <stddef.h>

#include "keys.h"
#include "smartproxy/assert.h"

#define KEY(prefix, last)  .path = prefix last, .name = last
#define IN_CONFIG(field)   .offset = offsetof(struct config, field)
#define IN_ROUTE(field)    .offset = offsetof(struct config_route, field)
#define IN_MATCH(field)    .offset = offsetof(struct config_match, field)
#define IN_ACTION(field)   .offset = offsetof(struct config_action_data, field)
#define IN_TARGET(field)   .offset = offsetof(struct config_target, field)
#define IN_UPSTREAM(field) .offset = offsetof(struct config_upstream, field)
#define IN_LISTENER(field) .offset = offsetof(struct config_listener, field)
#define IN_FIELD(field)    .offset = offsetof(struct config_field, field)
#define IN_HEADER(field)   .offset = offsetof(struct config_header_match, field)
#define CNT(type, field)   .cnt_offset = offsetof(struct type, field)
#define GROUP(of, rows)    .path = of, .keys = rows, .cnt = SP_ARRAY_LEN(rows)

#define SECONDS(n) ((int64_t)(n)*1000)
#define HOURS(n)   SECONDS((int64_t)(n)*3600)
#define DAYS(n)    HOURS((int64_t)(n)*24)
#define KIB(n)     ((int64_t)(n) << 10)
#define TIB(n)     ((int64_t)(n) << 40)

extern const struct key_group key_group_route_target;
extern const struct key_word key_tls_versions[], key_balances[];
