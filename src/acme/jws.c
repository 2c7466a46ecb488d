#include "jws.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void jws_base64url(struct text *t, const void *data, size_t len)
{
	const uint8_t *in = data;
	for (size_t i = 0; i < len; i += 3) {
		size_t left = len - i;
		uint32_t bits = (uint32_t)in[i] << 16;
		if (left > 1)
			bits |= (uint32_t)in[i + 1] << 8;
		if (left > 2)
			bits |= in[i + 2];
		char out[4] = { alphabet[bits >> 18], alphabet[bits >> 12 & 63],
				alphabet[bits >> 6 & 63], alphabet[bits & 63] };
		text_add(t, out, left > 2 ? 4 : left + 1);
	}
}

void jws_digest(const char *text, size_t len, char ret_digest[JWS_DIGEST_MAX])
{
	uint8_t digest[32];
	tls_sha256(text, len, digest);
	struct text t = { 0 };
	jws_base64url(&t, digest, sizeof(digest));
	text_format(ret_digest, JWS_DIGEST_MAX, "%s", t.has_failed ? "" : t.data);
	text_fini(&t);
}

enum err jws_jwk(const struct tls_key *key, struct text *ret_jwk)
{
	uint8_t x[32], y[32];
	enum err e = tls_key_p256_point(key, x, y);
	if (e != ERR_OK)
		return e;
	text_puts(ret_jwk, "{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"");
	jws_base64url(ret_jwk, x, sizeof(x));
	text_puts(ret_jwk, "\",\"y\":\"");
	jws_base64url(ret_jwk, y, sizeof(y));
	text_puts(ret_jwk, "\"}");
	return ret_jwk->has_failed ? ERR_NOMEM : ERR_OK;
}

enum err jws_thumbprint(const struct tls_key *key, char ret_thumbprint[JWS_DIGEST_MAX])
{
	struct text jwk = { 0 };
	enum err e = jws_jwk(key, &jwk);
	if (e == ERR_OK) {
		jws_digest(jwk.data, jwk.len, ret_thumbprint);
		e = ret_thumbprint[0] == 0 ? ERR_NOMEM : ERR_OK;
	}
	text_fini(&jwk);
	return e;
}

/* The protected header (RFC 8555, 6.2): alg, nonce, url and either kid or jwk. */
static enum err make_header(const struct tls_key *key, const struct jws_header *h, struct text *ret)
{
	struct text jwk = { 0 };
	json_t *root = json_object();
	enum err e = ERR_NOMEM;
	bool is_ok = json_object_set_new(root, "alg", json_string("ES256")) == 0 &&
		     json_object_set_new(root, "nonce", json_string(h->nonce)) == 0 &&
		     json_object_set_new(root, "url", json_string(h->url)) == 0;
	if (is_ok && h->kid != NULL) {
		is_ok = json_object_set_new(root, "kid", json_string(h->kid)) == 0;
	} else if (is_ok) {
		e = jws_jwk(key, &jwk);
		if (e != ERR_OK)
			goto out;
		json_t *value = json_loadb(jwk.data, jwk.len, 0, NULL);
		is_ok = json_object_set_new(root, "jwk", value) == 0;
	}
	char *dump = is_ok ? json_dumps(root, JSON_COMPACT) : NULL;
	if (dump != NULL)
		text_puts(ret, dump);
	e = dump != NULL && !ret->has_failed ? ERR_OK : ERR_NOMEM;
	free(dump);
out:
	json_decref(root);
	text_fini(&jwk);
	return e;
}

enum err jws_sign(const struct tls_key *key, const struct jws_header *header, const char *payload,
		  struct text *ret_body)
{
	struct text head = { 0 }, input = { 0 };
	uint8_t sig[64];
	enum err e = make_header(key, header, &head);
	if (e != ERR_OK)
		goto out;
	jws_base64url(&input, head.data, head.len);
	size_t head_len = input.len;
	text_puts(&input, ".");
	if (payload != NULL)
		jws_base64url(&input, payload, strlen(payload));
	e = input.has_failed ? ERR_NOMEM : tls_key_sign_es256(key, input.data, input.len, sig);
	if (e != ERR_OK)
		goto out;
	text_puts(ret_body, "{\"protected\":\"");
	text_add(ret_body, input.data, head_len);
	text_puts(ret_body, "\",\"payload\":\"");
	text_puts(ret_body, input.data + head_len + 1);
	text_puts(ret_body, "\",\"signature\":\"");
	jws_base64url(ret_body, sig, sizeof(sig));
	text_puts(ret_body, "\"}");
	e = ret_body->has_failed ? ERR_NOMEM : ERR_OK;
out:
	text_fini(&input);
	text_fini(&head);
	return e;
}
