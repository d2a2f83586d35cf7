/* check.h - the few assertions the C tests need. A failure tells where and what, and ends the program with status 1. */
#ifndef CHECK_H_
#define CHECK_H_

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <flashmla/flashmla.h>

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                                      \
    }                                                                               \
  } while (0)

/* The call returns `status`; where that is an error, the sentence of this thread contains `part`. */
#define CHECK_STATUS(call, status, part) check_status((call), (status), (part), #call, __FILE__, __LINE__)
#define CHECK_OK(call) CHECK_STATUS(call, FLASHMLA_OK, "")

static inline void check_status(flashmla_status got, flashmla_status wanted, const char *part, const char *call,
                                const char *file, int line) {
  const char *sentence = got == FLASHMLA_OK ? "" : flashmla_last_error();
  if (got == wanted && strstr(sentence, part) != NULL) return;
  fprintf(stderr, "%s:%d: %s is %d (%s), wanted %d with \"%s\"\n", file, line, call, got, sentence, wanted, part);
  exit(1);
}

#endif /* CHECK_H_ */
