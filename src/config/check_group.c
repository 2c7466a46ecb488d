/* Groups of the top level: what does not fit together within one. */
#include "check.h"
#include "load.h"

enum err check_global(struct loader *l, const struct value *group, void *data)
{
	const struct config *c = data;
	const struct value *written = value_member(group, "group"),
			   *user = value_member(group, "user");
	bool is_user_none = !user || (user->type == VALUE_STRING && *user->string == '\0');
	if (c->global.group && is_user_none)
		load_problem(l, written, "group",
			     "needs global.user: without it the process stays what it was started "
			     "as, its group too");
	return ERR_OK;
}

enum err check_limits(struct loader *l, const struct value *group, void *data)
{
	const struct config *c = data;
	const struct value *target = value_member(group, "target");
	if (c->limits.head_bytes && c->limits.target_bytes > c->limits.head_bytes)
		load_problem(l, target ? target : value_member(group, "head"), "target",
			     "is more than limits.head, which holds the target too");
	const struct value *burst = value_member(group, "connection_burst_per_ip");
	if (c->limits.connection_burst_per_ip && !c->limits.connection_rate_per_ip)
		load_problem(l, burst, "connection_burst_per_ip",
			     "needs limits.connection_rate_per_ip: without a rate there is nothing "
			     "that a burst is an exception from");
	return ERR_OK;
}

enum err check_dns(struct loader *l, const struct value *group, void *data)
{
	const struct config *c = data;
	const struct value *min = value_member(group, "min_ttl");
	if (c->dns.max_ttl_ms && c->dns.min_ttl_ms > c->dns.max_ttl_ms)
		load_problem(l, min ? min : value_member(group, "max_ttl"), "min_ttl",
			     "is more than dns.max_ttl; lower the one or raise the other");
	return ERR_OK;
}

enum err check_listener(struct loader *l, const struct value *group, void *data)
{
	struct config_listener *listener = data;
	const struct value *proxy = value_member(group, "proxy_protocol");
	const struct value *trusted = value_member(proxy, "trusted");
	listener->line = group->line;
	if (trusted && trusted->type == VALUE_LIST && trusted->cnt == 0)
		load_problem(
			l, trusted, "proxy_protocol.trusted",
			"one address or block at least: nobody else's PROXY header is believed, "
			"and a listener that trusts nobody could serve nobody; to take no PROXY "
			"headers leave proxy_protocol out");
	if (!proxy && !value_member(group, "defer_accept"))
		load_problem(l, group, NULL,
			     "says nothing: give it proxy_protocol, defer_accept or both");
	return ERR_OK;
}
