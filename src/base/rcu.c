#include "smartproxy/rcu.h"

#if defined(SP_TSAN)
char sp_rcu_tag;
#endif

/* The capabilities that clang's analysis names; they hold nothing. */
struct sp_role sp_rcu, sp_worker, sp_control;
