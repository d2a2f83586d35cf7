/* item_kinds.h - the KV items that a query token attends are of one kind or of two, each with lengths of its own:
 * tokens of its request, or the indices of a selection and of an extra one. */
#ifndef FLASHMLA_CORE_ITEM_KINDS_H_
#define FLASHMLA_CORE_ITEM_KINDS_H_

enum { FM_FIRST_KIND, FM_SECOND_KIND, FM_ITEM_KINDS };

#endif /* FLASHMLA_CORE_ITEM_KINDS_H_ */
