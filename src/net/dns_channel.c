#include "dns_channel.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "smartproxy/addr.h"
#include "smartproxy/fault.h"

#define TRIES       3
#define DNS_PORT    53
#define SERVERS_MAX 16

/* A socket of c-ares, which opens and closes it. */
struct dns_socket {
	struct io io;
	struct list link;
	struct dns_channel *channel;
	uint32_t events;
};

/* ---- sockets ---- */

static void on_ready(struct io *io, uint32_t events)
{
	struct dns_socket *s = SP_CONTAINER_OF(io, struct dns_socket, io);
	bool is_broken = (events & (EPOLLERR | EPOLLHUP)) != 0;
	bool wants_write = (s->events & EPOLLOUT) != 0;
	dns_channel_step(s->channel, io->fd, is_broken || (events & EPOLLIN) != 0,
			 wants_write && (is_broken || (events & EPOLLOUT) != 0));
}

static struct dns_socket *find_socket(const struct dns_channel *channel, int fd)
{
	LIST_FOREACH(pos, &channel->sockets)
	{
		struct dns_socket *s = SP_CONTAINER_OF(pos, struct dns_socket, link);
		if (s->io.fd == fd)
			return s;
	}
	return NULL;
}

static void drop_socket(struct dns_socket *s)
{
	loop_remove(s->channel->loop, &s->io);
	list_remove(&s->link);
	free(s);
}

/* Without memory or a place in epoll the socket is not watched: its query ends by its timeout. */
static void add_socket(struct dns_channel *channel, int fd, uint32_t events)
{
	struct dns_socket *s = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*s));
	if (s == NULL)
		return;
	s->io = (struct io){ .fd = fd, .on_ready = on_ready };
	s->channel = channel;
	s->events = events;
	if (loop_add(channel->loop, &s->io, events) != ERR_OK) {
		free(s);
		return;
	}
	list_append(&channel->sockets, &s->link);
}

/* c-ares tells what it waits for; neither: it is about to close the socket. */
static void on_socket(void *data, ares_socket_t fd, int is_reading, int is_writing)
{
	struct dns_channel *channel = data;
	uint32_t events = (is_reading ? EPOLLIN : 0U) | (is_writing ? EPOLLOUT : 0U);
	struct dns_socket *s = find_socket(channel, fd);
	if (s == NULL && events != 0)
		add_socket(channel, fd, events);
	else if (s != NULL && events == 0)
		drop_socket(s);
	else if (s != NULL && events != s->events &&
		 loop_change(channel->loop, &s->io, events) == ERR_OK)
		s->events = events;
}

size_t dns_channel_poll(const struct dns_channel *channel, struct pollfd *fds, size_t cap)
{
	size_t cnt = 0;
	LIST_FOREACH(pos, &channel->sockets)
	{
		struct dns_socket *s = SP_CONTAINER_OF(pos, struct dns_socket, link);
		if (cnt == cap)
			break;
		short events = (short)((s->events & EPOLLIN ? POLLIN : 0) |
				       (s->events & EPOLLOUT ? POLLOUT : 0));
		fds[cnt++] = (struct pollfd){ .fd = s->io.fd, .events = events };
	}
	return cnt;
}

/* ---- steps ---- */

int64_t dns_channel_left_ms(const struct dns_channel *channel)
{
	struct timeval tv;
	if (ares_timeout(channel->ares, NULL, &tv) == NULL)
		return -1;
	return (int64_t)tv.tv_sec * 1000 + (tv.tv_usec + 999) / 1000;
}

static void arm_timer(struct dns_channel *channel)
{
	int64_t left_ms = dns_channel_left_ms(channel);
	if (left_ms < 0)
		loop_timer_disarm(channel->loop, &channel->timer);
	else
		/* One more, as c-ares' clock is not the loop's: never a turn for nothing. */
		loop_timer_arm(channel->loop, &channel->timer,
			       loop_now_ms(channel->loop) + left_ms + 1);
}

static void on_due(struct timer *timer)
{
	dns_channel_step(SP_CONTAINER_OF(timer, struct dns_channel, timer), -1, false, false);
}

void dns_channel_enter(struct dns_channel *channel)
{
	channel->depth++;
}

void dns_channel_leave(struct dns_channel *channel)
{
	if (--channel->depth > 0)
		return;
	if (channel->is_retired && channel->lookup_cnt == 0)
		dns_channel_close(channel);
	else
		arm_timer(channel);
}

void dns_channel_step(struct dns_channel *channel, int fd, bool is_readable, bool is_writable)
{
	dns_channel_enter(channel);
	ares_process_fd(channel->ares, is_readable ? fd : ARES_SOCKET_BAD,
			is_writable ? fd : ARES_SOCKET_BAD);
	dns_channel_leave(channel);
}

