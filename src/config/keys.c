#include "keys.h"

#include <stddef.h>

#include "check.h"
#include "rules.h"
#include "smartproxy/assert.h"

#define KEY(prefix, last) .path = prefix last, .name = last
#define IN_CONFIG(field)  .offset = offsetof(struct config, field)
#define IN_ROUTE(field)   .offset = offsetof(struct config_route, field)
#define IN_MATCH(field)   .offset = offsetof(struct config_match, field)
#define IN_ACTION(field)  .offset = offsetof(struct config_action_data, field)
#define IN_TARGET(field)  .offset = offsetof(struct config_target, field)
#define IN_FIELD(field)   .offset = offsetof(struct config_field, field)
#define IN_HEADER(field)  .offset = offsetof(struct config_header_match, field)
#define CNT(type, field)  .cnt_offset = offsetof(struct type, field)
#define GROUP(of, rows)   .path = of, .keys = rows, .cnt = SP_ARRAY_LEN(rows)

#define SECONDS(n) ((int64_t)(n)*1000)
#define HOURS(n)   SECONDS((int64_t)(n)*3600)
#define DAYS(n)    HOURS((int64_t)(n)*24)
#define KIB(n)     ((int64_t)(n) << 10)
#define TIB(n)     ((int64_t)(n) << 40)

static const struct key_word log_levels[] = {
	{ "error", LOG_LEVEL_ERROR },
	{ "warn", LOG_LEVEL_WARN },
	{ "info", LOG_LEVEL_INFO },
	{ "debug", LOG_LEVEL_DEBUG },
	{ NULL, 0 },
};
static const struct key_word log_formats[] = {
	{ "text", LOG_FORMAT_TEXT },
	{ "json", LOG_FORMAT_JSON },
	{ NULL, 0 },
};
static const struct key_word tls_versions[] = { { "1.2", 12 }, { "1.3", 13 }, { NULL, 0 } };
static const struct key_word action_types[] = {
	{ "forward", CONFIG_FORWARD },
	{ "redirect", CONFIG_REDIRECT },
	{ "respond", CONFIG_RESPOND },
	{ "block", CONFIG_BLOCK },
	{ NULL, 0 },
};
static const struct key_word tls_modes[] = {
	{ "terminate", CONFIG_TLS_TERMINATE },
	{ "passthrough", CONFIG_TLS_PASSTHROUGH },
	{ "terminate-and-reencrypt", CONFIG_TLS_REENCRYPT },
	{ NULL, 0 },
};
static const struct key_word key_types[] = {
	{ "p256", CONFIG_KEY_P256 },       { "p384", CONFIG_KEY_P384 },
	{ "rsa2048", CONFIG_KEY_RSA2048 }, { "rsa3072", CONFIG_KEY_RSA3072 },
	{ "rsa4096", CONFIG_KEY_RSA4096 }, { NULL, 0 },
};

static const struct key control_keys[] = {
	{ KEY("global.control.", "path"), IN_CONFIG(control.path), .type = KEY_STRING,
	  .rule = rule_socket_path, .default_text = "/run/smartproxy/control.sock",
	  .help = "Unix socket of the admin API" },
	{ KEY("global.control.", "mode"), IN_CONFIG(control.mode), .type = KEY_OCTAL, .max = 0777,
	  .default_text = "0660", .help = "permissions of that socket, octal" },
	{ KEY("global.control.", "update_timeout"), IN_CONFIG(control.update_timeout_ms),
	  .type = KEY_DURATION, .min = 100, .max = HOURS(1), .default_text = "30s",
	  .help = "an update that is not applied within this time is refused, whole" },
};
static const struct key_group group_control = { GROUP("global.control", control_keys) };

static const struct key log_keys[] = {
	{ KEY("global.log.", "level"), IN_CONFIG(log.level), .type = KEY_WORD, .words = log_levels,
	  .default_text = "info", .help = "how much is logged" },
	{ KEY("global.log.", "format"), IN_CONFIG(log.format), .type = KEY_WORD,
	  .words = log_formats, .default_text = "text", .help = "form of a log line" },
	{ KEY("global.log.", "access"), IN_CONFIG(log.access), .type = KEY_STRING,
	  .flags = KEY_EMPTY_IS_NONE, .default_text = "",
	  .help = "access log: a file, \"stderr\", or \"\" for none" },
};
static const struct key_group group_log = { GROUP("global.log", log_keys) };

