#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "smartproxy/listener.h"

static void add_place(const struct port_error *e, struct text *text)
{
	char ip[ADDR_TEXT_MAX];
	bool is_any =
		e->addr.sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&e->addr.v6.sin6_addr);
	text_printf(text, "port %u (address %s)", (unsigned)addr_port(&e->addr),
		    is_any ? "*" : addr_format_ip(ip, sizeof(ip), &e->addr));
}

static void add_in_use(const struct port_error *e, struct text *text)
{
	unsigned port = addr_port(&e->addr);
	if (!e->is_holder_known) {
		text_printf(text,
			    " is in use, and nothing shows by whom: find it with \"ss -Htanp "
			    "'sport = :%u'\" as root, "
			    "or use another port",
			    port);
	} else if (e->is_holder_ours) {
		text_printf(text,
			    " is in use by this process itself on %s: a defect of smartproxy, "
			    "please report it",
			    e->holder_addr);
	} else if (e->holder_pid == 0) {
		text_printf(text,
			    " is in use by a process of uid %u on %s that cannot be named from "
			    "here: find it "
			    "with \"ss -ltnp 'sport = :%u'\" as root, and stop it, or use another "
			    "port or address",
			    (unsigned)e->holder_uid, e->holder_addr, port);
	} else {
		text_printf(text,
			    " is in use by %s (pid %d, uid %u) on %s: stop it, or use another port "
			    "or address",
			    e->holder_name[0] != '\0' ? e->holder_name : "a process",
			    (int)e->holder_pid, (unsigned)e->holder_uid, e->holder_addr);
	}
}

void port_error_text(const struct port_error *e, struct text *ret_text)
{
	add_place(e, ret_text);
	switch (e->code) {
	case ERR_PORT_IN_USE:
		add_in_use(e, ret_text);
		break;
	case ERR_PORT_DENIED:
		text_puts(
			ret_text,
			" may not be bound by this user: give the process CAP_NET_BIND_SERVICE "
			"(start as root, or "
			"systemd's AmbientCapabilities=CAP_NET_BIND_SERVICE), or lower the sysctl "
			"net.ipv4.ip_unprivileged_port_start");
		break;
	case ERR_ADDRESS:
		text_puts(ret_text,
			  " cannot be bound, the address is not one of this machine: use one that "
			  "\"ip address\" lists, or leave out match.address for all");
		break;
	case ERR_VERIFY:
		text_puts(ret_text, " was closed, but the kernel still shows a listening socket of "
				    "this process "
				    "there: check with \"ss -ltnp\"");
		break;
	case ERR_LIMIT:
		text_printf(ret_text,
			    " could not be opened, too many open files (%s): raise LimitNOFILE or "
			    "ulimit -n",
			    strerrordesc_np(e->sys_errno));
		break;
	case ERR_BUSY:
		text_puts(ret_text, " waits for another change of listeners to end: try again");
		break;
	default:
		text_printf(ret_text, " could not be opened: %s",
			    e->sys_errno != 0 ? strerrordesc_np(e->sys_errno) : err_text(e->code));
	}
}
