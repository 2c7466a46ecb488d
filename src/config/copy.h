#pragma once
/* config, private: a copy of a model's groups that shares nothing with the original. */
#include "keys.h"
#include "smartproxy/arena.h"

/* data, a struct of group, is a plain copy of another: whatever it points to is put into the arena
 * instead. ERR_NOMEM. */
enum err copy_contents(struct arena *arena, const struct key_group *group, void *data) SP_MUST_USE;
