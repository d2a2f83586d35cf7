/* text.h - a short text in a value, for parts of sentences. */
#ifndef FLASHMLA_CORE_TEXT_H_
#define FLASHMLA_CORE_TEXT_H_

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct fm_text {
  char chars[96];
} fm_text;

/* Adds to the text, which is cut off where there is no more room. */
__attribute__((format(printf, 2, 3))) static inline void fm_append(fm_text *text, const char *format, ...) {
  const size_t used = strlen(text->chars);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text->chars + used, sizeof text->chars - used, format, arguments);
  va_end(arguments);
}

/* A text of its own. */
__attribute__((format(printf, 1, 2))) static inline fm_text fm_text_of(const char *format, ...) {
  fm_text text;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text.chars, sizeof text.chars, format, arguments);
  va_end(arguments);
  return text;
}

#endif /* FLASHMLA_CORE_TEXT_H_ */
