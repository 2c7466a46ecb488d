#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#include "cert.h"
#include "smartproxy/fault.h"
#include "smartproxy/rand.h"

#define VALID_S (7 * 86400L)
#define SKEW_S  3600L /* a client's clock may be behind */

static const char subject_name[] = "SmartProxy placeholder";

static bool set_serial(X509 *x509)
{
	uint8_t bytes[8];
	rand_bytes(bytes, sizeof(bytes));
	bytes[0] = (uint8_t)((bytes[0] & 0x7f) |
			     0x40); /* positive, of full length (RFC 5280, 4.1.2.2) */
	ASN1_INTEGER *serial = X509_get_serialNumber(x509);
	return ASN1_STRING_set(serial, bytes, sizeof(bytes)) == 1;
}

static bool set_subject(X509 *x509)
{
	X509_NAME *name = X509_get_subject_name(x509);
	return X509_NAME_add_entry_by_NID(name, NID_commonName, MBSTRING_ASC,
					  (const unsigned char *)subject_name, -1, -1, 0) == 1 &&
	       X509_set_issuer_name(x509, name) == 1;
}

/* Names that no certificate can carry (a route's "**.example.com") are left out: a client refuses a
 * placeholder anyway. */
static enum err set_names(X509 *x509, const char *const *names, size_t name_cnt)
{
	const char **good = fault_hits(FAULT_MALLOC) ? NULL : calloc(name_cnt + 1, sizeof(*good));
	if (good == NULL)
		return ERR_NOMEM;
	size_t good_cnt = 0;
	for (size_t i = 0; i < name_cnt; i++) {
		if (tls_name_is_valid(names[i]))
			good[good_cnt++] = names[i];
	}
	GENERAL_NAMES *san = NULL;
	enum err e = good_cnt == 0 ? ERR_OK : tls_names_build(good, good_cnt, &san);
	if (san != NULL &&
	    X509_add1_ext_i2d(x509, NID_subject_alt_name, san, 0, X509V3_ADD_DEFAULT) != 1)
		e = ERR_TLS;
	GENERAL_NAMES_free(san);
	free(good);
	return e;
}

enum err tls_cert_self_signed(const char *const *names, size_t name_cnt, struct tls_cert **ret_cert)
{
	enum err e = ERR_TLS;
	struct tls_cert *cert = NULL;
	ERR_clear_error();
	EVP_PKEY *pkey = EVP_EC_gen("P-256");
	X509 *x509 = X509_new();
	if (pkey == NULL || x509 == NULL || X509_set_version(x509, X509_VERSION_3) != 1 ||
	    !set_serial(x509) || !set_subject(x509) ||
	    X509_gmtime_adj(X509_getm_notBefore(x509), -SKEW_S) == NULL ||
	    X509_gmtime_adj(X509_getm_notAfter(x509), VALID_S) == NULL ||
	    X509_set_pubkey(x509, pkey) != 1)
		goto out;
	e = set_names(x509, names, name_cnt);
	if (e != ERR_OK)
		goto out;
	e = ERR_TLS;
	if (X509_sign(x509, pkey, EVP_sha256()) == 0)
		goto out;
	cert = tls_cert_wrap(x509, NULL, pkey);
	e = cert == NULL ? ERR_NOMEM : ERR_OK;
out:
	if (cert != NULL) {
		cert->info.is_placeholder = true;
		*ret_cert = cert;
	} else {
		X509_free(x509);
		EVP_PKEY_free(pkey);
	}
	ERR_clear_error();
	return e;
}
