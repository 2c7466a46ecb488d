#pragma once
/* A worker, a target that listens, and the connections between them. The test's own thread is all three in turn. */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "upstream_groups.h"

#define PATIENCE_MS 5000

static struct upstream_worker *const worker = &workers[0];
static struct model model;
static struct upstream *target;
static int listener;
static uint16_t port;

static inline int bound_socket(uint16_t *ret_port)
{
	struct addr a;
	ck_assert_int_eq(addr_parse("127.0.0.1", 0, &a), ERR_OK);
	socklen_t len = sizeof(a.v4);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(bind(fd, &a.sa, a.len), 0);
	ck_assert_int_eq(getsockname(fd, &a.sa, &len), 0);
	*ret_port = addr_port(&a);
	return fd;
}

static inline void set_up(void)
{
	set_up_workers(1);
	listener = bound_socket(&port);
	ck_assert_int_eq(listen(listener, 64), 0);
	model_init(&model, CONFIG_BALANCE_P2C, 1);
	model.targets[0].port = port;
	make_group(&model);
	target = target_at(&model, 0);
}

static inline void tear_down(void)
{
	if (model.group != NULL)
		put_group(&model);
	tear_down_workers();
	(void)close(listener);
}

static inline void on_ready(struct upstream_conn *conn)
{
	loop_stop(conn->worker->loop);
}

static inline enum err try_open_for(const struct upstream_target *to,
				    struct upstream_conn **ret_conn)
{
	enum err e = upstream_conn_open(worker, to, ret_conn);
	if (e == ERR_OK)
		(*ret_conn)->on_ready = on_ready;
	return e;
}

static inline enum err try_open(struct upstream *u, const char *header,
				struct upstream_conn **ret_conn)
{
	struct upstream_target to = { .upstream = u,
				      .client_port = port,
				      .proxy_header = header,
				      .proxy_header_len = header == NULL ? 0 : strlen(header),
				      .alpn = "http/1.1" };
	return try_open_for(&to, ret_conn);
}

static inline enum step wait_ready(struct upstream_conn *conn)
{
	enum step step;
	while ((step = upstream_conn_check(conn)) == STEP_WRITE || step == STEP_READ)
		loop_run(worker->loop);
	return step;
}

static inline struct upstream_conn *open_one(void)
{
	struct upstream_conn *conn = NULL;
	ck_assert_int_eq(try_open(target, NULL, &conn), ERR_OK);
	ck_assert_int_eq(wait_ready(conn), STEP_DONE);
	return conn;
}

/* The other end of the connection that was opened first of those not yet accepted. */
static inline int accept_one(void)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	struct timeval tv = { .tv_sec = PATIENCE_MS / 1000 };
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	return fd;
}

static inline bool has_ended(int fd)
{
	char byte;
	return recv(fd, &byte, 1, 0) == 0;
}

static inline bool is_open(int fd)
{
	char byte;
	return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}
