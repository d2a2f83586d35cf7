/* api.c - the entry points of the operations: read the params, validate, tile, lay out, check the buffers, run. */
#include <stddef.h>

#include "internal.h"
#include "plan_stamp.h"
#include "try.h"

enum {
  BUFFER_ALIGNMENT = 16, /* bytes */
  /* Sizes of the params structs in version 1 of the binary interface: the least that a caller may have. */
  PLAN_PARAMS_V1 = offsetof(flashmla_plan_decode_params, stream) + sizeof(void *),
  DECODE_PARAMS_V1 = offsetof(flashmla_dense_decode_params, stream) + sizeof(void *),
  MERGE_PARAMS_V1 = offsetof(flashmla_merge_states_params, stream) + sizeof(void *),
};

typedef struct fm_call {
  fm_problem problem;
  fm_tiling tiling;
  fm_layout layout;    /* all zero for an empty call */
  fm_plan_stamp stamp; /* of the caller's plan, if there is one */
} fm_call;

static flashmla_status check_buffer(const char *name, const void *buffer, uint64_t size, uint64_t needed) {
  if (needed == 0) return FLASHMLA_OK;
  if (buffer == NULL)
    return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "params.%s is NULL; %llu bytes are needed", name,
                   (unsigned long long)needed);
  if ((uintptr_t)buffer % BUFFER_ALIGNMENT != 0)
    return fm_fail(FLASHMLA_ERROR_ALIGNMENT, "params.%s is %p; it must be a multiple of %d bytes", name, buffer,
                   BUFFER_ALIGNMENT);
  if (size < needed)
    return fm_fail(FLASHMLA_ERROR_WORKSPACE_TOO_SMALL, "params.%s_size is %llu; it must be at least %llu", name,
                   (unsigned long long)size, (unsigned long long)needed);
  return FLASHMLA_OK;
}

static flashmla_status prepare_plan(const flashmla_plan_decode_params *given, bool sizes_only,
                                    flashmla_plan_decode_params *params, fm_call *call) {
  *call = (fm_call){0};
  FM_TRY(fm_read_params(given, PLAN_PARAMS_V1, params, sizeof *params));
  FM_TRY(fm_check_plan(params, sizes_only, &call->problem));
  if (fm_is_empty(&call->problem)) {
    call->tiling.num_splits = params->num_splits;
    return FLASHMLA_OK;
  }
  FM_TRY(fm_tile(&call->problem, params->num_splits, &call->tiling));
  return fm_lay_out(&call->problem, &call->tiling, true, &call->layout);
}

static flashmla_status prepare_decode(const flashmla_dense_decode_params *given, bool sizes_only,
                                      flashmla_dense_decode_params *params, fm_call *call) {
  *call = (fm_call){0};
  FM_TRY(fm_read_params(given, DECODE_PARAMS_V1, params, sizeof *params));
  FM_TRY(fm_check_decode(params, sizes_only, &call->problem));
  const bool own_plan = params->plan == NULL;
  if (!own_plan) {
    FM_TRY(fm_read_plan(params->plan, &call->problem, &call->stamp));
    call->problem.batch_invariant = call->stamp.batch_invariant;
  }
  if (fm_is_empty(&call->problem)) return FLASHMLA_OK;
  FM_TRY(fm_tile(&call->problem, call->stamp.num_splits, &call->tiling));
  if (!own_plan) FM_TRY(fm_check_plan_tiling(&call->stamp, &call->tiling));
  return fm_lay_out(&call->problem, &call->tiling, own_plan, &call->layout);
}

/* Where a schedule buffer holds what. */
static void use_schedule(const fm_call *call, char *schedule, fm_run *run) {
  run->cuts = (fm_cut *)schedule;
  run->cost_before = (int64_t *)(schedule + call->layout.plan_cost_offset);
}

flashmla_status flashmla_plan_decode_size(const flashmla_plan_decode_params *given, uint64_t *bytes) {
  if (bytes == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "bytes is NULL; the result goes there");
  flashmla_plan_decode_params params;
  fm_call call;
  FM_TRY(prepare_plan(given, true, &params, &call));
  *bytes = call.layout.plan_bytes;
  return FLASHMLA_OK;
}

flashmla_status flashmla_plan_decode(const flashmla_plan_decode_params *given, flashmla_plan *plan) {
  if (plan == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "plan is NULL; the result goes there");
  flashmla_plan_decode_params params;
  fm_call call;
  FM_TRY(prepare_plan(given, false, &params, &call));
  FM_TRY(check_buffer("buffer", params.buffer, params.buffer_size, call.layout.plan_bytes));
  if (fm_is_empty(&call.problem)) {
    fm_set_last_kernel("");
  } else {
    fm_run run = {.problem = call.problem, .tiling = call.tiling};
    use_schedule(&call, params.buffer, &run);
    if (call.problem.cuda) {
      FM_TRY(fm_cuda_plan(&run));
    } else {
      fm_schedule_on_host(&run.problem, &run.tiling, run.cuts, run.cost_before);
      fm_set_last_kernel(""); /* the host scheduler is no row of the kernel table */
    }
  }
  fm_stamp_plan(&call.problem, &call.tiling, params.buffer, plan);
  return FLASHMLA_OK;
}

flashmla_status flashmla_dense_decode_workspace_size(const flashmla_dense_decode_params *given, uint64_t *bytes) {
  if (bytes == NULL) return fm_fail(FLASHMLA_ERROR_NULL_POINTER, "bytes is NULL; the result goes there");
  flashmla_dense_decode_params params;
  fm_call call;
  FM_TRY(prepare_decode(given, true, &params, &call));
  *bytes = call.layout.workspace_bytes;
  return FLASHMLA_OK;
}

flashmla_status flashmla_dense_decode(const flashmla_dense_decode_params *given) {
  flashmla_dense_decode_params params;
  fm_call call;
  FM_TRY(prepare_decode(given, false, &params, &call));
  FM_TRY(check_buffer("workspace", params.workspace, params.workspace_size, call.layout.workspace_bytes));
  if (fm_is_empty(&call.problem)) {
    fm_set_last_kernel("");
    return FLASHMLA_OK;
  }
  const fm_layout *layout = &call.layout;
  const bool own_plan = params.plan == NULL;
  const bool partials = layout->workspace_bytes > layout->partial_offset;
  char *workspace = params.workspace;
  fm_run run = {.problem = call.problem,
                .tiling = call.tiling,
                .make_plan = own_plan,
                .partial = partials ? workspace + layout->partial_offset : NULL,
                .partial_facts = partials ? (float *)(workspace + layout->partial_facts_offset) : NULL};
  use_schedule(&call, own_plan ? workspace : (char *)(uintptr_t)call.stamp.buffer, &run);
  if (call.problem.cuda) return fm_cuda_dense_decode(&run);
  if (!own_plan) FM_TRY(fm_check_schedule(&run.tiling, run.cuts, partials));
  return fm_cpu_dense_decode(&run);
}

flashmla_status flashmla_merge_states(const flashmla_merge_states_params *given) {
  flashmla_merge_states_params params;
  FM_TRY(fm_read_params(given, MERGE_PARAMS_V1, &params, sizeof params));
  fm_state states[FM_MAX_CPU_STATES];
  fm_merge merge;
  FM_TRY(fm_check_merge(&params, states, &merge));
  if (merge.batch == 0 || merge.s_q == 0) {
    fm_set_last_kernel("");
    return FLASHMLA_OK;
  }
  return merge.cuda ? fm_cuda_merge_states(&merge) : fm_cpu_merge_states(&merge);
}
