#pragma once
/* config: libconfig text (or JSON with the same nouns) -> typed, validated model.
 *
 * One table of keys (src/config/keys.c) drives the parser, `smartproxy -T`, the JSON form and the
 * lint test of the man page. Threads: control thread. Lifetime: everything lives in the config's
 * own arena and dies with config_put(). All strings are NUL-terminated, names are lower case.
 * Limits: a file of 256 MiB, 1,000,000 routes. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "smartproxy/err.h"
#include "smartproxy/log.h"
#include "smartproxy/rcu.h"
#include "smartproxy/text.h"

/* One finding: file, line (0: none), the key's path ("routes[3].action.type") and a sentence that
 * says what was found, what was expected and, for an unknown key or word, the nearest one. */
struct config_problem {
	const char *file;
	unsigned line;
	const char *path;
	const char *message;
};
struct config_problems {
	struct config_problem *items; /* in file order; owned, freed with config_problems_fini */
	size_t cnt;
	size_t cap;
};
void config_problems_fini(struct config_problems *problems);
/* "FILE:LINE: PATH: MESSAGE\n" each. */
void config_problems_text(const struct config_problems *problems, struct text *ret_text);

/* The order is that of enum tls_key_type. */
enum config_key_type {
	CONFIG_KEY_P256,
	CONFIG_KEY_P384,
	CONFIG_KEY_RSA2048,
	CONFIG_KEY_RSA3072,
	CONFIG_KEY_RSA4096,
};
enum config_action { CONFIG_FORWARD, CONFIG_REDIRECT, CONFIG_RESPOND, CONFIG_BLOCK };
enum config_tls_mode {
	CONFIG_TLS_NONE,
	CONFIG_TLS_TERMINATE,
	CONFIG_TLS_PASSTHROUGH,
	CONFIG_TLS_REENCRYPT
};
enum config_certificate { CONFIG_CERT_AUTO, CONFIG_CERT_FILES };
enum config_protocol { CONFIG_HTTP, CONFIG_TCP };
enum config_proxy_protocol { CONFIG_PROXY_NONE, CONFIG_PROXY_V1, CONFIG_PROXY_V2 };
enum config_balance {
	CONFIG_BALANCE_P2C, /* the better one of two taken at random */
	CONFIG_BALANCE_ROUND_ROBIN,
	CONFIG_BALANCE_LEAST_CONNECTIONS,
	CONFIG_BALANCE_HASH,   /* Maglev, by hash_key */
	CONFIG_BALANCE_STICKY, /* by a cookie of ours; without one: p2c */
};
enum config_hash_key {
	CONFIG_HASH_CLIENT_IP,
	CONFIG_HASH_PATH,
	CONFIG_HASH_HEADER, /* hash_name */
	CONFIG_HASH_COOKIE, /* hash_name */
};
enum config_check_type {
	CONFIG_CHECK_NONE,
	CONFIG_CHECK_TCP,
	CONFIG_CHECK_HTTP,
	CONFIG_CHECK_HTTPS
};

struct config_field { /* a header: name and value */
	const char *name, *value;
};
struct config_header_match {
	const char *name;  /* lower case */
	const char *value; /* NULL: present with any value */
};
struct config_ports {
	uint16_t first, last;
};
struct config_target {
	const char *host;         /* address or name */
	uint16_t port;            /* 0: "preserve", the port that the client came to */
	unsigned weight;          /* 1 to 256 */
	bool is_backup;           /* used while no other target can be */
	unsigned max_connections; /* requests and tunnels at once; 0: the group's max_connections */
	enum config_proxy_protocol proxy_protocol; /* header sent to it */
};
/* Active health checks of a target. */
struct config_check {
	enum config_check_type type;
	const char *path;                   /* HTTP, HTTPS */
	const char *host;                   /* Host of the request; NULL: the target's name */
	unsigned status_first, status_last; /* expected */
	uint16_t port;                      /* 0: the target's */
	int64_t interval_ms, timeout_ms;
	unsigned rise, fall;
};

