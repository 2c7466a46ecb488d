#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/log.h"

#define GENERATIONS_KEPT 2
#define TRIAL_BYTES      16384
#define TRIAL_LIFE_MS    1000

/* ---- opening ---- */
/* "123 smartproxy": the holder writes its pid; the name comes from /proc. */
static void describe_holder(int lock_fd, char *dst, size_t cap)
{
	char pid[16] = { 0 }, path[64], comm[32] = { 0 };
	ssize_t len = pread(lock_fd, pid, sizeof(pid) - 1, 0);
	pid[len > 0 ? strcspn(pid, "\n") : 0] = 0;
	if (pid[0] == 0 || strspn(pid, "0123456789") != strlen(pid)) {
		text_format(dst, cap, "another process");
		return;
	}
	text_format(path, sizeof(path), "/proc/%s/comm", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		(void)!read(fd, comm, sizeof(comm) - 1);
		close(fd);
	}
	comm[strcspn(comm, "\n")] = 0;
	text_format(dst, cap, "%s (pid %s)", comm[0] != 0 ? comm : "another process", pid);
}

static enum err take_lock(struct store *store, struct text *reterr_text)
{
	char holder[96], pid[16];
	store->lock_fd = openat(store->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (store->lock_fd < 0) {
		text_printf(reterr_text, "cannot open %s/lock: %s", store->path,
			    strerrordesc_np(errno));
		return ERR_STORE;
	}
	if (flock(store->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		describe_holder(store->lock_fd, holder, sizeof(holder));
		text_printf(
			reterr_text,
			"the state directory %s is in use by %s: stop that instance, or give this "
			"one a global.state_dir of its own",
			store->path, holder);
		return ERR_LOCKED;
	}
	size_t len = text_format(pid, sizeof(pid), "%ld\n", (long)getpid());
	if (ftruncate(store->lock_fd, 0) < 0 || pwrite(store->lock_fd, pid, len, 0) < 0)
		log_warn("acme",
			 "the lock of the state directory could not be marked with our pid");
	return ERR_OK;
}

enum err store_open(struct store *store, const char *path, struct text *reterr_text)
{
	*store = (struct store){ .dir_fd = -1,
				 .lock_fd = -1,
				 .accounts_fd = -1,
				 .certificates_fd = -1,
				 .orders_fd = -1 };
	enum err e = ERR_STORE;
	store->path = strdup(path);
	if (store->path == NULL)
		return ERR_NOMEM;
	if (mkdir(path, 0700) < 0 && errno != EEXIST) {
		text_printf(reterr_text, "cannot make the state directory %s: %s", path,
			    strerrordesc_np(errno));
		goto fail;
	}
	store->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (store->dir_fd < 0) {
		text_printf(reterr_text, "cannot open the state directory %s: %s", path,
			    strerrordesc_np(errno));
		goto fail;
	}
	e = take_lock(store, reterr_text);
	if (e == ERR_OK)
		e = files_open_dir(store->dir_fd, "accounts", &store->accounts_fd, reterr_text);
	if (e == ERR_OK)
		e = files_open_dir(store->dir_fd, "certificates", &store->certificates_fd,
				   reterr_text);
	if (e == ERR_OK)
		e = files_open_dir(store->dir_fd, "orders", &store->orders_fd, reterr_text);
	if (e == ERR_OK)
		return ERR_OK;
fail:
	store_close(store);
	return e;
}

void store_close(struct store *store)
{
	int *fds[] = { &store->orders_fd, &store->certificates_fd, &store->accounts_fd,
		       &store->lock_fd, &store->dir_fd };
	for (size_t i = 0; i < SP_ARRAY_LEN(fds); i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
	free(store->path);
	store->path = NULL;
}

enum err store_try(struct store *store, struct text *reterr_text)
{
	static const char zeros[TRIAL_BYTES];
	if (store->tried_ms != 0 && clock_now_ms() - store->tried_ms < TRIAL_LIFE_MS)
		return ERR_OK;
	store->tried_ms = 0;
	(void)unlinkat(store->dir_fd, ".trial", 0);
	enum err e = files_create(store->dir_fd, ".trial", zeros, sizeof(zeros), reterr_text);
	(void)unlinkat(store->dir_fd, ".trial", 0);
	if (e == ERR_OK)
		store->tried_ms = clock_now_ms();
	return e;
}

/* ---- names ---- */
static bool copy_safe(char *dst, size_t cap, const char *src)
{
	size_t len = 0;
	bool is_same = true;
	for (; src[len] != 0 && len + 1 < cap; len++) {
		char c = src[len];
		bool is_safe = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			       (c >= '0' && c <= '9') || c == '-' || c == '_' ||
			       (c == '.' && len > 0);
		dst[len] = (char)(is_safe ? c : '_');
		is_same = is_same && is_safe;
	}
	dst[len] = 0;
	return is_same && src[len] == 0;
}

static void add_digest(char *name, const struct text *all)
{
	uint8_t digest[32];
	size_t len = strlen(name);
	tls_sha256(all->data, all->len, digest);
	text_format(name + len, STORE_NAME_MAX - len, "+%02x%02x%02x%02x", digest[0], digest[1],
		    digest[2], digest[3]);
}

void store_cert_name(char dst[STORE_NAME_MAX], const char *const *names, size_t name_cnt,
		     enum tls_key_type key_type)
{
	struct text all = { 0 };
	bool is_plain = copy_safe(dst, 220, names[0]) && name_cnt == 1 && key_type == TLS_KEY_P256;
	if (is_plain)
		return;
	text_puts(&all, tls_key_type_name(key_type));
	for (size_t i = 0; i < name_cnt; i++)
		text_printf(&all, ",%s", names[i]);
	add_digest(dst, &all);
	text_fini(&all);
}

void store_ca_name(char dst[STORE_NAME_MAX], const char *directory_url)
{
	const char *host = strstr(directory_url, "://");
	struct text all = { 0 };
	copy_safe(dst, 200, host != NULL ? host + 3 : directory_url);
	text_puts(&all, directory_url);
	add_digest(dst, &all);
	text_fini(&all);
}

/* ---- generations ---- */
/* "gen-7"; with ret_is_whole also "gen-7.damaged-1700000000". */
static bool parse_generation(const char *name, unsigned *ret_k, bool *ret_is_whole)
{
	if (strncmp(name, "gen-", 4) != 0 || name[4] < '1' || name[4] > '9')
		return false;
	size_t digits = strspn(name + 4, "0123456789");
	bool is_whole = name[4 + digits] == 0;
	if (digits > 9 || (!is_whole && ret_is_whole == NULL))
		return false;
	*ret_k = (unsigned)strtoul(name + 4, NULL, 10);
	if (ret_is_whole != NULL)
		*ret_is_whole = is_whole;
	return true;
}

/* The highest generation below limit; 0: none. set-aside ones count in *ret_last, so that no number
 * comes twice. */
static unsigned find_generation(int fd, unsigned limit, unsigned *ret_last)
{
	unsigned best = 0, last = 0, k;
	bool is_whole;
	const char *name;
	DIR *dir = files_scan(fd, ".");
	if (dir == NULL)
		return 0;
	while ((name = files_next(dir)) != NULL) {
		if (!parse_generation(name, &k, &is_whole))
			continue;
		last = k > last ? k : last;
		if (is_whole && k < limit && k > best)
			best = k;
	}
	closedir(dir);
	if (ret_last != NULL)
		*ret_last = last;
	return best;
}

static void format_generation(char dst[16], unsigned k)
{
	text_format(dst, 16, "gen-%u", k);
}

static unsigned read_current(int fd)
{
	char target[32];
	unsigned k = 0;
	ssize_t len = readlinkat(fd, "current", target, sizeof(target) - 1);
	if (len <= 0)
		return 0;
	target[len] = 0;
	return parse_generation(target, &k, NULL) ? k : 0;
}

static enum err point_current(int fd, unsigned k, struct text *reterr_text)
{
	char name[16];
	format_generation(name, k);
	(void)unlinkat(fd, ".current.new", 0);
	if (symlinkat(name, fd, ".current.new") < 0 ||
	    renameat(fd, ".current.new", fd, "current") < 0) {
		if (reterr_text != NULL)
			text_printf(reterr_text, "cannot make the link current: %s",
				    strerrordesc_np(errno));
		return ERR_STORE;
	}
	return files_sync(fd, "the directory", reterr_text);
}

/* A directory where the link belongs, as a copy leaves that follows links: it becomes the newest generation with the link
 * to it, and is judged as one when it is read. *ret_k: its number, unchanged when the place is free. */
static enum err adopt_current(const struct store *store, int fd, const char *name, unsigned *ret_k,
			      struct text *reterr_text)
{
	struct stat st;
	unsigned last = 0;
	char generation[16];
	if (fstatat(fd, "current", &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
		return ERR_OK;
	find_generation(fd, UINT32_MAX, &last);
	format_generation(generation, last + 1);
	if (renameat(fd, "current", fd, generation) < 0) {
		if (reterr_text != NULL)
			text_printf(reterr_text,
				    "%s/certificates/%s/current is a directory where a link "
				    "belongs, and cannot be renamed: %s: move it away",
				    store->path, name, strerrordesc_np(errno));
		return ERR_STORE;
	}
	log_warn("acme",
		 "a directory was in the place of the link current, it is a generation now: copy "
		 "the state directory with its links (cp -a) path=%s/certificates/%s/%s",
		 store->path, name, generation);
	*ret_k = last + 1;
	return point_current(fd, last + 1, reterr_text);
}

static void prune(int fd, unsigned current)
{
	char name[16];
	unsigned keep = current, k;
	for (int i = 1; i < GENERATIONS_KEPT && keep != 0; i++)
		keep = find_generation(fd, keep, NULL);
	while (keep != 0 && (k = find_generation(fd, keep, NULL)) != 0) {
		format_generation(name, k);
		files_remove_dir(fd, name);
		if (faccessat(fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			break;
	}
	/* Above current: left by a crash before the link was swapped. */
	while ((k = find_generation(fd, UINT32_MAX, NULL)) > current) {
		format_generation(name, k);
		files_remove_dir(fd, name);
		if (faccessat(fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			break;
	}
}

/* ---- loading ---- */
void store_meta_fini(struct store_meta *meta)
{
	free(meta->directory);
	free(meta->order_url);
	*meta = (struct store_meta){ 0 };
}

static char *copy_member(const json_t *root, const char *name)
{
	const char *value = json_string_value(json_object_get(root, name));
	return value != NULL ? strdup(value) : NULL;
}

static void warn_if_open(const struct store *store, const char *folder, const char *name,
			 const char *file, mode_t mode)
{
	if (mode & 077)
		log_warn("acme",
			 "private key is readable by others: chmod 600 it file=%s/%s/%s/%s "
			 "mode=%04o",
			 store->path, folder, name, file, (unsigned)mode & 07777);
}

static enum err load_generation(struct store *store, int fd, const char *name, unsigned k,
				struct store_pair *ret, struct text *reterr_text)
{
	struct text chain = { 0 }, key = { 0 }, meta = { 0 };
	char generation[16], file[64];
	mode_t mode = 0;
	format_generation(generation, k);
	text_format(file, sizeof(file), "%s/fullchain.pem", generation);
	enum err e = files_read(fd, file, &chain, NULL, reterr_text);
	if (e == ERR_NOENT)
		text_puts(reterr_text, "fullchain.pem is missing");
	if (e != ERR_OK)
		goto out;
	text_format(file, sizeof(file), "%s/privkey.pem", generation);
	e = files_read(fd, file, &key, &mode, reterr_text);
	if (e == ERR_NOENT)
		text_puts(reterr_text, "privkey.pem is missing");
	if (e != ERR_OK)
		goto out;
	warn_if_open(store, "certificates", name, file, mode);
	e = tls_cert_from_pem(chain.data, chain.len, key.data, key.len, &ret->cert, reterr_text);
	if (e != ERR_OK)
		goto out;
	text_format(file, sizeof(file), "%s/meta.json", generation);
	if (files_read(fd, file, &meta, NULL, NULL) == ERR_OK) {
		json_t *root = json_loadb(meta.data, meta.len, 0, NULL);
		ret->meta.directory = copy_member(root, "directory");
		ret->meta.order_url = copy_member(root, "order");
		json_decref(root);
	}
out:
	text_fini(&chain);
	files_wipe(&key);
	text_fini(&meta);
	return e;
}

static void set_aside(const struct store *store, int fd, const char *name, unsigned k,
		      const char *why)
{
	char from[16], to[64];
	format_generation(from, k);
	text_format(to, sizeof(to), "%s.damaged-%lld", from, (long long)clock_unix_s());
	if (renameat(fd, from, fd, to) < 0)
		text_format(to, sizeof(to), "%s", from);
	log_error("acme",
		  "a damaged certificate is set aside and will be renewed: %s "
		  "path=%s/certificates/%s/%s",
		  why, store->path, name, to);
}

static unsigned find_current(const struct store *store, int fd, const char *name)
{
	struct text why = { 0 };
	unsigned k = read_current(fd), adopted = 0;
	enum err e = k != 0 ? ERR_OK : adopt_current(store, fd, name, &adopted, &why);
	if (e != ERR_OK)
		log_error("acme", "a stored certificate has no link current: %s name=%s",
			  why.data != NULL ? why.data : err_text(e), name);
	text_fini(&why);
	return k != 0 ? k : adopted;
}

enum err store_load_cert(struct store *store, const char *name, struct store_pair *ret_pair)
{
	struct store_pair pair = { 0 };
	int fd = openat(store->certificates_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return ERR_NOENT;
	enum err e = ERR_NOENT;
	unsigned k = find_current(store, fd, name);
	while (k != 0) {
		struct text why = { 0 };
		e = load_generation(store, fd, name, k, &pair, &why);
		if (e == ERR_OK || e == ERR_NOMEM) {
			text_fini(&why);
			break;
		}
		set_aside(store, fd, name, k, why.data != NULL ? why.data : err_text(e));
		text_fini(&why);
		e = ERR_NOENT;
		k = find_generation(fd, k, NULL);
		pair.is_older = true;
		if (k != 0 && point_current(fd, k, NULL) != ERR_OK)
			log_warn("acme",
				 "the link to the older generation could not be written name=%s",
				 name);
		else if (k == 0)
			(void)unlinkat(fd, "current", 0);
	}
	close(fd);
	if (e == ERR_OK)
		*ret_pair = pair;
	return e;
}

/* ---- saving ---- */
static enum err write_generation(int fd, const char *generation, const char *chain, const char *key,
				 const struct store_meta *meta, struct text *reterr_text)
{
	int gen_fd = -1;
	if (mkdirat(fd, generation, 0700) == 0)
		gen_fd = openat(fd, generation, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (gen_fd < 0) {
		if (reterr_text != NULL)
			text_printf(reterr_text, "cannot make %s: %s", generation,
				    strerrordesc_np(errno));
		return ERR_STORE;
	}
	json_t *root = json_pack("{s:s?, s:s?, s:I}", "directory", meta->directory, "order",
				 meta->order_url, "saved_at", (json_int_t)clock_unix_s());
	char *dump = json_dumps(root, JSON_INDENT(2));
	json_decref(root);
	enum err e = dump == NULL
			     ? ERR_NOMEM
			     : files_create(gen_fd, "privkey.pem", key, strlen(key), reterr_text);
	fault_point("acme-store-key");
	if (e == ERR_OK)
		e = files_create(gen_fd, "fullchain.pem", chain, strlen(chain), reterr_text);
	fault_point("acme-store-chain");
	if (e == ERR_OK)
		e = files_create(gen_fd, "meta.json", dump, strlen(dump), reterr_text);
	if (e == ERR_OK)
		e = files_sync(gen_fd, generation, reterr_text);
	free(dump);
	close(gen_fd);
	return e;
}

/* The folder, with nothing in the way of a new generation. */
static enum err open_cert(const struct store *store, const char *name, int *ret_fd,
			  struct text *reterr_text)
{
	int fd = -1;
	unsigned adopted = 0;
	enum err e = files_open_dir(store->certificates_fd, name, &fd, reterr_text);
	if (e != ERR_OK)
		return e;
	e = adopt_current(store, fd, name, &adopted, reterr_text);
	if (e == ERR_OK)
		*ret_fd = fd;
	else
		close(fd);
	return e;
}

enum err store_try_cert(struct store *store, const char *name, struct text *reterr_text)
{
	int fd = -1;
	enum err e = open_cert(store, name, &fd, reterr_text);
	if (e == ERR_OK && faccessat(fd, ".", W_OK | X_OK, AT_EACCESS) < 0) {
		text_printf(reterr_text, "cannot write in the directory: %s",
			    strerrordesc_np(errno));
		e = ERR_STORE;
	}
	if (e != ERR_OK)
		text_printf(
			reterr_text,
			"; no certificate can be kept, so none is ordered: mend %s/certificates/%s",
			store->path, name);
	if (fd >= 0)
		close(fd);
	return e;
}

enum err store_save_cert(struct store *store, const char *name, const char *chain, const char *key,
			 const struct store_meta *meta, struct text *reterr_text)
{
	int fd = -1;
	char generation[16];
	unsigned last = 0;
	enum err e = open_cert(store, name, &fd, reterr_text);
	if (e != ERR_OK)
		return e;
	unsigned current = read_current(fd);
	if (current != 0)           /* else nobody knows which one is worth keeping */
		prune(fd, current); /* what a crash left above current */
	find_generation(fd, UINT32_MAX, &last);
	format_generation(generation, last + 1);
	e = write_generation(fd, generation, chain, key, meta, reterr_text);
	if (e == ERR_OK)
		e = files_sync(fd, name, reterr_text);
	fault_point("acme-store-before-link");
	if (e == ERR_OK)
		e = point_current(fd, last + 1, reterr_text);
	fault_point("acme-store-after-link");
	if (read_current(fd) == last + 1)
		prune(fd, last + 1);
	else
		files_remove_dir(fd, generation);
	close(fd);
	return e;
}

/* ---- small files ---- */
static enum err put_file(int dir_fd, const char *name, const char *file, const char *text,
			 struct text *reterr_text)
{
	int fd = -1;
	enum err e = files_open_dir(dir_fd, name, &fd, reterr_text);
	if (e != ERR_OK)
		return e;
	if (text == NULL)
		(void)unlinkat(fd, file, 0);
	else
		e = files_replace(fd, file, text, strlen(text), reterr_text);
	close(fd);
	return e;
}

static enum err get_file(int dir_fd, const char *name, const char *file, struct text *ret_text,
			 mode_t *ret_mode)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return ERR_NOENT;
	enum err e = files_read(fd, file, ret_text, ret_mode, NULL);
	close(fd);
	return e;
}

enum err store_put_cert_file(struct store *store, const char *name, const char *file,
			     const char *text, struct text *reterr_text)
{
	return put_file(store->certificates_fd, name, file, text, reterr_text);
}

enum err store_get_cert_file(struct store *store, const char *name, const char *file,
			     struct text *ret_text)
{
	return get_file(store->certificates_fd, name, file, ret_text, NULL);
}

enum err store_put_ca_file(struct store *store, const char *ca, const char *file, const char *text,
			   struct text *reterr_text)
{
	return put_file(store->accounts_fd, ca, file, text, reterr_text);
}

enum err store_get_ca_file(struct store *store, const char *ca, const char *file, bool is_key,
			   struct text *ret_text)
{
	mode_t mode = 0;
	enum err e = get_file(store->accounts_fd, ca, file, ret_text, &mode);
	if (e == ERR_OK && is_key)
		warn_if_open(store, "accounts", ca, file, mode);
	return e;
}
