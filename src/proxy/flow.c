/* Bodies: out of a side's bytes, into a flow, framed in place. */
#include <string.h>

#include "proxy.h"
#include "smartproxy/text.h"

#define CHUNK_HEAD_BYTES 6 /* four hex digits, CRLF: leading zeros are allowed (RFC 9112, 7.1) */
#define CHUNK_MAX        0xffff
#define TAIL_BYTES       7 /* CRLF after the data, "0" CRLF CRLF */

static const char hex_digits[] = "0123456789abcdef";

static void write_chunk_head(char *at, size_t len)
{
	for (int i = 3; i >= 0; i--, len >>= 4)
		at[i] = hex_digits[len & 15];
	at[4] = '\r';
	at[5] = '\n';
}

static void end_chunks(struct exchange *x, struct flow *flow, const struct body_source *source)
{
	(void)buf_append(&flow->buf, "0\r\n", 3);
	bool wants_trailers = flow == &x->to_upstream || x->request.accepts_trailers;
	if (wants_trailers && source->trailer_cnt > 0) {
		(void)buf_grow(&flow->buf, &x->worker->bufs);
		head_write_trailers(flow, source);
	}
	(void)buf_append(&flow->buf, "\r\n", 2);
}

enum step flow_fill(struct exchange *x, struct flow *flow, struct body_source *source,
		    enum step (*read_body)(struct exchange *x, char *dst, size_t cap,
					   size_t *ret_len))
{
	if (flow->is_ended)
		return STEP_DONE;
	if (!buf_reserve(&flow->buf, &x->worker->bufs) && flow->buf.data == NULL)
		return STEP_FAIL;
	bool is_chunked = flow->framing == FRAMING_CHUNKED;
	size_t overhead = is_chunked ? CHUNK_HEAD_BYTES + TAIL_BYTES : 0;
	if (buf_space(&flow->buf) <= overhead)
		return STEP_DONE; /* a head fills it: send that first */
	uint32_t chunk_at = flow->buf.end;
	size_t cap = buf_space(&flow->buf) - overhead;
	if (is_chunked) {
		flow->buf.end += CHUNK_HEAD_BYTES;
		if (cap > CHUNK_MAX)
			cap = CHUNK_MAX;
	}
	size_t len = 0;
	enum step step =
		source->is_done ? STEP_DONE : read_body(x, buf_tail(&flow->buf), cap, &len);
	flow->buf.end += (uint32_t)len;
	if (is_chunked && len == 0) {
		flow->buf.end = chunk_at;
	} else if (is_chunked) {
		write_chunk_head(flow->buf.data + chunk_at, len);
		(void)buf_append(&flow->buf, "\r\n", 2);
	}
	if (step == STEP_DONE && source->is_done) {
		if (is_chunked)
			end_chunks(x, flow, source);
		flow->is_ended = true;
	}
	return step;
}

static void end_body(struct body_source *source)
{
	source->is_done = true;
}

static enum step read_counted(struct exchange *x, const struct body_reader *reader, char *dst,
			      size_t cap, size_t *ret_len)
{
	struct body_source *source = reader->source;
	if (source->framing == FRAMING_LENGTH && (int64_t)cap > source->left)
		cap = (size_t)source->left;
	enum step step = STEP_DONE;
	size_t len = buf_len(reader->in);
	if (cap == 0) {
		len = 0;
	} else if (len > 0) {
		if (len > cap)
			len = cap;
		memcpy(dst, buf_at(reader->in), len);
		buf_consume(reader->in, len);
		buf_release_if_empty(reader->in, &x->worker->bufs);
	} else {
		step = reader->recv(x, dst, cap, &len);
	}
	if (step == STEP_EOF && source->framing == FRAMING_CLOSE) {
		end_body(source);
		*ret_len = 0;
		return STEP_DONE;
	}
	if (step != STEP_DONE)
		return step == STEP_EOF ? STEP_FAIL : step;
	source->total += (int64_t)len;
	*ret_len = len;
	if (source->framing == FRAMING_LENGTH) {
		source->left -= (int64_t)len;
		if (source->left == 0)
			end_body(source);
	}
	return STEP_DONE;
}

