#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/fault.h"
#include "smartproxy/rand.h"
#include "smartproxy/rcu.h"
#include "worker.h"

/* Session tickets without server state (RFC 5077, 4; in TLS 1.3 the same bytes are a PSK identity,
 * RFC 8446, 4.6.1): AES-256-CBC and HMAC-SHA256 under the newest of three keys, known by a random
 * name. */

#define KEY_CNT   3
#define NAME_LEN  16
#define CIPHER_IV 16

struct ticket_key {
	uint8_t name[NAME_LEN];
	uint8_t aes[32];
	uint8_t mac[32];
};

/* Immutable once published; freed after a grace period. */
struct ticket_ring {
	struct ticket_key keys[KEY_CNT]; /* newest first */
	size_t key_cnt;
	struct rcu_head rcu;
};

static struct ticket_ring *live SP_RCU_PTR;
static EVP_CIPHER *cipher; /* fetched once: a fetch takes a lock */

static void free_ring(struct ticket_ring *ring)
{
	if (ring != NULL)
		OPENSSL_cleanse(ring, sizeof(*ring));
	free(ring);
}

static void free_retired(struct rcu_head *head)
{
	SP_TSAN_ACQUIRE();
	free_ring(caa_container_of(head, struct ticket_ring, rcu));
}

/* A ring with a new key before those of old (NULL: none); the oldest falls out. */
static struct ticket_ring *build_ring(const struct ticket_ring *old)
{
	struct ticket_ring *ring = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*ring));
	if (ring == NULL)
		return NULL;
	rand_bytes(&ring->keys[0], sizeof(ring->keys[0]));
	ring->key_cnt = 1;
	for (size_t i = 0; old != NULL && i < old->key_cnt && ring->key_cnt < KEY_CNT; i++)
		ring->keys[ring->key_cnt++] = old->keys[i];
	return ring;
}

enum err tls_tickets_init(void)
{
	ERR_clear_error();
	cipher = EVP_CIPHER_fetch(NULL, "AES-256-CBC", NULL);
	ERR_clear_error();
	if (cipher == NULL)
		return ERR_TLS;
	struct ticket_ring *ring = build_ring(NULL);
	if (ring == NULL) {
		tls_tickets_fini();
		return ERR_NOMEM;
	}
	(void)sp_rcu_swap(&live, ring);
	return ERR_OK;
}

void tls_tickets_fini(void)
{
	free_ring(sp_rcu_swap(&live, NULL));
	EVP_CIPHER_free(cipher);
	cipher = NULL;
}

enum err tls_tickets_rotate(void)
{
	/* Only this thread publishes, so the ring stays while it is copied. */
	struct ticket_ring *ring = build_ring(sp_rcu_load(&live));
	if (ring == NULL)
		return ERR_NOMEM;
	struct ticket_ring *old = sp_rcu_swap(&live, ring);
	if (old != NULL)
		sp_rcu_retire(&old->rcu, free_retired);
	return ERR_OK;
}

/* Copies the key called name (NULL: the newest) out of the ring. */
static bool copy_key(const uint8_t *name, struct ticket_key *ret_key, bool *ret_is_newest)
{
	bool is_found = false;
	sp_rcu_enter();
	const struct ticket_ring *ring = sp_rcu_load(&live);
	for (size_t i = 0; ring != NULL && i < ring->key_cnt && !is_found; i++) {
		if (name != NULL && memcmp(ring->keys[i].name, name, NAME_LEN) != 0)
			continue;
		*ret_key = ring->keys[i];
		*ret_is_newest = i == 0;
		is_found = true;
	}
	sp_rcu_leave();
	return is_found;
}

static bool set_mac_key(EVP_MAC_CTX *mac, struct ticket_key *key)
{
	char digest[] = "SHA256";
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key->mac, sizeof(key->mac)),
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
		OSSL_PARAM_construct_end(),
	};
	return EVP_MAC_CTX_set_params(mac, params) == 1;
}

/* OpenSSL's contract: 1 good, 2 good but renew, 0 unknown key (full handshake), below 0 failure. A
 * client of TLS 1.3 uses a ticket once (RFC 8446, C.4): without a new one each second handshake would
 * be a full one. */
static int use_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *ctx,
		   EVP_MAC_CTX *mac, int is_encrypting)
{
	struct ticket_key key;
	bool is_newest = false;
	int rc = -1;
	if (!copy_key(is_encrypting ? NULL : name, &key, &is_newest))
		return 0;
	if (is_encrypting) {
		rand_bytes(iv, CIPHER_IV);
		memcpy(name, key.name, NAME_LEN);
	}
	if (EVP_CipherInit_ex2(ctx, cipher, key.aes, iv, is_encrypting, NULL) == 1 &&
	    set_mac_key(mac, &key))
		rc = is_encrypting || (is_newest && SSL_version(ssl) != TLS1_3_VERSION) ? 1 : 2;
	OPENSSL_cleanse(&key, sizeof(key));
	return rc;
}

void tls_tickets_attach(SSL_CTX *ctx)
{
	SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, use_key);
}