/* A group of targets: one of "upstreams", or what a route's own targets stand for. */
struct config_upstream {
	const char *name; /* NULL: the targets of one route */
	unsigned line;    /* 0 when it came by the API */
	const struct config_target *targets;
	size_t target_cnt;
	enum config_balance balance;
	enum config_hash_key hash_key;
	const char *hash_name; /* of the header (lower case) or cookie; else NULL */
	unsigned
		hash_bound_percent; /* of the mean load, that one target takes at most; 0: no bound */
	const char *cookie;         /* sticky: its name */
	unsigned max_connections;   /* of each target; 0: no limit */
	unsigned queue;             /* that may wait for each target, over all workers */
	int64_t queue_timeout_ms;
	int64_t slow_start_ms; /* 0: full share at once */
	struct config_check check;
	struct {
		unsigned failures; /* in a row; 0: no passive ejection */
		int64_t time_ms;   /* times the number of ejections so far, at most 10 times */
		unsigned max_share_percent; /* of the group that may be ejected at once */
	} ejection;
	struct {
		unsigned tries;          /* targets tried for one request, the first one included */
		unsigned budget_percent; /* retries as a share of the requests */
	} retry;
};

/* TLS towards targets (terminate-and-reencrypt). */
struct config_upstream_tls {
	bool wants_verify;
	const char *ca_file;               /* NULL: the system's store */
	const char *server_name;           /* SNI and name to verify; NULL: the target's host */
	const char *chain_file, *key_file; /* client certificate; NULL: none */
};

/* What is particular to what listens, beyond the routes' own ports. */
struct config_listener {
	const struct config_ports *ports;
	size_t port_cnt;
	const char *address;        /* NULL: those without an address of their own */
	const char *const *trusted; /* proxy_protocol.trusted: CIDRs whose PROXY header is believed,
				       and demanded */
	size_t trusted_cnt;         /* 0: no proxy_protocol */
	bool wants_defer;           /* defer_accept; never heeded where a port is raw TCP */
	unsigned line;
};

struct config_match {
	const struct config_ports *ports; /* at least one */
	size_t port_cnt;
	const char *address;        /* to listen on; NULL: all, IPv6 and IPv4 */
	const char *const *domains; /* "a.b", "*.b" (one label), "**.b" (one or more); none: any */
	size_t domain_cnt;
	const char *path; /* NULL: any; "/exact", "/prefix/" followed by "*", ":name" segments */
	const char *const *methods; /* upper case */
	size_t method_cnt;
	const struct config_header_match *headers;
	size_t header_cnt;
	const char *const *client_ip; /* CIDR or address, syntax checked */
	size_t client_ip_cnt;
	bool has_tls12, has_tls13; /* both false: any */
	const char *const *alpn;   /* one of them is offered; TCP routes with TLS only; none: any */
	size_t alpn_cnt;
};
struct config_action_data {
	enum config_action type;
	enum config_protocol protocol;       /* forward; CONFIG_TCP with CONFIG_TLS_PASSTHROUGH */
	const struct config_target *targets; /* forward, as written; none with upstream_name */
	size_t target_cnt;
	enum config_balance balance;             /* of targets */
	const char *upstream_name;               /* as written; NULL: targets */
	const struct config_upstream *upstream;  /* forward: what either of them stands for */
	struct config_upstream_tls upstream_tls; /* CONFIG_TLS_REENCRYPT */
	bool wants_host_kept;                    /* forward: preserve_host, default true */
	const char *location; /* redirect: template with {host} {path} {query} {port} */
	unsigned status; /* redirect 301 (301 302 303 307 308), respond 200 (200 to 599), block 403
			  */
	const struct config_field *headers; /* respond */
	size_t header_cnt;
	const char *body; /* respond; "" when none */
	size_t body_len;
	enum config_tls_mode tls_mode;
	enum config_certificate certificate;
	const char *chain_file, *key_file;
	enum config_key_type key_type; /* auto */
};
struct config_route {
	const char *name; /* unique */
	int priority;
	bool is_enabled;
	unsigned line;            /* 0 when it came by the API */
	unsigned max_connections; /* client connections at once, over all workers; 0: no limit */
	struct config_match match;
	struct config_action_data action;
};

