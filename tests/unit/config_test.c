#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "config_rig.h"
#include "smartproxy/fault.h"

#define TLS "tls = { certificate = { chain_file = \"c\"; key_file = \"k\"; }; }; "
/* A route with one thing wrong in its match, or in its action. */
#define IN_MATCH(text) "routes = ( { name = \"a\"; match = { " text " }; " PLAIN "} );"
#define IN_PORTS(text) IN_MATCH("ports = [ 80 ]; " text)
#define SEGMENTS_8     "/a/a/a/a/a/a/a/a"
#define SEGMENTS_64 \
	SEGMENTS_8 SEGMENTS_8 SEGMENTS_8 SEGMENTS_8 SEGMENTS_8 SEGMENTS_8 SEGMENTS_8 SEGMENTS_8
#define IN_ACTION(text)  "routes = ( { name = \"a\"; " MATCH "action = { " text " }; } );"
#define IN_FORWARD(text) IN_ACTION("type = \"forward\"; " text)
#define IN_RESPOND(text) IN_ACTION("type = \"respond\"; " text)
#define TARGET           "targets = ( { host = \"h\"; port = 1; } ); "

START_TEST(defaults_of_an_empty_file)
{
	struct config *c = load_good("");
	ck_assert_uint_eq(c->global.workers, 0);
	ck_assert_ptr_null(c->global.user);
	ck_assert_str_eq(c->global.state_dir, "/var/lib/smartproxy");
	ck_assert_int_eq(c->global.shutdown_timeout_ms, 30000);
	ck_assert_str_eq(c->control.path, "/run/smartproxy/control.sock");
	ck_assert_uint_eq(c->control.mode, 0660);
	ck_assert_int_eq(c->control.update_timeout_ms, 30000);
	ck_assert_int_eq(c->log.level, LOG_LEVEL_INFO);
	ck_assert_ptr_null(c->log.access);
	ck_assert_int_eq(c->timeouts.header_ms, 10000);
	ck_assert_int_eq(c->timeouts.idle_ms, 60000);
	ck_assert_int_eq(c->timeouts.total_ms, 0);
	ck_assert_uint_eq(c->limits.head_bytes, 65536);
	ck_assert_uint_eq(c->limits.field_cnt, 100);
	ck_assert_int_eq(c->limits.body_bytes, 0);
	ck_assert_uint_eq(c->limits.connections, 100000);
	ck_assert_uint_eq(c->tls.min_version, 12);
	ck_assert_int_eq(c->tls.ticket_rotation_ms, 43200000);
	ck_assert(c->tls.wants_placeholder);
	ck_assert_str_eq(c->acme.directory, "https://acme-v02.api.letsencrypt.org/directory");
	ck_assert_ptr_null(c->acme.ca_file);
	ck_assert_uint_eq(c->acme.port, 80);
	ck_assert_int_eq(c->acme.renew_before_ms, 0);
	ck_assert(c->acme.wants_port_kept);
	ck_assert_uint_eq(c->acme.max_orders, 16);
	ck_assert_int_eq(c->acme.order_interval_ms, 36000);
	ck_assert_uint_eq(c->acme.order_burst, 300);
	ck_assert_uint_eq(c->route_cnt, 0);
	put(c);
}
END_TEST

/* All keys of routes, in each form. */
static const char whole[] =
	"global: { workers = 2; user = \"www-data\"; log = { level = \"debug\"; format = \"json\"; "
	"access = \"stderr\"; }; control = { mode = \"0600\"; path = \"/tmp/c\"; }; };\n"
	"acme = { renew_before = \"30d\"; keep_port = false; port = 5002; };\n"
	"timeouts = { total = \"100ms\"; }; limits = { body = \"10 MiB\"; target = \"4096\"; };\n"
	"tls = { min_version = \"1.3\"; ciphers = \"ECDHE+AESGCM:!aNULL\"; };\n"
	"routes: (\n"
	"{ name = \"www\"; priority = -5; match = { ports = ( 443, \"8000-8010\" ); address = "
	"\"[::1]\";\n"
	"  domains = [ \"Example.COM.\", \"b.example.com\" ]; path = \"/users/:id/*\";\n"
	"  methods = [ \"GET\", \"PROPFIND\" ]; headers = { X-A = \"v\"; X-B = true; };\n"
	"  client_ip = [ \"10.0.0.0/8\", \"2001:db8::/32\", \"::1\" ]; tls_versions = [ \"1.3\" ]; "
	"};\n"
	"  action = { type = \"forward\"; preserve_host = false; targets = ( { host = "
	"\"Origin.example.\"; port = 81; },\n"
	"  { host = \"[2001:DB8::2]\"; port = 82; weight = 3; } );\n"
	"  tls = { certificate = \"auto\"; key_type = \"rsa3072\"; }; }; },\n"
	"{ name = \"redirect\"; enabled = false; " MATCH
	"action = { type = \"redirect\"; location = \"https://{host}:{port}{path}?{query}\"; "
	"status = 308; }; },\n"
	"{ name = \"respond\"; " MATCH "action = { type = \"respond\"; status = 418;\n"
	"  headers = ( { name = \"X-Tea\"; value = \"a\\tb \\\"c\\\" \\\\\"; } ); body = "
	"\"line\\n\\x01\xc3\xa9\"; }; },\n"
	"{ name = \"block\"; match = { ports = [ 8443 ]; headers = ( { name = \"X\"; } ); }; "
	"action = { type = \"block\"; " TLS "}; }\n"
	");\n";

