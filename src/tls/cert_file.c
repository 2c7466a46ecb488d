#include <openssl/sha.h>
#include <string.h>

#include "cert.h"
#include "file.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/log.h"

static void warn_of_mode(const char *key_file, mode_t mode)
{
	char name[512];
	if ((mode & 077) == 0)
		return;
	text_escape(name, sizeof(name), key_file, strlen(key_file));
	log_warn("tls",
		 "private key is open to others than its owner, chmod 600 it file=\"%s\" mode=%04o",
		 name, (unsigned)mode);
}

static void warn_of_time(const char *chain_file, const struct tls_cert_info *info)
{
	char name[512], when[32];
	int64_t now_unix_s = clock_unix_s();
	text_escape(name, sizeof(name), chain_file, strlen(chain_file));
	if (now_unix_s > info->not_after_unix_s)
		log_warn("tls", "certificate has expired file=\"%s\" not_after=%s", name,
			 clock_format_utc(when, sizeof(when), info->not_after_unix_s));
	else if (now_unix_s < info->not_before_unix_s)
		log_warn("tls", "certificate is not valid yet file=\"%s\" not_before=%s", name,
			 clock_format_utc(when, sizeof(when), info->not_before_unix_s));
}

/* Both files of a certificate. */
struct pair {
	struct tls_pem chain_pem, key_pem;
	struct tls_file chain, key;
};

static enum err read_pair(struct pair *pair, struct tls_files_error *reterr)
{
	enum err e = tls_file_read(pair->chain_pem.name, &pair->chain, &reterr->chain);
	enum err e_key = tls_file_read(pair->key_pem.name, &pair->key, &reterr->key);
	pair->chain_pem.data = pair->chain.data;
	pair->chain_pem.len = pair->chain.len;
	pair->key_pem.data = pair->key.data;
	pair->key_pem.len = pair->key.len;
	return e == ERR_OK ? e_key : e;
}

static struct tls_files_digest digest_of(const struct pair *pair)
{
	struct tls_files_digest digest;
	(void)SHA256((const uint8_t *)pair->chain.data, pair->chain.len, digest.chain);
	(void)SHA256((const uint8_t *)pair->key.data, pair->key.len, digest.key);
	return digest;
}

static enum err parse(const struct pair *pair, struct tls_cert *current, struct tls_cert **ret_cert,
		      struct text *reterr)
{
	const struct tls_files_digest digest = digest_of(pair);
	if (current != NULL && memcmp(&current->digest, &digest, sizeof(digest)) == 0) {
		tls_cert_get(current);
		*ret_cert = current;
		return ERR_OK;
	}
	enum err e = tls_cert_parse(&pair->chain_pem, &pair->key_pem, ret_cert, reterr);
	if (e == ERR_OK)
		(*ret_cert)->digest = digest;
	return e;
}

enum err tls_cert_load(const char *chain_file, const char *key_file, struct tls_cert *current,
		       struct tls_cert **ret_cert, struct tls_files_error *reterr)
{
	struct pair pair = { .chain_pem.name = chain_file, .key_pem.name = key_file };
	enum err e = read_pair(&pair, reterr);
	if (e == ERR_OK)
		e = parse(&pair, current, ret_cert, &reterr->both);
	if (e == ERR_OK) {
		warn_of_mode(key_file, pair.key.mode);
		warn_of_time(chain_file, &(*ret_cert)->info);
	}
	tls_file_fini(&pair.chain);
	tls_file_fini(&pair.key);
	return e;
}

void tls_files_error_fini(struct tls_files_error *error)
{
	text_fini(&error->chain);
	text_fini(&error->key);
	text_fini(&error->both);
}

enum err tls_cert_from_files(const char *chain_file, const char *key_file, struct tls_cert *current,
			     struct tls_cert **ret_cert, struct text *reterr_text)
{
	struct tls_files_error error = { 0 };
	enum err e = tls_cert_load(chain_file, key_file, current, ret_cert, &error);
	const struct text *parts[] = { &error.chain, &error.key, &error.both };
	bool is_first = true;
	for (size_t i = 0; e != ERR_OK && reterr_text != NULL && i < SP_ARRAY_LEN(parts); i++) {
		if (parts[i]->len == 0)
			continue;
		text_printf(reterr_text, "%s%s", is_first ? "" : "; ", parts[i]->data);
		is_first = false;
	}
	tls_files_error_fini(&error);
	return e;
}
