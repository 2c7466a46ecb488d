#include <arpa/inet.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#include "ossl.h"
#include "smartproxy/fault.h"

#define HOST_NAME_MAX_LEN 253 /* RFC 1035, 2.3.4, without the root's dot */
#define LABEL_MAX_LEN     63

/* Bytes of name as an address in network order, 0 when it is none. */
static int parse_ip(const char *name, uint8_t ret_ip[16])
{
	if (inet_pton(AF_INET, name, ret_ip) == 1)
		return 4;
	return inet_pton(AF_INET6, name, ret_ip) == 1 ? 16 : 0;
}

static bool is_label_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '_';
}

bool tls_name_is_valid(const char *name)
{
	uint8_t ip[16];
	if (parse_ip(name, ip) > 0)
		return true;
	size_t len = strlen(name);
	if (len == 0 || len > HOST_NAME_MAX_LEN)
		return false;
	size_t start = name[0] == '*' && name[1] == '.' ? 2 : 0;
	size_t label_len = 0;
	for (size_t i = start; i < len; i++) {
		if (name[i] == '.') {
			if (label_len == 0)
				return false;
			label_len = 0;
		} else if (!is_label_char(name[i]) || ++label_len > LABEL_MAX_LEN) {
			return false;
		}
	}
	return label_len > 0;
}

static GENERAL_NAME *build_name(const char *name)
{
	uint8_t ip[16];
	int ip_len = parse_ip(name, ip);
	GENERAL_NAME *gn = GENERAL_NAME_new();
	ASN1_STRING *value = ip_len > 0 ? ASN1_OCTET_STRING_new() : ASN1_IA5STRING_new();
	int is_ok = gn != NULL && value != NULL;
	if (is_ok)
		is_ok = ip_len > 0 ? ASN1_STRING_set(value, ip, ip_len)
				   : ASN1_STRING_set(value, name, -1);
	if (!is_ok) {
		ASN1_STRING_free(value);
		GENERAL_NAME_free(gn);
		return NULL;
	}
	GENERAL_NAME_set0_value(gn, ip_len > 0 ? GEN_IPADD : GEN_DNS, value);
	return gn;
}

enum err tls_names_build(const char *const *names, size_t name_cnt, GENERAL_NAMES **ret_names)
{
	if (name_cnt == 0)
		return ERR_INVALID;
	for (size_t i = 0; i < name_cnt; i++) {
		if (!tls_name_is_valid(names[i]))
			return ERR_INVALID;
	}
	GENERAL_NAMES *list = fault_hits(FAULT_MALLOC) ? NULL : GENERAL_NAMES_new();
	if (list == NULL)
		return ERR_NOMEM;
	for (size_t i = 0; i < name_cnt; i++) {
		GENERAL_NAME *gn = build_name(names[i]);
		if (gn == NULL || sk_GENERAL_NAME_push(list, gn) == 0) {
			GENERAL_NAME_free(gn);
			GENERAL_NAMES_free(list);
			return ERR_NOMEM;
		}
	}
	*ret_names = list;
	return ERR_OK;
}

const EVP_MD *tls_pkey_digest(const EVP_PKEY *pkey)
{
	char name[32];
	tls_pkey_name(pkey, name, sizeof(name));
	if (strcmp(name, "p384") == 0)
		return EVP_sha384();
	return EVP_PKEY_is_a(pkey, "ED25519") ? NULL : EVP_sha256();
}

/* The request's one extension. The subject stays empty: a CA reads the names here (RFC 8555, 7.4).
 */
static bool add_san(X509_REQ *req, GENERAL_NAMES *san)
{
	STACK_OF(X509_EXTENSION) *exts = NULL;
	bool is_ok =
		X509V3_add1_i2d(&exts, NID_subject_alt_name, san, 0, X509V3_ADD_DEFAULT) == 1 &&
		X509_REQ_add_extensions(req, exts) == 1;
	sk_X509_EXTENSION_pop_free(exts, X509_EXTENSION_free);
	return is_ok;
}

static enum err encode_request(X509_REQ *req, uint8_t **ret_der, size_t *ret_len)
{
	int len = i2d_X509_REQ(req, NULL);
	if (len <= 0)
		return ERR_TLS;
	uint8_t *der = malloc((size_t)len);
	if (der == NULL)
		return ERR_NOMEM;
	uint8_t *end = der;
	(void)i2d_X509_REQ(req, &end);
	*ret_der = der;
	*ret_len = (size_t)len;
	return ERR_OK;
}

enum err tls_csr_der(const struct tls_key *key, const char *const *names, size_t name_cnt,
		     uint8_t **ret_der, size_t *ret_len)
{
	GENERAL_NAMES *san = NULL;
	X509_REQ *req = NULL;
	ERR_clear_error();
	enum err e = tls_names_build(names, name_cnt, &san);
	if (e != ERR_OK)
		goto out;
	e = ERR_TLS;
	req = X509_REQ_new();
	if (req == NULL || X509_REQ_set_version(req, X509_REQ_VERSION_1) != 1 ||
	    X509_REQ_set_pubkey(req, key->pkey) != 1 || !add_san(req, san) ||
	    X509_REQ_sign(req, key->pkey, tls_pkey_digest(key->pkey)) == 0)
		goto out;
	e = encode_request(req, ret_der, ret_len);
out:
	X509_REQ_free(req);
	GENERAL_NAMES_free(san);
	ERR_clear_error();
	return e;
}
