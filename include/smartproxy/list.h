#pragma once
/* base: intrusive doubly linked list. The owner embeds struct list; nothing is allocated.
 * Threads: as the object that holds the list. A list head or an unlinked node points to itself. */
#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next, *prev;
};

#define SP_CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}
static inline bool list_is_empty(const struct list *l)
{
	return l->next == l;
}
static inline void list_append(struct list *head, struct list *node)
{
	node->prev = head->prev;
	node->next = head;
	head->prev->next = node;
	head->prev = node;
}
static inline void list_prepend(struct list *head, struct list *node)
{
	list_append(head->next, node);
}
/* Unlinks and re-initialises the node; harmless on an unlinked one. */
static inline void list_remove(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}
#define LIST_FOREACH(pos, head) \
	for (struct list *pos = (head)->next; pos != (head); pos = pos->next)
/* The current node may be removed inside the body. */
#define LIST_FOREACH_SAFE(pos, head)                                                  \
	for (struct list *pos = (head)->next, *pos##_next = pos->next; pos != (head); \
	     pos = pos##_next, pos##_next = pos->next)
