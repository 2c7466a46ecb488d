#pragma once
/* control_run in the test's thread with workers and acme manager that are fakes, and a client on its admin socket in
 * another. */
#include <arpa/inet.h>
#include <check.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "control_fakes.h"
#include "smartproxy/config.h"
#include "smartproxy/control.h"

/* ---- the set-up ---- */

static char folder[32], conf_path[64], socket_path[64];
static uint16_t ports[4]; /* free ones; [3] is acme.port */

static inline void find_ports(void)
{
	int fds[4];
	for (int i = 0; i < 4; i++) {
		struct sockaddr_in addr = { .sin_family = AF_INET,
					    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
		socklen_t len = sizeof(addr);
		fds[i] = socket(AF_INET, SOCK_STREAM, 0);
		ck_assert_int_eq(bind(fds[i], (struct sockaddr *)&addr, sizeof(addr)), 0);
		ck_assert_int_eq(getsockname(fds[i], (struct sockaddr *)&addr, &len), 0);
		ports[i] = ntohs(addr.sin_port);
	}
	for (int i = 0; i < 4; i++)
		(void)close(fds[i]);
}

static inline void write_conf(unsigned workers, const char *routes)
{
	FILE *file = fopen(conf_path, "w");
	ck_assert_ptr_nonnull(file);
	(void)fprintf(
		file,
		"global = { workers = %u; state_dir = \"%s/state\"; control = { path = \"%s\"; "
		"update_timeout = \"300ms\"; }; log = { level = \"error\"; }; };\n"
		"acme = { directory = \"https://127.0.0.1:1/dir\"; port = %u; };\n"
		"routes = ( %s );\n",
		workers, folder, socket_path, (unsigned)ports[3], routes);
	(void)fclose(file);
}

static inline const char *route_text(char *dst, size_t cap, const char *name, uint16_t port)
{
	(void)snprintf(
		dst, cap,
		"{ name = \"%s\"; match = { ports = [ %u ]; address = \"127.0.0.1\"; }; action "
		"= { type = \"respond\"; status = 200; body = \"x\"; }; }",
		name, (unsigned)port);
	return dst;
}

static inline const char *route_json(char *dst, size_t cap, uint16_t port)
{
	(void)snprintf(dst, cap,
		       "[{\"name\":\"r\",\"match\":{\"ports\":[%u],\"address\":\"127.0.0.1\"},"
		       "\"action\":{\"type\":\"respond\",\"status\":200,\"body\":\"x\"}}]",
		       (unsigned)port);
	return dst;
}

static inline void set_up(void)
{
	char route[512];
	(void)snprintf(folder, sizeof(folder), "/tmp/control_test.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
	(void)snprintf(conf_path, sizeof(conf_path), "%s/conf", folder);
	(void)snprintf(socket_path, sizeof(socket_path), "%s/sock", folder);
	(void)sem_init(&blocked, 0, 0);
	(void)sem_init(&unblock, 0, 0);
	find_ports();
	write_conf(2, route_text(route, sizeof(route), "r", ports[0]));
}

static inline void clean_up(void)
{
	(void)unlink(conf_path);
	(void)unlink(socket_path);
	(void)rmdir(folder);
}

static inline int run_control(void)
{
	sp_role_assume_control();
	struct config *config = NULL;
	struct config_problems problems = { 0 };
	ck_assert_int_eq(config_load(conf_path, &config, &problems), ERR_OK);
	config_problems_fini(&problems);
	return control_run(config);
}

/* ---- the client ---- */

struct answer {
	int status; /* 0: none came */
	char text[32768];
};

static inline int dial(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	for (int i = 0; i < 500; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
			return fd;
		(void)close(fd);
		(void)usleep(10000);
	}
	ck_abort_msg("nobody on the control socket");
	return -1;
}

static inline void send_raw(int fd, const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);
		ck_assert_int_gt(n, 0);
		text += n;
		len -= (size_t)n;
	}
}

static inline void receive(int fd, struct answer *answer)
{
	size_t at = 0;
	ssize_t n;
	while (at < sizeof(answer->text) - 1 &&
	       (n = recv(fd, answer->text + at, sizeof(answer->text) - 1 - at, 0)) > 0)
		at += (size_t)n;
	answer->text[at] = '\0';
	answer->status = 0;
	(void)sscanf(answer->text, "HTTP/1.1 %d", &answer->status);
	(void)close(fd);
}

static inline int post(const char *method, const char *path, const char *body)
{
	char head[512];
	int fd = dial();
	size_t len = strlen(body);
	int head_len = snprintf(head, sizeof(head),
				"%s %s HTTP/1.1\r\nHost: l\r\nConnection: close\r\n"
				"Content-Length: %zu\r\n\r\n",
				method, path, len);
	send_raw(fd, head, (size_t)head_len);
	send_raw(fd, body, len);
	return fd;
}

static inline struct answer ask(const char *method, const char *path, const char *body)
{
	struct answer answer;
	receive(post(method, path, body), &answer);
	return answer;
}

static inline void expect(const char *method, const char *path, const char *body, int status,
			  const char *text)
{
	struct answer answer = ask(method, path, body);
	ck_assert_msg(answer.status == status && strstr(answer.text, text) != NULL,
		      "%s %s %s: wanted %d with %s, got %s", method, path, body, status, text,
		      answer.text);
}

static inline bool is_listening(uint16_t port)
{
	char text[64];
	struct answer answer = ask("GET", "/v1/listeners", "");
	(void)snprintf(text, sizeof(text), "\"port\": %u,", (unsigned)port);
	return strstr(answer.text, text) != NULL;
}

static inline long metric(const char *name)
{
	struct answer answer = ask("GET", "/metrics", "");
	char line[128];
	(void)snprintf(line, sizeof(line), "\n%s ", name);
	const char *at = strstr(answer.text, line);
	ck_assert_msg(at != NULL, "no metric %s", name);
	return strtol(at + strlen(line), NULL, 10);
}

static inline void *run_client(void *arg)
{
	void (*body)(void) = *(void (**)(void))arg;
	(void)close(dial()); /* it runs */
	body();
	(void)kill(getpid(), SIGTERM);
	return NULL;
}

/* Runs body beside the control thread; the end is SIGTERM, exit code 0 and no socket file. */
static inline void with_control(void (*body)(void))
{
	pthread_t thread;
	sigset_t signals; /* as main's threads: signals are the control thread's */
	(void)sigemptyset(&signals);
	(void)sigaddset(&signals, SIGTERM);
	(void)sigaddset(&signals, SIGHUP);
	(void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
	ck_assert_int_eq(pthread_create(&thread, NULL, run_client, &body), 0);
	ck_assert_int_eq(run_control(), 0);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_int_ne(access(socket_path, F_OK), 0);
}
