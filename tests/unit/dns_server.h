#pragma once
/* Tests: a DNS server on loopback in a thread of its own, UDP and TCP on one port that the kernel
 * chose. What it says depends on the first label of the name that it is asked for. */
#include <arpa/inet.h>
#include <check.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "smartproxy/text.h"

#define DNS_A     1
#define DNS_CNAME 5
#define DNS_AAAA  28

enum { DNS_OK = 0, DNS_SERVFAIL = 2, DNS_NXDOMAIN = 3, DNS_REFUSED = 5 };

struct dns_server {
	pthread_t thread;
	int udp_fd, tcp_fd, stop_fd;
	char where[32];      /* "127.0.0.1:port" */
	uint8_t last_octet;  /* of the addresses that "who" has */
	atomic_uint ask_cnt; /* questions, UDP and TCP */
	unsigned twice_cnt;  /* its thread's */
};

/* One question and the answer that grows behind it. */
struct dns_message {
	uint8_t data[1500];
	size_t len;
	char label[64];
	char name[256];
	unsigned type;
	bool is_tcp;
};

static inline void put16(struct dns_message *m, unsigned value)
{
	m->data[m->len++] = (uint8_t)(value >> 8);
	m->data[m->len++] = (uint8_t)value;
}

/* Name is a pointer to the question's. */
static inline void put_record(struct dns_message *m, unsigned type, unsigned ttl_s,
			      const void *data, size_t len)
{
	unsigned cnt = (unsigned)(m->data[6] << 8 | m->data[7]) + 1;
	put16(m, 0xc00c);
	put16(m, type);
	put16(m, 1);
	put16(m, ttl_s >> 16);
	put16(m, ttl_s & 0xffff);
	put16(m, (unsigned)len);
	memcpy(m->data + m->len, data, len);
	m->len += len;
	m->data[6] = (uint8_t)(cnt >> 8);
	m->data[7] = (uint8_t)cnt;
}

static inline void put_a(struct dns_message *m, unsigned ttl_s, uint8_t last_octet)
{
	const uint8_t v4[4] = { 127, 0, 0, last_octet };
	if (m->type == DNS_A)
		put_record(m, DNS_A, ttl_s, v4, sizeof(v4));
}

static inline void put_aaaa(struct dns_message *m, unsigned ttl_s, uint8_t last_octet)
{
	const uint8_t v6[16] = { 0x20, 0x01, 0x0d, 0xb8, [15] = last_octet };
	if (m->type == DNS_AAAA)
		put_record(m, DNS_AAAA, ttl_s, v6, sizeof(v6));
}

/* An alias of the root's child "t", whose address follows. */
static inline void put_alias(struct dns_message *m)
{
	const uint8_t target[] = { 1, 't', 0 }, v4[4] = { 127, 0, 0, 7 };
	put_record(m, DNS_CNAME, 5, target, sizeof(target));
	size_t at = m->len;
	put_a(m, 60, 7);
	if (m->len == at)
		return;
	/* "t" written out in the place of the pointer */
	m->len = at;
	memcpy(m->data + m->len, target, sizeof(target));
	m->len += sizeof(target);
	put16(m, DNS_A);
	put16(m, 1);
	put16(m, 0);
	put16(m, 60);
	put16(m, sizeof(v4));
	memcpy(m->data + m->len, v4, sizeof(v4));
	m->len += sizeof(v4);
}