START_TEST(whole_model)
{
	struct config *c = load_good(whole);
	ck_assert_uint_eq(c->route_cnt, 4);
	ck_assert_str_eq(c->log.access, "stderr");
	ck_assert_uint_eq(c->control.mode, 0600);
	ck_assert_int_eq(c->limits.body_bytes, 10 << 20);
	ck_assert_uint_eq(c->limits.target_bytes, 4096);
	const struct config_route *r = &c->routes[0];
	ck_assert_int_eq(r->priority, -5);
	ck_assert(r->is_enabled);
	ck_assert_uint_eq(r->line, 6);
	ck_assert_uint_eq(r->match.port_cnt, 2);
	ck_assert_uint_eq(r->match.ports[1].first, 8000);
	ck_assert_uint_eq(r->match.ports[1].last, 8010);
	ck_assert_str_eq(r->match.address, "::1");
	ck_assert_str_eq(r->match.domains[0], "example.com");
	ck_assert_str_eq(r->match.headers[0].name, "x-a");
	ck_assert_str_eq(r->match.headers[0].value, "v");
	ck_assert_ptr_null(r->match.headers[1].value);
	ck_assert(r->match.has_tls13 && !r->match.has_tls12);
	ck_assert(!r->action.wants_host_kept);
	ck_assert_str_eq(r->action.targets[0].host, "origin.example");
	ck_assert_uint_eq(r->action.targets[0].weight, 1);
	ck_assert_str_eq(r->action.targets[1].host, "2001:db8::2");
	ck_assert_uint_eq(r->action.targets[1].weight, 3);
	ck_assert_int_eq(r->action.tls_mode, CONFIG_TLS_TERMINATE);
	ck_assert_int_eq(r->action.key_type, CONFIG_KEY_RSA3072);
	ck_assert(!c->routes[1].is_enabled);
	ck_assert_uint_eq(c->routes[1].action.status, 308);
	ck_assert_str_eq(c->routes[2].action.headers[0].value, "a\tb \"c\" \\");
	ck_assert_str_eq(c->routes[2].action.body, "line\n\x01\xc3\xa9");
	ck_assert_uint_eq(c->routes[2].action.body_len, 8);
	ck_assert_int_eq(c->routes[3].action.tls_mode, CONFIG_TLS_TERMINATE);
	ck_assert_int_eq(c->routes[3].action.certificate, CONFIG_CERT_FILES);
	ck_assert_str_eq(c->routes[3].action.key_file, "k");
	ck_assert_uint_eq(c->routes[3].action.status, 403);
	put(c);
}
END_TEST

START_TEST(round_trip)
{
	struct config *c = load_good(_i ? whole : "");
	assert_round_trip(c);
	put(c);
}
END_TEST

/* The sample of the sources; the test program knows its own place from the build. */
START_TEST(sample_loads)
{
	char path[512];
	struct config *c = NULL;
	struct config_problems problems = { 0 };
	struct text text = { 0 };
	const char *slash = strrchr(__FILE__, '/');
	ck_assert_ptr_nonnull(slash);
	text_format(path, sizeof(path), "%.*s/../../etc/smartproxy.conf", (int)(slash - __FILE__),
		    __FILE__);
	if (access(path, R_OK))
		return; /* run from another folder */
	enum err e = config_load(path, &c, &problems);
	config_problems_text(&problems, &text);
	ck_assert_msg(e == ERR_OK, "%s", text.data ? text.data : err_text(e));
	assert_round_trip(c);
	put(c);
	text_fini(&text);
}
END_TEST

