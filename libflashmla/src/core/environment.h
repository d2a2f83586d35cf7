/* environment.h - environment variables. They are read when the library is loaded, and again when
 * flashmla_read_environment asks for it; no call reads them, since another thread may be in setenv. */
#ifndef FLASHMLA_CORE_ENVIRONMENT_H_
#define FLASHMLA_CORE_ENVIRONMENT_H_

#include "core/section.h"
#include "core/text.h"

typedef struct fm_variable {
  const char *name;
  /* Takes the value over; NULL: not set, or empty. What is wrong with it goes into *problem, which begins empty, as the
   * end of the sentence `NAME is "value"...`. Calls may run in other threads: what they read is atomic. */
  void (*take)(const char *value, fm_text *problem);
} fm_variable;

/* Lists the variable: no other file names it. */
#define FM_VARIABLE(variable) static const fm_variable *const variable##_entry FM_IN_SECTION("fm_variables") = &variable

/* A copy that lives for ever; the same text has the same one. NULL: no memory. */
const char *fm_keep_text(const char *text);

#endif /* FLASHMLA_CORE_ENVIRONMENT_H_ */