static const struct key global_keys[] = {
	{ KEY("global.", "workers"), IN_CONFIG(global.workers), .type = KEY_UINT, .max = 256,
	  .default_text = "0", .help = "worker threads; 0: one per CPU" },
	{ KEY("global.", "user"), IN_CONFIG(global.user), .type = KEY_STRING,
	  .flags = KEY_EMPTY_IS_NONE, .rule = rule_user, .default_text = "",
	  .help = "user to become after the start; \"\": stay" },
	{ KEY("global.", "group"), IN_CONFIG(global.group), .type = KEY_STRING,
	  .flags = KEY_EMPTY_IS_NONE, .rule = rule_user, .default_text = "",
	  .help = "group to become after the start; \"\": that of user" },
	{ KEY("global.", "state_dir"), IN_CONFIG(global.state_dir), .type = KEY_STRING,
	  .rule = rule_file, .default_text = "/var/lib/smartproxy",
	  .help = "folder of accounts, certificates and the journal" },
	{ KEY("global.", "shutdown_timeout"), IN_CONFIG(global.shutdown_timeout_ms),
	  .type = KEY_DURATION, .max = DAYS(1), .default_text = "30s",
	  .help = "on SIGTERM, requests in flight may take this long to end" },
	{ KEY("global.", "control"), .type = KEY_GROUP, .group = &group_control,
	  .help = "the admin API" },
	{ KEY("global.", "log"), .type = KEY_GROUP, .group = &group_log, .help = "logging" },
};
static const struct key_group group_global = { GROUP("global", global_keys) };

static const struct key acme_keys[] = {
	{ KEY("acme.", "email"), IN_CONFIG(acme.email), .type = KEY_STRING,
	  .flags = KEY_EMPTY_IS_NONE, .rule = rule_email, .default_text = "",
	  .help = "contact of the account at the certificate authority" },
	{ KEY("acme.", "directory"), IN_CONFIG(acme.directory), .type = KEY_STRING,
	  .rule = rule_https_url, .default_text = "https://acme-v02.api.letsencrypt.org/directory",
	  .help = "directory URL of the certificate authority" },
	{ KEY("acme.", "ca_file"), IN_CONFIG(acme.ca_file), .type = KEY_STRING,
	  .flags = KEY_EMPTY_IS_NONE, .default_text = "",
	  .help = "extra trust anchor (PEM) for the authority's own server" },
	{ KEY("acme.", "port"), IN_CONFIG(acme.port), .type = KEY_PORT, .min = 1, .max = 65535,
	  .default_text = "80", .help = "where http-01 challenges are answered" },
	{ KEY("acme.", "renew_before"), IN_CONFIG(acme.renew_before_ms), .type = KEY_DURATION,
	  .max = DAYS(36500), .default_text = "0",
	  .help = "renew when less than this is left; 0: at 2/3 of life, 1/2 under 10 days" },
	{ KEY("acme.", "keep_port"), IN_CONFIG(acme.wants_port_kept), .type = KEY_BOOL,
	  .default_text = "true", .help = "hold acme.port between orders too" },
	{ KEY("acme.", "max_orders"), IN_CONFIG(acme.max_orders), .type = KEY_UINT, .min = 1,
	  .max = 1000, .default_text = "16", .help = "orders under way at once" },
	{ KEY("acme.", "order_interval"), IN_CONFIG(acme.order_interval_ms), .type = KEY_DURATION,
	  .max = DAYS(1), .default_text = "36s",
	  .help = "one more order is allowed after each such time; 0: no limit" },
	{ KEY("acme.", "order_burst"), IN_CONFIG(acme.order_burst), .type = KEY_UINT, .min = 1,
	  .max = 1000000, .default_text = "300",
	  .help = "orders that may be made at once before order_interval counts" },
};
static const struct key_group group_acme = { GROUP("acme", acme_keys) };

