/* Bodies: out of a side's bytes, into a flow, framed in place or by splice as they are. */
#include <string.h>

#include "pipe.h"
#include "proxy.h"
#include "smartproxy/text.h"

#define CHUNK_HEAD_BYTES 6 /* four hex digits, CRLF: leading zeros are allowed (RFC 9112, 7.1) */
#define TAIL_BYTES       7 /* CRLF after the data, "0" CRLF CRLF */
#define TRAILERS_MAX     BUF_BYTES
#define SPLICE_MIN       (64 << 10) /* of a body still to come */
/* Framed, four full records of TLS. */
#define CHUNK_MAX (4 * BUF_BYTES - CHUNK_HEAD_BYTES - 2)
/* At once, however little room there is: of framing and trailers none goes on. */
#define READ_MIN (BUF_BYTES / 4)

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

static void end_body(struct body_source *source)
{
	source->is_done = true;
}

/* Bytes of a body that is not chunked. */
static void count(struct body_source *source, size_t len)
{
	source->total += (int64_t)len;
	if (source->framing != FRAMING_LENGTH)
		return;
	source->left -= (int64_t)len;
	if (source->left == 0)
		end_body(source);
}

static struct body_source *source_of(struct exchange *x, const struct flow *flow)
{
	return flow == &x->to_upstream ? &x->request_body : &x->response_body;
}

static bool pass_body(struct exchange *x, struct flow *flow)
{
	return flow == &x->to_upstream ? x->client->pass_body(x, flow)
				       : x->upstream->pass_body(x, flow);
}

static enum step read_body(struct exchange *x, const struct flow *flow, char *dst, size_t cap,
			   size_t *ret_len)
{
	return flow == &x->to_upstream ? x->client->read_body(x, dst, cap, ret_len)
				       : x->upstream->read_body(x, dst, cap, ret_len);
}

/* Room for what is likely to come. */
static bool reserve(struct exchange *x, struct flow *flow)
{
	bool is_large = flow->is_bulky || source_of(x, flow)->left > BUF_BYTES;
	return is_large ? buf_reserve_large(&flow->buf, &x->worker->bufs)
			: buf_reserve(&flow->buf, &x->worker->bufs);
}

/* Payload goes into flow->buf as it comes. */
static enum step fill_plain(struct exchange *x, struct flow *flow)
{
	size_t len = 0;
	enum step step = read_body(x, flow, buf_tail(&flow->buf), buf_space(&flow->buf), &len);
	flow->buf.end += (uint32_t)len;
	flow->is_bulky = len >= BUF_BYTES || (flow->is_bulky && step == STEP_READ);
	return step;
}

static enum step fill_chunk(struct exchange *x, struct flow *flow)
{
	size_t cap = buf_space(&flow->buf) - CHUNK_HEAD_BYTES - TAIL_BYTES, len = 0;
	if (cap > CHUNK_MAX)
		cap = CHUNK_MAX;
	char *at = buf_tail(&flow->buf);
	enum step step = read_body(x, flow, at + CHUNK_HEAD_BYTES, cap, &len);
	flow->is_bulky = len >= BUF_BYTES / 2 || (flow->is_bulky && step == STEP_READ);
	if (len > 0) {
		write_chunk_head(at, len);
		flow->buf.end += CHUNK_HEAD_BYTES + (uint32_t)len;
		(void)buf_append(&flow->buf, "\r\n", 2);
	}
	return step;
}

/* STEP_MORE: a head fills the buffer, send that first. */
static enum step fill_buf(struct exchange *x, struct flow *flow)
{
	bool is_chunked = flow->framing == FRAMING_CHUNKED;
	if (!reserve(x, flow) && flow->buf.data == NULL)
		return STEP_FAIL;
	if (buf_space(&flow->buf) <= (is_chunked ? CHUNK_HEAD_BYTES + TAIL_BYTES : 0))
		return STEP_MORE;
	if (source_of(x, flow)->is_done)
		return STEP_DONE;
	return is_chunked ? fill_chunk(x, flow) : fill_plain(x, flow);
}

/* ---- by splice ---- */

static bool wants_splice(struct exchange *x, const struct flow *flow)
{
	bool is_up = flow == &x->to_upstream;
	const struct body_source *source = source_of(x, flow);
	const struct upstream_conn *up = x->to.up;
	bool is_plain = source->framing == FRAMING_LENGTH
				? source->left >= SPLICE_MIN || flow->run_bytes > 0
				: source->framing == flow->framing; /* both to the end */
	return flow->is_bulky && !flow->is_unspliceable && is_plain &&
	       flow->framing != FRAMING_CHUNKED && buf_len(&flow->buf) == 0 &&
	       buf_len(is_up ? &x->conn->in : &x->up_in) == 0 && x->conn->tls == NULL &&
	       up->tls == NULL && !(is_up ? x->conn->is_urgent : up->is_urgent);
}

