#include "http.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "smartproxy/assert.h"
#include "smartproxy/log.h"
#include "smartproxy/rcu.h"

#define CONNECT_TIMEOUT_MS 10000L
#define TOTAL_TIMEOUT_MS   30000L
#define BODY_MAX_BYTES     ((size_t)1024 * 1024)
#define FIELD_MAX_BYTES    2048
#define CONNECTIONS_MAX    24L

struct http {
	struct loop *loop;
	CURLM *multi;
	struct timer timer;
	struct task kick; /* libcurl wants to be called at once, but not from its own callback */
	bool is_kick_posted, wants_kick;
	bool is_dead; /* freed by the kick that is still posted */
	struct list calls;
	char *ca_file;
};

struct http_call {
	struct list link;
	struct http *http;
	CURL *easy;
	struct curl_slist *fields;
	http_done *done;
	void *arg;
	bool has_written, is_stale, is_too_large;
	struct text body;
	char nonce[FIELD_MAX_BYTES], location[FIELD_MAX_BYTES], retry_after[128];
	char error_text[CURL_ERROR_SIZE];
};

struct http_socket { /* a descriptor of libcurl's; freed in the turn in which libcurl lets go */
	struct io io;
	struct task free_task;
	struct http *http;
};

/* ---- the answer's bytes ---- */
static size_t on_body(char *data, size_t size, size_t cnt, void *arg)
{
	struct http_call *call = arg;
	size_t len = size * cnt;
	if (call->body.len + len > BODY_MAX_BYTES) {
		call->is_too_large = true;
		return 0;
	}
	text_add(&call->body, data, len);
	return call->body.has_failed ? 0 : len;
}

/* A value with control bytes or too long is as good as absent. */
static bool copy_field(const char *line, size_t len, const char *name, char *dst, size_t cap)
{
	size_t name_len = strlen(name);
	if (len <= name_len || line[name_len] != ':' || strncasecmp(line, name, name_len) != 0)
		return false;
	const char *at = line + name_len + 1, *end = line + len;
	while (at < end && (*at == ' ' || *at == '\t'))
		at++;
	while (end > at &&
	       (end[-1] == '\r' || end[-1] == '\n' || end[-1] == ' ' || end[-1] == '\t'))
		end--;
	size_t value_len = (size_t)(end - at);
	dst[0] = 0;
	if (value_len >= cap)
		return true;
	for (size_t i = 0; i < value_len; i++)
		if ((unsigned char)at[i] < 0x20 || (unsigned char)at[i] > 0x7e)
			return true;
	memcpy(dst, at, value_len);
	dst[value_len] = 0;
	return true;
}

static size_t on_field(char *data, size_t size, size_t cnt, void *arg)
{
	struct http_call *call = arg;
	size_t len = size * cnt;
	if (!copy_field(data, len, "Replay-Nonce", call->nonce, sizeof(call->nonce)) &&
	    !copy_field(data, len, "Location", call->location, sizeof(call->location)))
		copy_field(data, len, "Retry-After", call->retry_after, sizeof(call->retry_after));
	return len;
}

/* libcurl repeats a request by itself when a kept connection was dead; a signed body must not go
 * out twice. */
static int on_write(void *arg, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
	struct http_call *call = arg;
	(void)remote_ip, (void)local_ip, (void)remote_port, (void)local_port;
	if (call->has_written) {
		call->is_stale = true;
		return CURL_PREREQFUNC_ABORT;
	}
	call->has_written = true;
	return CURL_PREREQFUNC_OK;
}

/* ---- completion ---- */
static void free_call(struct http_call *call)
{
	list_remove(&call->link);
	curl_multi_remove_handle(call->http->multi, call->easy);
	curl_easy_cleanup(call->easy);
	curl_slist_free_all(call->fields);
	text_fini(&call->body);
	free(call);
}

static enum err map_code(const struct http_call *call, CURLcode code)
{
	switch (code) {
	case CURLE_OK:
		return ERR_OK;
	case CURLE_OPERATION_TIMEDOUT:
		return ERR_TIMEOUT;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
		return ERR_TLS;
	case CURLE_OUT_OF_MEMORY:
		return ERR_NOMEM;
	default:
		return call->is_too_large ? ERR_LIMIT : ERR_NETWORK;
	}
}