static const struct key timeout_keys[] = {
	{ KEY("timeouts.", "header"), IN_CONFIG(timeouts.header_ms), .type = KEY_DURATION, .min = 1,
	  .max = DAYS(1), .default_text = "10s",
	  .help = "from the first byte of a request to the end of its head, TLS handshake alike" },
	{ KEY("timeouts.", "idle"), IN_CONFIG(timeouts.idle_ms), .type = KEY_DURATION, .min = 1,
	  .max = DAYS(30), .default_text = "60s",
	  .help = "a connection without a request, or a body without a byte, for this long ends" },
	{ KEY("timeouts.", "connect"), IN_CONFIG(timeouts.connect_ms), .type = KEY_DURATION,
	  .min = 1, .max = HOURS(1), .default_text = "5s", .help = "to connect to a target" },
	{ KEY("timeouts.", "response"), IN_CONFIG(timeouts.response_ms), .type = KEY_DURATION,
	  .min = 1, .max = DAYS(1), .default_text = "60s",
	  .help = "from the end of the request to the target's response head" },
	{ KEY("timeouts.", "total"), IN_CONFIG(timeouts.total_ms), .type = KEY_DURATION,
	  .max = DAYS(365), .default_text = "0",
	  .help = "for a whole request with its response; 0: none" },
};
static const struct key_group group_timeouts = { GROUP("timeouts", timeout_keys) };

static const struct key limit_keys[] = {
	{ KEY("limits.", "head"), IN_CONFIG(limits.head_bytes), .type = KEY_SIZE32, .min = KIB(1),
	  .max = KIB(64), .default_text = "64 KiB",
	  .help = "largest head of a request or response" },
	{ KEY("limits.", "fields"), IN_CONFIG(limits.field_cnt), .type = KEY_UINT, .min = 1,
	  .max = 128, .default_text = "100", .help = "header fields in one head" },
	{ KEY("limits.", "target"), IN_CONFIG(limits.target_bytes), .type = KEY_SIZE32, .min = 64,
	  .max = KIB(64), .default_text = "8 KiB", .help = "longest request target" },
	{ KEY("limits.", "body"), IN_CONFIG(limits.body_bytes), .type = KEY_SIZE64,
	  .max = TIB(1024), .default_text = "0", .help = "largest request body; 0: no limit" },
	{ KEY("limits.", "connections"), IN_CONFIG(limits.connections), .type = KEY_UINT, .min = 1,
	  .max = 1000000, .default_text = "10000", .help = "client connections of one worker" },
	{ KEY("limits.", "idle_upstream"), IN_CONFIG(limits.idle_upstream), .type = KEY_UINT,
	  .max = 65536, .default_text = "64",
	  .help = "idle connections kept per worker and target" },
};
static const struct key_group group_limits = { .finish = check_limits,
					       GROUP("limits", limit_keys) };

static const struct key tls_keys[] = {
	{ KEY("tls.", "min_version"), IN_CONFIG(tls.min_version), .type = KEY_WORD,
	  .words = tls_versions, .default_text = "1.2", .help = "lowest TLS version" },
	{ KEY("tls.", "ciphers"), IN_CONFIG(tls.ciphers), .type = KEY_STRING,
	  .flags = KEY_EMPTY_IS_NONE, .rule = rule_ciphers, .default_text = "",
	  .help = "cipher list of TLS 1.2 in OpenSSL's form; \"\": Mozilla's intermediate list" },
	{ KEY("tls.", "ticket_rotation"), IN_CONFIG(tls.ticket_rotation_ms), .type = KEY_DURATION,
	  .min = SECONDS(1), .max = DAYS(7), .default_text = "12h",
	  .help = "a new session ticket key after each such time" },
	{ KEY("tls.", "placeholder"), IN_CONFIG(tls.wants_placeholder), .type = KEY_BOOL,
	  .default_text = "true",
	  .help = "serve a self-signed certificate until the first real one; false: refuse" },
};
static const struct key_group group_tls = { GROUP("tls", tls_keys) };

static const struct key header_match_keys[] = {
	{ KEY("routes[].match.headers[].", "name"), IN_HEADER(name), .type = KEY_STRING,
	  .flags = KEY_REQUIRED, .rule = rule_match_field_name, .help = "name of a header field" },
	{ KEY("routes[].match.headers[].", "value"), IN_HEADER(value), .type = KEY_STRING,
	  .rule = rule_field_value, .help = "its value, exactly; without: any" },
};
static const struct key_group group_header_match = {
	GROUP("routes[].match.headers[]", header_match_keys),
	.bytes = sizeof(struct config_header_match),
};

