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

static enum err parse(const struct tls_pem *chain, const struct tls_pem *key,
		      struct tls_cert *current, struct tls_cert **ret_cert, struct text *reterr)
{
	struct tls_files_digest digest;
	(void)SHA256((const uint8_t *)chain->data, chain->len, digest.chain);
	(void)SHA256((const uint8_t *)key->data, key->len, digest.key);
	if (current != NULL && memcmp(&current->digest, &digest, sizeof(digest)) == 0) {
		tls_cert_get(current);
		*ret_cert = current;
		return ERR_OK;
	}
	enum err e = tls_cert_parse(chain, key, ret_cert, reterr);
	if (e == ERR_OK)
		(*ret_cert)->digest = digest;
	return e;
}

enum err tls_cert_load(const char *chain_file, const char *key_file, struct tls_cert *current,
		       struct tls_cert **ret_cert, struct tls_files_error *reterr)
{
	struct tls_file chain = { 0 }, key = { 0 };
	enum err e = tls_file_read(chain_file, &chain, &reterr->chain);
	enum err e_key = tls_file_read(key_file, &key, &reterr->key);
	if (e == ERR_OK)
		e = e_key;
	if (e == ERR_OK) {
		const struct tls_pem chain_pem = { chain_file, chain.data, chain.len };
		const struct tls_pem key_pem = { key_file, key.data, key.len };
		e = parse(&chain_pem, &key_pem, current, ret_cert, &reterr->both);
	}
	if (e == ERR_OK) {
		warn_of_mode(key_file, key.mode);
		warn_of_time(chain_file, &(*ret_cert)->info);
	}
	tls_file_fini(&chain);
	tls_file_fini(&key);
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