/* One finding each: where, and words of the message. */
static const struct bad bads[] = {
	{ "global = { workers = 300; };", 1, "global.workers",
	  "found 300, expected an integer from 0 to 256" },
	{ "", 0, "routes", "is missing" },
	{ "# routes = ( );\n", 0, "routes", "routes = ( );" },
	{ "global = { workers = 1; };", 0, "routes", "is missing" },
	{ "global = { workers = -1; };", 1, "global.workers", "found -1" },
	{ "global = { workers = 9999999999; };", 1, "", "larger than 2147483647" },
	{ "a1 = 0x80000000;", 1, "", "larger than 2147483647" },
	{ "global = { workers = 1.5; };", 1, "global.workers", "found 1.5" },
	{ "\n\nglobal =\n{ workers =\n\"two\"; };", 4, "global.workers",
	  "found the string \"two\"" },
	{ "global = { worker = 3; };", 1, "global.worker", "did you mean \"workers\"?" },
	{ "global = { user = \"a b\"; };", 1, "global.user", "a name of the system's users" },
	{ "global = { user = \"a b\"; group = \"g\"; };", 1, "global.user", "a name of" },
	{ "global = { user = 5; group = \"g\"; };", 1, "global.user", "found 5" },
	{ "global = { user = \"\"; group = \"g\"; };", 1, "global.group", "needs global.user" },
	{ "global = { state_dir = \"\"; };", 1, "global.state_dir", "not empty" },
	{ "global = { log = \"info\"; };", 1, "global.log", "expected a group" },
	{ "global = { log = { level = \"inof\"; }; };", 1, "global.log.level",
	  "did you mean \"info\"?" },
	{ "global = { control = { mode = \"0999\"; }; };", 1, "global.control.mode", "octal" },
	{ "global = { control = { mode = 660; }; };", 1, "global.control.mode", "octal" },
	{ "global = { shutdown_timeout = 30; };", 1, "global.shutdown_timeout", "such as \"30s\"" },
	{ "global = { shutdown_timeout = \"30 sec\"; };", 1, "global.shutdown_timeout",
	  "duration" },
	{ "global = { shutdown_timeout = \"99999999999999999999d\"; };", 1,
	  "global.shutdown_timeout", "duration" },
	{ "gobal = { };", 1, "gobal", "did you mean \"global\"?" },
	{ "keep_port = true;", 1, "keep_port", "it belongs at \"acme.keep_port\"" },
	{ "zzzzzz = true;", 1, "zzzzzz", "known here: global, acme" },
	{ "acme = { directory = \"http://127.0.0.1/dir\"; };", 1, "acme.directory", "HTTPS only" },
	{ "acme = { directory = \"https:///dir\"; };", 1, "acme.directory", "https:// URL" },
	{ "acme = { email = \"ops\"; };", 1, "acme.email", "one address" },
	{ "acme = { port = 0; };", 1, "acme.port", "from 1 to 65535" },
	{ "acme = { keep_port = 1; };", 1, "acme.keep_port", "true or false" },
	{ "timeouts = { header = \"0\"; };", 1, "timeouts.header", "from 1ms" },
	{ "limits = { head = \"65 KiB\"; };", 1, "limits.head", "from 1 KiB to 64 KiB" },
	{ "limits = { head = \"64 KB\"; };", 1, "limits.head", "such as \"16 KiB\"" },
	{ "limits = { head = \"4 KiB\"; };", 1, "limits.target", "more than limits.head" },
	{ "limits = { fields = 129; };", 1, "limits.fields", "to 128" },
	{ "limits = { body = \"99999999 TiB\"; };", 1, "limits.body", "size" },
	{ "tls = { min_version = \"1.1\"; };", 1, "tls.min_version",
	  "expected \"1.2\" or \"1.3\"" },
	{ "routes = { };", 1, "routes", "a list of groups" },
	{ "routes = ( 1 );", 1, "routes[0]", "found 1, expected a group" },
	{ "routes = ( { " MATCH PLAIN "} );", 1, "routes[0].name", "is missing" },
	{ "routes = ( { name = \"a b\"; " MATCH PLAIN "} );", 1, "routes[0].name", "1 to 128" },
	{ "routes = ( { name = \"a\"; " PLAIN "} );", 1, "routes[0].match", "is missing" },
	{ "routes = ( { name = \"a\"; " MATCH "} );", 1, "routes[0].action", "is missing" },
	{ "routes = ( { name = \"a\"; " MATCH PLAIN "},\n{ name = \"a\"; " MATCH PLAIN "} );", 2,
	  "routes[1].name", "taken by routes[0] (line 1)" },
	{ IN_MATCH(""), 1, "routes[0].match.ports", "is missing" },
	{ IN_MATCH("ports = [ ];"), 1, "routes[0].match.ports", "a list of ports" },
	{ IN_MATCH("ports = 80;"), 1, "routes[0].match.ports", "a list of ports" },
	{ IN_MATCH("ports = [ 0 ];"), 1, "routes[0].match.ports[0]", "found 0" },
	{ IN_MATCH("ports = ( 80, 65536 );"), 1, "routes[0].match.ports[1]", "found 65536" },
	{ IN_MATCH("ports = [ \"90-80\" ];"), 1, "routes[0].match.ports[0]", "range" },
	{ IN_MATCH("ports = [ \"80-\" ];"), 1, "routes[0].match.ports[0]", "range" },
	{ IN_MATCH("ports = [ \"80-65536\" ];"), 1, "routes[0].match.ports[0]", "range" },
	{ IN_MATCH("ports = [ 80, \"90\" ];"), 1, "", "( ) around a mixed list" },
	{ IN_PORTS("address = \"localhost\";"), 1, "routes[0].match.address", "IPv4 or IPv6" },
	{ IN_PORTS("port = 80;"), 1, "routes[0].match.port", "did you mean \"ports\"?" },
	{ IN_PORTS("domain = [ \"a\" ];"), 1, "routes[0].match.domain",
	  "did you mean \"domains\"?" },
	{ IN_PORTS("domains = \"a\";"), 1, "routes[0].match.domains", "a list of strings" },
	{ IN_PORTS("domains = [ 1 ];"), 1, "routes[0].match.domains[0]",
	  "found 1, expected a string" },
	{ IN_PORTS("domains = [ \"a.b\", \"b\xc3\xbc"
		   "cher.example\" ];"),
	  1, "routes[0].match.domains[1]", "xn--" },
	{ IN_PORTS("domains = [ \"*\" ];"), 1, "routes[0].match.domains[0]", "leave out the key" },
	{ IN_PORTS("domains = [ \"a.*.b\" ];"), 1, "routes[0].match.domains[0]",
	  "whole first label" },
	{ IN_PORTS("domains = [ \"*a.b\" ];"), 1, "routes[0].match.domains[0]",
	  "whole first label" },
	{ IN_PORTS("domains = [ \"a..b\" ];"), 1, "routes[0].match.domains[0]", "labels" },
	{ IN_PORTS("domains = [ \"-a.b\" ];"), 1, "routes[0].match.domains[0]", "labels" },
	{ IN_PORTS("domains = [ \"a-.b\" ];"), 1, "routes[0].match.domains[0]", "labels" },
	{ IN_PORTS("domains = [ \"\" ];"), 1, "routes[0].match.domains[0]", "labels" },
	{ IN_PORTS("domains = [ \".\" ];"), 1, "routes[0].match.domains[0]", "labels" },
	{ IN_PORTS("domains = [ \"**.\" ];"), 1, "routes[0].match.domains[0]", "" },
	{ IN_PORTS("domains = [ \"a.b:80\" ];"), 1, "routes[0].match.domains[0]",
	  "without scheme, port" },
	{ IN_PORTS("domains = [ "
		   "\"0123456789012345678901234567890123456789012345678901234567890123.b\" ];"),
	  1, "routes[0].match.domains[0]", "labels" },
	{ IN_PORTS("path = \"api\";"), 1, "routes[0].match.path", "begins with \"/\"" },
	{ IN_PORTS("path = \"/a*\";"), 1, "routes[0].match.path", "whole last segment" },
	{ IN_PORTS("path = \"/*/a\";"), 1, "routes[0].match.path", "whole last segment" },
	{ IN_PORTS("path = \"/a?b\";"), 1, "routes[0].match.path", "without query" },
	{ IN_PORTS("path = \"/a b\";"), 1, "routes[0].match.path", "%XX" },
	{ IN_PORTS("path = \"/%4\";"), 1, "routes[0].match.path", "hexadecimal" },
	{ IN_PORTS("path = \"/a%00\";"), 1, "routes[0].match.path", "let in" },
	{ IN_PORTS("path = \"/a/%2e%2E\";"), 1, "routes[0].match.path", "normalised" },
	{ IN_PORTS("path = \"" SEGMENTS_64 SEGMENTS_64 "\";"), 1, "routes[0].match.path",
	  "127 segments" },
	{ IN_PORTS("path = \"/a//b\";"), 1, "routes[0].match.path", "normalised" },
	{ IN_PORTS("path = \"/a/../b\";"), 1, "routes[0].match.path", "normalised" },
	{ IN_PORTS("path = \"/:\";"), 1, "routes[0].match.path", "a name after" },
	{ IN_PORTS("path = \"/:a-b\";"), 1, "routes[0].match.path", "a name of letters" },
	{ IN_PORTS("methods = [ \"get\" ];"), 1, "routes[0].match.methods[0]", "capitals" },
	{ IN_PORTS("methods = [ \"GE T\" ];"), 1, "routes[0].match.methods[0]", "request method" },
	{ IN_PORTS("headers = { X = 1; };"), 1, "routes[0].match.headers.X", "expected a string" },
	{ IN_PORTS("headers = ( { name = \"a b\"; } );"), 1, "routes[0].match.headers[0].name",
	  "header field" },
	{ IN_PORTS("headers = ( { name = \"a\"; value = \"b\\n\"; } );"), 1,
	  "routes[0].match.headers[0].value", "control" },
	{ IN_PORTS("headers = 1;"), 1, "routes[0].match.headers", "a list (" },
	{ IN_PORTS("client_ip = [ \"10.0.0.1/8\" ];"), 1, "routes[0].match.client_ip[0]",
	  "beyond the prefix" },
	{ IN_PORTS("client_ip = [ \"10.0.0.0/33\" ];"), 1, "routes[0].match.client_ip[0]",
	  "a block such as" },
	{ IN_PORTS("client_ip = [ \"10.0.0.0/\" ];"), 1, "routes[0].match.client_ip[0]",
	  "a block such as" },
	{ IN_PORTS("client_ip = [ \"2001:db8::1/32\" ];"), 1, "routes[0].match.client_ip[0]",
	  "beyond the prefix" },
	{ IN_PORTS("client_ip = [ \"10.0.0\" ];"), 1, "routes[0].match.client_ip[0]",
	  "a block such as" },
	{ IN_PORTS("tls_versions = [ \"1.3\" ];"), 1, "routes[0].match.tls_versions",
	  "needs action.tls" },
	{ IN_PORTS("tls_versions = [ \"1.4\" ]; };" PLAIN
		   "},{ name=\"b\"; match = { ports = [ 80 ];"),
	  1, "routes[0].match.tls_versions[0]", "expected \"1.2\"" },
	{ IN_ACTION("type = \"redirct\";"), 1, "routes[0].action.type",
	  "did you mean \"redirect\"?" },
	{ IN_ACTION(TARGET), 1, "routes[0].action.type", "is missing" },
	{ IN_ACTION("type = \"block\"; " TARGET), 1, "routes[0].action.targets",
	  "belongs to a route of type \"forward\"" },
	{ IN_ACTION("type = \"block\"; status = 404;"), 1, "routes[0].action.status",
	  "\"redirect\" or \"respond\"" },
	{ IN_FORWARD(""), 1, "routes[0].action.targets", "needs one target" },
	{ IN_FORWARD("targets = ( );"), 1, "routes[0].action.targets", "needs one target" },
	{ IN_FORWARD(TARGET "body = \"x\";"), 1, "routes[0].action.body",
	  "belongs to a route of type \"respond\"" },
	{ IN_FORWARD("targets = ( { host = \"h\"; } );"), 1, "routes[0].action.targets[0].port",
	  "is missing" },
	{ IN_FORWARD("targets = ( { port = 1; } );"), 1, "routes[0].action.targets[0].host",
	  "is missing" },
	{ IN_FORWARD("targets = ( { host = \"h:80\"; port = 1; } );"), 1,
	  "routes[0].action.targets[0].host", "key of its own" },
	{ IN_FORWARD("targets = ( { host = \"h\"; port = 1; weight = 0; } );"), 1,
	  "routes[0].action.targets[0].weight", "from 1 to 256" },
	{ IN_ACTION("type = \"redirect\";"), 1, "routes[0].action.location", "needs a location" },
	{ IN_ACTION("type = \"redirect\"; location = \"https://{hots}\";"), 1,
	  "routes[0].action.location", "{host}, {path}" },
	{ IN_ACTION("type = \"redirect\"; location = \"https://{host\";"), 1,
	  "routes[0].action.location", "{host}, {path}" },
	{ IN_ACTION("type = \"redirect\"; location = \"https://host}\";"), 1,
	  "routes[0].action.location", "before each" },
	{ IN_ACTION("type = \"redirect\"; location = \"example.com\";"), 1,
	  "routes[0].action.location", "a URL such as" },
	{ IN_ACTION("type = \"redirect\"; location = \"/\"; status = 300;"), 1,
	  "routes[0].action.status", "307 or 308" },
	{ IN_RESPOND("status = 100;"), 1, "routes[0].action.status", "from 200 to 599" },
	{ IN_RESPOND("status = 204; body = \"x\";"), 1, "routes[0].action.body", "no body" },
	{ IN_RESPOND("body = \"\xff\";"), 1, "routes[0].action.body", "UTF-8" },
	{ IN_RESPOND("body = \"\xed\xa0\x80\";"), 1, "routes[0].action.body", "UTF-8" },
	{ IN_RESPOND("headers = { Content-Length = \"1\"; };"), 1,
	  "routes[0].action.headers.Content-Length", "does not write itself" },
	{ IN_RESPOND("headers = ( { name = \"X\"; } );"), 1, "routes[0].action.headers[0].value",
	  "is missing" },
	{ IN_RESPOND("headers = { X = true; };"), 1, "routes[0].action.headers.X",
	  "expected a string" },
	{ IN_RESPOND("tls = { };"), 1, "routes[0].action.tls.certificate", "is missing" },
	{ IN_RESPOND("tls = { certificate = \"auot\"; };"), 1, "routes[0].action.tls.certificate",
	  "\"auto\" or a group" },
	{ IN_RESPOND("tls = { certificate = { chain_file = \"c\"; }; };"), 1,
	  "routes[0].action.tls.certificate.key_file", "is missing" },
	{ IN_RESPOND("tls = { key_type = \"p384\"; certificate = { chain_file = \"c\"; key_file = "
		     "\"k\"; }; };"),
	  1, "routes[0].action.tls.key_type", "belongs to the certificate \"auto\"" },
	{ "acme = { port = 81; };" IN_RESPOND("tls = { certificate = \"auto\"; };"), 1,
	  "routes[0].action.tls.certificate", "needs match.domains" },
	{ "routes = ( { name = \"a\"; match = { ports = [ 443 ]; domains = [ \"*.a.b\" ]; }; "
	  "action = { type = \"block\"; tls = { "
	  "certificate = \"auto\"; }; }; } );",
	  1, "routes[0].match.domains[0]", "dns-01" },
	{ "routes = ( { name = \"a\"; match = { ports = [ 443 ]; domains = [ \"a.b\", \"A.b\" ]; "
	  "}; action = { type = \"block\"; "
	  "tls = { certificate = \"auto\"; }; }; } );",
	  1, "routes[0].match.domains[1]", "given twice" },
	{ "routes = ( { name = \"a\"; match = { ports = [ 80 ]; domains = [ \"a.b\" ]; }; action = "
	  "{ type = \"block\"; "
	  "tls = { certificate = \"auto\"; }; }; } );",
	  1, "routes[0].match.ports", "port 80 is acme.port" },
	{ "routes = ( { name = \"tls\"; match = { ports = [ \"90-99\" ]; }; action = { type = "
	  "\"block\"; " TLS "}; },\n"
	  "{ name = \"plain\"; match = { ports = [ 95 ]; }; " PLAIN "} );",
	  2, "routes[1].match.ports",
	  "port 95 is TLS for route \"tls\" (line 1) and plain HTTP for route \"plain\" (line 2)" },
	{ "routes = ( { name = \"plain\"; match = { ports = [ 95 ]; address = \"127.0.0.1\"; "
	  "}; " PLAIN "},\n"
	  "{ name = \"tls\"; match = { ports = [ 95 ]; }; action = { type = \"block\"; " TLS
	  "}; } );",
	  2, "routes[1].match.ports", "port 95" },
	{ "routes = (\n{ name = \"a\" }", 2, "", "syntax error" },
	{ "global = { workers = 1; workers = 2; };", 1, "", "duplicate" },
	{ "@include \"none.conf\"", 1, "", "cannot include" },
	{ "@include \"/tmp\"", 1, "", "not a regular file" },
	{ "\n @include \"test.conf\"", 2, "", "10 deep" },
};

