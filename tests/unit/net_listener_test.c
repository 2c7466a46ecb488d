#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../src/net/sock_diag.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/listener.h"
#include "smartproxy/thread.h"

#define SOCKET_CNT 4

static struct listeners *ls;
static struct port_error err;

static struct addr make_addr(const char *ip, uint16_t port)
{
	struct addr a;
	ck_assert_int_eq(addr_parse(ip, port, &a), ERR_OK);
	return a;
}

/* A port that was free on all of 127.0.0.0/8 a moment ago. */
static uint16_t free_port(void)
{
	struct addr a = make_addr("127.0.0.1", 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(fd, &a.sa, a.len), 0);
	socklen_t len = sizeof(a.v4);
	ck_assert_int_eq(getsockname(fd, &a.sa, &len), 0);
	(void)close(fd);
	return addr_port(&a);
}

static unsigned open_fd_cnt(void)
{
	unsigned cnt = 0;
	for (int fd = 0; fd < 1024; fd++)
		cnt += fcntl(fd, F_GETFD) >= 0;
	return cnt;
}

static bool is_free(const struct addr *a)
{
	struct port_error holder;
	return port_find_holder(a, &holder) == ERR_NOENT;
}

static void start(void)
{
	sp_role_assume_control();
	ck_assert_int_eq(listeners_new(SOCKET_CNT, 128, &ls), ERR_OK);
}

static struct listener_change *open_all(const struct addr *wanted, size_t cnt)
{
	struct listener_change *change = NULL;
	sp_role_assume_control();
	enum err e = listeners_open(ls, wanted, cnt, 0, &change, &err);
	struct text text = { 0 };
	if (e != ERR_OK)
		port_error_text(&err, &text);
	ck_assert_msg(e == ERR_OK, "%s", text.data);
	return change;
}

/* What an update does, without workers. */
static void want(const struct addr *wanted, size_t cnt)
{
	struct listener_set *dropped[8];
	sp_role_assume_control();
	struct listener_change *change = open_all(wanted, cnt);
	size_t dropped_cnt = change->dropped_cnt;
	memcpy((void *)dropped, (const void *)change->dropped,
	       dropped_cnt * sizeof(struct listener_set *));
	listeners_commit(ls, change);
	for (size_t i = 0; i < dropped_cnt; i++)
		ck_assert_int_eq(listeners_close(ls, dropped[i], &err), ERR_OK);
}

static void expect_failure(const struct addr *wanted, size_t cnt, enum err code)
{
	struct listener_change *change = NULL;
	sp_role_assume_control();
	ck_assert_int_eq(listeners_open(ls, wanted, cnt, 0, &change, &err), code);
	ck_assert_int_eq(err.code, code);
	ck_assert_ptr_null(change);
}

static void expect_text(const char *part)
{
	struct text text = { 0 };
	port_error_text(&err, &text);
	ck_assert_msg(strstr(text.data, part) != NULL, "\"%s\" lacks \"%s\"", text.data, part);
	text_fini(&text);
}

/* Another process that holds the address until it is ended. */
struct holder {
	pid_t pid;
};

enum hold { HOLD_PLAIN, HOLD_REUSEPORT, HOLD_BOUND_ONLY };

static _Noreturn void run_holder(const struct addr *a, enum hold how, int ready_fd)
{
	int one = 1;
	(void)prctl(PR_SET_NAME, "port-holder");
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	int fd = socket(a->sa.sa_family, SOCK_STREAM, 0);
	if (how != HOLD_BOUND_ONLY)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (how == HOLD_REUSEPORT)
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
	bool is_held = bind(fd, &a->sa, a->len) == 0;
	if (how != HOLD_BOUND_ONLY)
		is_held = is_held && listen(fd, 16) == 0;
	(void)!write(ready_fd, is_held ? "y" : "n", 1);
	for (;;)
		(void)pause();
}

static struct holder hold(const struct addr *a, enum hold how)
{
	int fds[2];
	char answer = 'n';
	ck_assert_int_eq(pipe(fds), 0);
	struct holder holder = { fork() };
	ck_assert_int_ge(holder.pid, 0);
	if (holder.pid == 0)
		run_holder(a, how, fds[1]);
	ck_assert_int_eq(read(fds[0], &answer, 1), 1);
	(void)close(fds[0]);
	(void)close(fds[1]);
	ck_assert_int_eq(answer, 'y');
	return holder;
}

