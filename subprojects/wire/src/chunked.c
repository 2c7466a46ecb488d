/* state            accepts                          leaves to
 * SIZE             1 to 15 hex digits               EXT_* on blank or ';', SIZE_LF on CR
 * EXT_*            chunk-ext, by ext_next           SIZE_LF on CR
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

/* What a byte is to an extension. */
enum ext_class { REFUSED, BLANK, TOKEN, SEMICOLON, EQUALS, QUOTE, BACKSLASH, CR, TEXT, CLASS_CNT };

static enum ext_class classify(char byte)
{
	if (wire_is_char(byte, WIRE_CHAR_TOKEN))
		return TOKEN;
	switch (byte) {
	case ' ':
	case '\t':
		return BLANK;
	case ';':
		return SEMICOLON;
	case '=':
		return EQUALS;
	case '"':
		return QUOTE;
	case '\\':
		return BACKSLASH;
	case '\r':
		return CR;
	default:
		return wire_scan_ctl_portable(&byte, 1) == 1 ? TEXT : REFUSED;
	}
}

/* The state after an extension's byte; 0 (no state follows SIZE here): the byte cannot stand there.
 */
static const uint8_t ext_next[SIZE_LF][CLASS_CNT] = {
	[EXT_GAP] = { [BLANK] = EXT_GAP, [SEMICOLON] = EXT_NAME_START },
	[EXT_NAME_START] = { [BLANK] = EXT_NAME_START, [TOKEN] = EXT_NAME },
	[EXT_NAME] = { [BLANK] = EXT_NAME_GAP,
		       [TOKEN] = EXT_NAME,
		       [SEMICOLON] = EXT_NAME_START,
		       [EQUALS] = EXT_VALUE_START,
		       [CR] = SIZE_LF },
	[EXT_NAME_GAP] = { [BLANK] = EXT_NAME_GAP,
			   [SEMICOLON] = EXT_NAME_START,
			   [EQUALS] = EXT_VALUE_START },
	[EXT_VALUE_START] = { [BLANK] = EXT_VALUE_START,
			      [TOKEN] = EXT_VALUE,
			      [QUOTE] = EXT_QUOTED },
	[EXT_VALUE] = { [BLANK] = EXT_GAP,
			[TOKEN] = EXT_VALUE,
			[SEMICOLON] = EXT_NAME_START,
			[CR] = SIZE_LF },
	[EXT_QUOTED] = { [BLANK] = EXT_QUOTED,
			 [TOKEN] = EXT_QUOTED,
			 [SEMICOLON] = EXT_QUOTED,
			 [EQUALS] = EXT_QUOTED,
			 [QUOTE] = EXT_QUOTED_END,
			 [BACKSLASH] = EXT_ESCAPE,
			 [TEXT] = EXT_QUOTED },
	[EXT_ESCAPE] = { [BLANK] = EXT_QUOTED,
			 [TOKEN] = EXT_QUOTED,
			 [SEMICOLON] = EXT_QUOTED,
			 [EQUALS] = EXT_QUOTED,
			 [QUOTE] = EXT_QUOTED,
			 [BACKSLASH] = EXT_QUOTED,
			 [TEXT] = EXT_QUOTED },
	[EXT_QUOTED_END] = { [BLANK] = EXT_GAP, [SEMICOLON] = EXT_NAME_START, [CR] = SIZE_LF },
};

static void read_ext(struct wire_chunked *c, char byte)
{
	uint8_t next = ext_next[c->state][classify(byte)];
	if (next != 0)
		c->state = next;
	else
		fail(c, byte == '\n' ? WIRE_BARE_LF : WIRE_BAD_CHUNK_EXT);
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
	struct wire_lines lines = { .seen = c->trailer_bytes, .line_start = (size_t)c->left };
	size_t section_len = 0;
	enum wire_step step = wire_lines_scan(&lines, data, len, false, &section_len);
	c->trailer_bytes = (uint32_t)lines.seen;
	c->left = lines.line_start;
	if (step == WIRE_FAIL)
		fail(c, lines.reason);
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
