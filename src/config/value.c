#include "value.h"

#include <string.h>

const struct value *value_member(const struct value *group, const char *name)
{
	if (!group || group->type != VALUE_GROUP)
		return NULL;
	for (size_t i = 0; i < group->cnt; i++)
		if (group->items[i].name[0] == name[0] && strcmp(group->items[i].name, name) == 0)
			return &group->items[i];
	return NULL;
}

const char *value_describe(const struct value *v, enum value_notation notation, char *dst)
{
	char escaped[100];
	switch (v->type) {
	case VALUE_NULL:
		text_format(dst, VALUE_TEXT_MAX, "null");
		break;
	case VALUE_BOOL:
		text_format(dst, VALUE_TEXT_MAX, "%s", v->boolean ? "true" : "false");
		break;
	case VALUE_INT:
		text_format(dst, VALUE_TEXT_MAX, "%lld", (long long)v->integer);
		break;
	case VALUE_REAL:
		text_format(dst, VALUE_TEXT_MAX, "%g", v->real);
		break;
	case VALUE_STRING:
		text_escape(escaped, sizeof(escaped), v->string, strlen(v->string));
		text_format(dst, VALUE_TEXT_MAX, "the string \"%s\"", escaped);
		break;
	case VALUE_GROUP:
		text_format(dst, VALUE_TEXT_MAX, notation == VALUE_JSON ? "an object" : "a group");
		break;
	case VALUE_LIST:
		text_format(dst, VALUE_TEXT_MAX, notation == VALUE_JSON ? "an array" : "a list");
		break;
	}
	return dst;
}

void value_document_fini(struct value_document *document)
{
	if (document->release)
		document->release(document->data);
	*document = (struct value_document){ 0 };
}
