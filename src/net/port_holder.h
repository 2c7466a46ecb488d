#pragma once
/* net, private: who holds a port. Threads: any; costs a walk over /proc when somebody does. */
#include "smartproxy/listener.h"

/* As port_find_holder, but leaves out the sockets for which is_own says so (NULL: none), and with
 * wants_all also finds sockets that do not listen. Another process's socket is preferred to one of
 * our own. */
enum err holder_find(const struct addr *addr, bool wants_all,
		     bool (*is_own)(void *arg, uint32_t inode), void *arg,
		     struct port_error *ret_holder) SP_MUST_USE;
