#pragma once
/* base: error codes. One list in err.def gives the enum, its name and its text.
 *
 * ERR_OK is 0, failures are negative. Fallible functions are SP_MUST_USE. "Not yet" is no error:
 * I/O and parser steps return enum step and leave the cause in the object. No errno travels beyond
 * the function that made the system call. Threads: any. */

#define SP_MUST_USE                 __attribute__((warn_unused_result))
#define SP_PRINTF(fmt_ix, first_ix) __attribute__((format(printf, fmt_ix, first_ix)))

enum err {
#define ERR(sym, val, name, text) ERR_##sym = val,
#include "smartproxy/err.def"
#undef ERR
};

/* The outcome of one I/O or parser step. STEP_READ and STEP_WRITE: wait until the descriptor is
 * readable or writable. STEP_MORE: bytes are missing (parsers). STEP_EOF: the other side ended
 * cleanly. */
enum step {
	STEP_DONE,
	STEP_MORE,
	STEP_READ,
	STEP_WRITE,
	STEP_EOF,
	STEP_FAIL,
};

/* English text of a code, never NULL, static storage. */
const char *err_text(enum err e);
/* Symbol of a code without prefix, in lower case with underscores ("port_in_use"); static storage.
 */
const char *err_name(enum err e);
