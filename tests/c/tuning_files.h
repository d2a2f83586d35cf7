/* tuning_files.h - for tests of tuning files: a folder with two of them, and an entry for the fixture's calls. */
#ifndef TUNING_FILES_H_
#define TUNING_FILES_H_

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "flashmla/flashmla.h"

static char folder[] = "/tmp/flashmla-tuning-XXXXXX";
static char path[128], other[128];

static const flashmla_tuning_entry dense = {.struct_size = sizeof(flashmla_tuning_entry),
                                            .operation = "dense_decode",
                                            .dtype = "bfloat16",
                                            .kernel = "fake_cuda",
                                            .d_qk = 576,
                                            .h_q = 6,
                                            .h_kv = 2,
                                            .s_q = 2,
                                            .page_size = 64,
                                            .batch_from = 4,
                                            .batch_to = 4,
                                            .capacity_from = 192,
                                            .capacity_to = 192,
                                            .num_splits = 3,
                                            .l2_policy = FLASHMLA_L2_EVICT_FIRST,
                                            .ns = 12345,
                                            .default_ns = INT32_MAX};

static inline void write_file(const char *name, const char *text, size_t bytes) {
  FILE *file = fopen(name, "wb");
  CHECK(file != NULL && fwrite(text, 1, bytes, file) == bytes);
  fclose(file);
}

static inline flashmla_tuning_state told(int32_t device) {
  flashmla_tuning_state state = FLASHMLA_TUNING_STATE_INIT;
  CHECK_OK(flashmla_tuning_tell(device, &state));
  return state;
}

static inline void make_folder(void) {
  CHECK(mkdtemp(folder) != NULL);
  snprintf(path, sizeof path, "%s/tuned", folder);
  snprintf(other, sizeof other, "%s/other", folder);
}

static inline void remove_folder(void) {
  remove(path);
  remove(other);
  CHECK(rmdir(folder) == 0);
}

#endif /* TUNING_FILES_H_ */
