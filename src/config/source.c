#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "problems.h"
#include "smartproxy/fault.h"

#define DEPTH_MAX 10

/* Where libconfig's own scanner would be: an @include counts outside of comments and strings only.
 */
enum scan { SCAN_CODE, SCAN_STRING, SCAN_LINE_COMMENT, SCAN_BLOCK_COMMENT };

struct input {
	char *data; /* owned */
	size_t len, at;
	const char *file;
	unsigned line;
	enum scan scan;
};
struct reader {
	struct source *source;
	struct arena *arena;
	struct config_problems *problems;
	struct input inputs[DEPTH_MAX];
	size_t depth;
	unsigned line; /* of the whole */
};

void source_fini(struct source *source)
{
	text_fini(&source->text);
	free(source->spans);
	*source = (struct source){ 0 };
}

struct source_span source_locate(const struct source *source, unsigned line)
{
	size_t low = 0, high = source->span_cnt;
	if (!high)
		return (struct source_span){ 0 };
	while (high - low > 1) {
		size_t mid = low + (high - low) / 2;
		if (source->spans[mid].first_line <= line)
			low = mid;
		else
			high = mid;
	}
	struct source_span span = source->spans[low];
	span.file_line += line > span.first_line ? line - span.first_line : 0;
	return span;
}

static enum err add_span(struct reader *r, const struct input *in)
{
	struct source *s = r->source;
	if (s->span_cnt == s->span_cap) {
		size_t cap = s->span_cap ? s->span_cap * 2 : 8;
		struct source_span *spans = realloc(s->spans, cap * sizeof(*spans));
		if (!spans)
			return ERR_NOMEM;
		s->spans = spans;
		s->span_cap = cap;
	}
	s->spans[s->span_cnt++] = (struct source_span){
		.first_line = r->line,
		.file = in->file,
		.file_line = in->line,
	};
	return ERR_OK;
}

/* One finding about a file; where it was included, when it was. Returns code, or ERR_NOMEM. */
static enum err refuse(struct reader *r, enum err code, const char *file, const char *why,
		       const char *cause)
{
	const struct input *by = r->depth ? &r->inputs[r->depth - 1] : NULL;
	enum err e;
	if (by)
		e = problems_add(r->problems, by->file, by->line, NULL,
				 "cannot include \"%s\": %s%s", file, why, cause);
	else
		e = problems_add(r->problems, file, 0, NULL, "cannot read the configuration: %s%s",
				 why, cause);
	return e ? e : code;
}

static enum err read_all(struct reader *r, int fd, const char *file, size_t size, struct input *in)
{
	in->data = fault_hits(FAULT_MALLOC) ? NULL : malloc(size + 1);
	if (!in->data)
		return ERR_NOMEM;
	while (in->len < size) {
		ssize_t got = read(fd, in->data + in->len, size - in->len);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return refuse(r, ERR_SYSTEM, file, strerrordesc_np(errno), "");
		if (got == 0)
			break;
		in->len += (size_t)got;
	}
	if (memchr(in->data, '\0', in->len))
		return refuse(r, ERR_CONFIG, file, "it has a NUL byte: it is not a text file", "");
	return ERR_OK;
}

static enum err read_fd(struct reader *r, int fd, const char *file, struct input *in)
{
	struct stat st;
	if (fstat(fd, &st))
		return refuse(r, ERR_SYSTEM, file, strerrordesc_np(errno), "");
	if (!S_ISREG(st.st_mode))
		return refuse(r, ERR_CONFIG, file, "it is not a regular file", "");
	if ((size_t)st.st_size + r->source->text.len > SOURCE_MAX_BYTES)
		return refuse(r, ERR_CONFIG, file, "it is larger than 256 MiB", "");
	return read_all(r, fd, file, (size_t)st.st_size, in);
}

/* Opens a file as the new innermost input. */
static enum err push(struct reader *r, const char *file)
{
	struct input in = { .file = arena_strdup(r->arena, file), .line = 1 };
	if (!in.file)
		return ERR_NOMEM;
	if (r->depth == DEPTH_MAX)
		return refuse(r, ERR_CONFIG, file, "files include each other more than 10 deep",
			      "");
	/* O_NONBLOCK: a FIFO must not hold up a reload; it is refused afterwards. */
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return refuse(r, errno == ENOENT ? ERR_NOENT : ERR_SYSTEM, file,
			      strerrordesc_np(errno),
			      errno == EACCES ? " (for the user that smartproxy runs as)" : "");
	enum err e = read_fd(r, fd, file, &in);
	close(fd);
	if (e) {
		free(in.data);
		return e;
	}
	r->inputs[r->depth++] = in;
	return add_span(r, &in);
}

/* The path within an @include line at the input's position, or NULL when there is none. */
static const char *include_path(const struct input *in, size_t *ret_len, size_t *ret_end)
{
	static const char word[] = "@include";
	const char *s = in->data + in->at, *end = in->data + in->len;
	while (s < end && (*s == ' ' || *s == '\t'))
		s++;
	if ((size_t)(end - s) < sizeof(word) || memcmp(s, word, sizeof(word) - 1) != 0)
		return NULL;
	s += sizeof(word) - 1;
	while (s < end && (*s == ' ' || *s == '\t'))
		s++;
	if (s == end || *s != '"')
		return NULL;
	const char *path = ++s;
	while (s < end && *s != '"' && *s != '\n')
		s++;
	if (s == end || *s != '"' || s == path)
		return NULL;
	*ret_len = (size_t)(s - path);
	*ret_end = (size_t)(s + 1 - in->data);
	return path;
}

