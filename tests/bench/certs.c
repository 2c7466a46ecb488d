/* Certificates for the bench: certs DIR COUNT SERIAL writes DIR/host0.test.pem and so on, each a certificate of its own,
 * signed by its own P-256 key, which follows it in the file. Their serial numbers count from SERIAL. */
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

#define LIFE_S (30L * 24 * 3600)

static X509 *make(EVP_PKEY *key, const char *name, long serial)
{
	X509 *cert = X509_new();
	char alternative[128];
	(void)snprintf(alternative, sizeof(alternative), "DNS:%s", name);
	X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, alternative);
	if (cert == NULL || names == NULL)
		return NULL;
	(void)X509_set_version(cert, 2);
	(void)ASN1_INTEGER_set(X509_get_serialNumber(cert), serial);
	(void)X509_gmtime_adj(X509_getm_notBefore(cert), -60);
	(void)X509_gmtime_adj(X509_getm_notAfter(cert), LIFE_S);
	(void)X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
					 (const unsigned char *)name, -1, -1, 0);
	(void)X509_set_issuer_name(cert, X509_get_subject_name(cert));
	(void)X509_add_ext(cert, names, -1);
	(void)X509_set_pubkey(cert, key);
	X509_EXTENSION_free(names);
	return X509_sign(cert, key, EVP_sha256()) > 0 ? cert : NULL;
}

static int write_one(const char *dir, long ix, long serial)
{
	char name[64], path[4096];
	(void)snprintf(name, sizeof(name), "host%ld.test", ix);
	(void)snprintf(path, sizeof(path), "%s/%s.pem", dir, name);
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = key == NULL ? NULL : make(key, name, serial);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FILE *file = fd < 0 ? NULL : fdopen(fd, "w");
	int is_good = cert != NULL && file != NULL && PEM_write_X509(file, cert) == 1 &&
		      PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL) == 1;
	if (file != NULL && fclose(file) != 0)
		is_good = 0;
	X509_free(cert);
	EVP_PKEY_free(key);
	return is_good;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	long cnt = strtol(argv[2], NULL, 10), serial = strtol(argv[3], NULL, 10);
	for (long ix = 0; ix < cnt; ix++) {
		if (!write_one(argv[1], ix, serial + ix)) {
			(void)fprintf(stderr, "certs: certificate %ld failed\n", ix);
			return 1;
		}
	}
	return 0;
}