START_TEST(one_finding)
{
	/* With "1.4", plain TLS versions are a second one. */
	assert_finding(&bads[_i], !strstr(bads[_i].text, "1.4"));
}
END_TEST

START_TEST(all_findings_in_file_order)
{
	static const char text[] =
		"routes = (\n{ nam = \"a\";\nmatch = { ports = [ 0 ]; };\n"
		"action = { type = \"forward\"; body = \"\"; }; },\n"
		"{ name = \"b\"; match = { ports = [ 70000 ]; }; " PLAIN "}\n);\n"
		"limits = { heads = 1; fields = 0; };\n";
	static const unsigned lines[] = { 2, 2, 3, 4, 4, 5, 7, 7 };
	struct config *config = NULL;
	struct config_problems problems = { 0 };
	ck_assert_int_eq(load_bytes(text, sizeof(text) - 1, &config, &problems), ERR_CONFIG);
	ck_assert_uint_eq(problems.cnt, SP_ARRAY_LEN(lines));
	for (size_t i = 0; i < problems.cnt; i++)
		ck_assert_uint_eq(problems.items[i].line, lines[i]);
	config_problems_fini(&problems);
}
END_TEST

static const char *const goods[] = {
	IN_PORTS("domains = [ \"**.a.b\", \"*.b\", \"xn--bcher-kva.example\", \"10.0.0.1\" ];"),
	IN_PORTS("path = \"/*\";"),
	IN_PORTS("path = \"/\";"),
	IN_PORTS("path = \"/a/:b/c%20d/\";"),
	IN_PORTS("path = \"" SEGMENTS_64 "\";"),
	IN_PORTS("client_ip = ( \"0.0.0.0/0\", \"::/0\", \"192.0.2.1/32\" );"),
	IN_RESPOND("status = 204;"),
	/* Plain and TLS on one port: on different addresses, or when one of them is not served. */
	"routes = ( { name = \"a\"; match = { ports = [ 95 ]; address = \"127.0.0.1\"; }; " PLAIN
	"},"
	"{ name = \"b\"; match = { ports = [ 95 ]; address = \"127.0.0.2\"; }; action = { type = "
	"\"block\"; " TLS "}; },"
	"{ name = \"c\"; enabled = false; match = { ports = [ 95 ]; address = \"127.0.0.1\"; }; "
	"action = { type = \"block\"; " TLS "}; } );",
	/* An include in a comment or a string is none. */
	"# x\n/*\n@include \"none\"\n*/\n//\"\nglobal = { state_dir = \"\\\"\"; };\n",
};

