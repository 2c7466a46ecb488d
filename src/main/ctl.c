/* smartproxyctl: the client of the admin API. Exit codes: 0 done, 1 the proxy refused, 2 usage, 3
 * no connection. */
#include "ctl.h"

#include <curl/curl.h>
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "smartproxy/assert.h"
#include "smartproxy/text.h"

#define DEFAULT_SOCKET "/run/smartproxy/control.sock"
#define WAIT_S         3600L /* above the largest global.control.update_timeout */

enum exit_code { EXIT_DONE, EXIT_REFUSED, EXIT_USAGE, EXIT_NO_CONNECTION };

static const struct verb {
	const char *name, *method, *path;
	void (*print)(const json_t *answer); /* NULL: as it comes */
	const char *parameter;               /* of the query, from an argument; NULL: none */
	const char *help;
} verbs[] = {
	{ "status", "GET", "/v1/status", ctl_print_status, NULL,
	  "the proxy and its challenge route" },
	{ "routes", "GET", "/v1/routes", ctl_print_routes, NULL, "the routes in force" },
	{ "certs", "GET", "/v1/certificates", ctl_print_certs, NULL, "the certificates of ours" },
	{ "ports", "GET", "/v1/listeners", ctl_print_ports, NULL, "the ports it listens on" },
	{ "connections", "GET", "/v1/connections", ctl_print_connections, "limit",
	  "client connections open now, 1000 at most without MAX" },
	{ "upstreams", "GET", "/v1/upstreams", ctl_print_upstreams, NULL,
	  "the targets: state, load, last failure" },
	{ "reload", "POST", "/v1/reload", ctl_print_applied, NULL,
	  "read the configuration again, wait until it is applied" },
	{ "renew", "POST", "/v1/certificates/renew", ctl_print_applied, "name",
	  "renew one certificate now, or all" },
	{ "metrics", "GET", "/metrics", NULL, NULL, "the metrics, in the Prometheus text format" },
};

struct request {
	const struct verb *verb;
	const char *socket;
	const char *argument; /* of the verb; NULL: none */
	bool wants_json;
};

static const char *usage_of(const struct verb *verb)
{
	if (verb->parameter == NULL)
		return verb->name;
	return strcmp(verb->parameter, "name") == 0 ? "renew [NAME]" : "connections [MAX]";
}

static void print_usage(FILE *file)
{
	(void)fputs("Usage: smartproxyctl [-s SOCKET] [--json] VERB\n\n", file);
	for (size_t i = 0; i < SP_ARRAY_LEN(verbs); i++)
		(void)fprintf(file, "  %-18s %s\n", usage_of(&verbs[i]), verbs[i].help);
	(void)fputs("  help               this\n\n"
		    "  -s, --socket SOCKET  (default $SMARTPROXY_SOCKET, else " DEFAULT_SOCKET ")\n"
		    "  -j, --json           print the proxy's answer as it is\n"
		    "  -V, --version        print the version\n"
		    "  -h, --help           print this\n\n"
		    "Exit code: 0 done, 1 the proxy refused, 2 usage, 3 no connection.\n",
		    file);
}

static size_t on_data(char *data, size_t size, size_t cnt, void *arg)
{
	struct text *body = arg;
	text_add(body, data, size * cnt);
	return body->has_failed ? 0 : size * cnt;
}

static int explain_failure(const struct request *request, CURLcode code, CURL *curl)
{
	long os_errno = 0;
	(void)curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &os_errno);
	if (strlen(request->socket) >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
		(void)fprintf(stderr,
			      "smartproxyctl: %s: the path is longer than the 107 bytes that the "
			      "kernel allows for a socket\n",
			      request->socket);
		return EXIT_NO_CONNECTION;
	}
	/* libcurl does not keep the errno of a Unix socket in every version. */
	bool exists = access(request->socket, F_OK) == 0;
	bool is_ours = access(request->socket, W_OK) == 0;
	if (code != CURLE_COULDNT_CONNECT)
		(void)fprintf(stderr, "smartproxyctl: %s: %s\n", request->socket,
			      curl_easy_strerror(code));
	else if (!exists && errno != EACCES)
		(void)fprintf(stderr,
			      "smartproxyctl: %s: there is no such socket: the proxy does not run, "
			      "or its "
			      "global.control.path is another one (-s SOCKET)\n",
			      request->socket);
	else if (!is_ours)
		(void)fprintf(
			stderr,
			"smartproxyctl: %s: you may not use this socket: become root or a member "
			"of its group (global.control.mode)\n",
			request->socket);
	else
		(void)fprintf(
			stderr,
			"smartproxyctl: %s: nobody answers on this socket: the proxy does not run "
			"any more%s%s\n",
			request->socket, os_errno != 0 ? ": " : "",
			os_errno != 0 ? strerrordesc_np((int)os_errno) : "");
	return EXIT_NO_CONNECTION;
}

