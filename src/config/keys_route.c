#include "check.h"
#include "keys_rows.h"
#include "rules.h"

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

static const struct key_word protocols[] = {
	{ "http", CONFIG_HTTP },
	{ "tcp", CONFIG_TCP },
	{ NULL, 0 },
};

static bool has_targets(const void *data)
{
	const struct config_action_data *action = data;
	return action->upstream_name == NULL;
}

static bool has_http(const void *data)
{
	const struct config_action_data *action = data;
	return action->protocol == CONFIG_HTTP;
}

static bool has_tls(const void *data)
{
	const struct config_action_data *action = data;
	return action->tls_mode != CONFIG_TLS_NONE;
}

static bool has_certificate(const void *data)
{
	const struct config_action_data *action = data;
	return action->tls_mode != CONFIG_TLS_PASSTHROUGH;
}

static bool has_auto(const void *data)
{
	const struct config_action_data *action = data;
	return has_certificate(data) && action->certificate == CONFIG_CERT_AUTO;
}

static bool has_upstream_tls(const void *data)
{
	const struct config_action_data *action = data;
	return action->tls_mode == CONFIG_TLS_REENCRYPT;
}

static bool has_client_certificate(const void *data)
{
	const struct config_action_data *action = data;
	return action->upstream_tls.chain_file != NULL;
}

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
	{ KEY("routes[].match.", "tls_versions"), .type = KEY_VERSIONS, .words = key_tls_versions,
	  .help = "TLS versions of the connection; without: any" },
	{ KEY("routes[].match.", "alpn"), IN_MATCH(alpn), CNT(config_match, alpn_cnt),
	  .type = KEY_STRINGS, .rule = rule_alpn,
	  .help = "protocols (RFC 7301), of which the client offers one; without: any" },
};
static const struct key_group group_match = { GROUP("routes[].match", match_keys) };

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

static const struct key client_certificate_keys[] = {
	{ KEY("routes[].action.tls.upstream.certificate.", "chain_file"),
	  IN_ACTION(upstream_tls.chain_file), .type = KEY_STRING, .flags = KEY_REQUIRED,
	  .rule = rule_file, .help = "certificate and intermediates, PEM" },
	{ KEY("routes[].action.tls.upstream.certificate.", "key_file"),
	  IN_ACTION(upstream_tls.key_file), .type = KEY_STRING, .flags = KEY_REQUIRED,
	  .rule = rule_file, .help = "its private key, PEM" },
};
static const struct key_group group_client_certificate = {
	GROUP("routes[].action.tls.upstream.certificate", client_certificate_keys),
};

static const struct key upstream_tls_keys[] = {
	{ KEY("routes[].action.tls.upstream.", "verify"), IN_ACTION(upstream_tls.wants_verify),
	  .type = KEY_BOOL, .default_text = "true",
	  .help = "false: whatever certificate the target shows is taken" },
	{ KEY("routes[].action.tls.upstream.", "ca_file"), IN_ACTION(upstream_tls.ca_file),
	  .type = KEY_STRING, .flags = KEY_EMPTY_IS_NONE, .default_text = "",
	  .help = "trust anchors (PEM); \"\": the system's" },
	{ KEY("routes[].action.tls.upstream.", "server_name"), IN_ACTION(upstream_tls.server_name),
	  .type = KEY_STRING, .flags = KEY_EMPTY_IS_NONE, .rule = rule_host, .default_text = "",
	  .help = "name that is asked for and verified; \"\": the target's host" },
	{ KEY("routes[].action.tls.upstream.", "certificate"), .type = KEY_GROUP,
	  .flags = KEY_OPTIONAL, .is_worth = has_client_certificate,
	  .group = &group_client_certificate, .help = "client certificate; without: none" },
};
static const struct key_group group_upstream_tls = {
	GROUP("routes[].action.tls.upstream", upstream_tls_keys),
};

static const struct key route_tls_keys[] = {
	{ KEY("routes[].action.tls.", "mode"), IN_ACTION(tls_mode), .type = KEY_WORD,
	  .words = tls_modes, .default_text = "terminate", .help = "what happens to TLS" },
	{ KEY("routes[].action.tls.", "certificate"), .type = KEY_CERTIFICATE,
	  .group = &group_certificate, .is_worth = has_certificate,
	  .help = "\"auto\", or chain_file and key_file" },
	{ KEY("routes[].action.tls.", "key_type"), IN_ACTION(key_type), .type = KEY_WORD,
	  .words = key_types, .default_text = "p256", .is_worth = has_auto,
	  .help = "key of an \"auto\" certificate" },
	{ KEY("routes[].action.tls.", "upstream"), .type = KEY_GROUP, .group = &group_upstream_tls,
	  .is_worth = has_upstream_tls, .help = "TLS towards targets" },
};
static const struct key_group group_route_tls = { GROUP("routes[].action.tls", route_tls_keys) };

