#include "privilege.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "smartproxy/control.h"
#include "smartproxy/log.h"
#include "smartproxy/text.h"

#define ROOM "control"

struct account {
	uid_t uid;
	gid_t gid;
	const char *name;
};

static enum err find_account(const struct config *config, struct account *ret_account,
			     struct text *reterr)
{
	const char *user = config->global.user, *group = config->global.group;
	errno = 0;
	/* NOLINTNEXTLINE(concurrency-mt-unsafe): there is no other thread yet */
	const struct passwd *pw = getpwnam(user);
	if (pw == NULL) {
		text_printf(reterr,
			    "global.user: there is no user named %s: create it (adduser --system "
			    "--group %s) or name another",
			    user, user);
		return ERR_NOENT;
	}
	*ret_account = (struct account){ .uid = pw->pw_uid, .gid = pw->pw_gid, .name = user };
	if (group == NULL)
		return ERR_OK;
	/* NOLINTNEXTLINE(concurrency-mt-unsafe): there is no other thread yet */
	const struct group *gr = getgrnam(group);
	if (gr == NULL) {
		text_printf(reterr, "global.group: there is no group named %s", group);
		return ERR_NOENT;
	}
	ret_account->gid = gr->gr_gid;
	return ERR_OK;
}

static enum err make_one(const char *path, mode_t mode, const struct account *owner, bool is_last)
{
	if (mkdir(path, is_last ? mode : 0755) != 0) {
		if (errno == EEXIST)
			return ERR_OK;
		log_error(ROOM, "start failed: cannot make the folder %s: %s", path,
			  strerrordesc_np(errno));
		return ERR_STORE;
	}
	if (is_last && chown(path, owner->uid, owner->gid) != 0) {
		log_error(ROOM, "start failed: cannot give the folder %s to %s: %s", path,
			  owner->name, strerrordesc_np(errno));
		return ERR_STORE;
	}
	return ERR_OK;
}

/* The folders of path that are missing; the last one belongs to owner. */
static enum err make_folders(const char *path, mode_t mode, const struct account *owner)
{
	char *copy = strdup(path);
	if (copy == NULL)
		return ERR_NOMEM;
	size_t len = strlen(copy);
	while (len > 1 && copy[len - 1] == '/')
		copy[--len] = '\0';
	enum err e = ERR_OK;
	for (size_t i = 1; i < len && e == ERR_OK; i++) {
		if (copy[i] != '/')
			continue;
		copy[i] = '\0';
		e = make_one(copy, mode, owner, false);
		copy[i] = '/';
	}
	if (e == ERR_OK && len > 0)
		e = make_one(copy, mode, owner, true);
	free(copy);
	return e;
}

static enum err make_places(const struct config *config, const struct account *owner)
{
	enum err e = make_folders(config->global.state_dir, 0700, owner);
	const char *slash = strrchr(config->control.path, '/');
	if (e != ERR_OK || slash == NULL || slash == config->control.path)
		return e;
	char *folder = strndup(config->control.path, (size_t)(slash - config->control.path));
	if (folder == NULL)
		return ERR_NOMEM;
	e = make_folders(folder, 0755, owner);
	free(folder);
	return e;
}

/* Keeps no more than there was: a container may have been started without it. */
static bool keep_bind_capability(bool *ret_is_kept)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { 0 }, { 0 } };
	if (syscall(SYS_capget, &header, data) != 0)
		return false;
	uint32_t kept = data[0].permitted & 1U << CAP_NET_BIND_SERVICE;
	data[0] = (struct __user_cap_data_struct){ .effective = kept, .permitted = kept };
	data[1] = (struct __user_cap_data_struct){ 0 };
	*ret_is_kept = kept != 0;
	return syscall(SYS_capset, &header, data) == 0;
}

static enum err become(const struct account *account)
{
	const char *step = "prctl(PR_SET_KEEPCAPS)";
	bool is_bind_kept = false;
	bool is_ok = prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0;
	if (is_ok) {
		step = "initgroups";
		is_ok = initgroups(account->name, account->gid) == 0;
	}
	if (is_ok) {
		step = "setresgid";
		is_ok = setresgid(account->gid, account->gid, account->gid) == 0;
	}
	if (is_ok) {
		step = "setresuid";
		is_ok = setresuid(account->uid, account->uid, account->uid) == 0;
	}
	if (is_ok) {
		step = "capset";
		is_ok = keep_bind_capability(&is_bind_kept);
	}
	if (is_ok) {
		step = "prctl";
		is_ok = prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) == 0 &&
			prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
	}
	if (is_ok && !is_bind_kept)
		log_warn(ROOM, "the process was started without CAP_NET_BIND_SERVICE: ports below "
			       "1024 cannot be opened");
	if (is_ok)
		return ERR_OK;
	log_error(ROOM, "start failed: cannot become user %s: %s: %s", account->name, step,
		  strerrordesc_np(errno));
	return ERR_SYSTEM;
}

/* As the user that the process is now: what it will need, and what to do when it is not there. */
static enum err check_place(const char *key, const char *path, int mode, const char *user)
{
	if (access(path, mode) == 0)
		return ERR_OK;
	log_error(ROOM,
		  "start failed: %s: user %s cannot use the folder %s (%s): chown -R %s %s, or "
		  "name another",
		  key, user, path, strerrordesc_np(errno), user, path);
	return ERR_STORE;
}

static enum err check_places(const struct config *config, const char *user)
{
	enum err e =
		check_place("global.state_dir", config->global.state_dir, R_OK | W_OK | X_OK, user);
	const char *slash = strrchr(config->control.path, '/');
	if (e != ERR_OK || slash == NULL || slash == config->control.path)
		return e;
	char *folder = strndup(config->control.path, (size_t)(slash - config->control.path));
	if (folder == NULL)
		return ERR_NOMEM;
	e = check_place("global.control.path", folder, W_OK | X_OK, user);
	free(folder);
	return e;
}

enum err control_check_account(const struct config *config, struct text *reterr)
{
	struct account ignored;
	return config->global.user == NULL ? ERR_OK : find_account(config, &ignored, reterr);
}

enum err privilege_drop(const struct config *config)
{
	if (config->global.user == NULL)
		return ERR_OK;
	if (geteuid() != 0) {
		log_info(ROOM, "not started as root: global.user is not used, running as uid=%u",
			 (unsigned)geteuid());
		return ERR_OK;
	}
	struct account account;
	struct text why = { 0 };
	enum err e = find_account(config, &account, &why);
	if (e != ERR_OK)
		log_error(ROOM, "start failed: %s", why.data != NULL ? why.data : err_text(e));
	text_fini(&why);
	if (e != ERR_OK || account.uid == 0)
		return e;
	e = make_places(config, &account);
	if (e != ERR_OK)
		return e;
	e = become(&account);
	if (e != ERR_OK)
		return e;
	log_info(ROOM, "running as user=%s uid=%u gid=%u", account.name, (unsigned)account.uid,
		 (unsigned)account.gid);
	return check_places(config, account.name);
}

unsigned long privilege_raise_files(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		return 0;
	if (limit.rlim_cur < limit.rlim_max) {
		rlim_t old = limit.rlim_cur;
		limit.rlim_cur = limit.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
			limit.rlim_cur = old;
	}
	return (unsigned long)limit.rlim_cur;
}
