/* Prepared calls on the CPU: one is run by several threads at once, each with outputs and scratch of its own, and every
 * result is that of the plain call, bit for bit. */
#include <pthread.h>

#include "check.h"
#include "fixture.h"

enum { CALLERS = 4, ROUNDS = 3, MOST_PARTS = 20 };

static const geometry shape = {4, 3, 20, 2, 5, 64, 12, .dtype = FP32};

static void fill(DLTensor *tensor, size_t bytes) {
  float *values = tensor->data;
  for (size_t i = 0; i < bytes / sizeof *values; ++i) values[i] = (float)(i * 2654435761u % 2003) / 1001.5f - 1.0f;
}

static void *allocate(size_t bytes) {
  void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
  CHECK(memory != NULL);
  return memory;
}

/* ---------------------------------------------------------------------------------------------- decode and its plan */
static fixture reference; /* its outputs are those of the plain call */
static flashmla_prepared *decode_alone, *decode_planned, *plan;

static void init(fixture *f) {
  const int32_t lengths[] = {700, 3, 0, 64};
  fixture_init(f, shape);
  fill(&f->tensor[Q], f->bytes[Q]);
  fill(&f->tensor[KV_CACHE], f->bytes[KV_CACHE]);
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

/* ------------------------------------------------------------------------------------------------------------ merge */
typedef struct parts {
  DLTensor out[MOST_PARTS], lse[MOST_PARTS], result, result_lse;
  const DLTensor *outs[MOST_PARTS], *lses[MOST_PARTS];
  flashmla_merge_states_params params;
} parts;

static parts merged; /* its result is that of the plain call */
static flashmla_prepared *merge;

/* `count` parts with the shapes of the decode's results, wherever the allocator puts them. */
static void init_parts(parts *p, int count) {
  memset(p, 0, sizeof *p);
  for (int i = 0; i < count; ++i) {
    p->out[i] = reference.tensor[OUT];
    p->lse[i] = reference.tensor[LSE];
    p->out[i].data = allocate(reference.bytes[OUT]);
    p->lse[i].data = allocate(reference.bytes[LSE]);
    fill(&p->out[i], reference.bytes[OUT]);
    for (size_t at = 0; at < reference.bytes[LSE] / sizeof(float); ++at)
      ((float *)p->lse[i].data)[at] = (float)((at + (size_t)i * 7) % 11) * 0.5f;
    p->outs[i] = &p->out[i];
    p->lses[i] = &p->lse[i];
  }
  p->result = reference.tensor[OUT];
  p->result_lse = reference.tensor[LSE];
  p->result.data = allocate(reference.bytes[OUT]);
  p->result_lse.data = allocate(reference.bytes[LSE]);
  p->params = (flashmla_merge_states_params){.struct_size = sizeof p->params,
                                             .outs = p->outs,
                                             .lses = p->lses,
                                             .num_states = count,
                                             .out = &p->result,
                                             .lse = &p->result_lse};
}

static void free_parts(parts *p) {
  for (int i = 0; i < MOST_PARTS; ++i) {
    free(p->out[i].data);
    free(p->lse[i].data);
  }
  free(p->result.data);
  free(p->result_lse.data);
}

static void *run_merge(void *unused) {
  (void)unused;
  DLTensor out = merged.result, lse = merged.result_lse;
  flashmla_merge_states_params call = merged.params;
  out.data = allocate(reference.bytes[OUT]);
  lse.data = allocate(reference.bytes[LSE]);
  call.out = &out;
  call.lse = &lse;
  for (int i = 0; i < ROUNDS; ++i) {
    memset(out.data, OUTPUT_FILL, reference.bytes[OUT]);
    CHECK_OK(flashmla_merge_states_run(merge, &call));
    CHECK(memcmp(out.data, merged.result.data, reference.bytes[OUT]) == 0);
    CHECK(memcmp(lse.data, merged.result_lse.data, reference.bytes[LSE]) == 0);
  }
  free(out.data);
  free(lse.data);
  return NULL;
}

static void prepare_merge(int count) {
  parts *p = malloc(sizeof *p);
  CHECK(p != NULL);
  init_parts(p, count);
  CHECK_OK(flashmla_merge_states_prepare(&p->params, &merge));
  free_parts(p);
  free(p);
}

static void from_several_threads(void *(*run)(void *)) {
  pthread_t thread[CALLERS];
  for (int i = 0; i < CALLERS; ++i) CHECK(pthread_create(&thread[i], NULL, run, NULL) == 0);
  for (int i = 0; i < CALLERS; ++i) CHECK(pthread_join(thread[i], NULL) == 0);
}

int main(void) {
  init(&reference);
  prepare_decode();
  CHECK_OK(flashmla_dense_decode(&reference.decode));
  from_several_threads(run_decode);
  flashmla_prepared_free(decode_alone);
  flashmla_prepared_free(decode_planned);
  flashmla_prepared_free(plan);

  const int counts[] = {3, MOST_PARTS}; /* in the call itself, and in memory of its own */
  for (int i = 0; i < 2; ++i) {
    prepare_merge(counts[i]);
    init_parts(&merged, counts[i]);
    CHECK_OK(flashmla_merge_states(&merged.params));
    from_several_threads(run_merge);
    flashmla_prepared_free(merge);
    free_parts(&merged);
  }
  fixture_free(&reference);
  return 0;
}
