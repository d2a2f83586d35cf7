/* Status texts, and the sentence each thread keeps for itself. */
#include <pthread.h>

#include "check.h"
#include "fake_backend.h"
#include "fixture.h"

static void texts(void) {
  CHECK(strcmp(flashmla_last_error(), "") == 0); /* before the first failure */
  CHECK(strcmp(flashmla_last_kernel(), "") == 0);
  CHECK(strcmp(flashmla_status_string(FLASHMLA_OK), "ok") == 0);
  CHECK(strcmp(flashmla_status_string(FLASHMLA_ERROR_WORKSPACE_TOO_SMALL), "workspace too small") == 0);
  CHECK(strcmp(flashmla_status_string(FLASHMLA_ERROR_OUT_OF_MEMORY), "out of memory") == 0);
  const int unknown[] = {-1, 1, 99, 122, 309, 311, 1 << 30};
  for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; ++i)
    CHECK(strcmp(flashmla_status_string((flashmla_status)unknown[i]), "unknown status") == 0);
  for (int status = 100; status < 120; ++status) CHECK(flashmla_status_string((flashmla_status)status)[0] != '\0');
}

static void long_sentence(void) {
  char text[2000];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = '\0';
  CHECK(fm_fail(FLASHMLA_ERROR_DRIVER, "%s", text) == FLASHMLA_ERROR_DRIVER);
  CHECK(strlen(flashmla_last_error()) > 200 && strlen(flashmla_last_error()) < 1000);
}

enum { THREADS = 8, ROUNDS = 200 };

/* Fails with a number of its own, again and again, beside the others. */
static void *fail_alone(void *argument) {
  const int number = *(const int *)argument;
  fixture f;
  fixture_init(&f, SMALL);
  CHECK(strcmp(flashmla_last_error(), "") == 0);
  for (int i = 0; i < ROUNDS; ++i) {
    char part[64];
    snprintf(part, sizeof part, "params.num_threads is -%d;", number + 1);
    f.decode.num_threads = -(number + 1);
    CHECK_STATUS(flashmla_dense_decode(&f.decode), FLASHMLA_ERROR_VALUE, part);
    const char *kept = flashmla_last_error();
    uint64_t bytes;
    CHECK_OK(flashmla_dense_decode_workspace_size(&f.decode, &bytes)); /* success leaves the sentence */
    CHECK(strstr(kept, part) != NULL);
  }
  fixture_free(&f);
  return NULL;
}

static void threads(void) {
  pthread_t thread[THREADS];
  int number[THREADS];
  fm_fail(FLASHMLA_ERROR_DRIVER, "of the main thread");
  for (int i = 0; i < THREADS; ++i) {
    number[i] = i;
    CHECK(pthread_create(&thread[i], NULL, fail_alone, &number[i]) == 0);
  }
  for (int i = 0; i < THREADS; ++i) CHECK(pthread_join(thread[i], NULL) == 0);
  CHECK(strcmp(flashmla_last_error(), "of the main thread") == 0);
}

int main(void) {
  texts();
  long_sentence();
  threads();
  return 0;
}
