#pragma once
/* proxy: when a source is waited for until there is much of it, as a network card holds its interrupt back: only for
 * bytes that come fast and in small portions, only while more of them come, and not for long. Times and counts come
 * in, decisions go out; stream.c does what they say. Threads: the worker's own. */
#include <stdbool.h>
#include <stdint.h>

#define GATHER_BYTES   (256 << 10) /* so many wake at once */
#define GATHER_TIME_US 500         /* the longest wait for them */

/* Zeroed: off, nothing has come yet. */
struct gather {
	int64_t begin_us;    /* of the run, or of the wait: the source was empty then */
	uint32_t run_bytes;  /* off: that came since */
	uint32_t fill_bytes; /* off: the most of them at once */
	uint32_t seen_bytes; /* on: that were there at the last look */
	uint8_t fast_cnt;    /* runs in a row that came fast */
	uint8_t vain_cnt; /* times in a row that it was on in vain: the next one takes more runs */
	bool is_on;
	bool has_gained; /* since it is on, much has come at once */
};

enum gather_step {
	GATHER_WAIT,  /* more come: look again */
	GATHER_TAKE,  /* what there is goes on */
	GATHER_LEAVE, /* the same, and it is over */
};

/* Off: bytes came at once. */
void gather_count(struct gather *g, uint32_t bytes);
/* Off, and the source is empty: that ends a run. True: enter. */
bool gather_end_run(struct gather *g, int64_t now_us);
void gather_enter(struct gather *g);
/* On: a wait begins, with so many bytes there. */
void gather_wait(struct gather *g, int64_t now_us, uint32_t bytes);
/* On, every SHORT_TIMER_US of a wait. */
enum gather_step gather_look(struct gather *g, int64_t now_us, uint32_t bytes);
/* On: a wait has brought so many. */
void gather_take(struct gather *g, uint32_t bytes);
void gather_leave(struct gather *g);