static void end(struct holder holder)
{
	(void)kill(holder.pid, SIGKILL);
	(void)waitpid(holder.pid, NULL, 0);
}

/* A network of our own, where wildcards and low ports disturb nobody. False: not allowed here. */
static bool enter_own_network(void)
{
	if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
		return false;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	bool is_up = ioctl(fd, SIOCSIFFLAGS, &ifr) == 0;
	(void)close(fd);
	return is_up;
}

/* --- what conflicts --- */

static const struct {
	const char *seen;
	bool is_v6only;
	const char *wanted;
	bool conflicts;
} conflicts[] = {
	{ "127.0.0.1", false, "127.0.0.1", true },
	{ "127.0.0.2", false, "127.0.0.1", false },
	{ "0.0.0.0", false, "127.0.0.1", true },
	{ "127.0.0.1", false, "0.0.0.0", true },
	{ "::", false, "127.0.0.1", true },
	{ "::", true, "127.0.0.1", false },
	{ "::", false, "0.0.0.0", true },
	{ "::", true, "0.0.0.0", false },
	{ "0.0.0.0", false, "::", true },
	{ "127.0.0.1", false, "::", true },
	{ "0.0.0.0", false, "::1", false },
	{ "::1", false, "127.0.0.1", false },
	{ "::1", false, "0.0.0.0", false },
	{ "::1", false, "::", true },
	{ "::", true, "::1", true },
	{ "::1", false, "::1", true },
	{ "::1", false, "::2", false },
};

START_TEST(conflict_row)
{
	struct diag_socket seen = { .addr = make_addr(conflicts[_i].seen, 80),
				    .is_v6only = conflicts[_i].is_v6only };
	struct addr wanted = make_addr(conflicts[_i].wanted, 80);
	ck_assert_int_eq(diag_conflicts(&seen, &wanted), conflicts[_i].conflicts);
	addr_set_port(&wanted, 81);
	ck_assert(!diag_conflicts(&seen, &wanted));
}
END_TEST

/* --- one registry --- */

START_TEST(opens_listens_and_closes)
{
	sp_role_assume_control();
	unsigned fd_cnt = open_fd_cnt();
	start();
	struct addr a = make_addr("127.0.0.1", free_port());
	want(&a, 1);
	ck_assert_uint_eq(listeners_cnt(ls), 1);
	ck_assert_uint_eq(listeners_bind_cnt(ls), SOCKET_CNT);
	struct listener_set *set = listeners_at(ls, 0);
	ck_assert_uint_eq(set->socket_cnt, SOCKET_CNT);
	ck_assert_int_gt(set->opened_unix_s, 0);
	struct pollfd polled[SOCKET_CNT];
	for (unsigned i = 0; i < SOCKET_CNT; i++) {
		polled[i] = (struct pollfd){ .fd = set->fds[i], .events = POLLIN };
		ck_assert_int_ne(fcntl(set->fds[i], F_GETFD) & FD_CLOEXEC, 0);
	}
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(client, &a.sa, a.len), 0);
	ck_assert_int_eq(poll(polled, SOCKET_CNT, 5000), 1);
	for (unsigned i = 0; i < SOCKET_CNT; i++) {
		int fd = accept(set->fds[i], NULL, NULL); /* EAGAIN, not blocking, for three */
		if (fd < 0)
			continue;
		int nodelay = 0;
		socklen_t len = sizeof(nodelay);
		ck_assert_int_eq(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, &len), 0);
		ck_assert_int_ne(nodelay, 0);
		(void)close(fd);
	}
	(void)close(client);
	ck_assert_int_eq(port_find_holder(&a, &err), ERR_OK);
	ck_assert(err.is_holder_ours);
	ck_assert_int_eq(err.holder_pid, getpid());
	want(NULL, 0);
	ck_assert_uint_eq(listeners_cnt(ls), 0);
	ck_assert(is_free(&a));
	want(&a, 1); /* at once again, against our own TIME_WAIT */
	ck_assert_uint_eq(listeners_bind_cnt(ls), 2 * SOCKET_CNT);
	listeners_free(ls);
	ck_assert(is_free(&a));
	ck_assert_uint_eq(open_fd_cnt(), fd_cnt);
}
END_TEST