START_TEST(good_rows)
{
	struct config *c = load_good(goods[_i]);
	assert_round_trip(c);
	put(c);
}
END_TEST

START_TEST(includes)
{
	char path[128];
	struct config *c = NULL;
	struct config_problems problems = { 0 };
	static const char a[] = "global = {\n@include \"b.conf\"\nworkers = 3; };",
			  b[] = "user = \"u\";\n";
	write_file("a.conf", a, sizeof(a) - 1, path);
	write_file("b.conf", b, sizeof(b) - 1, path);
	c = load_good("@include \"a.conf\"\nlimits = { fields = 7; };");
	ck_assert_uint_eq(c->global.workers, 3);
	ck_assert_str_eq(c->global.user, "u");
	ck_assert_uint_eq(c->limits.field_cnt, 7);
	put(c);
	static const char bad[] = "user = 1;\n;;";
	write_file("b.conf", bad, sizeof(bad) - 3, path);
	static const char top[] = "\n@include \"a.conf\" x = 1;\ny = 2;";
	ck_assert_int_eq(load_bytes(top, sizeof(top) - 1, &c, &problems), ERR_CONFIG);
	ck_assert_uint_eq(problems.cnt, 3);
	ck_assert_uint_eq(problems.items[0].line, 1);
	ck_assert_str_eq(strrchr(problems.items[0].file, '/'), "/b.conf");
	ck_assert_uint_eq(problems.items[1].line, 2);
	ck_assert_str_eq(strrchr(problems.items[1].file, '/'), "/test.conf");
	ck_assert_uint_eq(problems.items[2].line, 3);
	config_problems_fini(&problems);
	write_file("b.conf", bad, sizeof(bad) - 1, path); /* a syntax error in the inner file */
	ck_assert_int_eq(load_bytes(top, sizeof(top) - 1, &c, &problems), ERR_CONFIG);
	ck_assert_uint_eq(problems.cnt, 1);
	ck_assert_uint_eq(problems.items[0].line, 2);
	ck_assert_str_eq(strrchr(problems.items[0].file, '/'), "/b.conf");
	config_problems_fini(&problems);
}
END_TEST

