#include "smartproxy/control.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "smartproxy/clock.h"
#include "smartproxy/log.h"
#include "state.h"
#include "transaction.h"

#define ROOM     "control"
#define TICK_MS  50
#define MEND_MS  1000
#define STALL_MS 1000 /* far above what one turn of a worker may take */
#define LOOK_MS  500  /* between two looks for a stall: each wakes every worker once */

static void on_signal(struct io *io, uint32_t events)
{
	(void)events;
	sp_role_assume_control();
	struct control *control = SP_CONTAINER_OF(io, struct control, signal_io);
	struct signalfd_siginfo info;
	while (read(io->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo != SIGHUP) {
			control_stop(control);
			continue;
		}
		enum err e = updates_reload(&control->updates);
		if (e != ERR_OK)
			log_error(ROOM, "reload not taken error=%s", err_name(e));
	}
}

static void look_for_stall(struct control *control) SP_ON_CONTROL;
static void look_for_stall(struct control *control)
{
	int64_t now_ms = clock_now_ms();
	if (now_ms < control->stall_due_ms)
		return;
	control->stall_due_ms = now_ms + LOOK_MS;
	unsigned ix = 0;
	control->stall_ms = workers_stall_ms(control->workers, &ix);
	if (control->stall_ms <= STALL_MS) {
		control->has_stall_logged = false;
		return;
	}
	if (!control->has_stall_logged)
		log_warn(ROOM, "a worker does not turn its loop worker=%u ms=%" PRId64, ix,
			 control->stall_ms);
	control->has_stall_logged = true;
}

static void rotate_tickets(struct control *control, int64_t now_ms) SP_ON_CONTROL;
static void rotate_tickets(struct control *control, int64_t now_ms)
{
	int64_t every_ms = control->config->tls.ticket_rotation_ms;
	if (every_ms <= 0)
		return;
	/* Also when a reload has made the time shorter. */
	if (control->tickets_due_ms == 0 || control->tickets_due_ms > now_ms + every_ms)
		control->tickets_due_ms = now_ms + every_ms;
	if (now_ms < control->tickets_due_ms)
		return;
	control->tickets_due_ms = now_ms + every_ms;
	enum err e = tls_tickets_rotate();
	if (e != ERR_OK)
		log_warn(ROOM, "session ticket keys not rotated error=%s", err_name(e));
}

static void tick(struct timer *timer)
{
	sp_role_assume_control();
	struct control *control = SP_CONTAINER_OF(timer, struct control, tick_timer);
	log_count_lost(workers_drain_logs(control->workers));
	(void)log_tell_lost();
	access_log_drain(control);
	(void)generation_reap(control->generations);
	look_for_stall(control);
	int64_t now_ms = clock_now_ms();
	rotate_tickets(control, now_ms);
	if (now_ms >= control->mend_due_ms && control->phase == CONTROL_RUNNING) {
		control->mend_due_ms = now_ms + MEND_MS;
		transaction_mend(control);
	}
	loop_timer_arm(control->loop, timer, now_ms + TICK_MS);
}

static enum err watch_signals(struct control *control, const sigset_t *signals)
{
	control->signal_io.fd = signalfd(-1, signals, SFD_CLOEXEC | SFD_NONBLOCK);
	control->signal_io.on_ready = on_signal;
	if (control->signal_io.fd < 0)
		return ERR_SYSTEM;
	return loop_add(control->loop, &control->signal_io, EPOLLIN);
}

static sigset_t own_signals(void)
{
	sigset_t signals;
	(void)sigemptyset(&signals);
	(void)sigaddset(&signals, SIGHUP);
	(void)sigaddset(&signals, SIGTERM);
	(void)sigaddset(&signals, SIGINT);
	return signals;
}

void control_hold_signals(void)
{
	sigset_t signals = own_signals();
	(void)pthread_sigmask(SIG_BLOCK, &signals, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
}

/* Asked to stop before there was anything to stop? */
static bool is_stop_pending(void)
{
	sigset_t pending;
	return sigpending(&pending) == 0 &&
	       (sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1);
}

int control_run(struct config *config)
{
	struct control control = { .signal_io = { .fd = -1 } };
	sigset_t signals = own_signals();
	if (is_stop_pending()) {
		log_info(ROOM, "stopped before the start was over");
		config_put(config);
		return 0;
	}
	int signal_fd = -1;
	enum err e = control_start(&control, config);
	if (e == ERR_OK) {
		e = watch_signals(&control, &signals);
		signal_fd = control.signal_io.fd;
		if (e != ERR_OK)
			log_error(ROOM, "start failed: signals: %s", err_text(e));
	}
	if (e == ERR_OK) {
		control_log_ready(&control);
		control.tick_timer.on_due = tick;
		loop_timer_arm(control.loop, &control.tick_timer, clock_now_ms() + TICK_MS);
		loop_run(control.loop);
		loop_timer_disarm(control.loop, &control.tick_timer);
		loop_timer_disarm(control.loop, &control.drain_timer);
		loop_remove(control.loop, &control.signal_io);
	}
	bool has_run = e == ERR_OK;
	control_free(&control);
	if (signal_fd >= 0)
		(void)close(signal_fd);
	if (has_run)
		log_info(ROOM, "stopped");
	return has_run ? 0 : 1;
}
