#include "proxy.h"

#include <string.h>

static const char *const names[WIRE_PROXY_REASON_CNT] = {
	[WIRE_PROXY_OK] = "ok",
	[WIRE_PROXY_NO_SIGNATURE] = "no_signature",
	[WIRE_PROXY_BAD_LINE] = "bad_line",
	[WIRE_PROXY_BAD_VERSION] = "bad_version",
	[WIRE_PROXY_BAD_LENGTH] = "bad_length",
	[WIRE_PROXY_BAD_TLV] = "bad_tlv",
	[WIRE_PROXY_BAD_CHECKSUM] = "bad_checksum",
	[WIRE_PROXY_TOO_LARGE] = "too_large",
};

const char *wire_proxy_reason_name(enum wire_proxy_reason reason)
{
	return (unsigned)reason < WIRE_PROXY_REASON_CNT ? names[reason] : "unknown";
}

enum wire_step wire_proxy_parse(const uint8_t *data, size_t len, struct wire_proxy *ret_proxy,
				size_t *ret_used, enum wire_proxy_reason *ret_reason)
{
	struct wire_proxy proxy;
	memset(&proxy, 0, sizeof(proxy));
	size_t used = 0;
	enum wire_step step;
	*ret_reason = WIRE_PROXY_OK;
	if (len == 0)
		return WIRE_MORE;
	if (data[0] == 'P') {
		step = wire_proxy_v1_read(data, len, &proxy, &used, ret_reason);
	} else if (data[0] == '\r') {
		step = wire_proxy_v2_read(data, len, &proxy, &used, ret_reason);
	} else {
		*ret_reason = WIRE_PROXY_NO_SIGNATURE;
		return WIRE_FAIL;
	}
	if (step == WIRE_DONE) {
		*ret_proxy = proxy;
		*ret_used = used;
	}
	return step;
}