START_TEST(unreadable_files)
{
	struct config *c = NULL;
	struct config_problems problems = { 0 };
	ck_assert_int_eq(config_load("/nonexistent/x.conf", &c, &problems), ERR_NOENT);
	ck_assert_int_eq(config_load(folder, &c, &problems), ERR_CONFIG);
	ck_assert_int_eq(load_bytes("a\0b", 3, &c, &problems), ERR_CONFIG);
	ck_assert_uint_eq(problems.cnt, 3);
	ck_assert_ptr_nonnull(strstr(problems.items[0].message, "No such file"));
	ck_assert_ptr_nonnull(strstr(problems.items[1].message, "regular file"));
	ck_assert_ptr_nonnull(strstr(problems.items[2].message, "NUL"));
	config_problems_fini(&problems);
}
END_TEST

static const struct {
	const char *json, *path, *message;
} bad_jsons[] = {
	{ "", "", "JSON" },
	{ "[", "", "column" },
	{ "[\n{ \"name\": \"a\", \"name\": \"b\" } ]", "", "duplicate" },
	{ "{\"routes\": 5}", "routes", "found 5, expected an array of objects [{...}, {...}]" },
	{ "{}", "routes", "expected an array of routes, or {\"routes\": [...]}" },
	{ "{\"routes\": {}}", "routes", "found an object, expected an array of objects" },
	{ "{\"routes\": [], \"a\": 1}", "a", "unknown key here; expected an array of routes" },
	{ "[ [] ]", "routes[0]", "found an array, expected an object {...}" },
	{ "[{\"name\":\"a\",\"match\":{\"ports\":80},\"action\":{\"type\":\"block\"}}]",
	  "routes[0].match.ports",
	  "found 80, expected an array of ports and ranges, such as [443, " },
	{ "[{\"name\":\"a\",\"match\":{\"ports\":[80]},\"action\":{\"type\":\"forward\","
	  "\"targets\":[]}}]",
	  "routes[0].action.targets", "[{\"host\": \"10.0.0.10\", \"port\": 8080}]" },
	{ "[{\"name\":\"a\",\"match\":{\"ports\":[80]},\"action\":{\"type\":\"respond\","
	  "\"status\":200,\"tls\":{\"mode\":\"terminate\"}}}]",
	  "routes[0].action.tls.certificate", "an object {\"chain_file\": \"...\"" },
	{ "[ null ]", "routes[0]", "found null" },
	{ "[ { \"name\": \"a\\u0000\" } ]", "", "JSON" },
	{ "[{\"name\":\"a\",\"match\":{\"ports\":[80]},\"action\":{\"type\":\"block\"},\"\\u0007\":"
	  "1}]",
	  "routes[0].\\x07", "unknown key" },
	{ "[{\"name\":\"a\",\"match\":{\"ports\":[80,\"1-x\"]},\"action\":{\"type\":\"block\"}}]",
	  "routes[0].match.ports[1]", "range" },
	{ "[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]", "", "nested deeper" },
};

