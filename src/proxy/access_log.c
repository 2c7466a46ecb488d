#include "exchange.h"

void access_log_write(const struct exchange *x)
{
	(void)x;
}