START_TEST(kept_sets_are_not_touched)
{
	sp_role_assume_control();
	start();
	struct addr wanted[] = { make_addr("127.0.0.1", free_port()),
				 make_addr("127.0.0.2", free_port()), make_addr("127.0.0.1", 0) };
	wanted[2] = wanted[0]; /* named twice */
	want(wanted, 1);
	struct listener_set *kept = listeners_at(ls, 0);
	int fds[SOCKET_CNT];
	memcpy(fds, kept->fds, sizeof(fds));
	uint64_t id = kept->id;
	want(wanted, 3);
	want(wanted, 2);
	ck_assert_uint_eq(listeners_cnt(ls), 2);
	ck_assert_ptr_eq(listeners_at(ls, 0), kept);
	ck_assert_uint_eq(kept->id, id);
	ck_assert_int_eq(memcmp(fds, kept->fds, sizeof(fds)), 0);
	ck_assert_uint_eq(listeners_bind_cnt(ls), 2 * SOCKET_CNT);
	ck_assert_uint_ne(listeners_at(ls, 1)->id, id);
	want(&wanted[1], 1);
	ck_assert_uint_eq(listeners_cnt(ls), 1);
	ck_assert(is_free(&wanted[0]));
	listeners_free(ls);
}
END_TEST

START_TEST(abort_leaves_nothing)
{
	sp_role_assume_control();
	start();
	struct addr wanted[] = { make_addr("127.0.0.1", free_port()),
				 make_addr("127.0.0.2", free_port()) };
	want(wanted, 1);
	unsigned fd_cnt = open_fd_cnt();
	struct listener_change *change = open_all(&wanted[1], 1);
	ck_assert_uint_eq(change->opened_cnt, 1);
	ck_assert_uint_eq(change->dropped_cnt, 1);
	ck_assert(!is_free(&wanted[1]));
	expect_failure(wanted, 2, ERR_BUSY);
	listeners_abort(ls, change);
	ck_assert_uint_eq(listeners_cnt(ls), 1);
	ck_assert_uint_eq(open_fd_cnt(), fd_cnt);
	ck_assert(is_free(&wanted[1]));
	ck_assert(!is_free(&wanted[0]));
	want(wanted, 1);
	ck_assert_uint_eq(listeners_bind_cnt(ls), 2 * SOCKET_CNT);
	listeners_free(ls);
}
END_TEST

/* Wanted again between commit and close: the same set comes back, nothing is bound. _i 1: then
 * aborted. */
START_TEST(dropped_set_is_taken_back)
{
	sp_role_assume_control();
	start();
	struct addr a = make_addr("127.0.0.1", free_port());
	want(&a, 1);
	struct listener_set *set = listeners_at(ls, 0);
	listeners_commit(ls, open_all(NULL, 0));
	ck_assert_uint_eq(listeners_cnt(ls), 1);
	struct listener_change *change = open_all(&a, 1);
	ck_assert_uint_eq(change->opened_cnt, 1);
	ck_assert_ptr_eq(change->opened[0], set);
	ck_assert_uint_eq(change->dropped_cnt, 0);
	if (_i == 0)
		listeners_commit(ls, change);
	else
		listeners_abort(ls, change);
	ck_assert_uint_eq(listeners_cnt(ls), 1);
	ck_assert_uint_eq(listeners_bind_cnt(ls), SOCKET_CNT);
	change = open_all(NULL, 0);
	ck_assert_uint_eq(change->dropped_cnt, _i == 0 ? 1 : 0);
	listeners_commit(ls, change);
	ck_assert_int_eq(listeners_close(ls, set, &err), ERR_OK);
	ck_assert(is_free(&a));
	listeners_free(ls);
}
END_TEST

/* --- foreign holders --- */

START_TEST(foreign_holder_is_named)
{
	sp_role_assume_control();
	struct addr wanted[] = { make_addr("127.0.0.2", free_port()),
				 make_addr("127.0.0.1", free_port()) };
	struct holder holder = hold(&wanted[1], (enum hold)_i);
	unsigned fd_cnt = open_fd_cnt();
	start();
	expect_failure(wanted, 2, ERR_PORT_IN_USE);
	if (_i != HOLD_BOUND_ONLY ||
	    err.is_holder_known) { /* Linux before 6.8 hides what is only bound */
		ck_assert(err.is_holder_known);
		ck_assert(!err.is_holder_ours);
		ck_assert_int_eq(err.holder_pid, holder.pid);
		ck_assert_uint_eq(err.holder_uid, getuid());
		ck_assert_str_eq(err.holder_name, "port-holder");
		expect_text("in use by port-holder (pid ");
	}
	ck_assert(addr_is_equal(&err.addr, &wanted[1]));
	ck_assert_uint_eq(listeners_cnt(ls), 0);
	ck_assert(is_free(&wanted[0])); /* all or nothing */
	ck_assert_uint_eq(open_fd_cnt(), fd_cnt);
	end(holder);
	want(wanted, 2);
	listeners_free(ls);
}
END_TEST

