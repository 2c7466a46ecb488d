#pragma once
/* control: the socket file of the admin API. Threads: control thread. */
#include <sys/stat.h>
#include <sys/un.h>

#include "smartproxy/err.h"

struct admin_socket {
	int fd; /* listens, does not block */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
	dev_t dev; /* of the socket file that we made */
	ino_t ino;
};

/* Binds path with these permissions and listens. A socket file that nobody listens on any more is
 * replaced; one that somebody does, or that cannot be asked, gives ERR_LOCKED. The reason of a
 * failure has been logged. */
enum err admin_socket_open(const char *path, unsigned mode, struct admin_socket *ret_socket)
	SP_MUST_USE;
/* Closes it and removes the file, if it is still ours. */
void admin_socket_close(struct admin_socket *socket);