static const struct key match_keys[] = {
	{ KEY("routes[].match.", "ports"), IN_MATCH(ports), CNT(config_match, port_cnt),
	  .type = KEY_PORTS, .flags = KEY_REQUIRED, .min = 1, .max = 65535,
	  .help = "ports to listen on: numbers and ranges \"8000-8010\"" },
	{ KEY("routes[].match.", "address"), IN_MATCH(address), .type = KEY_STRING, .rule = rule_ip,
	  .help = "address to listen on; without: all, IPv6 and IPv4" },
	{ KEY("routes[].match.", "domains"), IN_MATCH(domains), CNT(config_match, domain_cnt),
	  .type = KEY_STRINGS, .rule = rule_domain,
	  .help = "host names; \"*.\" one label, \"**.\" one or more; without: any" },
	{ KEY("routes[].match.", "path"), IN_MATCH(path), .type = KEY_STRING, .rule = rule_path,
	  .help = "\"/exact\", \"/prefix/*\", \":name\" for one segment; without: any" },
	{ KEY("routes[].match.", "methods"), IN_MATCH(methods), CNT(config_match, method_cnt),
	  .type = KEY_STRINGS, .rule = rule_method, .help = "request methods; without: any" },
	{ KEY("routes[].match.", "headers"), IN_MATCH(headers), CNT(config_match, header_cnt),
	  .type = KEY_HEADERS, .flags = KEY_ANY_VALUE, .group = &group_header_match,
	  .help = "header fields that must be there, all of them" },
	{ KEY("routes[].match.", "client_ip"), IN_MATCH(client_ip),
	  CNT(config_match, client_ip_cnt), .type = KEY_STRINGS, .rule = rule_cidr,
	  .help = "client addresses or CIDR blocks; without: any" },
	{ KEY("routes[].match.", "tls_versions"), .type = KEY_VERSIONS, .words = tls_versions,
	  .help = "TLS versions of the connection; without: any" },
};
static const struct key_group group_match = { GROUP("routes[].match", match_keys) };

static const struct key target_keys[] = {
	{ KEY("routes[].action.targets[].", "host"), IN_TARGET(host), .type = KEY_STRING,
	  .flags = KEY_REQUIRED, .rule = rule_host, .help = "address or name" },
	{ KEY("routes[].action.targets[].", "port"), IN_TARGET(port), .type = KEY_PORT,
	  .flags = KEY_REQUIRED, .min = 1, .max = 65535, .help = "its port" },
	{ KEY("routes[].action.targets[].", "weight"), IN_TARGET(weight), .type = KEY_UINT,
	  .min = 1, .max = 256, .default_text = "1", .help = "its share of the requests" },
};
static const struct key_group group_target = {
	GROUP("routes[].action.targets[]", target_keys),
	.bytes = sizeof(struct config_target),
};

static const struct key field_keys[] = {
	{ KEY("routes[].action.headers[].", "name"), IN_FIELD(name), .type = KEY_STRING,
	  .flags = KEY_REQUIRED, .rule = rule_reply_field_name, .help = "name of a header field" },
	{ KEY("routes[].action.headers[].", "value"), IN_FIELD(value), .type = KEY_STRING,
	  .flags = KEY_REQUIRED, .rule = rule_field_value, .help = "its value" },
};
static const struct key_group group_field = {
	GROUP("routes[].action.headers[]", field_keys),
	.bytes = sizeof(struct config_field),
};

static const struct key certificate_keys[] = {
	{ KEY("routes[].action.tls.certificate.", "chain_file"), IN_ACTION(chain_file),
	  .type = KEY_STRING, .flags = KEY_REQUIRED, .rule = rule_file,
	  .help = "certificate and intermediates, PEM" },
	{ KEY("routes[].action.tls.certificate.", "key_file"), IN_ACTION(key_file),
	  .type = KEY_STRING, .flags = KEY_REQUIRED, .rule = rule_file,
	  .help = "its private key, PEM" },
};
static const struct key_group group_certificate = {
	GROUP("routes[].action.tls.certificate", certificate_keys),
};

static const struct key route_tls_keys[] = {
	{ KEY("routes[].action.tls.", "mode"), IN_ACTION(tls_mode), .type = KEY_WORD,
	  .words = tls_modes, .default_text = "terminate",
	  .help = "what happens to TLS; this version builds \"terminate\"" },
	{ KEY("routes[].action.tls.", "certificate"), .type = KEY_CERTIFICATE,
	  .group = &group_certificate,
	  .help = "\"auto\", or a group with chain_file and key_file" },
	{ KEY("routes[].action.tls.", "key_type"), IN_ACTION(key_type), .type = KEY_WORD,
	  .words = key_types, .default_text = "p256", .help = "key of an \"auto\" certificate" },
};
static const struct key_group group_route_tls = { GROUP("routes[].action.tls", route_tls_keys) };

