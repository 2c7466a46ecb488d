/* state            accepts                          leaves to
 * SIZE             1 to 15 hex digits               EXT_* on blank or ';', SIZE_LF on CR
 * EXT_GAP          blanks before ';'                EXT_NAME_START
 * EXT_NAME_START   blanks, a token's first byte     EXT_NAME
 * EXT_NAME         token                            EXT_NAME_GAP, EXT_VALUE_START, EXT_NAME_START,
 * SIZE_LF EXT_NAME_GAP     blanks before '=' or ';'         EXT_VALUE_START, EXT_NAME_START
 * EXT_VALUE_START  blanks, token, '"'               EXT_VALUE, EXT_QUOTED
 * EXT_VALUE        token                            EXT_GAP, EXT_NAME_START, SIZE_LF
 * EXT_QUOTED       quoted text, '\' escapes         EXT_QUOTED_END
 * EXT_QUOTED_END   nothing                          EXT_GAP, EXT_NAME_START, SIZE_LF
 * SIZE_LF          LF                               DATA, or TRAILER when the size is 0
 * DATA             payload                          DATA_CR
 * DATA_CR, _LF     CRLF                             SIZE
 * TRAILER          field lines and the empty line   END
 * END, FAILED      nothing
 * (RFC 9112, 7.1) */
#include "chars.h"
#include "field.h"
#include "lines.h"

enum state {
	SIZE, /* 0, for the zero-initialised decoder */
	EXT_GAP,
	EXT_NAME_START,
	EXT_NAME,
	EXT_NAME_GAP,
	EXT_VALUE_START,
	EXT_VALUE,
	EXT_QUOTED,
	EXT_ESCAPE,
	EXT_QUOTED_END,
	SIZE_LF,
	DATA,
	DATA_CR,
	DATA_LF,
	TRAILER,
	END,
	FAILED,
};

#define DIGITS_MAX        15
#define EXT_CHUNK_MAX     256
#define EXT_MESSAGE_BYTES 8192

static void fail(struct wire_chunked *c, enum wire_reason reason)
{
	c->state = FAILED;
	c->reason = reason;
}

static void read_size(struct wire_chunked *c, char byte)
{
	int value = wire_hex_value(byte);
	if (value >= 0 && c->digit_cnt < DIGITS_MAX) {
		c->left = c->left * 16 + (uint64_t)value;
		c->digit_cnt++;
	} else if (value >= 0 || c->digit_cnt == 0) {
		fail(c, WIRE_BAD_CHUNK_SIZE);
	} else if (byte == '\r') {
		c->state = SIZE_LF;
	} else if (byte == ';') {
		c->state = EXT_NAME_START;
	} else if (wire_is_blank(byte)) {
		c->state = EXT_GAP;
	} else {
		fail(c, byte == '\n' ? WIRE_BARE_LF : WIRE_BAD_CHUNK_SIZE);
	}
}

/* The state after an extension byte; FAILED when it cannot stand there. */
static enum state step_ext(enum state state, char byte)
{
	bool is_blank = wire_is_blank(byte);
	bool is_token = wire_is_char(byte, WIRE_CHAR_TOKEN);
	switch (state) {
	case EXT_GAP:
		return is_blank ? EXT_GAP : byte == ';' ? EXT_NAME_START : FAILED;
	case EXT_NAME_START:
		return is_blank ? EXT_NAME_START : is_token ? EXT_NAME : FAILED;
	case EXT_NAME:
		if (is_token)
			return EXT_NAME;
		if (byte == '\r')
			return SIZE_LF;
		__attribute__((fallthrough));
	case EXT_NAME_GAP:
		if (byte == '=')
			return EXT_VALUE_START;
		return is_blank ? EXT_NAME_GAP : byte == ';' ? EXT_NAME_START : FAILED;
	case EXT_VALUE_START:
		if (byte == '"')
			return EXT_QUOTED;
		return is_blank ? EXT_VALUE_START : is_token ? EXT_VALUE : FAILED;
	case EXT_VALUE:
		if (is_token)
			return EXT_VALUE;
		__attribute__((fallthrough));
	case EXT_QUOTED_END:
		if (byte == '\r')
			return SIZE_LF;
		return is_blank ? EXT_GAP : byte == ';' ? EXT_NAME_START : FAILED;
	case EXT_QUOTED:
		if (byte == '"')
			return EXT_QUOTED_END;
		if (byte == '\\')
			return EXT_ESCAPE;
		__attribute__((fallthrough));
	default: /* EXT_ESCAPE */
		return wire_scan_ctl_portable(&byte, 1) == 1 ? EXT_QUOTED : FAILED;
	}
}

