/* What of upstreams, listeners, tunnels and limits does not fit together, and what does. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "config_rig.h"

#define TARGET            "targets = ( { host = \"h\"; port = 1; } ); "
#define FILES             "certificate = { chain_file = \"c\"; key_file = \"k\"; }; "
#define NO_ROUTES         "routes = ( ); "
#define UPSTREAM(text)    NO_ROUTES "upstreams = ( { name = \"u\"; " text " } );"
#define IN_UPSTREAM(text) UPSTREAM(TARGET text)
#define IN_TARGET(text)   UPSTREAM("targets = ( { host = \"h\"; port = 1; " text " } );")
#define IN_CHECK(text)    IN_UPSTREAM("check = { " text " };")
#define ROUTE(match, action) \
	"{ name = \"a\"; match = { ports = [ 443 ]; " match " }; action = { " action " }; }"
#define ROUTES(match, action)  "routes = ( " ROUTE(match, action) " );"
#define FORWARD(match, action) ROUTES(match, "type = \"forward\"; " action)
#define RAW(match, action)     FORWARD(match, "protocol = \"tcp\"; " TARGET action)
#define PASSED(match, action)  FORWARD(match, TARGET action " tls = { mode = \"passthrough\"; };")
#define TLS(text)              FORWARD("", TARGET "tls = { " text " };")
/* A TCP route to an upstream that balances so. */
#define BALANCED(text)                                       \
	FORWARD("", "protocol = \"tcp\"; upstream = \"u\";") \
	"\nupstreams = ( { name = \"u\"; " TARGET text " } );"
#define NAMED(name, match, action)                \
	"{ name = \"" name "\"; match = { " match \
	" }; action = { type = \"forward\"; " TARGET action " }; }"
#define RAW_NAMED(name, match) NAMED(name, match, "protocol = \"tcp\";")
#define TRUSTED                "proxy_protocol = { trusted = [ \"10.0.0.0/8\" ]; }; "
#define LISTENERS(text)        NO_ROUTES "listeners = ( " text " );"

/* One target of a route of its own, with more. */
#define PLACED(name, port, target, action)                                                       \
	"{ name = \"" name "\"; match = { ports = [ " port                                       \
	" ]; domains = [ \"a.example\" ]; }; action = { type = \"forward\"; targets = ( { host " \
	"= \"h\"; port = 1; " target " } ); " action " }; }"
#define PLACES(first, second) "routes = ( " first ",\n" second " );"
#define IN_TLS(text) \
	"tls = { mode = \"terminate-and-reencrypt\"; " FILES "upstream = { " text " }; };"