static const struct key action_keys[] = {
	{ KEY("routes[].action.", "type"), IN_ACTION(type), .type = KEY_WORD, .flags = KEY_REQUIRED,
	  .words = action_types, .help = "what the route does" },
	{ KEY("routes[].action.", "targets"), IN_ACTION(targets),
	  CNT(config_action_data, target_cnt), .type = KEY_GROUPS, .group = &group_target,
	  .actions = KEY_ACTION(CONFIG_FORWARD), .max = 10000,
	  .help = "where requests go, in turn by weight" },
	{ KEY("routes[].action.", "preserve_host"), IN_ACTION(wants_host_kept), .type = KEY_BOOL,
	  .actions = KEY_ACTION(CONFIG_FORWARD), .default_text = "true",
	  .help = "send the client's Host on; false: the target's" },
	{ KEY("routes[].action.", "location"), IN_ACTION(location), .type = KEY_STRING,
	  .actions = KEY_ACTION(CONFIG_REDIRECT), .rule = rule_location,
	  .help = "where to: a URL with {host} {path} {query} {port}" },
	{ KEY("routes[].action.", "status"), IN_ACTION(status), .type = KEY_UINT, .min = 200,
	  .max = 599, .actions = KEY_ACTION(CONFIG_REDIRECT) | KEY_ACTION(CONFIG_RESPOND),
	  .help = "status code; redirect 301 without, respond 200 without" },
	{ KEY("routes[].action.", "headers"), IN_ACTION(headers),
	  CNT(config_action_data, header_cnt), .type = KEY_HEADERS, .group = &group_field,
	  .actions = KEY_ACTION(CONFIG_RESPOND), .help = "header fields of the answer" },
	{ KEY("routes[].action.", "body"), IN_ACTION(body), CNT(config_action_data, body_len),
	  .type = KEY_STRING, .actions = KEY_ACTION(CONFIG_RESPOND), .rule = rule_body,
	  .default_text = "", .help = "body of the answer" },
	{ KEY("routes[].action.", "tls"), .type = KEY_GROUP, .flags = KEY_OPTIONAL,
	  .group = &group_route_tls, .help = "TLS towards clients; without: plain" },
};
static const struct key_group group_action = { GROUP("routes[].action", action_keys) };

static const struct key route_keys[] = {
	{ KEY("routes[].", "name"), IN_ROUTE(name), .type = KEY_STRING, .flags = KEY_REQUIRED,
	  .rule = rule_name, .help = "its name, unique" },
	{ KEY("routes[].", "priority"), IN_ROUTE(priority), .type = KEY_INT, .min = -1000000,
	  .max = 1000000, .default_text = "0", .help = "higher is tried first" },
	{ KEY("routes[].", "enabled"), IN_ROUTE(is_enabled), .type = KEY_BOOL,
	  .default_text = "true", .help = "false: checked, not served" },
	{ KEY("routes[].", "match"), IN_ROUTE(match), .type = KEY_GROUP, .flags = KEY_REQUIRED,
	  .group = &group_match, .help = "which requests it takes; all conditions must hold" },
	{ KEY("routes[].", "action"), IN_ROUTE(action), .type = KEY_GROUP, .flags = KEY_REQUIRED,
	  .group = &group_action, .help = "what it does with them" },
};
const struct key_group key_group_route = { GROUP("routes[]", route_keys),
					   .bytes = sizeof(struct config_route),
					   .finish = check_route };

static const struct key root_keys[] = {
	{ KEY("", "global"), .type = KEY_GROUP, .group = &group_global, .help = "the process" },
	{ KEY("", "acme"), .type = KEY_GROUP, .group = &group_acme,
	  .help = "certificates by ACME (RFC 8555)" },
	{ KEY("", "timeouts"), .type = KEY_GROUP, .group = &group_timeouts,
	  .help = "timeouts of the data plane" },
	{ KEY("", "limits"), .type = KEY_GROUP, .group = &group_limits,
	  .help = "limits of the data plane" },
	{ KEY("", "tls"), .type = KEY_GROUP, .group = &group_tls, .help = "TLS of all routes" },
	{ KEY("", "routes"), IN_CONFIG(routes), CNT(config, route_cnt), .type = KEY_GROUPS,
	  .group = &key_group_route, .max = 1000000, .help = "the routes" },
};
const struct key_group key_root = { GROUP("", root_keys) };