START_TEST(second_instance_is_refused)
{
	sp_role_assume_control();
	struct addr a = make_addr("127.0.0.1", free_port());
	start();
	want(&a, 1);
	pid_t pid = fork();
	if (pid == 0) {
		struct listeners *other;
		struct listener_change *change;
		for (int fd = 3; fd < 1024; fd++) /* as after exec */
			(void)close(fd);
		bool is_refused =
			listeners_new(SOCKET_CNT, 16, &other) == ERR_OK &&
			listeners_open(other, &a, 1, 0, &change, &err) == ERR_PORT_IN_USE &&
			err.holder_pid == getppid() && !err.is_holder_ours;
		_exit(is_refused ? 0 : 1);
	}
	int status = -1;
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	listeners_free(ls);
}
END_TEST

/* Stands before the library's: lets another process listen between our bind and our listen. */
static int other_fd = -1;

/* NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): glibc has __fd, __n */
int listen(int fd, int backlog)
{
	char byte = 'n';
	if (other_fd >= 0) {
		ck_assert_int_eq(write(other_fd, "l", 1), 1);
		ck_assert_int_eq(read(other_fd, &byte, 1), 1);
		ck_assert_int_eq(byte, 'y');
		(void)close(other_fd);
		other_fd = -1;
	}
	return (int)syscall(SYS_listen, fd, backlog);
}

/* Two instances that start at once both pass the exclusive bind, as neither listens yet, and with
 * SO_REUSEPORT set both could listen: whoever listens last must see the other. */
START_TEST(instances_started_at_once_never_share)
{
	sp_role_assume_control();
	struct addr a = make_addr("127.0.0.1", free_port());
	int fds[2], one = 1;
	char byte;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	struct holder holder = { fork() };
	if (holder.pid == 0) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		bool is_bound = bind(fd, &a.sa, a.len) == 0;
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
		(void)!write(fds[1], is_bound ? "y" : "n", 1);
		(void)!read(fds[1], &byte, 1);
		(void)!write(fds[1], listen(fd, 16) == 0 ? "y" : "n", 1);
		for (;;)
			(void)pause();
	}
	ck_assert_int_eq(read(fds[0], &byte, 1), 1);
	ck_assert_int_eq(byte, 'y');
	start();
	other_fd = fds[0];
	expect_failure(&a, 1, ERR_PORT_IN_USE);
	ck_assert_int_eq(other_fd, -1); /* it was the listen, not the bind */
	ck_assert_int_eq(err.holder_pid, holder.pid);
	end(holder);
	(void)close(fds[1]);
	ck_assert(is_free(&a));
	want(&a, 1);
	listeners_free(ls);
}
END_TEST

