/* Prepared calls of dense_decode and its plan on the CPU: one is run by several threads at once, each with outputs and
 * scratch of its own, and every result is that of the plain call, bit for bit. */
#include <pthread.h>

#include "check.h"
#include "fixture.h"

enum { CALLERS = 4, ROUNDS = 3 };

static const geometry shape = {4, 3, 20, 2, 5, 64, 12, .dtype = FP32};

static void *allocate(size_t bytes) {
  void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
  CHECK(memory != NULL);
  return memory;
}

static fixture reference; /* its outputs are those of the plain call */
static flashmla_prepared *decode_alone, *decode_planned, *plan;

static void init(fixture *f) {
  const int32_t lengths[] = {700, 3, 0, 64};
  fixture_init(f, shape);
  fixture_fill(f);
  memcpy(f->tensor[CACHE_SEQLENS].data, lengths, sizeof lengths);
  f->decode.flags = f->plan_params.flags = FLASHMLA_CAUSAL;
}

/* What the calls were prepared with is gone. */
static void prepare_decode(void) {
  fixture *f = malloc(sizeof *f);
  CHECK(f != NULL);
  init(f);
  CHECK_OK(flashmla_dense_decode_prepare(&f->decode, &decode_alone));
  CHECK_OK(flashmla_plan_decode_prepare(&f->plan_params, &plan));
  fixture_use_plan(f, 0);
  CHECK_OK(flashmla_dense_decode_prepare(&f->decode, &decode_planned));
  CHECK(fixture_outputs_untouched(f));
  fixture_free(f);
  free(f);
}

static void check_decode(const DLTensor *out, const DLTensor *lse) {
  CHECK(memcmp(out->data, reference.tensor[OUT].data, reference.bytes[OUT]) == 0);
  CHECK(memcmp(lse->data, reference.tensor[LSE].data, reference.bytes[LSE]) == 0);
  memset(out->data, OUTPUT_FILL, reference.bytes[OUT]);
  memset(lse->data, OUTPUT_FILL, reference.bytes[LSE]);
}

static void *run_decode(void *unused) {
  (void)unused;
  DLTensor out = reference.tensor[OUT], lse = reference.tensor[LSE];
  flashmla_dense_decode_params call = reference.decode;
  flashmla_plan_decode_params plan_call = reference.plan_params;
  flashmla_plan made;
  out.data = allocate(reference.bytes[OUT]);
  lse.data = allocate(reference.bytes[LSE]);
  call.workspace = allocate(call.workspace_size);
  plan_call.buffer = allocate(plan_call.buffer_size);
  call.out = &out;
  call.lse = &lse;
  for (int i = 0; i < ROUNDS; ++i) {
    call.plan = NULL;
    CHECK_OK(flashmla_dense_decode_run(decode_alone, &call));
    check_decode(&out, &lse);
    CHECK_OK(flashmla_plan_decode_run(plan, &plan_call, &made));
    call.plan = &made;
    CHECK_OK(flashmla_dense_decode_run(decode_planned, &call));
    check_decode(&out, &lse);
    CHECK_OK(flashmla_dense_decode(&call));
    check_decode(&out, &lse);
  }
  free(out.data);
  free(lse.data);
  free(call.workspace);
  free(plan_call.buffer);
  return NULL;
}

int main(void) {
  init(&reference);
  prepare_decode();
  CHECK_OK(flashmla_dense_decode(&reference.decode));
  pthread_t thread[CALLERS];
  for (int i = 0; i < CALLERS; ++i) CHECK(pthread_create(&thread[i], NULL, run_decode, NULL) == 0);
  for (int i = 0; i < CALLERS; ++i) CHECK(pthread_join(thread[i], NULL) == 0);
  flashmla_prepared_free(decode_alone);
  flashmla_prepared_free(decode_planned);
  flashmla_prepared_free(plan);
  fixture_free(&reference);
  return 0;
}
