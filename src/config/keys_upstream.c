/* Groups of targets, and the targets of a route. */
#include "check.h"
#include "keys_rows.h"
#include "rules.h"

static const struct key_word proxy_protocols[] = {
	{ "none", CONFIG_PROXY_NONE },
	{ "v1", CONFIG_PROXY_V1 },
	{ "v2", CONFIG_PROXY_V2 },
	{ NULL, 0 },
};
static const struct key_word target_ports[] = { { "preserve", 0 }, { NULL, 0 } };
const struct key_word key_balances[] = {
	{ "p2c", CONFIG_BALANCE_P2C },
	{ "round-robin", CONFIG_BALANCE_ROUND_ROBIN },
	{ "least-connections", CONFIG_BALANCE_LEAST_CONNECTIONS },
	{ "hash", CONFIG_BALANCE_HASH },
	{ "sticky", CONFIG_BALANCE_STICKY },
	{ NULL, 0 },
};
static const struct key_word check_types[] = {
	{ "none", CONFIG_CHECK_NONE },
	{ "tcp", CONFIG_CHECK_TCP },
	{ "http", CONFIG_CHECK_HTTP },
	{ "https", CONFIG_CHECK_HTTPS },
	{ NULL, 0 },
};

/* Written once for the targets of a group and those of a route. */
#define TARGET_KEYS(prefix)                                                                          \
	{ KEY(prefix, "host"),   IN_TARGET(host),   .type = KEY_STRING,                              \
	  .flags = KEY_REQUIRED, .rule = rule_host, .help = "address or name" },                     \
		{ KEY(prefix, "port"),                                                               \
		  IN_TARGET(port),                                                                   \
		  .type = KEY_PORT,                                                                  \
		  .flags = KEY_REQUIRED,                                                             \
		  .min = 1,                                                                          \
		  .max = 65535,                                                                      \
		  .words = target_ports,                                                             \
		  .help = "its port; \"preserve\": the one that the client came to" },               \
		{ KEY(prefix, "weight"), IN_TARGET(weight),  .type = KEY_UINT, .min = 1, .max = 256, \
		  .default_text = "1",   .help = "its share" },                                      \
		{ KEY(prefix, "backup"), IN_TARGET(is_backup), .type = KEY_BOOL,                     \
		  .default_text = "false", .help = "true: used while no other target can be" },      \
		{ KEY(prefix, "max_connections"),                                                    \
		  IN_TARGET(max_connections),                                                        \
		  .type = KEY_UINT,                                                                  \
		  .max = 1000000,                                                                    \
		  .default_text = "0",                                                               \
		  .help = "requests and tunnels at once; 0: max_connections of the group" },         \
	{                                                                                            \
		KEY(prefix, "proxy_protocol"), IN_TARGET(proxy_protocol),                            \
			.type = KEY_WORD, .words = proxy_protocols, .default_text = "none",          \
			.help = "PROXY header that is sent to it"                                    \
	}

static const struct key route_target_keys[] = { TARGET_KEYS("routes[].action.targets[].") };
const struct key_group key_group_route_target = {
	GROUP("routes[].action.targets[]", route_target_keys),
	.bytes = sizeof(struct config_target),
};
static const struct key target_keys[] = { TARGET_KEYS("upstreams[].targets[].") };
static const struct key_group group_target = {
	GROUP("upstreams[].targets[]", target_keys),
	.bytes = sizeof(struct config_target),
};

#define HTTP_CHECKS (KEY_KIND(CONFIG_CHECK_HTTP) | KEY_KIND(CONFIG_CHECK_HTTPS))
static const struct key check_keys[] = {
	{ KEY("upstreams[].check.", "type"), IN_UPSTREAM(check.type), .type = KEY_WORD,
	  .words = check_types, .default_text = "none", .help = "how targets are checked" },
	{ KEY("upstreams[].check.", "path"), IN_UPSTREAM(check.path), .type = KEY_STRING,
	  .kinds = HTTP_CHECKS, .rule = rule_check_path, .default_text = "/",
	  .help = "path, with query, of the request" },
	{ KEY("upstreams[].check.", "host"), IN_UPSTREAM(check.host), .type = KEY_STRING,
	  .kinds = HTTP_CHECKS, .flags = KEY_EMPTY_IS_NONE, .rule = rule_host, .default_text = "",
	  .help = "Host of the request; \"\": the target's" },
	{ KEY("upstreams[].check.", "status"), .type = KEY_STATUSES, .kinds = HTTP_CHECKS,
	  .default_text = "200-399", .help = "status, or range of them, of a healthy target" },
	{ KEY("upstreams[].check.", "port"), IN_UPSTREAM(check.port), .type = KEY_PORT,
	  .max = 65535, .default_text = "0", .help = "port that is checked; 0: the target's" },
	{ KEY("upstreams[].check.", "interval"), IN_UPSTREAM(check.interval_ms),
	  .type = KEY_DURATION, .min = 10, .max = DAYS(1), .default_text = "5s",
	  .help = "from one check of a target to its next, a tenth more or less" },
	{ KEY("upstreams[].check.", "timeout"), IN_UPSTREAM(check.timeout_ms), .type = KEY_DURATION,
	  .min = 1, .max = HOURS(1), .default_text = "2s",
	  .help = "a check that takes longer has failed" },
	{ KEY("upstreams[].check.", "rise"), IN_UPSTREAM(check.rise), .type = KEY_UINT, .min = 1,
	  .max = 1000, .default_text = "2", .help = "good checks in a row that bring it back" },
	{ KEY("upstreams[].check.", "fall"), IN_UPSTREAM(check.fall), .type = KEY_UINT, .min = 1,
	  .max = 1000, .default_text = "3", .help = "failed checks in a row that take it out" },
};
static const struct key_group group_check = { GROUP("upstreams[].check", check_keys),
					      .kind = "type", .kind_text = "checks of type",
					      .finish = check_probe };