static enum step recv_pipe(struct exchange *x, struct flow *flow, size_t cap, size_t *ret_len)
{
	if (flow == &x->to_upstream) {
		x->has_body_started = true;
		return pipe_recv_client(flow->pipe, x->conn, cap, ret_len);
	}
	enum step step = pipe_recv_target(flow->pipe, x->to.up, cap, ret_len);
	if (step == STEP_DONE)
		stat_add(&x->worker->stats.upstream_bytes_in, *ret_len);
	return step;
}

/* STEP_MORE: by a copy instead. */
static enum step fill_pipe(struct exchange *x, struct flow *flow)
{
	struct body_source *source = source_of(x, flow);
	if (flow->pipe == NULL)
		flow->pipe = pipe_take(x->worker);
	if (flow->pipe == NULL)
		return STEP_MORE;
	size_t len = 0, cap = source->framing == FRAMING_LENGTH ? (size_t)source->left : SIZE_MAX;
	enum step step = recv_pipe(x, flow, cap, &len);
	flow->is_unspliceable = step == STEP_MORE;
	if (step == STEP_DONE) {
		x->progress_ms = loop_now_ms(x->worker->loop);
		flow->run_bytes += flow->run_bytes < BUF_BYTES ? (uint32_t)len : 0;
		count(source, len);
		if (!flow->has_spliced)
			stat_add(&x->worker->stats.splices, 1);
		flow->has_spliced = true;
		return STEP_DONE;
	}
	if (step == STEP_READ) {
		flow->is_bulky = flow->run_bytes == 0 || flow->run_bytes >= BUF_BYTES;
		flow->run_bytes = 0;
	}
	return step;
}

/* How a body gets into its flow: what came with the head as it lies there (pass_body), much at a time without
 * framing by splice, the rest by a copy. */
enum step flow_fill(struct exchange *x, struct flow *flow)
{
	struct body_source *source = source_of(x, flow);
	enum step step = STEP_MORE;
	if (flow->is_ended || pipe_len(flow->pipe) > 0)
		return STEP_DONE;
	if (!source->is_done && pass_body(x, flow))
		step = STEP_DONE;
	else if (!source->is_done && wants_splice(x, flow))
		step = fill_pipe(x, flow);
	if (step == STEP_MORE)
		step = fill_buf(x, flow);
	if (step == STEP_MORE)
		return STEP_DONE;
	if (step == STEP_DONE && source->is_done) {
		if (flow->framing == FRAMING_CHUNKED)
			end_chunks(x, flow, source);
		flow->is_ended = true;
	}
	return step;
}

bool flow_is_empty(const struct flow *flow)
{
	return buf_len(&flow->buf) == 0 && pipe_len(flow->pipe) == 0;
}

void flow_settle(struct exchange *x, struct flow *flow)
{
	buf_release_if_empty(&flow->buf, &x->worker->bufs);
	if (pipe_len(flow->pipe) == 0) {
		pipe_give(x->worker, flow->pipe);
		flow->pipe = NULL;
	}
}

void flow_release(struct exchange *x, struct flow *flow)
{
	buf_release(&flow->buf, &x->worker->bufs);
	pipe_give(x->worker, flow->pipe);
	flow->pipe = NULL;
}

/* ---- a side's bytes ---- */

/* What came behind a head stays where it is, and what flow->buf holds (the head that is written anew) goes before
 * it, where the old one was. */
bool body_pass(struct exchange *x, const struct body_reader *reader, struct flow *flow)
{
	struct body_source *source = reader->source;
	struct buf *in = reader->in;
	size_t before = buf_len(&flow->buf), len = buf_len(in);
	bool is_plain = source->framing == FRAMING_LENGTH || source->framing == FRAMING_CLOSE;
	if (len == 0 || !is_plain || flow->framing == FRAMING_CHUNKED || before > in->start ||
	    (source->framing == FRAMING_LENGTH && (int64_t)len > source->left))
		return false;
	in->start -= (uint32_t)before;
	if (before > 0)
		memcpy(buf_at(in), buf_at(&flow->buf), before);
	buf_release(&flow->buf, &x->worker->bufs);
	flow->buf = *in;
	*in = (struct buf){ 0 };
	flow->is_bulky = len >= BUF_BYTES;
	count(source, len);
	return true;
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
	*ret_len = len;
	count(source, len);
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
	if (section->len > TRAILERS_MAX) {
		source->reason = WIRE_BAD_TRAILER;
		return STEP_FAIL;
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
		if (buf_len(reader->in) > TRAILERS_MAX) { /* nothing else is left unused */
			reader->source->reason = WIRE_BAD_TRAILER;
			return STEP_FAIL;
		}
		if (!buf_reserve_large(reader->in, &x->worker->bufs) &&
		    !buf_grow(reader->in, &x->worker->bufs))
			return STEP_FAIL;
		/* No more than goes on at once: the rest would be a short write of its own. */
		size_t len = 0, room = cap > READ_MIN ? cap : READ_MIN;
		if (room > buf_space(reader->in))
			room = buf_space(reader->in);
		step = reader->recv(x, buf_tail(reader->in), room, &len);
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
