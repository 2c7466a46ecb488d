#include "sock_diag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct visit {
	uint16_t port;
	uint32_t states;
	void (*visit)(void *arg, const struct diag_socket *seen);
	void *arg;
};

static bool is_wildcard(const struct addr *a)
{
	if (a->sa.sa_family == AF_INET)
		return a->v4.sin_addr.s_addr == htonl(INADDR_ANY);
	return IN6_IS_ADDR_UNSPECIFIED(&a->v6.sin6_addr);
}

bool diag_conflicts(const struct diag_socket *seen, const struct addr *wanted)
{
	if (addr_port(&seen->addr) != addr_port(wanted))
		return false;
	bool seen_any = is_wildcard(&seen->addr), wants_any = is_wildcard(wanted);
	if (seen->addr.sa.sa_family == wanted->sa.sa_family)
		return seen_any || wants_any || addr_is_equal(&seen->addr, wanted);
	if (wanted->sa.sa_family == AF_INET)
		return seen_any && !seen->is_v6only;
	return wants_any;
}

static void visit_message(const struct visit *v, const struct nlmsghdr *head)
{
	const struct inet_diag_msg *msg = NLMSG_DATA(head);
	struct sockaddr_storage ss;
	memset(&ss, 0, sizeof(ss));
	if (msg->idiag_family == AF_INET) {
		struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = msg->id.idiag_sport };
		memcpy(&v4.sin_addr, msg->id.idiag_src, sizeof(v4.sin_addr));
		memcpy(&ss, &v4, sizeof(v4));
	} else {
		struct sockaddr_in6 v6 = { .sin6_family = AF_INET6,
					   .sin6_port = msg->id.idiag_sport };
		memcpy(&v6.sin6_addr, msg->id.idiag_src, sizeof(v6.sin6_addr));
		memcpy(&ss, &v6, sizeof(v6));
	}
	struct diag_socket seen = { .uid = msg->idiag_uid, .inode = msg->idiag_inode };
	addr_from_sockaddr(&ss, &seen.addr);
	int left = (int)(head->nlmsg_len - NLMSG_LENGTH(sizeof(*msg)));
	for (const struct rtattr *attr = (const void *)(msg + 1); RTA_OK(attr, left);
	     attr = RTA_NEXT(attr, left)) {
		if (attr->rta_type == INET_DIAG_SKV6ONLY)
			seen.is_v6only = *(const uint8_t *)RTA_DATA(attr) != 0;
	}
	if (addr_port(&seen.addr) == v->port)
		v->visit(v->arg, &seen);
}

/* One datagram of the dump's answer. STEP_MORE: others follow. */
static enum step read_answer(const struct visit *v, int fd)
{
	_Alignas(struct nlmsghdr) char bytes[16384];
	ssize_t got = recv(fd, bytes, sizeof(bytes), 0);
	if (got < 0)
		return errno == EINTR ? STEP_MORE : STEP_FAIL;
	size_t len = (size_t)got;
	for (const struct nlmsghdr *head = (const void *)bytes; NLMSG_OK(head, len);
	     head = NLMSG_NEXT(head, len)) {
		if (head->nlmsg_type == NLMSG_DONE)
			return STEP_DONE;
		if (head->nlmsg_type == NLMSG_ERROR)
			return STEP_FAIL;
		if (head->nlmsg_type == SOCK_DIAG_BY_FAMILY &&
		    head->nlmsg_len >= NLMSG_LENGTH(sizeof(struct inet_diag_msg)))
			visit_message(v, head);
	}
	return got == 0 ? STEP_FAIL : STEP_MORE;
}

static bool dump_family(const struct visit *v, int fd, uint8_t family)
{
	struct {
		struct nlmsghdr head;
		struct inet_diag_req_v2 req;
	} ask = {
		.head = { .nlmsg_len = sizeof(ask),
			  .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			  .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.req = { .sdiag_family = family,
			 .sdiag_protocol = IPPROTO_TCP,
			 .idiag_states = v->states,
			 .id.idiag_sport = htons(v->port) },
	};
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	if (sendto(fd, &ask, sizeof(ask), 0, (const struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return false;
	enum step step;
	do {
		step = read_answer(v, fd);
	} while (step == STEP_MORE);
	return step == STEP_DONE;
}

/* A line of /proc/net/tcp or tcp6: addresses are 32-bit words as they lie in memory, the port is
 * plain hex. */
static void visit_line(const struct visit *v, const char *line, bool is_v6)
{
	char ip_hex[33];
	unsigned port, state, uid, inode;
	if (sscanf(line, "%*u: %32[0-9A-F]:%x %*[0-9A-F]:%*x %x %*s %*s %*s %u %*u %u", ip_hex,
		   &port, &state, &uid, &inode) != 5)
		return;
	if (port != v->port || state > 31 || (v->states & (1U << state)) == 0)
		return;
	uint32_t words[4] = { 0 };
	if (sscanf(ip_hex, "%8x%8x%8x%8x", &words[0], &words[1], &words[2], &words[3]) !=
	    (is_v6 ? 4 : 1))
		return;
	struct sockaddr_storage ss;
	memset(&ss, 0, sizeof(ss));
	if (is_v6) {
		struct sockaddr_in6 v6 = { .sin6_family = AF_INET6,
					   .sin6_port = htons((uint16_t)port) };
		memcpy(&v6.sin6_addr, words, sizeof(v6.sin6_addr));
		memcpy(&ss, &v6, sizeof(v6));
	} else {
		struct sockaddr_in v4 = { .sin_family = AF_INET,
					  .sin_port = htons((uint16_t)port) };
		memcpy(&v4.sin_addr, words, sizeof(v4.sin_addr));
		memcpy(&ss, &v4, sizeof(v4));
	}
	struct diag_socket seen = { .uid = uid, .inode = inode };
	addr_from_sockaddr(&ss, &seen.addr);
	v->visit(v->arg, &seen);
}

static bool read_proc(const struct visit *v, const char *path, bool is_v6)
{
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return false;
	char line[512];
	while (fgets(line, sizeof(line), file) != NULL)
		visit_line(v, line, is_v6);
	(void)fclose(file);
	return true;
}

enum err diag_visit(uint16_t port, uint32_t states,
		    void (*visit)(void *arg, const struct diag_socket *seen), void *arg)
{
	struct visit v = { port, states, visit, arg };
	bool has_v4 = false, has_v6 = false;
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (fd >= 0) {
		has_v4 = dump_family(&v, fd, AF_INET);
		has_v6 = has_v4 && dump_family(&v, fd, AF_INET6);
		(void)close(fd);
	}
	/* A kernel without tcp_diag; one without IPv6 answers neither way for it. */
	if (!has_v4)
		has_v4 = read_proc(&v, "/proc/net/tcp", false);
	if (!has_v6)
		(void)read_proc(&v, "/proc/net/tcp6", true);
	return has_v4 ? ERR_OK : ERR_SYSTEM;
}
