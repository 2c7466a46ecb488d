#pragma once
/* control: listener sets that are about to close get no new connections first. Threads: control
 * thread. */
#include <stddef.h>

#include "smartproxy/listener.h"

/* From now on SYNs to these sets are dropped, so that their clients try again and meet what is
 * there then; handshakes under way end. Returns after they had the time to. */
void quiet_begin(struct listener_set *const *sets, size_t cnt);
/* Takes connections again. Harmless on a set that always did. */
void quiet_end(struct listener_set *set);
