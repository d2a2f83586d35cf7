/* The entry points of attention work on a thread with a small stack: see stack.h. */
#include "fixture.h"
#include "stack.h"

static fixture f;
static flashmla_prepared *prepared;
static uint64_t bytes;

static void plan_size(void) { CHECK_OK(flashmla_plan_decode_size(&f.plan_params, &bytes)); }
static void plan(void) { CHECK_OK(flashmla_plan_decode(&f.plan_params, &f.plan)); }
static void plan_prepare(void) { CHECK_OK(flashmla_plan_decode_prepare(&f.plan_params, &prepared)); }
static void plan_run(void) { CHECK_OK(flashmla_plan_decode_run(prepared, &f.plan_params, &f.plan)); }
static void decode_size(void) { CHECK_OK(flashmla_dense_decode_workspace_size(&f.decode, &bytes)); }
static void decode(void) { CHECK_OK(flashmla_dense_decode(&f.decode)); }
static void decode_prepare(void) { CHECK_OK(flashmla_dense_decode_prepare(&f.decode, &prepared)); }
static void decode_run(void) { CHECK_OK(flashmla_dense_decode_run(prepared, &f.decode)); }
static void give_back(void) { flashmla_prepared_free(prepared); }
static void refused(void) {
  flashmla_dense_decode_params other = f.decode;
  other.lse = &f.tensor[OUT];
  CHECK_STATUS(flashmla_dense_decode(&other), FLASHMLA_ERROR_SHAPE, "lse.ndim is 4; it must be 3");
  CHECK_STATUS(flashmla_dense_decode_prepare(&other, &prepared), FLASHMLA_ERROR_SHAPE, "lse.ndim is 4");
  other = f.decode;
  other.struct_size = 97;
  CHECK_STATUS(flashmla_dense_decode(&other), FLASHMLA_ERROR_STRUCT_SIZE, "within a field");
  other = f.decode;
  other.flags ^= FLASHMLA_CAUSAL;
  CHECK_STATUS(flashmla_dense_decode(&other), FLASHMLA_ERROR_PLAN_MISMATCH, "plan was made with");
  CHECK_STATUS(flashmla_dense_decode_workspace_size(&other, &bytes), FLASHMLA_ERROR_PLAN_MISMATCH, "FLASHMLA_CAUSAL");
  other = f.decode;
  other.softmax_scale = -1e-30f;
  CHECK_STATUS(flashmla_dense_decode(&other), FLASHMLA_ERROR_VALUE, "softmax_scale");
}
/* There is no driver, or no kernel, for the made-up device. */
static void no_gpu(void) {
  const flashmla_status status = flashmla_stream_synchronize(1000, NULL);
  CHECK(status != FLASHMLA_OK);
  fixture_set_device(&f, kDLCUDA, 0);
  CHECK(flashmla_dense_decode(&f.decode) != FLASHMLA_OK);
  fixture_set_device(&f, kDLCPU, 0);
}
static void environment(void) {
  flashmla_read_environment();
  CHECK(flashmla_environment_error()[0] == '\0');
}

/* A runtime whose objects are addresses, and capsules the tensors themselves. */
static void *itself(void *object) { return object; }
static void *number(int64_t value) { return (void *)(intptr_t)value; }
static void *content(void *object, const char *name) {
  (void)name;
  return object;
}
static void *attribute(void *object, void *name) {
  (void)name;
  return object;
}
static void release(void *object) { (void)object; }
static void *unlock(void) { return NULL; }
static char nothing;

typedef struct capsule { /* DLManagedTensorVersioned */
  uint32_t major, minor;
  void *context, *deleter;
  uint64_t flags;
  DLTensor tensor;
} capsule;

static flashmla_status decode_of(const void *params) { return flashmla_dense_decode(params); }