static void complete(struct http_call *call, CURLcode code)
{
	struct http_response res = {
		.err = map_code(call, code),
		.is_stale = call->is_stale,
		.body = call->body.data != NULL ? call->body.data : "",
		.body_len = call->body.len,
		.nonce = call->nonce,
		.location = call->location,
		.retry_after = call->retry_after,
		.error_text = call->error_text,
	};
	if (call->error_text[0] == 0 && code != CURLE_OK)
		text_format(call->error_text, sizeof(call->error_text), "%s",
			    curl_easy_strerror(code));
	curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &res.status);
	/* Out of the list and out of libcurl first: done may send and cancel others. */
	list_remove(&call->link);
	curl_multi_remove_handle(call->http->multi, call->easy);
	call->done(call->arg, &res);
	curl_easy_cleanup(call->easy);
	curl_slist_free_all(call->fields);
	text_fini(&call->body);
	free(call);
}

static void act(struct http *h, curl_socket_t fd, int events)
{
	int running = 0, left = 0;
	CURLMsg *msg;
	curl_multi_socket_action(h->multi, fd, events, &running);
	while ((msg = curl_multi_info_read(h->multi, &left)) != NULL) {
		struct http_call *call = NULL;
		if (msg->msg != CURLMSG_DONE)
			continue;
		CURLcode code = msg->data.result;
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&call);
		complete(call, code);
	}
}

/* ---- libcurl's sockets and timer on the loop ---- */
static void on_socket(struct io *io, uint32_t events)
{
	struct http_socket *s = SP_CONTAINER_OF(io, struct http_socket, io);
	int flags = 0;
	if (events & (EPOLLIN | EPOLLHUP | EPOLLRDHUP))
		flags |= CURL_CSELECT_IN;
	if (events & EPOLLOUT)
		flags |= CURL_CSELECT_OUT;
	if (events & EPOLLERR)
		flags |= CURL_CSELECT_IN | CURL_CSELECT_OUT;
	act(s->http, io->fd, flags);
}

static void free_socket(struct task *task)
{
	free(SP_CONTAINER_OF(task, struct http_socket, free_task));
}

static int on_want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	struct http *h = arg;
	struct http_socket *s = socket_arg;
	(void)easy;
	if (what == CURL_POLL_REMOVE) {
		if (s == NULL)
			return 0;
		curl_multi_assign(h->multi, fd, NULL);
		loop_remove(h->loop, &s->io);
		s->free_task.run = free_socket;
		loop_defer(h->loop, &s->free_task);
		return 0;
	}
	uint32_t events = (what & CURL_POLL_IN ? (uint32_t)EPOLLIN : 0) |
			  (what & CURL_POLL_OUT ? (uint32_t)EPOLLOUT : 0);
	if (s != NULL)
		return loop_change(h->loop, &s->io, events) == ERR_OK ? 0 : -1;
	s = calloc(1, sizeof(*s));
	if (s == NULL)
		return -1;
	s->http = h;
	s->io = (struct io){ .fd = fd, .on_ready = on_socket };
	if (loop_add(h->loop, &s->io, events) != ERR_OK) {
		free(s);
		return -1;
	}
	curl_multi_assign(h->multi, fd, s);
	return 0;
}

static void on_kick(struct task *task)
{
	struct http *h = SP_CONTAINER_OF(task, struct http, kick);
	h->is_kick_posted = false;
	if (h->is_dead) {
		free(h);
		return;
	}
	if (h->wants_kick) {
		h->wants_kick = false;
		act(h, CURL_SOCKET_TIMEOUT, 0);
	}
}

static void on_timer(struct timer *timer)
{
	act(SP_CONTAINER_OF(timer, struct http, timer), CURL_SOCKET_TIMEOUT, 0);
}

static int on_want_timer(CURLM *multi, long timeout_ms, void *arg)
{
	struct http *h = arg;
	(void)multi;
	loop_timer_disarm(h->loop, &h->timer);
	h->wants_kick = timeout_ms == 0;
	if (timeout_ms == 0 && !h->is_kick_posted) {
		h->is_kick_posted = true;
		loop_defer(h->loop, &h->kick);
	} else if (timeout_ms > 0) {
		loop_timer_arm(h->loop, &h->timer, loop_now_ms(h->loop) + timeout_ms);
	}
	return 0;
}

/* ---- the door ---- */
enum err http_new(struct loop *loop, const char *ca_file, struct http **ret_http)
{
	bool has_ca_file = ca_file != NULL && ca_file[0] != 0;
	struct http *h = calloc(1, sizeof(*h));
	if (h == NULL)
		return ERR_NOMEM;
	h->loop = loop;
	list_init(&h->calls);
	h->timer.on_due = on_timer;
	h->kick.run = on_kick;
	h->ca_file = has_ca_file ? strdup(ca_file) : NULL;
	h->multi = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? curl_multi_init() : NULL;
	if (h->multi == NULL || (has_ca_file && h->ca_file == NULL)) {
		free(h->ca_file);
		free(h);
		return ERR_NOMEM;
	}
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, on_want_socket);
	curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, on_want_timer);
	curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
	curl_multi_setopt(h->multi, CURLMOPT_MAX_HOST_CONNECTIONS, CONNECTIONS_MAX);
	curl_multi_setopt(h->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, CONNECTIONS_MAX);
	curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, CONNECTIONS_MAX);
	*ret_http = h;
	return ERR_OK;
}