static enum step take_trailers(struct exchange *x, const struct body_reader *reader,
			       const struct wire_span *section)
{
	struct body_source *source = reader->source;
	if (section->len == 0) {
		end_body(source);
		return STEP_DONE;
	}
	uint32_t cnt = 0;
	char *copy = arena_strndup(&x->arena, section->at, section->len);
	if (copy == NULL)
		return STEP_FAIL;
	source->reason = wire_h1_parse_trailers(copy, section->len, reader->field_max,
						x->worker->fields, &cnt);
	if (source->reason != WIRE_OK)
		return STEP_FAIL;
	source->trailers = arena_alloc(&x->arena, cnt * sizeof(*source->trailers));
	if (source->trailers == NULL)
		return STEP_FAIL;
	memcpy(source->trailers, x->worker->fields, cnt * sizeof(*source->trailers));
	source->trailer_cnt = cnt;
	end_body(source); /* not before: a bad trailer section leaves the message unfinished */
	return STEP_DONE;
}

/* Decodes what reader->in holds until dst is full, in is used up, or the body ends. */
static enum step decode(struct exchange *x, const struct body_reader *reader, char *dst, size_t cap,
			size_t *ret_len)
{
	struct body_source *source = reader->source;
	size_t done = 0;
	bool is_trailer = false;
	while (done < cap && buf_len(reader->in) > 0) {
		size_t used = 0, data_len = 0;
		struct wire_span section = { 0 };
		/* A run never carries more payload than bytes looked at: look at no more than there
		 * is room for. A trailer section carries none and must be seen whole. */
		size_t look = buf_len(reader->in);
		bool is_cut = !is_trailer && look > cap - done;
		if (is_cut)
			look = cap - done;
		enum wire_step step = wire_chunked_decode(&source->chunked, buf_at(reader->in),
							  look, &used, &data_len, &section);
		if (step == WIRE_FAIL) {
			source->reason = source->chunked.reason;
			return STEP_FAIL;
		}
		memcpy(dst + done, buf_at(reader->in) + used - data_len, data_len);
		done += data_len;
		enum step trailers =
			step == WIRE_DONE ? take_trailers(x, reader, &section) : STEP_MORE;
		buf_consume(reader->in, used);
		if (trailers != STEP_MORE) {
			source->total += (int64_t)done;
			*ret_len = done;
			return trailers;
		}
		/* Only an unfinished trailer section is left unused. */
		if (used == 0 && !is_cut)
			break;
		is_trailer = used == 0;
	}
	source->total += (int64_t)done;
	*ret_len = done;
	return done > 0 ? STEP_DONE : STEP_MORE;
}

static enum step read_chunked(struct exchange *x, const struct body_reader *reader, char *dst,
			      size_t cap, size_t *ret_len)
{
	for (;;) {
		enum step step = decode(x, reader, dst, cap, ret_len);
		if (step != STEP_MORE) {
			buf_release_if_empty(reader->in, &x->worker->bufs);
			return step;
		}
		if (!buf_reserve(reader->in, &x->worker->bufs) || buf_space(reader->in) == 0) {
			if (buf_len(reader->in) > 0) /* a trailer section larger than a buffer */
				reader->source->reason = WIRE_BAD_TRAILER;
			return STEP_FAIL;
		}
		size_t len = 0;
		step = reader->recv(x, buf_tail(reader->in), buf_space(reader->in), &len);
		if (step != STEP_DONE) {
			buf_release_if_empty(reader->in, &x->worker->bufs);
			return step == STEP_EOF ? STEP_FAIL : step;
		}
		reader->in->end += (uint32_t)len;
	}
}

enum step body_read(struct exchange *x, const struct body_reader *reader, char *dst, size_t cap,
		    size_t *ret_len)
{
	*ret_len = 0;
	if (reader->source->framing == FRAMING_NONE) {
		end_body(reader->source);
		return STEP_DONE;
	}
	if (reader->source->framing == FRAMING_CHUNKED)
		return read_chunked(x, reader, dst, cap, ret_len);
	return read_counted(x, reader, dst, cap, ret_len);
}