/* More objects than lie in a call itself. */
static void exchange(void) {
  enum { OBJECTS = 30, MOST = 8 };
  const flashmla_host host = {.struct_size = sizeof host,
                              .address = itself,
                              .integer = number,
                              .capsule = content,
                              .type = itself,
                              .attribute = attribute,
                              .release = release,
                              .unlock = unlock,
                              .lock = release,
                              .nothing = &nothing};
  CHECK_OK(flashmla_exchange_host(&host));
  static capsule capsules[MOST];
  void *objects[OBJECTS];
  flashmla_exchange_argument arguments[OBJECTS];
  const int tensors[] = {Q, KV_CACHE, BLOCK_TABLE, CACHE_SEQLENS, OUT, LSE};
  const size_t fields[] = {
      offsetof(flashmla_dense_decode_params, q),           offsetof(flashmla_dense_decode_params, kv_cache),
      offsetof(flashmla_dense_decode_params, block_table), offsetof(flashmla_dense_decode_params, cache_seqlens),
      offsetof(flashmla_dense_decode_params, out),         offsetof(flashmla_dense_decode_params, lse)};
  for (int i = 0; i < OBJECTS; ++i) {
    const int which = i < 6 ? i : 5;
    arguments[i] = (flashmla_exchange_argument){which >= 4 ? FLASHMLA_EXCHANGE_OUTPUT : FLASHMLA_EXCHANGE_TENSOR,
                                                (uint32_t)fields[which], 0};
    capsules[which] = (capsule){.major = 1, .tensor = f.tensor[tensors[which]]};
    objects[i] = &capsules[which];
  }
  flashmla_dense_decode_params params = f.decode;
  const flashmla_exchange how = {.struct_size = sizeof how,
                                 .params = &params,
                                 .params_size = sizeof params,
                                 .num_objects = OBJECTS,
                                 .arguments = arguments,
                                 .num_arguments = OBJECTS,
                                 .run = decode_of};
  CHECK(flashmla_exchange_call((void *)(uintptr_t)&how, objects, OBJECTS) == NULL); /* the number 0: FLASHMLA_OK */
  params.softmax_scale = -1;
  CHECK(flashmla_exchange_call((void *)(uintptr_t)&how, objects, OBJECTS) == number(FLASHMLA_ERROR_VALUE));
}
static void facts(void) {
  flashmla_kernel_info info = FLASHMLA_KERNEL_INFO_INIT;
  CHECK_OK(flashmla_kernel_at(flashmla_kernel_count() - 1, &info));
  CHECK(flashmla_abi_version() == FLASHMLA_ABI_VERSION && flashmla_version() > 0 && flashmla_cpu_isa()[0] != '\0');
  CHECK_STATUS(flashmla_driver_version(NULL), FLASHMLA_ERROR_NULL_POINTER, "version is NULL; the result goes there");
}

static const entry entries[] = {{"plan_decode_size", plan_size},
                                {"plan_decode", plan},
                                {"plan_decode_prepare", plan_prepare},
                                {"plan_decode_run", plan_run},
                                {"prepared_free", give_back},
                                {"dense_decode_workspace_size", decode_size},
                                {"dense_decode", decode},
                                {"dense_decode_prepare", decode_prepare},
                                {"dense_decode_run", decode_run},
                                {"prepared_free", give_back},
                                {"refused calls", refused},
                                {"an exchange call", exchange},
                                {"calls for a GPU", no_gpu},
                                {"read_environment", environment},
                                {"facts", facts}};

static void check(geometry g, const char *isa, int32_t num_threads) {
  const int32_t lengths[] = {700, 3, 0, 64};
  fixture_init(&f, g);
  memcpy(f.tensor[CACHE_SEQLENS].data, lengths, sizeof lengths);
  f.decode.num_threads = num_threads;
  fixture_use_plan(&f, 3);
  setenv("FLASHMLA_CPU_ISA", isa, 1);
  flashmla_read_environment();
  printf("%s\n", flashmla_cpu_isa());
  unsetenv("FLASHMLA_CPU_ISA");
  check_stack_of(entries, sizeof entries / sizeof *entries);
  fixture_free(&f);
}

/* The caller's thread does its share of the work, with every instruction set's step. */
int main(void) {
  const char *const isas[] = {"portable", "avx2", flashmla_cpu_isa()};
  for (int i = 0; i < 3; ++i) {
    check((geometry){4, 3, 20, 2, 5, 64, 12, .dtype = BF16}, isas[i], 1);
    check((geometry){4, 3, 140, 1, 5, 64, 12, .dtype = FP32}, isas[i], 1);
    check((geometry){4, 1, 128, 1, 5, 64, 12, .dtype = FP16}, isas[i], 3);
  }
  return 0;
}
