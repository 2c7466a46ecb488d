#include <string.h>

#include "chars.h"
#include "proxy.h"

enum wire_step wire_proxy_number_read(const char **at, const char *end, unsigned limit,
				      unsigned *ret_number)
{
	const char *c = *at;
	unsigned number = 0;
	for (; c < end && wire_is_digit(*c); c++) {
		if (c > *at && number == 0)
			return WIRE_FAIL;
		number = number * 10 + (unsigned)(*c - '0');
		if (number > limit)
			return WIRE_FAIL;
	}
	if (c == end)
		return WIRE_MORE;
	if (c == *at)
		return WIRE_FAIL;
	*at = c;
	*ret_number = number;
	return WIRE_DONE;
}

enum wire_step wire_proxy_ipv4_read(const char **at, const char *end, uint8_t *dst)
{
	for (int i = 0; i < 4; i++) {
		unsigned octet;
		enum wire_step step = wire_proxy_number_read(at, end, 255, &octet);
		if (step != WIRE_DONE)
			return step;
		dst[i] = (uint8_t)octet;
		if (i < 3 && *(*at)++ != '.')
			return WIRE_FAIL;
	}
	return WIRE_DONE;
}

#define GROUPS 8
#define NO_GAP (-1)
#define MAPPED 0xffff /* the last group before the IPv4 address of a mapped one */

struct ipv6 {
	unsigned groups[GROUPS];
	unsigned cnt;       /* groups that are whole */
	int gap;            /* groups before "::", or NO_GAP */
	unsigned digit_cnt; /* of the group that is being read */
	unsigned value;
	bool is_after_colon; /* one colon, not two */
};

/* "::" stands for one group at least. */
static unsigned group_limit(const struct ipv6 *ip)
{
	return ip->gap == NO_GAP ? GROUPS : GROUPS - 1;
}

static bool take_digit(struct ipv6 *ip, unsigned digit)
{
	bool is_after_lone_colon = ip->is_after_colon && ip->cnt == 0;
	if (ip->digit_cnt == 4 || ip->cnt == group_limit(ip) || is_after_lone_colon)
		return false;
	ip->value = ip->value << 4 | digit;
	ip->digit_cnt++;
	ip->is_after_colon = false;
	return true;
}

static void end_group(struct ipv6 *ip)
{
	ip->groups[ip->cnt++] = ip->value;
	ip->value = 0;
	ip->digit_cnt = 0;
}

static bool take_colon(struct ipv6 *ip)
{
	if (ip->digit_cnt > 0) {
		end_group(ip);
		ip->is_after_colon = true;
		return ip->cnt < group_limit(ip);
	}
	if (ip->is_after_colon) {
		ip->is_after_colon = false;
		if (ip->gap != NO_GAP)
			return false;
		ip->gap = (int)ip->cnt;
		return true;
	}
	ip->is_after_colon = true;
	return ip->gap == NO_GAP; /* else the third in a row */
}

static bool finish(struct ipv6 *ip, uint8_t *dst)
{
	if (ip->digit_cnt > 0)
		end_group(ip);
	if (ip->is_after_colon || (ip->gap == NO_GAP && ip->cnt != GROUPS))
		return false;
	unsigned head_cnt = ip->gap == NO_GAP ? GROUPS : (unsigned)ip->gap;
	memset(dst, 0, 16);
	for (unsigned i = 0; i < ip->cnt; i++) {
		size_t place = i < head_cnt ? i : GROUPS - ip->cnt + i;
		dst[2 * place] = (uint8_t)(ip->groups[i] >> 8);
		dst[2 * place + 1] = (uint8_t)ip->groups[i];
	}
	return true;
}

/* "::192.0.2.1" and "::ffff:192.0.2.1", as inet_ntop writes them; nothing else with dots. */
static bool may_be_dotted(const struct ipv6 *ip)
{
	return ip->gap == 0 && ip->digit_cnt > 0 &&
	       (ip->cnt == 0 || (ip->cnt == 1 && ip->groups[0] == MAPPED));
}

static enum wire_step read_dotted(const char **at, const char *end, const struct ipv6 *ip,
				  uint8_t *dst)
{
	uint8_t tail[4];
	enum wire_step step = wire_proxy_ipv4_read(at, end, tail);
	if (step != WIRE_DONE)
		return step;
	memset(dst, 0, 16);
	memset(dst + 10, ip->cnt == 1 ? 0xff : 0, 2);
	memcpy(dst + 12, tail, 4);
	return WIRE_DONE;
}

enum wire_step wire_proxy_ipv6_read(const char **at, const char *end, uint8_t *dst)
{
	struct ipv6 ip = { .gap = NO_GAP };
	const char *group = *at;
	for (const char *c = *at; c < end; c++) {
		int digit = wire_hex_value(*c);
		if (*c == '.' && may_be_dotted(&ip)) {
			*at = group;
			return read_dotted(at, end, &ip, dst);
		}
		if (digit < 0 && *c != ':') {
			*at = c;
			return finish(&ip, dst) ? WIRE_DONE : WIRE_FAIL;
		}
		if (digit < 0)
			group = c + 1;
		if (digit >= 0 ? !take_digit(&ip, (unsigned)digit) : !take_colon(&ip))
			return WIRE_FAIL;
	}
	return WIRE_MORE;
}