/* At the start of a line in code. */
static enum err try_include(struct reader *r, bool *ret_included)
{
	struct input *in = &r->inputs[r->depth - 1];
	size_t len = 0, end = 0;
	const char *path = include_path(in, &len, &end), *slash = strrchr(in->file, '/');
	*ret_included = path != NULL;
	if (!path)
		return ERR_OK;
	in->at = end;
	char *full = *path == '/' || !slash
			     ? arena_strndup(r->arena, path, len)
			     : arena_printf(r->arena, "%.*s/%.*s", (int)(slash - in->file),
					    in->file, (int)len, path);
	return full ? push(r, full) : ERR_NOMEM;
}

/* After the one at the input's position; NUL at the end. */
static char next_byte(const struct input *in)
{
	if (in->at + 1 < in->len)
		return in->data[in->at + 1];
	return '\0';
}

static enum scan scan_byte(struct input *in, char byte, char next)
{
	switch (in->scan) {
	case SCAN_STRING:
		if (byte == '\\' && next && next != '\n')
			in->at++;
		return byte == '"' ? SCAN_CODE : SCAN_STRING;
	case SCAN_LINE_COMMENT:
		return byte == '\n' ? SCAN_CODE : SCAN_LINE_COMMENT;
	case SCAN_BLOCK_COMMENT:
		if (byte == '*' && next == '/')
			in->at++;
		return byte == '*' && next == '/' ? SCAN_CODE : SCAN_BLOCK_COMMENT;
	case SCAN_CODE:
		break;
	}
	if (byte == '/' && next == '*') {
		in->at++;
		return SCAN_BLOCK_COMMENT;
	}
	if (byte == '#' || (byte == '/' && next == '/'))
		return SCAN_LINE_COMMENT;
	return byte == '"' ? SCAN_STRING : SCAN_CODE;
}

/* Copies one line of the innermost input. */
static void copy_line(struct reader *r)
{
	struct input *in = &r->inputs[r->depth - 1];
	size_t start = in->at;
	bool ended = false;
	while (in->at < in->len && !ended) {
		char byte = in->data[in->at];
		char next = next_byte(in);
		ended = byte == '\n';
		in->scan = scan_byte(in, byte, next);
		in->at++;
	}
	text_add(&r->source->text, in->data + start, in->at - start);
	if (!ended && r->depth > 1)
		text_add(&r->source->text, "\n",
			 1); /* what follows an include is a line of its own */
	in->line += ended;
	r->line++;
}

static enum err pop(struct reader *r)
{
	free(r->inputs[--r->depth].data);
	return r->depth ? add_span(r, &r->inputs[r->depth - 1]) : ERR_OK;
}

enum err source_read(struct source *source, const char *file, struct arena *arena,
		     struct config_problems *problems)
{
	struct reader r = { .source = source, .arena = arena, .problems = problems, .line = 1 };
	enum err e = push(&r, file);
	while (!e && r.depth) {
		struct input *in = &r.inputs[r.depth - 1];
		bool has_included = false;
		if (in->at == in->len) {
			e = pop(&r);
			continue;
		}
		if (in->scan == SCAN_CODE && (in->at == 0 || in->data[in->at - 1] == '\n'))
			e = try_include(&r, &has_included);
		if (!e && !has_included)
			copy_line(&r);
		if (!e && r.source->text.len > SOURCE_MAX_BYTES)
			e = refuse(&r, ERR_CONFIG, in->file,
				   "with what it includes it is larger than 256 MiB", "");
	}
	while (r.depth)
		free(r.inputs[--r.depth].data);
	text_add(&source->text, "", 0);
	return !e && source->text.has_failed ? ERR_NOMEM : e;
}

static bool is_word(char c)
{
	return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_' ||
	       c == '-' || c == '+' || c == '*' || c == '.';
}

/* A token of code that is a plain integer beyond 32 bits. */
static bool is_too_large(const char *token, size_t len)
{
	char digits[24];
	char *end;
	if (*token == '-' || *token == '+') {
		token++;
		len--;
	}
	len = len < sizeof(digits) ? len : sizeof(digits) - 1;
	memcpy(digits, token, len);
	digits[len] = '\0';
	if (digits[0] < '0' || digits[0] > '9')
		return false;
	bool is_hex = digits[0] == '0' && (digits[1] | 0x20) == 'x';
	unsigned long long value = strtoull(digits, &end, is_hex ? 16 : 10);
	return value > INT32_MAX && !is_word(*end);
}

enum err source_check_numbers(const struct source *source, struct config_problems *problems)
{
	struct input in = { .data = source->text.data, .len = source->text.len };
	unsigned line = 1;
	while (in.at < in.len) {
		size_t start = in.at;
		while (in.scan == SCAN_CODE && in.at < in.len && is_word(in.data[in.at]))
			in.at++;
		if (in.at > start && is_too_large(in.data + start, in.at - start)) {
			struct source_span at = source_locate(source, line);
			if (problems_add(problems, at.file, at.file_line, NULL,
					 "the integer %.*s is larger than 2147483647",
					 (int)(in.at - start < 40 ? in.at - start : 40),
					 in.data + start))
				return ERR_NOMEM;
		}
		if (in.at == in.len)
			break;
		line += in.data[in.at] == '\n';
		in.scan = scan_byte(&in, in.data[in.at], next_byte(&in));
		in.at++;
	}
	return ERR_OK;
}
