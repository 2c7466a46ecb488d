#include "smartproxy/err.h"

const char *err_text(enum err e)
{
	switch (e) {
#define ERR(sym, val, name, text) \
	case ERR_##sym:           \
		return text;
#include "smartproxy/err.def"
#undef ERR
	}
	return "unknown error";
}

const char *err_name(enum err e)
{
	switch (e) {
#define ERR(sym, val, name, text) \
	case ERR_##sym:           \
		return name;
#include "smartproxy/err.def"
#undef ERR
	}
	return "unknown";
}
