#pragma once
/* net, private: the sockets of one listener set. Threads: control. */
#include "smartproxy/listener.h"

/* A set as its registry knows it. */
struct held_set {
	struct listener_set set; /* first */
	uint32_t *inodes;        /* of its sockets */
	bool is_dropped;         /* committed away, not closed yet */
};

/* Without sockets; NULL: no memory. */
struct held_set *held_set_new(const struct addr *addr, unsigned socket_cnt);
/* Closes what is open, without a look at the kernel. */
void held_set_free(struct held_set *held);

/* Binds every socket, listens on none. The first is bound without SO_REUSEPORT, which fails against
 * any other socket on the address; is_shared: a set of our own overlaps, so this cannot be, and the
 * caller looks for foreign sockets. *bind_cnt counts the calls. On failure *reterr is filled. */
enum err held_set_bind(struct held_set *held, bool is_shared, uint64_t *bind_cnt,
		       struct port_error *reterr) SP_MUST_USE;
enum err held_set_listen(struct held_set *held, int backlog, struct port_error *reterr) SP_MUST_USE;
/* Closes every socket and waits, 1 s at most, until the kernel shows none of them listening.
 * ERR_VERIFY in *reterr. */
enum err held_set_close(struct held_set *held, struct port_error *reterr) SP_MUST_USE;
bool held_set_has_inode(const struct held_set *held, uint32_t inode);