static const struct key ejection_keys[] = {
	{ KEY("upstreams[].ejection.", "failures"), IN_UPSTREAM(ejection.failures),
	  .type = KEY_UINT, .max = 1000000, .default_text = "5",
	  .help = "failures of traffic in a row that eject a target; 0: never" },
	{ KEY("upstreams[].ejection.", "time"), IN_UPSTREAM(ejection.time_ms), .type = KEY_DURATION,
	  .min = 1, .max = DAYS(1), .default_text = "10s",
	  .help = "for how long; twice that the second time, and so on up to 10 times" },
	{ KEY("upstreams[].ejection.", "max_share"), IN_UPSTREAM(ejection.max_share_percent),
	  .type = KEY_UINT, .max = 100, .default_text = "50",
	  .help = "percent of the group's targets that may be ejected at once" },
};
static const struct key_group group_ejection = { GROUP("upstreams[].ejection", ejection_keys) };

static const struct key retry_keys[] = {
	{ KEY("upstreams[].retry.", "tries"), IN_UPSTREAM(retry.tries), .type = KEY_UINT, .min = 1,
	  .max = 8, .default_text = "3",
	  .help = "targets tried for one request, the first one included" },
	{ KEY("upstreams[].retry.", "budget"), IN_UPSTREAM(retry.budget_percent), .type = KEY_UINT,
	  .max = 1000, .default_text = "20",
	  .help = "retries in percent of the requests, at most" },
};
static const struct key_group group_retry = { GROUP("upstreams[].retry", retry_keys) };

static const struct key upstream_keys[] = {
	{ KEY("upstreams[].", "name"), IN_UPSTREAM(name), .type = KEY_STRING, .flags = KEY_REQUIRED,
	  .rule = rule_name, .help = "its name, unique" },
	{ KEY("upstreams[].", "targets"), IN_UPSTREAM(targets), CNT(config_upstream, target_cnt),
	  .type = KEY_GROUPS, .flags = KEY_REQUIRED, .group = &group_target, .max = 10000,
	  .help = "its targets, one at least" },
	{ KEY("upstreams[].", "balance"), IN_UPSTREAM(balance), .type = KEY_WORD,
	  .words = key_balances, .default_text = "p2c", .help = "which target is next" },
	{ KEY("upstreams[].", "hash_key"), .type = KEY_HASH, .default_text = "client_ip",
	  .kinds = KEY_KIND(CONFIG_BALANCE_HASH), .help = "what is hashed" },
	{ KEY("upstreams[].", "hash_bound"), IN_UPSTREAM(hash_bound_percent), .type = KEY_UINT,
	  .max = 1000, .kinds = KEY_KIND(CONFIG_BALANCE_HASH), .default_text = "125",
	  .help = "most load of one target, in percent of the mean, 100 or more; 0: no bound" },
	{ KEY("upstreams[].", "cookie"), IN_UPSTREAM(cookie), .type = KEY_STRING,
	  .rule = rule_cookie_name, .kinds = KEY_KIND(CONFIG_BALANCE_STICKY),
	  .default_text = "smartproxy", .help = "name of the cookie" },
	{ KEY("upstreams[].", "max_connections"), IN_UPSTREAM(max_connections), .type = KEY_UINT,
	  .max = 1000000, .default_text = "0",
	  .help = "requests and tunnels at each target at once; 0: no limit" },
	{ KEY("upstreams[].", "queue"), IN_UPSTREAM(queue), .type = KEY_UINT, .max = 1000000,
	  .default_text = "100", .help = "that may wait for each target that is full" },
	{ KEY("upstreams[].", "queue_timeout"), IN_UPSTREAM(queue_timeout_ms), .type = KEY_DURATION,
	  .min = 1, .max = HOURS(1), .default_text = "10s", .help = "for how long" },
	{ KEY("upstreams[].", "slow_start"), IN_UPSTREAM(slow_start_ms), .type = KEY_DURATION,
	  .max = HOURS(1), .default_text = "0",
	  .help = "a target that comes back gets its full share after this time; 0: at once" },
	{ KEY("upstreams[].", "check"), .type = KEY_GROUP, .group = &group_check,
	  .help = "active health checks" },
	{ KEY("upstreams[].", "ejection"), .type = KEY_GROUP, .group = &group_ejection,
	  .help = "targets that fail under traffic" },
	{ KEY("upstreams[].", "retry"), .type = KEY_GROUP, .group = &group_retry,
	  .help = "a request once more at another target" },
};
const struct key_group key_group_upstream = { GROUP("upstreams[]", upstream_keys),
					      .bytes = sizeof(struct config_upstream),
					      .kind = "balance", .kind_text = "balance",
					      .finish = check_upstream };
