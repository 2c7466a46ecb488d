#pragma once
/* base: assertions that stay on in release builds. Never on network, file or API input. */

_Noreturn void sp_panic(const char *file, int line, const char *what);

#define SP_ASSERT(cond)  ((cond) ? (void)0 : sp_panic(__FILE__, __LINE__, #cond))
#define SP_UNREACHABLE() sp_panic(__FILE__, __LINE__, "unreachable")
#define SP_LIKELY(x)     __builtin_expect(!!(x), 1)
#define SP_ARRAY_LEN(a)  (sizeof(a) / sizeof((a)[0]))