static const struct bad bads[] = {
	/* one target, one count of places */
	{ PLACES(PLACED("a", "80", "max_connections = 1;", ""),
		 PLACED("b", "81", "max_connections = 5;", "")),
	  2, "routes[1].action.targets[0].max_connections",
	  "is 5, and 1 in routes[0].action.targets[0]" },
	{ PLACES(PLACED("a", "80", "max_connections = 1;", ""), PLACED("b", "81", "", "")), 2,
	  "routes[1].action.targets[0].max_connections", "is 0, and 1 in" },
	{ PLACES(PLACED("a", "80", "max_connections = 1;", IN_TLS("server_name = \"n\";")),
		 PLACED("b", "81", "", IN_TLS("server_name = \"n\";"))),
	  2, "routes[1].action.targets[0].max_connections", "write the same number" },
	{ UPSTREAM("max_connections = 3; targets = ( { host = \"h\"; port = 1; }, { host = \"h\"; "
		   "port = 1; max_connections = 4; } );"),
	  1, "upstreams[0].targets[1].max_connections", "is 4, and 3 in upstreams[0].targets[0]" },
	/* dns, timeouts, limits */
	{ NO_ROUTES "dns = { servers = \"127.0.0.1\"; };", 1, "dns.servers", "list of strings" },
	{ NO_ROUTES "dns = { servers = [ \"ns.example\" ]; };", 1, "dns.servers[0]", "an address" },
	{ NO_ROUTES "dns = { servers = [ \"\" ]; };", 1, "dns.servers[0]", "an address" },
	{ NO_ROUTES "dns = { servers = [ \"127.0.0.1:0\" ]; };", 1, "dns.servers[0]",
	  "an address" },
	{ NO_ROUTES "dns = { servers = [ \"127.0.0.1:65536\" ]; };", 1, "dns.servers[0]",
	  "an address" },
	{ NO_ROUTES "dns = { servers = [ \"127.0.0.1:\" ]; };", 1, "dns.servers[0]", "an address" },
	{ NO_ROUTES "dns = { servers = [ \"[127.0.0.1]:53\" ]; };", 1, "dns.servers[0]",
	  "an address" },
	{ NO_ROUTES "dns = { servers = [ \"[::1]53\" ]; };", 1, "dns.servers[0]", "an address" },
	{ NO_ROUTES "dns = { servers = [ \"]:53\" ]; };", 1, "dns.servers[0]", "an address" },
	{ NO_ROUTES "dns = { timeout = \"0\"; };", 1, "dns.timeout", "from 10ms to 1m" },
	{ NO_ROUTES "dns = { min_ttl = \"0\"; };", 1, "dns.min_ttl", "from 10ms" },
	{ NO_ROUTES "dns = { max_ttl = \"8d\"; };", 1, "dns.max_ttl", "to 7d" },
	{ NO_ROUTES "dns = { min_ttl = \"2h\"; };", 1, "dns.min_ttl", "more than dns.max_ttl" },
	{ NO_ROUTES "dns = { max_ttl = \"500ms\"; };", 1, "dns.min_ttl", "more than dns.max_ttl" },
	{ NO_ROUTES "dns = { server = [ ]; };", 1, "dns.server", "did you mean \"servers\"?" },
	{ NO_ROUTES "timeouts = { hello = \"0\"; };", 1, "timeouts.hello", "from 1ms to 1h" },
	{ NO_ROUTES "timeouts = { tunnel_idle = \"0\"; };", 1, "timeouts.tunnel_idle", "from 1ms" },
	{ NO_ROUTES "timeouts = { tunnel_max = \"3651d\"; };", 1, "timeouts.tunnel_max",
	  "to 3650d" },
	{ NO_ROUTES "limits = { connections = 0; };", 1, "limits.connections", "from 1 to" },
	{ NO_ROUTES "limits = { connections_per_ip = -1; };", 1, "limits.connections_per_ip",
	  "found -1" },
	{ NO_ROUTES "limits = { connection_rate_per_ip = 1000001; };", 1,
	  "limits.connection_rate_per_ip", "to 1000000" },
	{ NO_ROUTES "limits = { connection_burst_per_ip = 5; };", 1,
	  "limits.connection_burst_per_ip", "needs limits.connection_rate_per_ip" },
	{ NO_ROUTES "limits = { ipv6_prefix = 129; };", 1, "limits.ipv6_prefix", "from 1 to 128" },
	/* listeners */
	{ LISTENERS("{ " TRUSTED " }"), 1, "listeners[0].ports", "is missing" },
	{ LISTENERS("{ ports = [ 0 ]; " TRUSTED " }"), 1, "listeners[0].ports[0]",
	  "from 1 to 65535" },
	{ LISTENERS("{ ports = [ 443 ]; address = \"x\"; " TRUSTED " }"), 1, "listeners[0].address",
	  "IPv4 or IPv6" },
	{ LISTENERS("{ ports = [ 443 ]; }"), 1, "listeners[0]",
	  "give it proxy_protocol, defer_accept or both" },
	{ LISTENERS("{ ports = [ 443 ]; proxy_protocol = { }; }"), 1,
	  "listeners[0].proxy_protocol.trusted", "is missing" },
	{ LISTENERS("{ ports = [ 443 ]; proxy_protocol = { trusted = [ ]; }; }"), 1,
	  "listeners[0].proxy_protocol.trusted", "one address or block at least" },
	{ LISTENERS("{ ports = [ 443 ]; proxy_protocol = { trusted = [ \"10.0.0.1/8\" ]; }; }"), 1,
	  "listeners[0].proxy_protocol.trusted[0]", "beyond the prefix" },
	{ LISTENERS("{ ports = [ \"440-450\" ]; " TRUSTED " },\n{ ports = [ 443 ]; " TRUSTED " }"),
	  2, "listeners[1].ports", "port 443 is in listeners[0] (line 1) already" },
	{ LISTENERS("{ ports = ( 80, \"79-81\" ); " TRUSTED " }"), 1, "listeners[0].ports",
	  "port 80 is in listeners[0]" },
	{ LISTENERS("{ ports = [ 443 ]; defer_accept = \"yes\"; }"), 1, "listeners[0].defer_accept",
	  "true or false" },
	/* upstreams */
	{ NO_ROUTES "upstreams = ( { " TARGET " } );", 1, "upstreams[0].name", "is missing" },
	{ NO_ROUTES "upstreams = ( { name = \"a b\"; " TARGET " } );", 1, "upstreams[0].name",
	  "1 to 128" },
	{ NO_ROUTES "upstreams = ( { name = \"a\"; " TARGET " },\n{ name = \"a\"; " TARGET " } );",
	  2, "upstreams[1].name", "taken by upstreams[0] (line 1)" },
	{ UPSTREAM(""), 1, "upstreams[0].targets", "is missing" },
	{ UPSTREAM("targets = ( );"), 1, "upstreams[0].targets", "one target at least" },
	{ UPSTREAM("targets = ( { port = 1; } );"), 1, "upstreams[0].targets[0].host",
	  "is missing" },
	{ UPSTREAM("targets = ( { host = \"h\"; } );"), 1, "upstreams[0].targets[0].port",
	  "is missing" },
	{ UPSTREAM("targets = ( { host = \"h\"; port = 0; } );"), 1, "upstreams[0].targets[0].port",
	  "from 1 to 65535 or \"preserve\"" },
	{ UPSTREAM("targets = ( { host = \"h\"; port = \"perserve\"; } );"), 1,
	  "upstreams[0].targets[0].port", "did you mean \"preserve\"?" },
	{ UPSTREAM("targets = ( { host = \"h\"; port = \"80\"; } );"), 1,
	  "upstreams[0].targets[0].port", "found the string \"80\"" },
	{ IN_TARGET("weight = 257;"), 1, "upstreams[0].targets[0].weight", "from 1 to 256" },
	{ IN_TARGET("backup = 1;"), 1, "upstreams[0].targets[0].backup", "true or false" },
	{ IN_TARGET("max_connections = -1;"), 1, "upstreams[0].targets[0].max_connections",
	  "from 0" },
	{ IN_TARGET("proxy_protocol = \"v3\";"), 1, "upstreams[0].targets[0].proxy_protocol",
	  "\"none\", \"v1\" or \"v2\"" },
	{ IN_UPSTREAM("balance = \"roundrobin\";"), 1, "upstreams[0].balance",
	  "did you mean \"round-robin\"?" },
	{ IN_UPSTREAM("hash_key = \"path\";"), 1, "upstreams[0].hash_key",
	  "belongs to balance \"hash\"; this one is \"p2c\"" },
	{ IN_UPSTREAM("balance = \"sticky\"; hash_bound = 0;"), 1, "upstreams[0].hash_bound",
	  "belongs to balance \"hash\"; this one is \"sticky\"" },
	{ IN_UPSTREAM("balance = \"hash\"; cookie = \"x\";"), 1, "upstreams[0].cookie",
	  "belongs to balance \"sticky\"; this one is \"hash\"" },
	{ IN_UPSTREAM("balance = \"sticky\"; cookie = \"a b\";"), 1, "upstreams[0].cookie",
	  "name of a cookie" },
	{ IN_UPSTREAM("balance = \"sticky\"; cookie = \"\";"), 1, "upstreams[0].cookie",
	  "name of a cookie" },
	{ IN_UPSTREAM("balance = \"hash\"; hash_key = \"ip\";"), 1, "upstreams[0].hash_key",
	  "\"header:NAME\"" },
	{ IN_UPSTREAM("balance = \"hash\"; hash_key = \"header:\";"), 1, "upstreams[0].hash_key",
	  "header field" },
	{ IN_UPSTREAM("balance = \"hash\"; hash_key = \"cookie:a b\";"), 1, "upstreams[0].hash_key",
	  "name of a cookie" },
	{ IN_UPSTREAM("balance = \"hash\"; hash_key = \"pathx\";"), 1, "upstreams[0].hash_key",
	  "\"path\"" },
	{ IN_UPSTREAM("balance = \"hash\"; hash_key = 1;"), 1, "upstreams[0].hash_key", "found 1" },
	{ IN_UPSTREAM("balance = \"hash\"; hash_bound = 99;"), 1, "upstreams[0].hash_bound",
	  "100 to 1000" },
	{ IN_UPSTREAM("balance = \"hash\"; hash_bound = 1001;"), 1, "upstreams[0].hash_bound",
	  "to 1000" },
	{ IN_UPSTREAM("max_connections = 1000001;"), 1, "upstreams[0].max_connections",
	  "to 1000000" },
	{ IN_UPSTREAM("queue = -1;"), 1, "upstreams[0].queue", "from 0" },
	{ IN_UPSTREAM("queue_timeout = \"0\";"), 1, "upstreams[0].queue_timeout",
	  "from 1ms to 1h" },
	{ IN_UPSTREAM("slow_start = \"2h\";"), 1, "upstreams[0].slow_start", "from 0 to 1h" },
	{ IN_CHECK("type = \"ping\";"), 1, "upstreams[0].check.type",
	  "\"none\", \"tcp\", \"http\" or \"https\"" },
	{ IN_CHECK("path = \"/\";"), 1, "upstreams[0].check.path",
	  "belongs to checks of type \"http\" or \"https\"; this one is \"none\"" },
	{ IN_CHECK("type = \"tcp\"; host = \"h\";"), 1, "upstreams[0].check.host",
	  "\"https\"; this one is \"tcp\"" },
	{ IN_CHECK("type = \"tcp\"; status = \"200\";"), 1, "upstreams[0].check.status",
	  "belongs to checks" },
	{ IN_CHECK("type = \"http\"; path = \"up\";"), 1, "upstreams[0].check.path",
	  "begins with \"/\"" },
	{ IN_CHECK("type = \"http\"; path = \"/a b\";"), 1, "upstreams[0].check.path", "%XX" },
	{ IN_CHECK("type = \"http\"; host = \"a b\";"), 1, "upstreams[0].check.host", "host name" },
	{ IN_CHECK("type = \"http\"; status = 200;"), 1, "upstreams[0].check.status", "found 200" },
	{ IN_CHECK("type = \"http\"; status = \"2xx\";"), 1, "upstreams[0].check.status",
	  "such as \"200-399\"" },
	{ IN_CHECK("type = \"http\"; status = \"300-200\";"), 1, "upstreams[0].check.status",
	  "a status from 100 to 599" },
	{ IN_CHECK("type = \"http\"; status = \"099\";"), 1, "upstreams[0].check.status",
	  "from 100" },
	{ IN_CHECK("type = \"http\"; status = \"200-\";"), 1, "upstreams[0].check.status",
	  "from 100" },
	{ IN_CHECK("type = \"http\"; status = \"200-600\";"), 1, "upstreams[0].check.status",
	  "to 599" },
	{ IN_CHECK("type = \"tcp\"; port = 65536;"), 1, "upstreams[0].check.port",
	  "from 0 to 65535" },
	{ IN_CHECK("interval = \"9ms\";"), 1, "upstreams[0].check.interval", "from 10ms to 1d" },
	{ IN_CHECK("timeout = \"0\";"), 1, "upstreams[0].check.timeout", "from 1ms to 1h" },
	{ IN_CHECK("timeout = \"6s\";"), 1, "upstreams[0].check.timeout",
	  "more than check.interval" },
	{ IN_CHECK("interval = \"1s\";"), 1, "upstreams[0].check.timeout",
	  "more than check.interval" },
	{ IN_CHECK("rise = 0;"), 1, "upstreams[0].check.rise", "from 1 to 1000" },
	{ IN_CHECK("fall = 0;"), 1, "upstreams[0].check.fall", "from 1 to 1000" },
	{ UPSTREAM("check = { type = \"tcp\"; }; targets = ( { host = \"g\"; port = 1; }, { host = "
		   "\"h\"; port = \"preserve\"; } );"),
	  1, "upstreams[0].check.port", "targets[1] has the port \"preserve\"" },
	{ IN_UPSTREAM("ejection = { failures = -1; };"), 1, "upstreams[0].ejection.failures",
	  "from 0" },
	{ IN_UPSTREAM("ejection = { time = \"0\"; };"), 1, "upstreams[0].ejection.time",
	  "from 1ms" },
	{ IN_UPSTREAM("ejection = { max_share = 101; };"), 1, "upstreams[0].ejection.max_share",
	  "to 100" },
	{ IN_UPSTREAM("retry = { tries = 0; };"), 1, "upstreams[0].retry.tries", "from 1 to 8" },
	{ IN_UPSTREAM("retry = { tries = 9; };"), 1, "upstreams[0].retry.tries", "from 1 to 8" },
	{ IN_UPSTREAM("retry = { budget = 1001; };"), 1, "upstreams[0].retry.budget", "to 1000" },
	/* Which upstream a route has. */
	{ FORWARD("", ""), 1, "routes[0].action.targets", "or an upstream" },
	{ FORWARD("", "upstream = \"u\";"), 1, "routes[0].action.upstream",
	  "no upstream has the name \"u\": add one to \"upstreams\"" },
	{ FORWARD("", "upstream = \"backned\";") "\nupstreams = ( { name = \"other\"; " TARGET
						 "}, { name = \"backend\"; " TARGET "} );",
	  1, "routes[0].action.upstream", "did you mean \"backend\"?" },
	{ FORWARD("", "upstream = \"u\"; " TARGET) "upstreams = ( { name = \"u\"; " TARGET "} );",
	  1, "routes[0].action.upstream", "the one or the other" },
	{ FORWARD("",
		  "upstream = \"u\"; balance = \"p2c\";") "upstreams = ( { name = \"u\"; " TARGET
							  "} );",
	  1, "routes[0].action.balance", "belongs to targets" },
	{ FORWARD("", TARGET "balance = \"hashed\";"), 1, "routes[0].action.balance",
	  "did you mean \"hash\"?" },
	{ FORWARD("", TARGET "hash_key = \"path\";"), 1, "routes[0].action.hash_key",
	  "it belongs at \"upstreams[].hash_key\"" },
	{ ROUTES("", "type = \"block\"; upstream = \"u\";"), 1, "routes[0].action.upstream",
	  "belongs to a route of type \"forward\"" },
	{ ROUTES("", "type = \"block\"; balance = \"p2c\";"), 1, "routes[0].action.balance",
	  "belongs to a route of type \"forward\"" },
	{ ROUTES("", "type = \"block\"; protocol = \"tcp\";"), 1, "routes[0].action.protocol",
	  "belongs to a route of type \"forward\"" },
	{ FORWARD("", TARGET "protocol = \"udp\";"), 1, "routes[0].action.protocol",
	  "\"http\" or \"tcp\"" },
	{ "routes = ( { name = \"a\"; max_connections = -1; match = { ports = [ 80 ]; }; " PLAIN
	  "} );",
	  1, "routes[0].max_connections", "from 0" },
	/* What TCP cannot do. */
	{ BALANCED("balance = \"sticky\";"), 1, "routes[0].action.upstream",
	  "upstream \"u\" (line 2) balances by a sticky cookie, which route \"a\" does not have" },
	{ BALANCED("balance = \"hash\"; hash_key = \"path\";"), 1, "routes[0].action.upstream",
	  "balances by the path" },
	{ BALANCED("balance = \"hash\"; hash_key = \"header:x\";"), 1, "routes[0].action.upstream",
	  "balances by a header field" },
	{ BALANCED("balance = \"hash\"; hash_key = \"cookie:x\";"), 1, "routes[0].action.upstream",
	  "balances by a cookie" },
	{ RAW("", "balance = \"sticky\";"), 1, "routes[0].action.balance",
	  "needs a sticky cookie, which route \"a\" does not have" },
	{ PASSED("", "balance = \"sticky\";"), 1, "routes[0].action.balance", "it forwards TCP" },
	{ RAW("path = \"/\";", ""), 1, "routes[0].match.path", "is of HTTP requests" },
	{ RAW("methods = [ \"GET\" ];", ""), 1, "routes[0].match.methods", "is of HTTP requests" },
	{ RAW("headers = { X = \"y\"; };", ""), 1, "routes[0].match.headers",
	  "is of HTTP requests" },
	{ PASSED("path = \"/\";", ""), 1, "routes[0].match.path", "is of HTTP requests" },
	{ PASSED("methods = [ \"GET\" ];", ""), 1, "routes[0].match.methods",
	  "is of HTTP requests" },
	{ PASSED("headers = { X = \"y\"; };", ""), 1, "routes[0].match.headers",
	  "is of HTTP requests" },
	{ PASSED("tls_versions = [ \"1.3\" ];", ""), 1, "routes[0].match.tls_versions",
	  "before the handshake" },
	{ RAW("domains = [ \"a.b\" ];", ""), 1, "routes[0].match.domains",
	  "nothing names a host on a raw TCP port" },
	{ RAW("tls_versions = [ \"1.3\" ];", ""), 1, "routes[0].match.tls_versions",
	  "needs action.tls" },
	{ RAW("alpn = [ \"h2\" ];", ""), 1, "routes[0].match.alpn", "TCP behind TLS" },
	{ RAW("", "preserve_host = true;"), 1, "routes[0].action.preserve_host",
	  "is of HTTP requests" },
	{ FORWARD("alpn = [ \"h2\" ];", TARGET), 1, "routes[0].match.alpn", "TCP behind TLS" },
	{ FORWARD("alpn = [ \"h2\" ];", TARGET "tls = { " FILES "};"), 1, "routes[0].match.alpn",
	  "TCP behind TLS" },
	{ PASSED("alpn = [ \"\" ];", ""), 1, "routes[0].match.alpn[0]", "name of a protocol" },
	{ PASSED("alpn = \"h2\";", ""), 1, "routes[0].match.alpn", "list of strings" },
	/* TLS */
	{ TLS("mode = \"passthru\"; " FILES), 1, "routes[0].action.tls.mode",
	  "expected \"terminate\", \"passthrough\"" },
	{ TLS("mode = \"passthrough\"; " FILES), 1, "routes[0].action.tls.certificate",
	  "the target shows its own certificate" },
	{ TLS("mode = \"passthrough\"; certificate = \"auto\";"), 1,
	  "routes[0].action.tls.certificate", "the target shows its own certificate" },
	{ TLS("mode = \"passthrough\"; key_type = \"p256\";"), 1, "routes[0].action.tls.key_type",
	  "the target shows its own certificate" },
	{ PASSED("", "protocol = \"http\";"), 1, "routes[0].action.protocol",
	  "\"passthrough\" forwards the bytes of TLS unread" },
	{ ROUTES("", "type = \"block\"; tls = { mode = \"passthrough\"; };"), 1,
	  "routes[0].action.tls.mode", "\"passthrough\" is for routes of type \"forward\"" },
	{ ROUTES("", "type = \"respond\"; tls = { mode = \"terminate-and-reencrypt\"; " FILES "};"),
	  1, "routes[0].action.tls.mode", "is for routes of type \"forward\"" },
	{ TLS("mode = \"terminate-and-reencrypt\";"), 1, "routes[0].action.tls.certificate",
	  "is missing" },
	{ TLS(FILES "upstream = { verify = true; };"), 1, "routes[0].action.tls.upstream",
	  "belongs to mode \"terminate-and-reencrypt\"" },
	{ TLS("mode = \"passthrough\"; upstream = { };"), 1, "routes[0].action.tls.upstream",
	  "belongs to mode \"terminate-and-reencrypt\"" },
#define AGAIN(text) TLS("mode = \"terminate-and-reencrypt\"; " FILES "upstream = { " text " };")
	{ AGAIN("verify = 0;"), 1, "routes[0].action.tls.upstream.verify", "true or false" },
	{ AGAIN("ca_file = 1;"), 1, "routes[0].action.tls.upstream.ca_file", "a string" },
	{ AGAIN("server_name = \"a b\";"), 1, "routes[0].action.tls.upstream.server_name",
	  "host name" },
	{ AGAIN("certificate = \"auto\";"), 1, "routes[0].action.tls.upstream.certificate",
	  "expected a group" },
	{ AGAIN("certificate = { chain_file = \"c\"; };"), 1,
	  "routes[0].action.tls.upstream.certificate.key_file", "is missing" },
	{ AGAIN("certificate = { key_file = \"k\"; };"), 1,
	  "routes[0].action.tls.upstream.certificate.chain_file", "is missing" },
	{ AGAIN("verfy = true;"), 1, "routes[0].action.tls.upstream.verfy",
	  "did you mean \"verify\"?" },
	/* Ports of one kind; raw TCP routes that nothing tells apart. */
	{ "routes = ( " RAW_NAMED("raw", "ports = [ 90 ];") ",\n" NAMED(
		  "http", "ports = [ \"80-90\" ];", "") " );",
	  2, "routes[1].match.ports",
	  "port 90 is plain HTTP for route \"http\" (line 2) and raw TCP for route \"raw\" (line "
	  "1)" },
	{ "routes = ( " NAMED(
		  "passed", "ports = [ 90 ];",
		  "tls = { mode = \"passthrough\"; };") ",\n" RAW_NAMED("raw",
									"ports = [ 90 ]; address = "
									"\"127.0.0.1\";") " );",
	  2, "routes[1].match.ports", "port 90 is TLS for route \"passed\" (line 1) and raw TCP" },
	{ "routes = ( " NAMED("passed", "ports = [ 90 ];",
			      "tls = { mode = \"passthrough\"; };") ",\n" NAMED("http",
										"ports = [ 90 ];",
										"") " );",
	  2, "routes[1].match.ports",
	  "port 90 is TLS for route \"passed\" (line 1) and plain HTTP" },
	{ "routes = ( " RAW_NAMED("a", "ports = [ 90 ];") ",\n" RAW_NAMED(
		  "b", "ports = [ \"85-95\" ];") " );",
	  2, "routes[1].match.ports", "port 90 is raw TCP for route \"a\" (line 1) too" },
	{ "routes = ( " RAW_NAMED(
		  "a",
		  "ports = [ 90 ]; client_ip = [ \"10.0.0.0/8\" ];") ",\n" RAW_NAMED("b",
										     "ports = [ 90 "
										     "]; client_ip "
										     "= [ "
										     "\"10.0.0.0/"
										     "8\" ];") " )"
											       ";",
	  2, "routes[1].match.ports", "never reached" },
	{ "acme = { port = 90; }; routes = ( " RAW_NAMED("a", "ports = [ 90 ];") ",\n" NAMED(
		  "b", "ports = [ 443 ]; domains = [ \"a.b\" ];",
		  "tls = { certificate = \"auto\"; };") " );",
	  1, "routes[0].match.ports", "route \"a\" (line 1) cannot have raw TCP on it" },
	{ "acme = { port = 90; }; routes = ( " NAMED(
		  "a", "ports = [ 90 ];",
		  "tls = { mode = \"passthrough\"; };") ",\n" NAMED("b",
								    "ports = [ 443 ]; domains = [ "
								    "\"a.b\" ];",
								    "tls = { certificate = "
								    "\"auto\"; };") " );",
	  1, "routes[0].match.ports", "cannot have TLS on it" },
};

