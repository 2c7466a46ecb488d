#include "check.h"
#include "keys_rows.h"
#include "rules.h"

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
const struct key_word key_tls_versions[] = { { "1.2", 12 }, { "1.3", 13 }, { NULL, 0 } };
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
static const struct key_group group_global = { GROUP("global", global_keys),
					       .finish = check_global };

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
	{ KEY("timeouts.", "hello"), IN_CONFIG(timeouts.hello_ms), .type = KEY_DURATION, .min = 1,
	  .max = HOURS(1), .default_text = "5s",
	  .help = "from the accept to the end of a ClientHello or PROXY header" },
	{ KEY("timeouts.", "tunnel_idle"), IN_CONFIG(timeouts.tunnel_idle_ms), .type = KEY_DURATION,
	  .min = 1, .max = DAYS(365), .default_text = "1h",
	  .help = "a tunnel without a byte either way for this long ends" },
	{ KEY("timeouts.", "tunnel_max"), IN_CONFIG(timeouts.tunnel_max_ms), .type = KEY_DURATION,
	  .max = DAYS(3650), .default_text = "0", .help = "life of a tunnel; 0: no limit" },
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
	  .max = 10000000, .default_text = "100000",
	  .help = "client connections at once, over all workers" },
	{ KEY("limits.", "connections_per_ip"), IN_CONFIG(limits.connections_per_ip),
	  .type = KEY_UINT, .max = 10000000, .default_text = "0",
	  .help = "of one client address at once, over all workers; 0: no limit" },
	{ KEY("limits.", "connection_rate_per_ip"), IN_CONFIG(limits.connection_rate_per_ip),
	  .type = KEY_UINT, .max = 1000000, .default_text = "0",
	  .help = "new ones of one client address in a second; 0: no limit" },
	{ KEY("limits.", "connection_burst_per_ip"), IN_CONFIG(limits.connection_burst_per_ip),
	  .type = KEY_UINT, .max = 10000000, .default_text = "0",
	  .help = "new ones at once before that rate counts; 0: as the rate" },
	{ KEY("limits.", "ipv6_prefix"), IN_CONFIG(limits.ipv6_prefix), .type = KEY_UINT, .min = 1,
	  .max = 128, .default_text = "64",
	  .help = "bits of an IPv6 address that count as one client address" },
	{ KEY("limits.", "idle_upstream"), IN_CONFIG(limits.idle_upstream), .type = KEY_UINT,
	  .max = 65536, .default_text = "64",
	  .help = "idle connections kept per worker and target" },
};
static const struct key_group group_limits = { .finish = check_limits,
					       GROUP("limits", limit_keys) };

static const struct key tls_keys[] = {
	{ KEY("tls.", "min_version"), IN_CONFIG(tls.min_version), .type = KEY_WORD,
	  .words = key_tls_versions, .default_text = "1.2", .help = "lowest TLS version" },
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

static const struct key dns_keys[] = {
	{ KEY("dns.", "servers"), IN_CONFIG(dns.servers), CNT(config, dns.server_cnt),
	  .type = KEY_STRINGS, .rule = rule_server,
	  .help = "name servers, \"address\" or \"address:port\"; without: the system's" },
	{ KEY("dns.", "timeout"), IN_CONFIG(dns.timeout_ms), .type = KEY_DURATION, .min = 10,
	  .max = SECONDS(60), .default_text = "2s", .help = "of one try; there are three" },
	{ KEY("dns.", "min_ttl"), IN_CONFIG(dns.min_ttl_ms), .type = KEY_DURATION, .min = 10,
	  .max = DAYS(1), .default_text = "1s",
	  .help = "an answer is kept for this long at least, whatever its TTL" },
	{ KEY("dns.", "max_ttl"), IN_CONFIG(dns.max_ttl_ms), .type = KEY_DURATION, .min = 10,
	  .max = DAYS(7), .default_text = "1h", .help = "and for this long at most" },
};
static const struct key_group group_dns = { GROUP("dns", dns_keys), .finish = check_dns };

static const struct key listener_proxy_keys[] = {
	{ KEY("listeners[].proxy_protocol.", "trusted"), IN_LISTENER(trusted),
	  CNT(config_listener, trusted_cnt), .type = KEY_STRINGS, .flags = KEY_REQUIRED,
	  .rule = rule_cidr,
	  .help = "addresses or CIDR blocks of peers whose PROXY header is demanded and believed" },
};
static const struct key_group group_listener_proxy = {
	GROUP("listeners[].proxy_protocol", listener_proxy_keys),
};

static bool has_trusted(const void *data)
{
	const struct config_listener *listener = data;
	return listener->trusted_cnt > 0;
}

static const struct key listener_keys[] = {
	{ KEY("listeners[].", "ports"), IN_LISTENER(ports), CNT(config_listener, port_cnt),
	  .type = KEY_PORTS, .flags = KEY_REQUIRED, .min = 1, .max = 65535,
	  .help = "ports that it is about: numbers and ranges \"8000-8010\"" },
	{ KEY("listeners[].", "address"), IN_LISTENER(address), .type = KEY_STRING, .rule = rule_ip,
	  .help = "match.address of the routes that it is about; without: those that have none" },
	{ KEY("listeners[].", "defer_accept"), IN_LISTENER(wants_defer), .type = KEY_BOOL,
	  .default_text = "true",
	  .help = "a connection is taken with its first bytes, or after a second; raw TCP: never" },
	{ KEY("listeners[].", "proxy_protocol"), .type = KEY_GROUP, .flags = KEY_OPTIONAL,
	  .group = &group_listener_proxy, .is_worth = has_trusted,
	  .help = "PROXY headers that come in" },
};
static const struct key_group group_listener = { GROUP("listeners[]", listener_keys),
						 .bytes = sizeof(struct config_listener),
						 .finish = check_listener };

static const struct key root_keys[] = {
	{ KEY("", "global"), .type = KEY_GROUP, .group = &group_global, .help = "the process" },
	{ KEY("", "acme"), .type = KEY_GROUP, .group = &group_acme,
	  .help = "certificates by ACME (RFC 8555)" },
	{ KEY("", "timeouts"), .type = KEY_GROUP, .group = &group_timeouts,
	  .help = "timeouts of the data plane" },
	{ KEY("", "limits"), .type = KEY_GROUP, .group = &group_limits,
	  .help = "limits of the data plane" },
	{ KEY("", "tls"), .type = KEY_GROUP, .group = &group_tls, .help = "TLS of all routes" },
	{ KEY("", "dns"), .type = KEY_GROUP, .group = &group_dns,
	  .help = "how names of targets become addresses" },
	{ KEY("", "listeners"), IN_CONFIG(listeners), CNT(config, listener_cnt), .type = KEY_GROUPS,
	  .group = &group_listener, .max = 100000, .help = "what is particular to some ports" },
	{ KEY("", "upstreams"), IN_CONFIG(upstreams), CNT(config, upstream_cnt), .type = KEY_GROUPS,
	  .group = &key_group_upstream, .max = 100000, .help = "groups of targets with a name" },
	{ KEY("", "routes"), IN_CONFIG(routes), CNT(config, route_cnt), .type = KEY_GROUPS,
	  .group = &key_group_route, .max = 1000000, .help = "the routes" },
};
const struct key_group key_root = { GROUP("", root_keys) };
