#pragma once
/* proxy: a tunnel and its two directions, shared by tunnel.c, stream.c and view.c. */
#include "gather.h"
#include "pipe.h"
#include "proxy.h"

#define TUNNEL_ROUTE_MAX 129

/* One direction. At most one of buf and pipe holds bytes. */
struct stream {
	struct buf buf;
	struct buf behind;      /* goes after buf; from an upgrade, read with the answer's head */
	struct pipe *pipe;      /* lent while bytes are in it */
	uint32_t head_bytes;    /* of those still to be sent: the 101's head, which is no payload */
	uint32_t run_bytes;     /* since the source was empty last */
	uint32_t portion_bytes; /* gathering: still to be read before the next wait */
	uint8_t full_cnt;       /* reads in a row that filled a buffer */
	bool is_up;             /* client to target */
	bool is_bulky;          /* goes by splice */
	bool is_unspliceable;
	bool is_eof;     /* the source has ended */
	bool is_ended;   /* and the sink was told */
	bool has_failed; /* the sink takes no more */
	uint64_t sent_bytes;
	struct gather
		gather; /* on only while is_bulky; then SO_RCVLOWAT of the source is GATHER_BYTES, else 1 */
	struct short_timer gather_timer; /* armed while one that gathers waits for its source */
};

/* Anything above WAITS is the end of the direction or of the tunnel. */
enum stream_state {
	STREAM_BUSY, /* could go on at once: let the others have their turn */
	STREAM_WAITS,
	STREAM_ENDED, /* is_ended or has_failed: the other direction may go on */
	STREAM_SOURCE_RESET,
	STREAM_SINK_RESET,
	STREAM_NO_MEMORY,
};

static inline bool stream_is_over(const struct stream *s)
{
	return s->is_ended || s->has_failed;
}

enum tunnel_state { TUNNEL_CONNECT, TUNNEL_RELAY, TUNNEL_END };

struct tunnel {
	struct conn *conn;
	struct target to;
	struct stream up, down;
	enum tunnel_state state;
	const struct generation *generation; /* pinned in CONNECT; NULL in RELAY */
	struct exchange *exchange;           /* that was upgraded; NULL: none */
	bool is_passthrough;                 /* its refusals are alerts */
	int64_t start_ms;
	char route[TUNNEL_ROUTE_MAX];
	char sni[256];
};

/* Moves what can be moved now. */
enum stream_state stream_pump(struct tunnel *t, struct stream *s);
/* The source was reset: what it had sent is handed on, its end is not. */
void stream_hand_on(struct tunnel *t, struct stream *s);
/* In CONNECT: takes what the client sends, as much as one buffer holds. STEP_READ, STEP_WRITE (full), STEP_EOF,
 * STEP_FAIL. */
enum step stream_collect(struct tunnel *t, struct stream *s);
void stream_release(struct tunnel *t, struct stream *s);