struct config {
	uint32_t ref_cnt; /* held by: the update in hand, each generation, control */
	const char *file; /* "(api)" for a list that came by the admin API */
	struct {
		unsigned workers;         /* 0: one per CPU */
		const char *user, *group; /* NULL: stay */
		const char *state_dir;
		int64_t shutdown_timeout_ms;
	} global;
	struct {
		const char *path;
		unsigned mode; /* 0660 */
		int64_t update_timeout_ms;
	} control;
	struct {
		enum log_level level;
		enum log_format format;
		const char *access; /* file, "stderr", or NULL: no access log */
	} log;
	struct {
		int64_t header_ms, idle_ms, connect_ms, response_ms,
			total_ms;       /* 0: none (total only) */
		int64_t hello_ms;       /* to the end of a ClientHello or PROXY header: 5 s */
		int64_t tunnel_idle_ms; /* no byte either way: 1 h */
		int64_t tunnel_max_ms;  /* life of a tunnel; 0: none */
	} timeouts;
	struct {
		uint32_t head_bytes;              /* 64 KiB */
		uint32_t field_cnt;               /* 100 */
		uint32_t target_bytes;            /* 8 KiB */
		int64_t body_bytes;               /* 0: no limit */
		uint32_t connections;             /* of clients, over all workers */
		uint32_t connections_per_ip;      /* over all workers; 0: no limit */
		uint32_t connection_rate_per_ip;  /* new ones a second; 0: no limit */
		uint32_t connection_burst_per_ip; /* at once before the rate counts */
		unsigned ipv6_prefix;   /* bits of an IPv6 address that count as one client: 64 */
		uint32_t idle_upstream; /* kept per worker and target: 64 */
	} limits;
	struct {
		unsigned min_version; /* 12 or 13 */
		const char *ciphers;  /* NULL: default */
		int64_t ticket_rotation_ms;
		bool wants_placeholder; /* until the first real certificate; false: refuse the
					   handshake */
	} tls;
	struct {
		const char *email;     /* NULL: none */
		const char *directory; /* URL */
		const char *ca_file;   /* extra trust anchor; NULL */
		uint16_t port;
		int64_t renew_before_ms;   /* 0: at 2/3 of life (1/2 under 10 days) */
		bool wants_port_kept;      /* keep_port */
		unsigned max_orders;       /* at once, 16 */
		int64_t order_interval_ms; /* refill of the order bucket: 36 s; 0: no limit */
		unsigned order_burst;      /* 300 */
	} acme;
	struct {
		const char *const *servers; /* "address" or "address:port"; none: the system's */
		size_t server_cnt;
		int64_t timeout_ms;
		int64_t min_ttl_ms, max_ttl_ms;
	} dns;
	const struct config_listener *listeners;
	size_t listener_cnt;
	const struct config_upstream *upstreams; /* named ones, file order */
	size_t upstream_cnt;
	const struct config_route *routes; /* file order, disabled ones included */
	size_t route_cnt;
	struct arena *arena; /* the model's own */
};

/* Reads and checks a file. On ERR_CONFIG problems holds every finding. ERR_NOENT and ERR_SYSTEM too
 * put one there. */
enum err config_load(const char *file, struct config **ret_config, struct config_problems *reterr)
	SP_MUST_USE;
/* A new model: all of base but its routes, which come from JSON text: an array of them, or {"routes": [...]}
 * (same nouns). What is found speaks of objects and arrays. */
enum err config_with_routes(const struct config *base, const char *json, size_t len,
			    struct config **ret_config, struct config_problems *reterr) SP_MUST_USE;
void config_get(struct config *config) SP_ON_CONTROL;
void config_put(struct config *config) SP_ON_CONTROL;
/* The effective configuration as libconfig text, defaults included, that config_load reads back to
 * an equal model. */
void config_print(const struct config *config, struct text *ret_text);
/* The routes as a JSON array, same nouns. */
void config_routes_json(const struct config *config, struct text *ret_text);

/* The table of keys, for the lint test and -T: full path ("routes[].match.ports"), type, default,
 * one line of help. */
struct config_key {
	const char *path;
	const char *type;
	const char *default_text;
	const char *help;
};
const struct config_key *config_keys(size_t *ret_cnt);