static void read_ext(struct wire_chunked *c, char byte)
{
	enum state next = step_ext((enum state)c->state, byte);
	if (next == FAILED)
		fail(c, byte == '\n' ? WIRE_BARE_LF : WIRE_BAD_CHUNK_EXT);
	else
		c->state = (uint8_t)next;
}

/* One byte of framing outside data and trailers. */
static void read_framing(struct wire_chunked *c, char byte)
{
	if (c->state != SIZE && c->state < SIZE_LF)
		read_ext(c, byte);
	else if (c->state == SIZE)
		read_size(c, byte);
	else if (c->state == SIZE_LF && byte != '\n')
		fail(c, WIRE_BARE_CR);
	else if (c->state == SIZE_LF)
		c->state = c->left == 0 ? TRAILER : DATA;
	else if (c->state == DATA_CR && byte == '\r')
		c->state = DATA_LF;
	else if (c->state == DATA_LF && byte == '\n')
		c->state = SIZE;
	else
		fail(c, WIRE_BAD_CHUNK_END);

	if (c->state > SIZE && c->state < SIZE_LF &&
	    (++c->ext_here > EXT_CHUNK_MAX || ++c->ext_bytes > EXT_MESSAGE_BYTES))
		fail(c, WIRE_BAD_CHUNK_EXT);
}

/* data starts with the trailer section, of which trailer_bytes were looked at before; left is the
 * start of its line. */
static enum wire_step read_trailer(struct wire_chunked *c, const char *data, size_t len,
				   size_t *ret_used, struct wire_span *ret_trailer)
{
	if (len > UINT32_MAX) {
		fail(c, WIRE_BAD_TRAILER);
		return WIRE_FAIL;
	}
	size_t seen = c->trailer_bytes;
	size_t line_start = (size_t)c->left;
	size_t section_len = 0;
	enum wire_reason reason = WIRE_OK;
	enum wire_step step =
		wire_section_scan(data, len, false, &seen, &line_start, &section_len, &reason);
	c->trailer_bytes = (uint32_t)seen;
	c->left = line_start;
	if (step == WIRE_FAIL)
		fail(c, reason);
	if (step == WIRE_DONE) {
		c->state = END;
		*ret_used = section_len;
		*ret_trailer = (struct wire_span){ data, (uint32_t)section_len - 2 };
	}
	return step;
}

enum wire_step wire_chunked_decode(struct wire_chunked *c, const char *data, size_t len,
				   size_t *ret_used, size_t *ret_data_len,
				   struct wire_span *ret_trailer)
{
	size_t at = 0;
	*ret_used = 0;
	*ret_data_len = 0;
	*ret_trailer = (struct wire_span){ NULL, 0 };
	while (at < len && c->state < TRAILER && c->state != DATA)
		read_framing(c, data[at++]);
	if (c->state == FAILED)
		return WIRE_FAIL;
	if (c->state == END)
		return WIRE_DONE;
	if (c->state == TRAILER) {
		size_t used = 0;
		enum wire_step step =
			at < len ? read_trailer(c, data + at, len - at, &used, ret_trailer)
				 : WIRE_MORE;
		*ret_used = at + used;
		return step;
	}
	if (c->state == DATA) {
		size_t run = c->left < len - at ? (size_t)c->left : len - at;
		c->left -= run;
		at += run;
		*ret_data_len = run;
		if (c->left == 0) {
			c->state = DATA_CR;
			c->digit_cnt = 0;
			c->ext_here = 0;
		}
	}
	*ret_used = at;
	return WIRE_MORE;
}
