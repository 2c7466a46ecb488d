#pragma once
/* net: listener sets. A set is one (address, port) with a fixed number of SO_REUSEPORT sockets, one
 * per worker, bound once and kept for as long as anything wants the port.
 *
 * Threads: control thread only; workers only read fds of a set they were handed. Lifetime: a set
 * lives in its registry from listeners_open to listeners_close. Update protocol (all or nothing):
 *
 * 1. listeners_open(wanted) binds what is new, exclusively first, and listens only when all of it
 *    is bound.
 * 2. ... publish, hand change->opened to the workers ...
 * 3. listeners_commit(): what was in change->dropped is no longer wanted; the workers drain and let
 *    go. Or listeners_abort(): closes what was opened, nothing else changed.
 * 4. listeners_close(set) for each dropped one closes the sockets and verifies by sock_diag that
 *    none of ours listens any more.
 *
 * One change at a time: listeners_open before the last one's commit or abort is ERR_BUSY. A set
 * that was dropped and is wanted again before listeners_close is taken back: it is in
 * change->opened, with no bind, and is not to be closed for the earlier drop. Addresses of ours may
 * overlap on a port ("*" and 127.0.0.1): the more specific one gets its traffic.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "smartproxy/addr.h"
#include "smartproxy/err.h"
#include "smartproxy/rcu.h"
#include "smartproxy/text.h"

struct listener_set {
	struct addr addr; /* "::" as wildcard takes IPv4 as well (IPV6_V6ONLY off) */
	unsigned socket_cnt;
	int *fds;
	bool is_deferred; /* listeners_defer */
	uint64_t id;      /* never used twice in a process */
	int64_t opened_unix_s;
	void *owner_data; /* the control room's: which workers hold it */
};

/* Why a port could not be had, and who has it. */
struct port_error {
	enum err code; /* ERR_PORT_IN_USE, _PORT_DENIED, _ADDRESS, _VERIFY, _LIMIT (descriptors),
			  _NOMEM, _BUSY, _TIMEOUT, _SYSTEM */
	struct addr addr;
	int sys_errno; /* of the failed call, for the text */
	bool is_holder_known;
	bool is_holder_ours; /* another socket of this process: a defect of ours, never expected */
	pid_t holder_pid;    /* 0: its inode and uid are known, its process could not be read */
	uid_t holder_uid;
	char holder_name[32]; /* comm */
	char holder_addr[ADDR_TEXT_MAX];
};
/* One sentence: "port 80 (address *) is in use by nginx (pid 1234, uid 0): stop it, or ...". */
void port_error_text(const struct port_error *e, struct text *ret_text);

struct listeners;
struct listener_change {
	struct listener_set **opened;
	size_t opened_cnt;
	struct listener_set **dropped;
	size_t dropped_cnt;
};

enum err listeners_new(unsigned sockets_per_set, int backlog, struct listeners **ret_listeners)
	SP_MUST_USE;
/* Closes everything at once (end of the process); verified as listeners_close. */
void listeners_free(struct listeners *ls) SP_ON_CONTROL;
/* wanted holds distinct addresses with ports other than 0. On failure nothing is open that was not
 * before and *reterr says why. EADDRINUSE is retried inside, 10 ms in all, only for what passes by
 * itself (a socket of ours being closed). A machine without IPv6 gets 0.0.0.0 for "::"; the set's
 * addr stays as wanted. Past deadline_ms (monotonic; 0: none) it gives up with ERR_TIMEOUT. */
enum err listeners_open(struct listeners *ls, const struct addr *wanted, size_t wanted_cnt,
			int64_t deadline_ms, struct listener_change **ret_change,
			struct port_error *reterr) SP_ON_CONTROL SP_MUST_USE;
/* Frees change (copy what it lists before); the opened sets are now part of the registry. The
 * dropped ones stay in it until listeners_close. */
void listeners_commit(struct listeners *ls, struct listener_change *change) SP_ON_CONTROL;
void listeners_abort(struct listeners *ls, struct listener_change *change) SP_ON_CONTROL;
/* Closes a set that no worker holds any more and frees it. ERR_VERIFY (in *reterr too): the kernel
 * still shows a listening socket of this process there, after up to 1 s; the set is closed and
 * freed all the same. */
enum err listeners_close(struct listeners *ls, struct listener_set *set, struct port_error *reterr)
	SP_ON_CONTROL SP_MUST_USE;
size_t listeners_cnt(const struct listeners *ls);
struct listener_set *listeners_at(const struct listeners *ls, size_t ix);
/* Bind calls so far, for the metrics. */
uint64_t listeners_bind_cnt(const struct listeners *ls);
/* Who listens on this address and port now, by sock_diag and /proc. ERR_NOENT: nobody. */
enum err port_find_holder(const struct addr *addr, struct port_error *ret_holder) SP_MUST_USE;

/* Connections are accepted with their first bytes (TCP_DEFER_ACCEPT), or, as those of a new set, at
 * the end of their handshake. Who has sent nothing is accepted about 1 s after it; until then the
 * kernel has no more than a request in the SYN queue. Not for ports where the server may speak
 * first. Switches the live sockets, when it differs from before; who is waited for already stays
 * so until its bytes or its second come. A kernel that refuses it costs some turns of a loop. */
void listeners_defer(struct listener_set *set, bool is_wanted) SP_ON_CONTROL;

/* Before sets are let go: connections are no longer deferred, and from now on the kernel drops first
 * SYNs to their sockets, as if they were lost on the way, so that a client that comes later is
 * refused by the closed port when it repeats, instead of being reset after it was let in. Handshakes
 * under way and what is queued go on. Waits 10 ms for the last of those; who has sent nothing by
 * then, and was deferred, gets a reset when it does. A kernel that refuses the filter costs the
 * connections of some microseconds, no more. */
void listeners_hush(struct listener_set *const *sets, size_t cnt) SP_ON_CONTROL;
/* A set that stays after all takes SYNs again. Harmless on one that was never hushed. */
void listeners_unhush(struct listener_set *set) SP_ON_CONTROL;