void http_free(struct http *http)
{
	if (http == NULL)
		return;
	LIST_FOREACH_SAFE(at, &http->calls)
	free_call(SP_CONTAINER_OF(at, struct http_call, link));
	curl_multi_cleanup(http->multi);
	loop_timer_disarm(http->loop, &http->timer);
	curl_global_cleanup();
	free(http->ca_file);
	http->is_dead = true;
	if (!http->is_kick_posted)
		free(http);
}

static bool is_loopback(const char *url)
{
	static const char *const hosts[] = { "https://127.", "https://localhost", "https://[::1]" };
	for (size_t i = 0; i < SP_ARRAY_LEN(hosts); i++)
		if (strncmp(url, hosts[i], strlen(hosts[i])) == 0)
			return true;
	return false;
}

static bool add_field(struct http_call *call, const char *line)
{
	struct curl_slist *more = curl_slist_append(call->fields, line);
	if (more != NULL)
		call->fields = more;
	return more != NULL;
}

static bool set_method(struct http_call *call, const struct http_request *req)
{
	CURL *e = call->easy;
	char accept[128];
	text_format(accept, sizeof(accept), "Accept: %s",
		    req->accept != NULL ? req->accept : "*/*");
	if (!add_field(call, accept))
		return false;
	if (req->method == HTTP_HEAD)
		return curl_easy_setopt(e, CURLOPT_NOBODY, 1L) == CURLE_OK;
	if (req->method == HTTP_GET)
		return true;
	curl_easy_setopt(e, CURLOPT_PREREQFUNCTION, on_write);
	curl_easy_setopt(e, CURLOPT_PREREQDATA, call);
	curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE, (long)req->body_len);
	return add_field(call, "Content-Type: application/jose+json") &&
	       add_field(call, "Expect:") &&
	       curl_easy_setopt(e, CURLOPT_COPYPOSTFIELDS, req->body) == CURLE_OK;
}

static bool set_options(struct http_call *call, const struct http_request *req)
{
	CURL *e = call->easy;
	curl_easy_setopt(e, CURLOPT_PRIVATE, (char *)call);
	curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	/* A look-up that is given up is left to its thread, which frees what it holds when getaddrinfo
	 * comes back: to join it would hold up the loop for as long as the nameservers are silent. */
	curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
	curl_easy_setopt(e, CURLOPT_ERRORBUFFER, call->error_text);
	curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "https");
	curl_easy_setopt(e, CURLOPT_USERAGENT, "SmartProxy/" SP_VERSION);
	curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
	curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, TOTAL_TIMEOUT_MS);
	curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(e, CURLOPT_WRITEDATA, call);
	curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_field);
	curl_easy_setopt(e, CURLOPT_HEADERDATA, call);
	if (call->http->ca_file !=
	    NULL) /* the directory of the system's anchors (CAPATH) stays in force */
		curl_easy_setopt(e, CURLOPT_CAINFO, call->http->ca_file);
	if (is_loopback(req->url))
		curl_easy_setopt(e, CURLOPT_NOPROXY, "*");
	return curl_easy_setopt(e, CURLOPT_URL, req->url) == CURLE_OK && set_method(call, req) &&
	       curl_easy_setopt(e, CURLOPT_HTTPHEADER, call->fields) == CURLE_OK;
}

enum err http_send(struct http *http, const struct http_request *request, http_done *done,
		   void *arg, struct http_call **ret_call)
{
	struct http_call *call = calloc(1, sizeof(*call));
	CURL *easy = curl_easy_init();
	if (call == NULL || easy == NULL) {
		curl_easy_cleanup(easy);
		free(call);
		return ERR_NOMEM;
	}
	call->http = http;
	call->easy = easy;
	call->done = done;
	call->arg = arg;
	list_init(&call->link);
	if (!set_options(call, request) || curl_multi_add_handle(http->multi, easy) != CURLM_OK) {
		free_call(call);
		return ERR_NOMEM;
	}
	list_append(&http->calls, &call->link);
	*ret_call = call;
	return ERR_OK;
}

void http_cancel(struct http_call *call)
{
	if (call != NULL)
		free_call(call);
}