START_TEST(one_finding)
{
	assert_finding(&bads[_i], true);
}
END_TEST

static const char *const goods[] = {
	/* The same number, or another target. */
	PLACES(PLACED("a", "80", "max_connections = 1;", ""),
	       PLACED("b", "81", "max_connections = 1;", "")),
	PLACES(PLACED("a", "80", "max_connections = 1;", ""),
	       PLACED("b", "81", "proxy_protocol = \"v1\";", "")),
	PLACES(PLACED("a", "80", "max_connections = 1;", ""), PLACED("b", "81", "", IN_TLS(""))),
	PLACES(PLACED("a", "80", "max_connections = 1;", IN_TLS("server_name = \"n\";")),
	       PLACED("b", "81", "", IN_TLS("server_name = \"o\";"))),
	"routes = ( " PLACED("a", "80", "max_connections = 1;", "") " ); upstreams = ( { name = "
								    "\"u\"; " TARGET " } );",
	NO_ROUTES "dns = { servers = ( ); };",
	NO_ROUTES "dns = { servers = [ \"[::1]\", \"::ffff:192.0.2.1\" ]; min_ttl = \"1h\"; };",
	/* Another address: another listener. No route needs to be there. */
	LISTENERS("{ ports = [ 443 ]; " TRUSTED
		  "}, { ports = [ 443 ]; address = \"127.0.0.1\"; " TRUSTED "}"),
	NO_ROUTES "upstreams = ( );",
	IN_UPSTREAM("balance = \"hash\"; hash_key = \"cookie:Sid\"; hash_bound = 0;"),
	IN_UPSTREAM("balance = \"hash\"; hash_key = \"path\"; hash_bound = 100;"),
	IN_UPSTREAM("balance = \"hash\"; hash_key = \"client_ip\"; hash_bound = 1000;"),
	IN_CHECK("type = \"http\"; status = \"100-599\"; interval = \"2s\";"),
	IN_CHECK("type = \"none\"; rise = 1;"),
	UPSTREAM("check = { type = \"tcp\"; port = 7; }; targets = ( { host = \"h\"; port = "
		 "\"preserve\"; } );"),
	UPSTREAM("targets = ( { host = \"h\"; port = \"preserve\"; } );"),
	/* HTTP may balance by what is in a request, whatever a TCP route beside it can do. */
	"routes = ( " ROUTE("", "type = \"forward\"; upstream = \"u\"; tls = { " FILES
				"};") " );"
				      "upstreams = ( { name = \"u\"; " TARGET
				      "balance = \"sticky\"; } );",
	FORWARD("", TARGET "balance = \"sticky\";"),
	RAW("", "balance = \"hash\";"),
	RAW("client_ip = [ \"10.0.0.0/8\" ];", ""),
	PASSED("domains = [ \"*.a.b\" ]; alpn = [ \"h2\", \"http/1.1\" ];", "protocol = \"tcp\";"),
	FORWARD("", "targets = ( { host = \"h\"; port = 1; proxy_protocol = \"v2\"; } );"),
	/* TLS that ends here, TLS that passes and TCP behind TLS on one port. */
	"routes = ( " NAMED("a", "ports = [ 443 ];", "tls = { mode = \"passthrough\"; };") "," NAMED(
		"b", "ports = [ 443 ]; domains = [ \"b.c\" ];",
		"tls = { " FILES
		"};") "," NAMED("c", "ports = [ 443 ]; alpn = [ \"x\" ];",
				"protocol = \"tcp\"; tls = { " FILES
				"};") "," NAMED("d", "ports = [ 443 ];",
						"tls = { mode = \"terminate-and-reencrypt\"; " FILES
						"};") " );",
	/* Raw TCP on one port: told apart by address or client_ip, or not served. */
	"routes = ( " RAW_NAMED("a", "ports = [ 90 ];") "," RAW_NAMED(
		"b",
		"ports = [ 90 ]; "
		"client_ip = [ "
		"\"10.0.0.0/8\" ];") "," RAW_NAMED("c",
						   "ports = [ 90 ]; address = "
						   "\"127.0.0.1\";") "," RAW_NAMED("d", "ports"
											" = ( "
											"91, "
											"\"91-"
											"92\" "
											");") " );",
	/* acme.port matters for "auto" alone. */
	"acme = { port = 90; }; routes = ( " RAW_NAMED("a", "ports = [ 90 ];") " );",
	NO_ROUTES "limits = { connection_rate_per_ip = 5; connection_burst_per_ip = 1; };",
	RAW("", "") "listeners = ( { ports = [ 443 ]; defer_accept = true; } );",
	PASSED("", "") "listeners = ( { ports = [ \"1-500\" ]; defer_accept = true; } );",
	NO_ROUTES "listeners = ( { ports = [ 80 ]; defer_accept = false; " TRUSTED " } );",
};

