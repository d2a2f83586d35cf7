/* Environment variables: read at load and on request, never in a call; what is wrong with them is told. */
#include "check.h"
#include "fixture.h"

static void set(const char *name, const char *value) {
  if (value != NULL)
    setenv(name, value, 1);
  else
    unsetenv(name);
}

/* With this value the text contains `part`; NULL: nothing is wrong. */
static void tells(const char *name, const char *value, const char *part) {
  set(name, value);
  flashmla_read_environment();
  const char *error = flashmla_environment_error();
  if (part == NULL ? error[0] != '\0' : strstr(error, part) == NULL) {
    fprintf(stderr, "%s=%s: \"%s\", wanted \"%s\"\n", name, value, error, part);
    exit(1);
  }
  set(name, NULL);
  flashmla_read_environment();
  CHECK(flashmla_environment_error()[0] == '\0');
}

static void what_is_wrong(void) {
  static const char *const numbers[] = {"abc", "0", "-3", "3x", "2147483648", "99999999999999999999", " ", "1.5"};
  for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; ++i)
    tells("FLASHMLA_NUM_THREADS", numbers[i], "FLASHMLA_NUM_THREADS is \"");
  tells("FLASHMLA_NUM_THREADS", "abc", "is \"abc\"; it must be an integer in [1, 2^31)");
  tells("FLASHMLA_NUM_THREADS", "3", NULL);
  tells("FLASHMLA_NUM_THREADS", "", NULL);
  tells("FLASHMLA_NUM_THREADS", NULL, NULL);
  tells("FLASHMLA_CPU_ISA", "sse9", "FLASHMLA_CPU_ISA is \"sse9\"; it must be one of");
  tells("FLASHMLA_CPU_ISA", "portable", NULL);
  tells("FLASHMLA_FORCE_KERNEL", "none such", "FLASHMLA_FORCE_KERNEL is \"none such\", which is no kernel");
  char long_text[5000];
  memset(long_text, 'x', sizeof long_text - 1);
  long_text[sizeof long_text - 1] = '\0';
  tells("FLASHMLA_CPU_ISA", long_text, "FLASHMLA_CPU_ISA is \"xxx");
  set("FLASHMLA_NUM_THREADS", "few");
  set("FLASHMLA_CPU_ISA", "fast");
  flashmla_read_environment();
  const char *both = flashmla_environment_error();
  CHECK(strstr(both, "\"few\"") != NULL && strstr(both, "; FLASHMLA_") != NULL && strstr(both, "\"fast\"") != NULL);
  unsetenv("FLASHMLA_NUM_THREADS");
  unsetenv("FLASHMLA_CPU_ISA");
  flashmla_read_environment();
  CHECK(strstr(both, "\"few\"") != NULL); /* a text once given stays */
}

/* What a call does follows the last reading. */
static void not_in_calls(void) {
  const char *best = flashmla_cpu_isa();
  setenv("FLASHMLA_CPU_ISA", "portable", 1);
  CHECK(strcmp(flashmla_cpu_isa(), best) == 0);
  flashmla_read_environment();
  CHECK(strcmp(flashmla_cpu_isa(), "portable") == 0);
  unsetenv("FLASHMLA_CPU_ISA");
  CHECK(strcmp(flashmla_cpu_isa(), "portable") == 0);
  flashmla_read_environment();
  CHECK(strcmp(flashmla_cpu_isa(), best) == 0);
}

int main(void) {
  what_is_wrong();
  not_in_calls();
  return 0;
}