/* ---- life ---- */

static enum err parse_port(const char *text, uint16_t *ret_port)
{
	char *end = NULL;
	unsigned long port = strtoul(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || port == 0 || port > UINT16_MAX)
		return ERR_INVALID;
	*ret_port = (uint16_t)port;
	return ERR_OK;
}

/* "192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:5353" */
static enum err parse_server(const char *text, struct addr *ret_addr)
{
	char host[ADDR_TEXT_MAX];
	uint16_t port = DNS_PORT;
	if (addr_parse(text, port, ret_addr) == ERR_OK)
		return ERR_OK;
	const char *colon = strrchr(text, ':');
	if (colon == NULL || (size_t)(colon - text) >= sizeof(host) ||
	    parse_port(colon + 1, &port) != ERR_OK)
		return ERR_INVALID;
	size_t len = (size_t)(colon - text);
	memcpy(host, text, len);
	host[len] = '\0';
	/* IPv6 without brackets has no port. */
	if (host[0] != '[' && strchr(host, ':') != NULL)
		return ERR_INVALID;
	return addr_parse(host, port, ret_addr) == ERR_OK ? ERR_OK : ERR_INVALID;
}

static enum err set_servers(struct dns_channel *channel, const struct resolver_settings *settings)
{
	struct ares_addr_port_node nodes[SERVERS_MAX] = { 0 };
	if (settings->server_cnt == 0)
		return ERR_OK;
	if (settings->server_cnt > SERVERS_MAX)
		return ERR_LIMIT;
	for (size_t i = 0; i < settings->server_cnt; i++) {
		struct ares_addr_port_node *node = &nodes[i];
		struct addr addr;
		if (parse_server(settings->servers[i], &addr) != ERR_OK)
			return ERR_INVALID;
		node->family = addr.sa.sa_family;
		if (node->family == AF_INET)
			node->addr.addr4 = addr.v4.sin_addr;
		else
			memcpy(&node->addr.addr6, &addr.v6.sin6_addr, sizeof(node->addr.addr6));
		node->udp_port = node->tcp_port = addr_port(&addr);
		node->next = i + 1 < settings->server_cnt ? &nodes[i + 1] : NULL;
	}
	return ares_set_servers_ports(channel->ares, nodes) == ARES_SUCCESS ? ERR_OK : ERR_NOMEM;
}

static enum err init_ares(struct dns_channel *channel, const struct resolver_settings *settings)
{
	char lookups[] = "fb"; /* /etc/hosts, then DNS */
	char path[256] = "";
	struct ares_options options = {
		.flags = ARES_FLAG_NOALIASES,
		.timeout = (int)settings->timeout_ms,
		.tries = TRIES,
		.lookups = lookups,
		.sock_state_cb = on_socket,
		.sock_state_cb_data = channel,
		.resolvconf_path = path,
	};
	int mask = ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_LOOKUPS |
		   ARES_OPT_SOCK_STATE_CB;
	if (settings->resolv_conf != NULL) {
		size_t len = strlen(settings->resolv_conf);
		if (len >= sizeof(path))
			return ERR_INVALID;
		memcpy(path, settings->resolv_conf, len + 1);
		mask |= ARES_OPT_RESOLVCONF;
	}
	int status = ares_init_options(&channel->ares, &options, mask);
	if (status == ARES_SUCCESS)
		return set_servers(channel, settings);
	channel->ares = NULL;
	return status == ARES_ENOMEM ? ERR_NOMEM : ERR_SYSTEM;
}

enum err dns_channel_open(struct loop *loop, const struct resolver_settings *settings,
			  struct dns_channel **ret_channel)
{
	struct dns_channel *channel = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*channel));
	if (channel == NULL)
		return ERR_NOMEM;
	channel->loop = loop;
	channel->timer.on_due = on_due;
	list_init(&channel->link);
	list_init(&channel->sockets);
	enum err e = init_ares(channel, settings);
	if (e != ERR_OK) {
		dns_channel_close(channel);
		return e;
	}
	*ret_channel = channel;
	return ERR_OK;
}

void dns_channel_close(struct dns_channel *channel)
{
	if (channel == NULL)
		return;
	channel->depth++; /* callbacks come from here */
	if (channel->ares != NULL)
		ares_destroy(channel->ares);
	LIST_FOREACH_SAFE(pos, &channel->sockets)
	drop_socket(SP_CONTAINER_OF(pos, struct dns_socket, link));
	loop_timer_disarm(channel->loop, &channel->timer);
	list_remove(&channel->link);
	free(channel);
}

void dns_channel_retire(struct dns_channel *channel)
{
	if (channel == NULL)
		return;
	channel->is_retired = true;
	if (channel->depth == 0 && channel->lookup_cnt == 0)
		dns_channel_close(channel);
}
