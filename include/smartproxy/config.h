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
	const char *host; /* address or name */
	uint16_t port;
	unsigned weight; /* 1 to 256 */
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
};
struct config_action_data {
	enum config_action type;
	const struct config_target *targets; /* forward */
	size_t target_cnt;
	bool wants_host_kept; /* forward: preserve_host, default true */
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
	unsigned line; /* 0 when it came by the API */
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
			total_ms; /* 0: none (total only) */
	} timeouts;
	struct {
		uint32_t head_bytes;    /* 64 KiB */
		uint32_t field_cnt;     /* 100 */
		uint32_t target_bytes;  /* 8 KiB */
		int64_t body_bytes;     /* 0: no limit */
		uint32_t connections;   /* per worker */
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
	const struct config_route *routes; /* file order, disabled ones included */
	size_t route_cnt;
	struct arena *arena; /* the model's own */
};

/* Reads and checks a file. On ERR_CONFIG problems holds every finding. ERR_NOENT and ERR_SYSTEM too
 * put one there. */
enum err config_load(const char *file, struct config **ret_config, struct config_problems *reterr)
	SP_MUST_USE;
/* A new model: all of base but its routes, which come from a JSON array (same nouns, jansson text).
 */
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