static bool prints(const struct config *c, const char *line)
{
	struct text text = { 0 };
	config_print(c, &text);
	bool is_there = strstr(text.data, line) != NULL;
	text_fini(&text);
	return is_there;
}

START_TEST(a_listener_prints_what_it_says)
{
	struct config *c = load_good("listeners = ( { ports = [ 80 ]; " TRUSTED " } );");
	ck_assert(prints(c, "defer_accept = true;") && prints(c, "proxy_protocol"));
	put(c);
	c = load_good("listeners = ( { ports = [ 80 ]; defer_accept = false; } );");
	ck_assert(prints(c, "defer_accept = false;") && !prints(c, "proxy_protocol"));
	put(c);
}
END_TEST

START_TEST(good_rows)
{
	struct config *c = load_good(goods[_i]);
	assert_round_trip(c);
	put(c);
}
END_TEST

START_TEST(findings_are_all_reported)
{
	static const char text[] = "upstreams = ( { name = \"u\"; targets = ( );\nhash_key = "
				   "\"path\";\ncheck = { type = "
				   "\"tcp\"; path = \"/\"; timeout = \"1h\"; }; } );\n"
				   "routes = ( { name = \"a\"; match = { ports = [ 1 ];\npath = "
				   "\"/\"; domains = [ \"a\" ]; "
				   "};\naction = { type = \"forward\"; protocol = \"tcp\"; "
				   "upstream = \"v\"; }; } );\n";
	static const unsigned lines[] = { 1, 2, 3, 3, 5, 5, 6 };
	struct config *config = NULL;
	struct config_problems problems = { 0 };
	ck_assert_int_eq(load_bytes(text, sizeof(text) - 1, &config, &problems), ERR_CONFIG);
	ck_assert_uint_eq(problems.cnt, SP_ARRAY_LEN(lines));
	for (size_t i = 0; i < problems.cnt; i++)
		ck_assert_uint_eq(problems.items[i].line, lines[i]);
	config_problems_fini(&problems);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("config_edge");
	TCase *tc = tcase_create("config_edge");
	tcase_add_checked_fixture(tc, make_folder, remove_folder);
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, one_finding, 0, SP_ARRAY_LEN(bads));
	tcase_add_loop_test(tc, good_rows, 0, SP_ARRAY_LEN(goods));
	tcase_add_test(tc, a_listener_prints_what_it_says);
	tcase_add_test(tc, findings_are_all_reported);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
