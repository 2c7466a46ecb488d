/* smartproxy: arguments. */
#include <fcntl.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "smartproxy/acme.h"
#include "smartproxy/config.h"
#include "smartproxy/control.h"
#include "smartproxy/fault.h"
#include "smartproxy/log.h"

#define DEFAULT_FILE "/etc/smartproxy/smartproxy.conf"

enum action {
	ACTION_RUN,
	ACTION_CHECK,
	ACTION_PRINT,
	ACTION_VERSION,
	ACTION_HELP,
	ACTION_POINTS,
	ACTION_KEYS
};

static const char usage[] =
	"Usage: smartproxy [-c FILE] [-t | -T]\n"
	"\n"
	"  -c, --config FILE   the configuration (default " DEFAULT_FILE ")\n"
	"  -t, --test          check the configuration and the files it names, then exit\n"
	"  -T, --print         print the effective configuration, defaults included, then exit\n"
	"      --keys          print every configuration key: path, type, default\n"
	"      --failpoints    print the names of the failpoints, for tests\n"
	"  -V, --version       print the version\n"
	"  -h, --help          print this\n"
	"\n"
	"It runs in the foreground and logs to standard error. SIGHUP reloads, SIGTERM and SIGINT\n"
	"drain and stop. See smartproxy(8) and smartproxy.conf(5).\n";

static const struct option options[] = {
	{ "config", required_argument, NULL, 'c' }, { "test", no_argument, NULL, 't' },
	{ "print", no_argument, NULL, 'T' },        { "version", no_argument, NULL, 'V' },
	{ "help", no_argument, NULL, 'h' },         { "keys", no_argument, NULL, 'k' },
	{ "failpoints", no_argument, NULL, 'f' },   { NULL, 0, NULL, 0 },
};

static bool read_arguments(int argc, char **argv, const char **ret_file, enum action *ret_action)
{
	int option;
	*ret_file = DEFAULT_FILE;
	*ret_action = ACTION_RUN;
	/* NOLINTNEXTLINE(concurrency-mt-unsafe): there is no other thread yet */
	while ((option = getopt_long(argc, argv, "c:tTVh", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			*ret_file = optarg;
			break;
		case 't':
			*ret_action = ACTION_CHECK;
			break;
		case 'T':
			*ret_action = ACTION_PRINT;
			break;
		case 'V':
			*ret_action = ACTION_VERSION;
			break;
		case 'h':
			*ret_action = ACTION_HELP;
			break;
		case 'k':
			*ret_action = ACTION_KEYS;
			break;
		case 'f':
			*ret_action = ACTION_POINTS;
			break;
		default:
			return false;
		}
	}
	if (optind == argc)
		return true;
	(void)fprintf(stderr, "smartproxy: unexpected argument %s\n", argv[optind]);
	return false;
}

static int print_failpoints(void)
{
	size_t cnt = 0;
	const char *const *points = acme_failpoints(&cnt);
	for (size_t i = 0; i < cnt; i++)
		(void)puts(points[i]);
	return 0;
}

static int run(const char *file) SP_ON_CONTROL SP_NO_RCU;
static int run(const char *file)
{
	struct config *config = NULL;
	struct config_problems problems = { 0 };
	control_hold_signals(); /* before all that takes time: a SIGHUP that comes early is a reload, not the end */
	enum err e = config_load(file, &config, &problems);
	if (e != ERR_OK) {
		struct text text = { 0 };
		config_problems_text(&problems, &text);
		if (text.data != NULL)
			(void)fputs(text.data, stderr);
		log_error("main", "start failed: configuration %s: %s", file, err_text(e));
		text_fini(&text);
	}
	config_problems_fini(&problems);
	return e == ERR_OK ? control_run(config) : 1;
}

/* Started without one of descriptors 0 to 2, nothing else gets its number: the log would be written into it. */
static void hold_standard_files(void)
{
	int fd;
	do
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		(void)close(fd);
}

int main(int argc, char **argv)
{
	const char *file;
	enum action action;
	sp_role_assume_control();
	hold_standard_files();
	if (!read_arguments(argc, argv, &file, &action)) {
		(void)fputs(usage, stderr);
		return 2;
	}
	fault_init();
	switch (action) {
	case ACTION_CHECK:
		return check_file(file);
	case ACTION_PRINT:
		return check_print(file);
	case ACTION_KEYS:
		return check_keys();
	case ACTION_POINTS:
		return print_failpoints();
	case ACTION_VERSION:
		(void)puts("smartproxy " SP_VERSION);
		return 0;
	case ACTION_HELP:
		(void)fputs(usage, stdout);
		return 0;
	case ACTION_RUN:
		break;
	}
	return run(file);
}
