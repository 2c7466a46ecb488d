/* Stands in for the acme room until it is there: no certificates are ordered. */
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <stdlib.h>

#include "smartproxy/acme.h"
struct acme {
	const struct acme_ops *ops;
};
enum err acme_new(struct loop *l, const struct config *c, struct challenge_table *t,
		  const struct acme_ops *ops, struct acme **r, struct text *w)
{
	*r = calloc(1, sizeof **r);
	(*r)->ops = ops;
	return 0;
}
void acme_set_wishes(struct acme *a, const struct config *c, const struct acme_wish *w, size_t n)
{
}
void acme_start(struct acme *a)
{
}
void acme_stop(struct acme *a, int64_t g, void (*done)(void *), void *arg)
{
	done(arg);
}
void acme_free(struct acme *a)
{
	free(a);
}
enum err acme_renew(struct acme *a, const char *n)
{
	(void)a;
	return n == NULL ? ERR_OK : ERR_NOENT;
}
const char *acme_route_state_name(enum acme_route_state s)
{
	return "absent";
}
void acme_stats(const struct acme *a, struct acme_stats *r)
{
}
void acme_each_cert(const struct acme *a, void (*e)(void *, const struct acme_cert_status *),
		    void *arg)
{
}
static const char *const p[] = { "x" };
const char *const *acme_failpoints(size_t *n)
{
	*n = 1;
	return p;
}