START_TEST(json_findings)
{
	struct config *base = load_good(""), *c = NULL;
	struct config_problems problems = { 0 };
	const char *json = bad_jsons[_i].json;
	ck_assert_int_eq(config_with_routes(base, json, strlen(json), &c, &problems), ERR_CONFIG);
	ck_assert_ptr_null(c);
	ck_assert_uint_eq(problems.cnt, 1);
	ck_assert_str_eq(problems.items[0].path, bad_jsons[_i].path);
	ck_assert_msg(strstr(problems.items[0].message, bad_jsons[_i].message), "%s",
		      problems.items[0].message);
	config_problems_fini(&problems);
	put(base);
}
END_TEST

/* Whatever a file holds, it is refused or loaded, and nothing leaks or is read beyond its end. */
START_TEST(damaged_files)
{
	char bytes[sizeof(whole)];
	unsigned seed = 1;
	for (size_t i = 0; i < 1500; i++) {
		struct config *c = NULL;
		struct config_problems problems = { 0 };
		size_t len = sizeof(whole) - 1;
		memcpy(bytes, whole, sizeof(whole));
		for (size_t j = 0; j < 1 + i % 4; j++) {
			seed = seed * 1103515245 + 12345;
			bytes[(seed >> 8) % len] =
				(char)(i % 3 ? (uint8_t) "\"{}()[];,=@ 0a\\#"[(seed >> 4) % 16]
					     : (uint8_t)(seed >> 16));
		}
		if (i % 5 == 0)
			len = (seed >> 8) % len;
		enum err e = load_bytes(bytes, len, &c, &problems);
		ck_assert(e == ERR_OK || (e == ERR_CONFIG && problems.cnt > 0) || e == ERR_NOENT);
		put(c);
		config_problems_fini(&problems);
	}
}
END_TEST