static const struct key action_keys[] = {
	{ KEY("routes[].action.", "type"), IN_ACTION(type), .type = KEY_WORD, .flags = KEY_REQUIRED,
	  .words = action_types, .help = "what the route does" },
	{ KEY("routes[].action.", "targets"), IN_ACTION(targets),
	  CNT(config_action_data, target_cnt), .type = KEY_GROUPS, .group = &key_group_route_target,
	  .kinds = KEY_KIND(CONFIG_FORWARD), .max = 10000, .is_worth = has_targets,
	  .help = "where it forwards to; or upstream" },
	{ KEY("routes[].action.", "upstream"), IN_ACTION(upstream_name), .type = KEY_STRING,
	  .kinds = KEY_KIND(CONFIG_FORWARD), .rule = rule_name,
	  .help = "name of one of \"upstreams\"; or targets" },
	{ KEY("routes[].action.", "balance"), IN_ACTION(balance), .type = KEY_WORD,
	  .words = key_balances, .kinds = KEY_KIND(CONFIG_FORWARD), .default_text = "p2c",
	  .is_worth = has_targets, .help = "which of targets is next" },
	{ KEY("routes[].action.", "protocol"), IN_ACTION(protocol), .type = KEY_WORD,
	  .words = protocols, .kinds = KEY_KIND(CONFIG_FORWARD), .default_text = "http",
	  .help = "what is forwarded: requests, or bytes of TCP" },
	{ KEY("routes[].action.", "preserve_host"), IN_ACTION(wants_host_kept), .type = KEY_BOOL,
	  .kinds = KEY_KIND(CONFIG_FORWARD), .default_text = "true", .is_worth = has_http,
	  .help = "send the client's Host on; false: the target's" },
	{ KEY("routes[].action.", "location"), IN_ACTION(location), .type = KEY_STRING,
	  .kinds = KEY_KIND(CONFIG_REDIRECT), .rule = rule_location,
	  .help = "where to: a URL with {host} {path} {query} {port}" },
	{ KEY("routes[].action.", "status"), IN_ACTION(status), .type = KEY_UINT, .min = 200,
	  .max = 599, .kinds = KEY_KIND(CONFIG_REDIRECT) | KEY_KIND(CONFIG_RESPOND),
	  .help = "status code; redirect 301 without, respond 200 without" },
	{ KEY("routes[].action.", "headers"), IN_ACTION(headers),
	  CNT(config_action_data, header_cnt), .type = KEY_HEADERS, .group = &group_field,
	  .kinds = KEY_KIND(CONFIG_RESPOND), .help = "header fields of the answer" },
	{ KEY("routes[].action.", "body"), IN_ACTION(body), CNT(config_action_data, body_len),
	  .type = KEY_STRING, .kinds = KEY_KIND(CONFIG_RESPOND), .rule = rule_body,
	  .default_text = "", .help = "body of the answer" },
	{ KEY("routes[].action.", "tls"), .type = KEY_GROUP, .flags = KEY_OPTIONAL,
	  .group = &group_route_tls, .is_worth = has_tls,
	  .help = "TLS towards clients; without: plain" },
};
static const struct key_group group_action = { GROUP("routes[].action", action_keys),
					       .kind = "type", .kind_text = "a route of type" };

static const struct key route_keys[] = {
	{ KEY("routes[].", "name"), IN_ROUTE(name), .type = KEY_STRING, .flags = KEY_REQUIRED,
	  .rule = rule_name, .help = "its name, unique" },
	{ KEY("routes[].", "priority"), IN_ROUTE(priority), .type = KEY_INT, .min = -1000000,
	  .max = 1000000, .default_text = "0", .help = "higher is tried first" },
	{ KEY("routes[].", "enabled"), IN_ROUTE(is_enabled), .type = KEY_BOOL,
	  .default_text = "true", .help = "false: checked, not served" },
	{ KEY("routes[].", "max_connections"), IN_ROUTE(max_connections), .type = KEY_UINT,
	  .max = 10000000, .default_text = "0",
	  .help = "client connections at once, over all workers; 0: no limit" },
	{ KEY("routes[].", "match"), IN_ROUTE(match), .type = KEY_GROUP, .flags = KEY_REQUIRED,
	  .group = &group_match, .help = "which requests it takes; all conditions must hold" },
	{ KEY("routes[].", "action"), IN_ROUTE(action), .type = KEY_GROUP, .flags = KEY_REQUIRED,
	  .group = &group_action, .help = "what it does with them" },
};
const struct key_group key_group_route = { GROUP("routes[]", route_keys),
					   .bytes = sizeof(struct config_route),
					   .finish = check_route };
