#pragma once
/* route: the ACME challenge answers, an RCU table of their own that no update of routes touches.
 *
 * Threads: find in a worker's read section; everything else on the control thread. Lifetime: one
 * for the process. Standards: RFC 8555, 8.3. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/err.h"
#include "smartproxy/rcu.h"

#define CHALLENGE_PATH_PREFIX "/.well-known/acme-challenge/"
#define CHALLENGE_TOKEN_MAX   256
#define CHALLENGE_TEXT_MAX    512 /* key authorization: token "." base64url(SHA-256) */

struct challenge_table;
enum err challenge_table_new(struct challenge_table **ret_table) SP_MUST_USE;
void challenge_table_free(struct challenge_table *table) SP_ON_CONTROL;
/* identifier: the name being validated, lower case (compared with the request's Host). After a
 * following sp_rcu_wait() every worker has it. ERR_EXISTS: the token is there. */
enum err challenge_add(struct challenge_table *table, const char *identifier, const char *token,
		       const char *key_authorization) SP_ON_CONTROL SP_MUST_USE;
/* ERR_NOENT: not there. */
enum err challenge_remove(struct challenge_table *table, const char *token) SP_ON_CONTROL;
size_t challenge_cnt(const struct challenge_table *table) SP_ON_CONTROL;
/* Answers served for this token so far; 0 when there is none. */
uint32_t challenge_served(const struct challenge_table *table, const char *token) SP_ON_CONTROL;
/* notify is called on the worker's thread after each answer (outside the read section); it must
 * only post. */
void challenge_on_served(struct challenge_table *table, void (*notify)(void *arg), void *arg)
	SP_ON_CONTROL;

/* Copies the key authorization for (host, token) into dst (CHALLENGE_TEXT_MAX bytes), counts it as
 * served; false: unknown. The caller calls challenge_notify() after it left the section. */
bool challenge_find(struct challenge_table *table, const char *host, size_t host_len,
		    const char *token, size_t token_len, char *dst, size_t *ret_len) SP_RCU_READER;
void challenge_notify(struct challenge_table *table);
