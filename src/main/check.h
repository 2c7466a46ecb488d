#pragma once
/* main: what the options -t, -T and --keys print. Each returns the process's exit code. */
#include "smartproxy/rcu.h"

/* All that a start would find wrong and that can be found without opening a port. */
int check_file(const char *file) SP_ON_CONTROL;
int check_print(const char *file) SP_ON_CONTROL;
int check_keys(void);
