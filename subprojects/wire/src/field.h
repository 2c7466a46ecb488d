#pragma once
/* Field lines and what they say about one message's framing. Threads: any. */
#include "wire/h1.h"

/* Reads a section of field lines, each with its CRLF, without the empty line. At most `max` fields.
 */
enum wire_reason wire_fields_read(const char *data, size_t len, uint32_t max,
				  struct wire_field *fields, uint32_t *ret_cnt);

enum wire_field_id wire_field_lookup(const char *name, size_t len);

/* Case-insensitive; lower is lower case. */
bool wire_span_is(struct wire_span span, const char *lower, size_t lower_len);
#define WIRE_SPAN_IS(span, literal) wire_span_is((span), (literal), sizeof(literal) - 1)

/* Next element of a comma-separated list (RFC 9110, 5.6.1), white space trimmed, empty ones
 * skipped. false: no more. */
bool wire_list_next(struct wire_span *list, struct wire_span *ret_element);

/* Reads "HTTP/1.x" at the start of data. */
enum wire_reason wire_version_read(const char *data, size_t len, unsigned *ret_minor);

/* What the fields of one message say. Pointers are into the array of fields; NULL: no such field.
 */
struct wire_summary {
	const struct wire_field *host;
	const struct wire_field *length;
	const struct wire_field *coding;
	const struct wire_field *expect;
	const struct wire_field *websocket_key,
		*websocket_version; /* the last, of websocket_*_cnt */
	uint32_t websocket_key_cnt, websocket_version_cnt;
	bool has_upgrade;
	bool upgrades_to_websocket; /* one of the protocols in Upgrade */
	bool upgrades_to_another;
	bool says_close, says_keep_alive, says_upgrade; /* options in Connection */
	bool accepts_trailers;
	bool is_chunked;
	int64_t content_length; /* bytes; meaningful with length */
};

/* Applies the rules of framing and of Connection (RFC 9112, 6; RFC 9110, 7.6.1) and sets
 * is_dropped. The summary says nothing after a failure. */
enum wire_reason wire_summary_make(struct wire_field *fields, uint32_t cnt, unsigned minor,
				   struct wire_summary *summary);