START_TEST(deep_nesting)
{
	static char text[100000];
	struct config *c = NULL;
	struct config_problems problems = { 0 };
	memset(text, '(', sizeof(text));
	memcpy(text, "a = ", 4);
	ck_assert_int_eq(load_bytes(text, sizeof(text), &c, &problems), ERR_CONFIG);
	memset(text + 30, ')', 26);
	ck_assert_int_eq(load_bytes(text, 56, &c, &problems), ERR_CONFIG);
	ck_assert_uint_eq(problems.cnt, 2);
	ck_assert_ptr_nonnull(strstr(problems.items[1].message, "nested deeper"));
	config_problems_fini(&problems);
}
END_TEST

/* JSON of many routes; every one listens on all ports, so that anything quadratic shows. */
START_TEST(many_routes)
{
	const size_t cnt = 20000;
	struct config *base = load_good(""), *c = NULL;
	struct config_problems problems = { 0 };
	struct text json = { 0 };
	struct timespec start, end;
	for (size_t i = 0; i < cnt; i++)
		text_printf(&json,
			    "%s{\"name\":\"r%zu\",\"match\":{\"ports\":[\"1-65535\"],\"address\":"
			    "\"10.%zu.%zu.1\"},\"action\":{\"type\":\"block\"}}",
			    i ? "," : "[", i, i / 256, i % 256);
	text_puts(&json, "]");
	ck_assert(!json.has_failed);
	ck_assert_int_eq(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start), 0);
	ck_assert_int_eq(config_with_routes(base, json.data, json.len, &c, &problems), ERR_OK);
	ck_assert_int_eq(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end), 0);
	ck_assert_uint_eq(c->route_cnt, cnt);
	ck_assert_int_lt(end.tv_sec - start.tv_sec, 20); /* 0.2 s without sanitizers */
	put(c);
	put(base);
	text_fini(&json);
}
END_TEST

START_TEST(references)
{
	sp_role_assume_control();
	struct config *c = load_good("");
	config_get(c);
	config_put(c);
	ck_assert_uint_eq(c->ref_cnt, 1);
	config_put(c);
	config_put(NULL);
}
END_TEST

START_TEST(memory_runs_out)
{
	size_t failed_cnt = 0;
	char path[128];
	write_file("test.conf", whole, sizeof(whole) - 1, path);
	ck_assert_int_eq(setenv("SMARTPROXY_FAULTS", "malloc=0.1", 1), 0);
	fault_init();
	for (int i = 0; i < 200; i++) {
		struct config *c = NULL, *other = NULL;
		struct config_problems problems = { 0 };
		enum err e = config_load(path, &c, &problems);
		ck_assert(e == ERR_OK || e == ERR_NOMEM);
		failed_cnt += e == ERR_NOMEM;
		if (c) {
			e = config_with_routes(c, "[]", 2, &other, &problems);
			ck_assert(e == ERR_OK || e == ERR_NOMEM);
		}
		ck_assert_uint_eq(problems.cnt, 0);
		put(c);
		put(other);
		config_problems_fini(&problems);
	}
	ck_assert_uint_gt(failed_cnt, 0);
	ck_assert_uint_lt(failed_cnt, 200);
}
END_TEST

START_TEST(list_of_keys)
{
	size_t cnt = 0;
	const struct config_key *keys = config_keys(&cnt);
	bool has_ports = false;
	ck_assert_uint_gt(cnt, 60);
	for (size_t i = 0; i < cnt; i++) {
		ck_assert(*keys[i].path && *keys[i].type && *keys[i].help);
		has_ports |= strcmp(keys[i].path, "routes[].match.ports") == 0;
	}
	ck_assert(has_ports);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("config");
	TCase *tc = tcase_create("config");
	tcase_add_checked_fixture(tc, make_folder, remove_folder);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, defaults_of_an_empty_file);
	tcase_add_test(tc, whole_model);
	tcase_add_loop_test(tc, round_trip, 0, 2);
	tcase_add_test(tc, sample_loads);
	tcase_add_loop_test(tc, one_finding, 0, SP_ARRAY_LEN(bads));
	tcase_add_test(tc, all_findings_in_file_order);
	tcase_add_loop_test(tc, good_rows, 0, SP_ARRAY_LEN(goods));
	tcase_add_test(tc, includes);
	tcase_add_test(tc, unreadable_files);
	tcase_add_loop_test(tc, json_findings, 0, SP_ARRAY_LEN(bad_jsons));
	tcase_add_test(tc, damaged_files);
	tcase_add_test(tc, deep_nesting);
	tcase_add_test(tc, many_routes);
	tcase_add_test(tc, references);
	tcase_add_test(tc, memory_runs_out);
	tcase_add_test(tc, list_of_keys);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
