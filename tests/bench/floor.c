/* The floor of the bench: an epoll relay that does nothing but move bytes from one socket to another.
 * floor PORT TARGET_PORT: one thread, level-triggered, one recv and one send at a time, 64 KiB buffers. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_BYTES 65536

struct side {
	int fd;
	struct side *other;
	char *data; /* read from here, not yet written to the other one */
	size_t start, end;
	int is_over;
};

static int loop_fd;

static void watch(struct side *side, int op)
{
	struct epoll_event event = { .data.ptr = side };
	if (side->end == side->start && !side->is_over)
		event.events |= EPOLLIN;
	if (side->other->end > side->other->start)
		event.events |= EPOLLOUT;
	(void)epoll_ctl(loop_fd, op, side->fd, &event);
}

static struct side *open_pair(int client_fd, const struct sockaddr_in *target)
{
	int one = 1;
	struct side *pair = calloc(2, sizeof(*pair));
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (pair == NULL || fd < 0)
		exit(1);
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)connect(fd, (const struct sockaddr *)target, sizeof(*target));
	for (int i = 0; i < 2; i++) {
		pair[i].fd = i == 0 ? client_fd : fd;
		pair[i].other = &pair[1 - i];
		pair[i].data = malloc(BUFFER_BYTES);
		if (pair[i].data == NULL)
			exit(1);
	}
	watch(&pair[0], EPOLL_CTL_ADD);
	watch(&pair[1], EPOLL_CTL_ADD);
	return pair;
}

static void close_pair(struct side *side)
{
	struct side *other = side->other;
	struct side *first = side < other ? side : other;
	(void)close(side->fd);
	(void)close(other->fd);
	free(side->data);
	free(other->data);
	free(first);
}

/* What was read from here goes to the other side. Returns 0 when the pair is gone. */
static int push(struct side *from)
{
	while (from->end > from->start) {
		ssize_t n = send(from->other->fd, from->data + from->start, from->end - from->start,
				 MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN)
			return 1;
		if (n < 0) {
			close_pair(from);
			return 0;
		}
		from->start += (size_t)n;
	}
	from->start = from->end = 0;
	return 1;
}

static int pull(struct side *from)
{
	ssize_t n = recv(from->fd, from->data, BUFFER_BYTES, 0);
	if (n < 0 && errno == EAGAIN)
		return 1;
	if (n <= 0) {
		close_pair(from);
		return 0;
	}
	from->end = (size_t)n;
	return push(from);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	int one = 1;
	struct sockaddr_in here = { .sin_family = AF_INET,
				    .sin_port = htons((uint16_t)strtoul(argv[1], NULL, 10)),
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in target = here;
	target.sin_port = htons((uint16_t)strtoul(argv[2], NULL, 10));
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	(void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(listener, (struct sockaddr *)&here, sizeof(here)) != 0 ||
	    listen(listener, 4096) != 0) {
		perror("floor");
		return 1;
	}
	loop_fd = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN };
	(void)epoll_ctl(loop_fd, EPOLL_CTL_ADD, listener, &event);
	for (;;) {
		struct epoll_event events[64];
		int cnt = epoll_wait(loop_fd, events, 64, -1);
		for (int i = 0; i < cnt; i++) {
			struct side *side = events[i].data.ptr;
			if (side == NULL) {
				int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
				if (fd >= 0) {
					(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one,
							 sizeof(one));
					(void)open_pair(fd, &target);
				}
				continue;
			}
			if ((events[i].events & EPOLLOUT) != 0 && !push(side->other))
				break; /* the pair's other event of this turn is void */
			if ((events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 &&
			    side->end == side->start && !pull(side))
				break;
			watch(side, EPOLL_CTL_MOD);
			watch(side->other, EPOLL_CTL_MOD);
		}
	}
}
