#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "smartproxy/clock.h"
#include "smartproxy/log.h"
#include "state.h"

#define ROOM    "control"
#define TELL_MS 1000 /* between two lines on records that were lost */

void access_log_close(struct control *control)
{
	if (control->access_fd >= 0 && control->access_fd != STDERR_FILENO)
		(void)close(control->access_fd);
	control->access_fd = -1;
}

void access_log_open(struct control *control)
{
	access_log_close(control);
	const char *path = control->config->log.access;
	if (path == NULL)
		return;
	if (strcmp(path, "stderr") == 0) {
		control->access_fd = STDERR_FILENO;
		return;
	}
	/* O_NONBLOCK: a FIFO that nobody reads must hold up neither the open nor a write. */
	control->access_fd =
		open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
	if (control->access_fd < 0)
		log_error(ROOM,
			  "access log %s cannot be opened (%s): its records are lost until a "
			  "reload finds it writable",
			  path, strerrordesc_np(errno));
}

void access_log_drain(struct control *control)
{
	if (control->workers == NULL)
		return;
	uint64_t dropped = workers_drain_access(control->workers, control->access_fd);
	control->access_dropped_cnt += dropped;
	control->access_untold_cnt += dropped;
	int64_t now_ms = clock_now_ms();
	if (control->access_untold_cnt == 0 || now_ms < control->access_tell_due_ms)
		return;
	log_warn(ROOM, "access records dropped count=%" PRIu64, control->access_untold_cnt);
	control->access_untold_cnt = 0;
	control->access_tell_due_ms = now_ms + TELL_MS;
}