/* Under another uid that we may not look into: uid and address are known, the process is not. */
START_TEST(foreign_uid_is_told)
{
	sp_role_assume_control();
	if (getuid() != 0)
		return;
	struct addr a = make_addr("127.0.0.1", free_port());
	struct addr own = make_addr("127.0.0.2", free_port());
	struct holder holder = hold(&a, HOLD_REUSEPORT);
	int status = -1;
	pid_t pid = fork();
	if (pid == 0) {
		ck_assert_int_eq(setresuid(65534, 65534, 65534), 0);
		start();
		expect_failure(&a, 1, ERR_PORT_IN_USE);
		ck_assert(err.is_holder_known && !err.is_holder_ours);
		ck_assert_int_eq(err.holder_pid, 0);
		ck_assert_uint_eq(err.holder_uid, 0);
		expect_text("a process of uid 0 on 127.0.0.1:");
		want(&own, 1);
		ck_assert_int_eq(port_find_holder(&own, &err), ERR_OK);
		ck_assert(err.is_holder_ours); /* also after privileges were dropped */
		listeners_free(ls);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	end(holder);
	ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(privileged_port_is_denied)
{
	sp_role_assume_control();
	if (getuid() != 0 || !enter_own_network())
		return;
	FILE *sysctl = fopen("/proc/sys/net/ipv4/ip_unprivileged_port_start", "we");
	if (sysctl == NULL)
		return;
	ck_assert_int_gt(fprintf(sysctl, "1024"), 0);
	if (fclose(sysctl) != 0)
		return;
	ck_assert_int_eq(setresuid(65534, 65534, 65534), 0);
	start();
	struct addr a = make_addr("127.0.0.1", 80);
	expect_failure(&a, 1, ERR_PORT_DENIED);
	expect_text("CAP_NET_BIND_SERVICE");
	listeners_free(ls);
}
END_TEST

START_TEST(foreign_address_is_refused)
{
	sp_role_assume_control();
	start();
	struct addr a = make_addr("192.0.2.1", free_port());
	expect_failure(&a, 1, ERR_ADDRESS);
	expect_text("not one of this machine");
	listeners_free(ls);
}
END_TEST

/* --- overlapping addresses of our own --- */

static const char *const overlaps[][2] = {
	{ "0.0.0.0", "127.0.0.1" },
	{ "127.0.0.1", "0.0.0.0" },
	{ "::", "127.0.0.1" },
	{ "127.0.0.1", "::" },
	{ "::", "0.0.0.0" },
	{ "0.0.0.0", "::" },
	{ "::", "::1" },
};

START_TEST(own_sets_may_overlap)
{
	sp_role_assume_control();
	if (!enter_own_network())
		return;
	start();
	struct addr wanted[] = { make_addr(overlaps[_i][0], 8080),
				 make_addr(overlaps[_i][1], 8080) };
	want(wanted, 2); /* in one change */
	ck_assert_uint_eq(listeners_cnt(ls), 2);
	want(wanted, 1);
	want(wanted, 2); /* and one after the other */
	ck_assert_uint_eq(listeners_bind_cnt(ls), 3 * SOCKET_CNT);
	want(&wanted[1], 1);
	want(NULL, 0);
	ck_assert(is_free(&wanted[0]));
	/* A foreign SO_REUSEPORT socket under our own uid, which the kernel would let us share
	 * with. */
	want(&wanted[0], 1);
	struct holder holder = hold(&wanted[1], HOLD_REUSEPORT);
	expect_failure(wanted, 2, ERR_PORT_IN_USE);
	ck_assert_int_eq(err.holder_pid, holder.pid);
	ck_assert_uint_eq(listeners_cnt(ls), 1);
	end(holder);
	want(wanted, 2);
	listeners_free(ls);
}
END_TEST

START_TEST(wildcard_meets_foreign_address)
{
	sp_role_assume_control();
	if (!enter_own_network())
		return;
	start();
	struct addr held = make_addr(overlaps[_i][0], 8080),
		    wanted = make_addr(overlaps[_i][1], 8080);
	struct holder holder = hold(&held, HOLD_REUSEPORT);
	expect_failure(&wanted, 1, ERR_PORT_IN_USE);
	ck_assert_int_eq(err.holder_pid, holder.pid);
	end(holder);
	listeners_free(ls);
}
END_TEST

/* --- verified closing --- */

START_TEST(close_is_verified)
{
	sp_role_assume_control();
	start();
	struct addr a = make_addr("127.0.0.1", free_port());
	want(&a, 1);
	struct listener_set *set = listeners_at(ls, 0);
	int forgotten = dup(set->fds[SOCKET_CNT - 1]);
	listeners_commit(ls, open_all(NULL, 0));
	ck_assert_int_eq(listeners_close(ls, set, &err), ERR_VERIFY);
	ck_assert_int_eq(err.code, ERR_VERIFY);
	expect_text("still shows a listening socket");
	ck_assert_uint_eq(listeners_cnt(ls), 0);
	(void)close(forgotten);
	ck_assert(is_free(&a));
	listeners_free(ls);
}
END_TEST

static void close_later(void *arg)
{
	const int *fd = arg;
	(void)poll(NULL, 0, 50);
	(void)close(*fd);
}

START_TEST(close_waits_for_a_late_reference)
{
	sp_role_assume_control();
	start();
	struct addr a = make_addr("127.0.0.1", free_port());
	want(&a, 1);
	struct listener_set *set = listeners_at(ls, 0);
	int late = dup(set->fds[0]);
	listeners_commit(ls, open_all(NULL, 0));
	struct thread *thread;
	ck_assert_int_eq(thread_start("late", close_later, &late, &thread), ERR_OK);
	ck_assert_int_eq(listeners_close(ls, set, &err), ERR_OK);
	thread_join(thread);
	listeners_free(ls);
}
END_TEST

/* --- faults --- */

static const struct {
	const char *faults;
	enum err err; /* ERR_OK: any */
} faults[] = {
	{ "bind=1", ERR_PORT_IN_USE },
	{ "malloc=1", ERR_NOMEM },
	{ "bind=0.2,malloc=0.1", ERR_OK },
};

START_TEST(faults_leave_nothing)
{
	sp_role_assume_control();
	start();
	struct addr wanted[] = { make_addr("127.0.0.1", free_port()),
				 make_addr("127.0.0.2", free_port()),
				 make_addr("127.0.0.3", free_port()) };
	want(wanted, 1);
	int fd = listeners_at(ls, 0)->fds[0];
	unsigned fd_cnt = open_fd_cnt();
	ck_assert_int_eq(setenv("SMARTPROXY_FAULTS", faults[_i].faults, 1), 0);
	fault_init();
	for (int i = 0; i < 30; i++) {
		struct listener_change *change;
		enum err e = listeners_open(ls, wanted, 3, 0, &change, &err);
		if (e == ERR_OK)
			listeners_abort(ls, change);
		else
			ck_assert_int_eq(err.code, e);
		ck_assert(faults[_i].err == ERR_OK || e == faults[_i].err);
		ck_assert_uint_eq(listeners_cnt(ls), 1);
		ck_assert_int_eq(listeners_at(ls, 0)->fds[0], fd);
		ck_assert_uint_eq(open_fd_cnt(), fd_cnt);
	}
	if (faults[_i].err == ERR_PORT_IN_USE)
		expect_text("nothing shows by whom");
	fault_is_on = false;
	want(wanted, 3);
	listeners_free(ls);
}
END_TEST

START_TEST(time_that_is_over_leaves_nothing)
{
	start();
	const struct addr wanted[] = { make_addr("127.0.0.1", free_port()),
				       make_addr("127.0.0.2", free_port()) };
	want(wanted, 1);
	unsigned fd_cnt = open_fd_cnt();
	struct listener_change *change;
	sp_role_assume_control();
	enum err e = listeners_open(ls, wanted, 2, clock_now_ms(), &change, &err);
	ck_assert_int_eq(e, ERR_TIMEOUT);
	ck_assert_int_eq(err.code, ERR_TIMEOUT);
	ck_assert_uint_eq(listeners_cnt(ls), 1);
	ck_assert_uint_eq(open_fd_cnt(), fd_cnt);
	want(wanted, 2);
	listeners_free(ls);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("net_listener");
	TCase *tc = tcase_create("listener");
	tcase_set_timeout(tc, 30);
	tcase_add_loop_test(tc, conflict_row, 0, SP_ARRAY_LEN(conflicts));
	tcase_add_test(tc, opens_listens_and_closes);
	tcase_add_test(tc, kept_sets_are_not_touched);
	tcase_add_test(tc, abort_leaves_nothing);
	tcase_add_loop_test(tc, dropped_set_is_taken_back, 0, 2);
	tcase_add_loop_test(tc, foreign_holder_is_named, HOLD_PLAIN, HOLD_BOUND_ONLY + 1);
	tcase_add_test(tc, second_instance_is_refused);
	tcase_add_test(tc, instances_started_at_once_never_share);
	tcase_add_test(tc, foreign_uid_is_told);
	tcase_add_test(tc, privileged_port_is_denied);
	tcase_add_test(tc, foreign_address_is_refused);
	tcase_add_loop_test(tc, own_sets_may_overlap, 0, SP_ARRAY_LEN(overlaps));
	tcase_add_loop_test(tc, wildcard_meets_foreign_address, 0, SP_ARRAY_LEN(overlaps));
	tcase_add_test(tc, close_is_verified);
	tcase_add_test(tc, close_waits_for_a_late_reference);
	tcase_add_test(tc, time_that_is_over_leaves_nothing);
	tcase_add_loop_test(tc, faults_leave_nothing, 0, SP_ARRAY_LEN(faults));
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