static int show(const struct request *request, const struct text *body, long status)
{
	const char *data = body->data != NULL ? body->data : "";
	bool is_ok = status >= 200 && status < 300;
	if (request->wants_json || (is_ok && request->verb->print == NULL)) {
		(void)fputs(data, stdout);
		return is_ok ? EXIT_DONE : EXIT_REFUSED;
	}
	json_t *answer = json_loadb(data, body->len, 0, NULL);
	if (answer == NULL) {
		(void)fprintf(stderr, "smartproxyctl: the answer (status %ld) is no JSON\n",
			      status);
		return EXIT_REFUSED;
	}
	if (is_ok)
		request->verb->print(answer);
	else
		ctl_print_error(answer, status);
	json_decref(answer);
	return is_ok ? EXIT_DONE : EXIT_REFUSED;
}

static bool build_url(const struct request *request, CURL *curl, struct text *ret_url)
{
	text_printf(ret_url, "http://localhost%s", request->verb->path);
	if (request->argument != NULL) {
		char *value = curl_easy_escape(curl, request->argument, 0);
		if (value == NULL)
			return false;
		text_printf(ret_url, "?%s=%s", request->verb->parameter, value);
		curl_free(value);
	}
	return !ret_url->has_failed;
}

static int perform(const struct request *request)
{
	struct text url = { 0 }, body = { 0 };
	int code = EXIT_NO_CONNECTION;
	if (curl_global_init(CURL_GLOBAL_NOTHING) != CURLE_OK)
		return code;
	CURL *curl = curl_easy_init();
	if (curl == NULL || !build_url(request, curl, &url))
		goto out;
	(void)curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, request->socket);
	(void)curl_easy_setopt(curl, CURLOPT_PROXY, "");
	(void)curl_easy_setopt(curl, CURLOPT_URL, url.data);
	(void)curl_easy_setopt(curl, CURLOPT_TIMEOUT, WAIT_S);
	(void)curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data);
	(void)curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
	if (strcmp(request->verb->method, "POST") == 0) {
		(void)curl_easy_setopt(curl, CURLOPT_POST, 1L);
		(void)curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, 0L);
	}
	CURLcode rc = curl_easy_perform(curl);
	if (rc != CURLE_OK) {
		code = explain_failure(request, rc, curl);
	} else {
		long status = 0;
		(void)curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
		code = show(request, &body, status);
	}
out:
	text_fini(&body);
	text_fini(&url);
	curl_easy_cleanup(curl);
	curl_global_cleanup();
	return code;
}

static bool choose_verb(int argc, char **argv, struct request *request)
{
	const char *name = optind < argc ? argv[optind] : NULL;
	for (size_t i = 0; name != NULL && i < SP_ARRAY_LEN(verbs); i++) {
		if (strcmp(verbs[i].name, name) == 0)
			request->verb = &verbs[i];
	}
	if (request->verb == NULL) {
		if (name != NULL)
			(void)fprintf(stderr, "smartproxyctl: there is no verb %s\n", name);
		return false;
	}
	if (request->verb->parameter != NULL && optind + 1 < argc)
		request->argument = argv[++optind];
	if (optind + 1 == argc)
		return true;
	(void)fprintf(stderr, "smartproxyctl: unexpected argument %s\n", argv[optind + 1]);
	return false;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "socket", required_argument, NULL, 's' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ NULL, 0, NULL, 0 },
	};
	struct request request = { .socket = secure_getenv("SMARTPROXY_SOCKET") };
	if (request.socket == NULL || request.socket[0] == '\0')
		request.socket = DEFAULT_SOCKET;
	int option;
	/* NOLINTNEXTLINE(concurrency-mt-unsafe): there is no other thread */
	while ((option = getopt_long(argc, argv, "s:jhV", options, NULL)) != -1) {
		if (option == 's') {
			request.socket = optarg;
		} else if (option == 'j') {
			request.wants_json = true;
		} else if (option == 'h') {
			print_usage(stdout);
			return EXIT_DONE;
		} else if (option == 'V') {
			(void)puts("smartproxyctl " SP_VERSION);
			return EXIT_DONE;
		} else {
			print_usage(stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc && strcmp(argv[optind], "help") == 0) {
		print_usage(stdout);
		return EXIT_DONE;
	}
	if (!choose_verb(argc, argv, &request)) {
		print_usage(stderr);
		return EXIT_USAGE;
	}
	return perform(&request);
}