/* Answers that are none. */
static inline void put_nonsense(struct dns_message *m)
{
	static const uint8_t loop[] = { 0xc0, 0x0c };
	if (strcmp(m->label, "short") == 0) {
		put_a(m, 60, 1);
		m->len -= 3;
	} else if (strcmp(m->label, "header") == 0) {
		m->len = 11;
	} else if (strcmp(m->label, "loop") == 0) {
		m->data[12] = 0xc0; /* the question's name points to itself */
		m->data[13] = 0x0c;
	} else if (strcmp(m->label, "lies") == 0) {
		put_a(m, 60, 1);
		m->data[7] = 200; /* records that are not there */
	} else if (strcmp(m->label, "length") == 0) {
		const uint8_t bytes[3] = { 1, 2, 3 };
		put_record(m, m->type, 60, bytes, sizeof(bytes));
	} else if (strcmp(m->label, "aliasloop") == 0) {
		put_record(m, DNS_CNAME, 60, loop, sizeof(loop));
	} else if (strcmp(m->label, "noise") == 0) {
		for (size_t i = 2; i < 600; i++)
			m->data[i] = (uint8_t)(i * 37 + 11);
		m->data[2] = 0x81;
		m->len = 600;
	}
}

/* Returns whether there is an answer at all. */
static inline bool dns_answer(struct dns_server *server, struct dns_message *m)
{
	const char *label = m->label;
	unsigned code = DNS_OK;
	if (strcmp(label, "silent") == 0)
		return false;
	if (strcmp(label, "twice") == 0 && server->twice_cnt++ < 2)
		return false; /* the first A and AAAA */
	if (strcmp(label, "no") == 0)
		code = DNS_NXDOMAIN;
	else if (strcmp(label, "fail") == 0)
		code = DNS_SERVFAIL;
	else if (strcmp(label, "refused") == 0)
		code = DNS_REFUSED;
	m->data[2] = 0x81; /* response, recursion desired and available */
	m->data[3] = (uint8_t)(0x80 | code);
	if (strcmp(label, "v4") == 0 || strcmp(label, "twice") == 0) {
		put_a(m, 60, 1);
	} else if (strcmp(label, "v6") == 0) {
		put_aaaa(m, 50, 1);
	} else if (strcmp(label, "both") == 0) {
		put_a(m, 30, 1);
		put_a(m, 10, 2);
		put_a(m, 40, 1); /* again */
		put_aaaa(m, 20, 1);
	} else if (strcmp(label, "many") == 0) {
		for (uint8_t i = 1; i <= 25; i++)
			put_a(m, 30, i);
	} else if (strcmp(label, "alias") == 0) {
		put_alias(m);
	} else if (strcmp(label, "big") == 0 && !m->is_tcp) {
		m->data[2] |= 2; /* TC: ask again by TCP */
	} else if (strcmp(label, "big") == 0) {
		put_a(m, 30, 9);
	} else if (strcmp(label, "who") == 0) {
		put_a(m, 30, server->last_octet);
	} else if (strcmp(label, "app") == 0 && strcmp(m->name, "app.one.test") == 0) {
		put_a(m, 30, 1);
	} else if (strcmp(label, "app") == 0 && strcmp(m->name, "app.two.test") == 0) {
		put_a(m, 30, 2);
	} else if (strcmp(label, "app") == 0) {
		m->data[3] = 0x80 | DNS_NXDOMAIN;
	}
	put_nonsense(m);
	return true;
}

/* The question's name and type; what follows it (EDNS) is cut off. */
static inline bool dns_read_question(struct dns_message *m)
{
	size_t at = 12, name_len = 0;
	while (at < m->len && m->data[at] != 0) {
		size_t len = m->data[at];
		if (len >= sizeof(m->label) || at + 1 + len >= m->len ||
		    name_len + len + 2 > sizeof(m->name))
			return false;
		if (name_len > 0)
			m->name[name_len++] = '.';
		for (size_t i = 0; i < len; i++)
			m->name[name_len++] = (char)tolower(m->data[at + 1 + i]);
		if (at == 12)
			memcpy(m->label, m->name, len); /* the rest is zero */
		at += 1 + len;
	}
	m->name[name_len] = '\0';
	if (at + 5 > m->len)
		return false;
	m->type = (unsigned)(m->data[at + 1] << 8 | m->data[at + 2]);
	m->len = at + 5;
	memset(m->data + 6, 0, 6);
	return true;
}

