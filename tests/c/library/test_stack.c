/* Every entry point works on a thread with a small stack: a call keeps there what it checked, and no more. */
#include <pthread.h>

#include "check.h"
#include "fixture.h"

enum {
  STACK = 32 << 10, /* twice what POSIX threads have at least on Linux */
  UNUSED = 0x5c,    /* fills it before a thread runs */
  MOST_BYTES = 12 << 10,
  PARTS = 20 /* more than lie in a call itself */
};

static fixture f;
static DLTensor result_out, result_lse;
static const DLTensor *outs[PARTS], *lses[PARTS];
static flashmla_merge_states_params merge;
static flashmla_prepared *prepared;
static uint64_t bytes;

static void nothing(void) {}
static void plan_size(void) { CHECK_OK(flashmla_plan_decode_size(&f.plan_params, &bytes)); }
static void plan(void) { CHECK_OK(flashmla_plan_decode(&f.plan_params, &f.plan)); }
static void plan_prepare(void) { CHECK_OK(flashmla_plan_decode_prepare(&f.plan_params, &prepared)); }
static void plan_run(void) { CHECK_OK(flashmla_plan_decode_run(prepared, &f.plan_params, &f.plan)); }
static void decode_size(void) { CHECK_OK(flashmla_dense_decode_workspace_size(&f.decode, &bytes)); }
static void decode(void) { CHECK_OK(flashmla_dense_decode(&f.decode)); }
static void decode_prepare(void) { CHECK_OK(flashmla_dense_decode_prepare(&f.decode, &prepared)); }
static void decode_run(void) { CHECK_OK(flashmla_dense_decode_run(prepared, &f.decode)); }
static void states(void) { CHECK_OK(flashmla_merge_states(&merge)); }
static void states_prepare(void) { CHECK_OK(flashmla_merge_states_prepare(&merge, &prepared)); }
static void states_run(void) { CHECK_OK(flashmla_merge_states_run(prepared, &merge)); }
static void give_back(void) { flashmla_prepared_free(prepared); }
static void refused(void) {
  merge.num_states = PARTS;
  lses[PARTS - 1] = &f.tensor[OUT];
  CHECK_STATUS(flashmla_merge_states(&merge), FLASHMLA_ERROR_SHAPE, "lses[19].ndim is 4");
}
static void facts(void) {
  flashmla_kernel_info info;
  CHECK_OK(flashmla_kernel_at(flashmla_kernel_count() - 1, &info));
  CHECK(flashmla_abi_version() == FLASHMLA_ABI_VERSION && flashmla_version() > 0 && flashmla_cpu_isa()[0] != '\0');
  CHECK_STATUS(flashmla_driver_version(NULL), FLASHMLA_ERROR_NULL_POINTER, "version is NULL; the result goes there");
}

static const struct entry {
  const char *name;
  void (*call)(void);
} entries[] = {{"nothing", nothing},
               {"plan_decode_size", plan_size},
               {"plan_decode", plan},
               {"plan_decode_prepare", plan_prepare},
               {"plan_decode_run", plan_run},
               {"prepared_free", give_back},
               {"dense_decode_workspace_size", decode_size},
               {"dense_decode", decode},
               {"dense_decode_prepare", decode_prepare},
               {"dense_decode_run", decode_run},
               {"prepared_free", give_back},
               {"merge_states", states},
               {"merge_states_prepare", states_prepare},
               {"merge_states_run", states_run},
               {"prepared_free", give_back},
               {"a refused call", refused},
               {"facts", facts}};

static void *run(void *entry) {
  ((const struct entry *)entry)->call();
  return NULL;
}

/* Bytes that a thread has used of its stack. */
static size_t bytes_of(const struct entry *entry) {
  static _Alignas(64) unsigned char stack[STACK];
  pthread_attr_t attributes;
  pthread_t thread;
  memset(stack, UNUSED, STACK);
  CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstack(&attributes, stack, STACK) == 0);
  CHECK(pthread_create(&thread, &attributes, run, (void *)(uintptr_t)entry) == 0);
  CHECK(pthread_join(thread, NULL) == 0 && pthread_attr_destroy(&attributes) == 0);
  size_t unused = 0;
  while (unused < STACK && stack[unused] == UNUSED) ++unused;
  return STACK - unused;
}

int main(void) {
  const int32_t lengths[] = {700, 3, 0, 64};
  fixture_init(&f, (geometry){4, 3, 20, 2, 5, 64, 12, .dtype = BF16});
  memcpy(f.tensor[CACHE_SEQLENS].data, lengths, sizeof lengths);
  f.decode.num_threads = 1;
  fixture_use_plan(&f, 3);
  result_out = f.tensor[OUT];
  result_lse = f.tensor[LSE];
  result_out.data = aligned_alloc(64, (f.bytes[OUT] + 63) / 64 * 64);
  result_lse.data = malloc(f.bytes[LSE]);
  CHECK(result_out.data != NULL && result_lse.data != NULL);
  for (int i = 0; i < PARTS; ++i) {
    outs[i] = &f.tensor[OUT];
    lses[i] = &f.tensor[LSE];
  }
  merge = (flashmla_merge_states_params){.struct_size = sizeof merge,
                                         .outs = outs,
                                         .lses = lses,
                                         .num_states = PARTS,
                                         .num_threads = 1,
                                         .out = &result_out,
                                         .lse = &result_lse};
  const size_t of_a_thread = bytes_of(&entries[0]);
  for (size_t i = 1; i < sizeof entries / sizeof *entries; ++i) {
    const size_t used = bytes_of(&entries[i]) - of_a_thread;
    printf("%-28s %5zu bytes\n", entries[i].name, used);
    CHECK(used < MOST_BYTES);
  }
  free(result_out.data);
  free(result_lse.data);
  fixture_free(&f);
  return 0;
}
