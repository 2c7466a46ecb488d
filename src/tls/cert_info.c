#include <arpa/inet.h>
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cert.h"
#include "smartproxy/fault.h"

/* Copies the first nid of name, escaped; false when there is none. */
static bool copy_entry(const X509_NAME *name, int nid, char *dst, size_t cap)
{
	int at = X509_NAME_get_index_by_NID(name, nid, -1);
	if (at < 0)
		return false;
	unsigned char *utf8 = NULL;
	int len =
		ASN1_STRING_to_UTF8(&utf8, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
	if (len <= 0) {
		OPENSSL_free(utf8);
		return false;
	}
	text_escape(dst, cap, (const char *)utf8, (size_t)len);
	OPENSSL_free(utf8);
	return true;
}

void tls_x509_name_text(const X509_NAME *name, char *dst, size_t cap)
{
	char cn[192], org[128];
	bool has_cn = copy_entry(name, NID_commonName, cn, sizeof(cn));
	bool has_org = copy_entry(name, NID_organizationName, org, sizeof(org));
	if (has_cn && has_org && strcmp(cn, org) != 0)
		text_format(dst, cap, "%s (%s)", cn, org);
	else
		text_format(dst, cap, "%s", has_cn ? cn : has_org ? org : "(no name)");
}

static int64_t unix_time(const ASN1_TIME *t)
{
	struct tm tm = { 0 };
	return ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

static void fill_serial(const X509 *x509, char *dst, size_t cap)
{
	static const char digits[] = "0123456789abcdef";
	const ASN1_INTEGER *serial = X509_get0_serialNumber(x509);
	const unsigned char *bytes = ASN1_STRING_get0_data(serial);
	size_t len = (size_t)ASN1_STRING_length(serial), n = 0;
	for (size_t i = 0; i < len && n + 2 < cap; i++) {
		dst[n++] = digits[bytes[i] >> 4];
		dst[n++] = digits[bytes[i] & 15];
	}
	dst[n] = '\0';
}

/* A DNS name in lower case, or NULL when it has bytes that no host name has. */
static char *copy_dns(const ASN1_STRING *value)
{
	const unsigned char *bytes = ASN1_STRING_get0_data(value);
	size_t len = (size_t)ASN1_STRING_length(value);
	for (size_t i = 0; i < len; i++) {
		if (bytes[i] <= 0x20 || bytes[i] >= 0x7f)
			return NULL;
	}
	char *name = len == 0 ? NULL : strndup((const char *)bytes, len);
	for (size_t i = 0; name != NULL && i < len; i++) {
		if (name[i] >= 'A' && name[i] <= 'Z')
			name[i] = (char)(name[i] - 'A' + 'a');
	}
	return name;
}

static char *copy_ip(const ASN1_STRING *value)
{
	char text[INET6_ADDRSTRLEN];
	int len = ASN1_STRING_length(value);
	int family = len == 4 ? AF_INET : len == 16 ? AF_INET6 : AF_UNSPEC;
	if (family == AF_UNSPEC ||
	    inet_ntop(family, ASN1_STRING_get0_data(value), text, sizeof(text)) == NULL)
		return NULL;
	return strdup(text);
}

static enum err fill_names(X509 *x509, struct tls_cert_info *info)
{
	GENERAL_NAMES *san = X509_get_ext_d2i(x509, NID_subject_alt_name, NULL, NULL);
	int cnt = san == NULL ? 0 : sk_GENERAL_NAME_num(san);
	if (cnt > 0) {
		info->names =
			fault_hits(FAULT_MALLOC) ? NULL : calloc((size_t)cnt, sizeof(*info->names));
		if (info->names == NULL) {
			GENERAL_NAMES_free(san);
			return ERR_NOMEM;
		}
	}
	for (int i = 0; i < cnt; i++) {
		int type = 0;
		const ASN1_STRING *value =
			GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(san, i), &type);
		char *name = type == GEN_DNS     ? copy_dns(value)
			     : type == GEN_IPADD ? copy_ip(value)
						 : NULL;
		if (name != NULL)
			info->names[info->name_cnt++] = name;
	}
	GENERAL_NAMES_free(san);
	return ERR_OK;
}

enum err tls_cert_info_fill(X509 *x509, const EVP_PKEY *pkey, struct tls_cert_info *ret_info)
{
	struct tls_cert_info *info = ret_info;
	tls_x509_name_text(X509_get_issuer_name(x509), info->issuer, sizeof(info->issuer));
	fill_serial(x509, info->serial_hex, sizeof(info->serial_hex));
	info->not_before_unix_s = unix_time(X509_get0_notBefore(x509));
	info->not_after_unix_s = unix_time(X509_get0_notAfter(x509));
	tls_pkey_name(pkey, info->key_type, sizeof(info->key_type));
	enum err e = fill_names(x509, info);
	if (e != ERR_OK)
		return e;
	const char *first = info->name_cnt > 0 ? info->names[0] : NULL;
	if (first != NULL)
		text_escape(info->subject, sizeof(info->subject), first, strlen(first));
	else
		tls_x509_name_text(X509_get_subject_name(x509), info->subject,
				   sizeof(info->subject));
	return ERR_OK;
}

void tls_cert_info_fini(struct tls_cert_info *info)
{
	for (size_t i = 0; i < info->name_cnt; i++)
		free(info->names[i]);
	free(info->names);
}

/* One wildcard label, as the whole of the first label (RFC 6125, 6.4.3). */
static bool match_wildcard(const char *pattern, const char *name)
{
	const char *dot = strchr(name, '.');
	return pattern[0] == '*' && pattern[1] == '.' && dot != NULL && dot != name &&
	       strcmp(pattern + 1, dot) == 0;
}

bool tls_cert_has_name(const struct tls_cert *cert, const char *name)
{
	uint8_t ip[16];
	char canonical[INET6_ADDRSTRLEN];
	int family = inet_pton(AF_INET, name, ip) == 1    ? AF_INET
		     : inet_pton(AF_INET6, name, ip) == 1 ? AF_INET6
							  : AF_UNSPEC;
	if (family != AF_UNSPEC)
		name = inet_ntop(family, ip, canonical, sizeof(canonical));
	for (size_t i = 0; i < cert->info.name_cnt; i++) {
		const char *pattern = cert->info.names[i];
		if (strcmp(pattern, name) == 0 ||
		    (family == AF_UNSPEC && match_wildcard(pattern, name)))
			return true;
	}
	return false;
}