static inline void dns_serve_udp(struct dns_server *server)
{
	struct dns_message m = { 0 };
	struct sockaddr_in from;
	socklen_t from_len = sizeof(from);
	ssize_t n = recvfrom(server->udp_fd, m.data, 512, 0, (struct sockaddr *)&from, &from_len);
	m.len = n > 0 ? (size_t)n : 0;
	if (!dns_read_question(&m))
		return;
	atomic_fetch_add(&server->ask_cnt, 1);
	if (dns_answer(server, &m))
		(void)!sendto(server->udp_fd, m.data, m.len, 0, (struct sockaddr *)&from, from_len);
}

static inline bool dns_recv_all(int fd, void *dst, size_t len)
{
	return recv(fd, dst, len, MSG_WAITALL) == (ssize_t)len;
}

/* One question of the connection; false: it is over. */
static inline bool dns_serve_tcp(struct dns_server *server, int fd)
{
	uint8_t prefix[2];
	if (!dns_recv_all(fd, prefix, 2))
		return false;
	struct dns_message m = { .len = (size_t)(prefix[0] << 8 | prefix[1]), .is_tcp = true };
	if (m.len > 512 || !dns_recv_all(fd, m.data, m.len) || !dns_read_question(&m))
		return false;
	atomic_fetch_add(&server->ask_cnt, 1);
	if (!dns_answer(server, &m))
		return false;
	prefix[0] = (uint8_t)(m.len >> 8);
	prefix[1] = (uint8_t)m.len;
	(void)!send(fd, prefix, 2, MSG_NOSIGNAL | MSG_MORE);
	(void)!send(fd, m.data, m.len, MSG_NOSIGNAL);
	return true;
}

static inline void *dns_run(void *arg)
{
	struct dns_server *server = arg;
	int conn_fd = -1; /* one at a time: others wait in the backlog */
	for (;;) {
		struct pollfd fds[] = { { server->stop_fd, POLLIN, 0 },
					{ server->udp_fd, POLLIN, 0 },
					{ conn_fd < 0 ? server->tcp_fd : conn_fd, POLLIN, 0 } };
		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			break;
		if (fds[0].revents != 0)
			break;
		if (fds[1].revents != 0)
			dns_serve_udp(server);
		if (fds[2].revents == 0)
			continue;
		if (conn_fd < 0) {
			conn_fd = accept(server->tcp_fd, NULL, NULL);
		} else if (!dns_serve_tcp(server, conn_fd)) {
			close(conn_fd);
			conn_fd = -1;
		}
	}
	if (conn_fd >= 0)
		close(conn_fd);
	return NULL;
}

static inline void dns_start(struct dns_server *server)
{
	struct sockaddr_in sin = { .sin_family = AF_INET };
	socklen_t len = sizeof(sin);
	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	server->udp_fd = server->tcp_fd = -1;
	/* The UDP port that the kernel chose may be taken for TCP: then again. */
	for (int i = 0; i < 100; i++) {
		sin.sin_port = 0;
		server->udp_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		server->tcp_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		ck_assert_int_eq(bind(server->udp_fd, (struct sockaddr *)&sin, len), 0);
		ck_assert_int_eq(getsockname(server->udp_fd, (struct sockaddr *)&sin, &len), 0);
		if (bind(server->tcp_fd, (struct sockaddr *)&sin, len) == 0)
			break;
		close(server->udp_fd);
		close(server->tcp_fd);
	}
	ck_assert_int_eq(listen(server->tcp_fd, 8), 0);
	server->stop_fd = eventfd(0, EFD_CLOEXEC);
	text_format(server->where, sizeof(server->where), "127.0.0.1:%u", ntohs(sin.sin_port));
	ck_assert_int_eq(pthread_create(&server->thread, NULL, dns_run, server), 0);
}

static inline void dns_stop(struct dns_server *server)
{
	ck_assert_int_eq(eventfd_write(server->stop_fd, 1), 0);
	pthread_join(server->thread, NULL);
	close(server->udp_fd);
	close(server->tcp_fd);
	close(server->stop_fd);
}
