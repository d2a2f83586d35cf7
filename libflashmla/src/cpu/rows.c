/* rows.c - which query rows a tile has, what they attend to, and where their results go. */
#include <math.h>
#include <string.h>

#include "arith.h"
#include "cpu.h"

int64_t fm_cpu_length(const fm_problem *problem, int32_t request) {
  int64_t capacity = (int64_t)problem->max_blocks * problem->page_size;
  if (FM_FAULTY(FM_FAULT_LENGTH)) capacity += problem->page_size;
  int64_t length = problem->cache_seqlens[request];
  if (FM_FAULTY(FM_FAULT_PAGE_END) && length > 0 && length % problem->page_size != 0) length++;
  return length < 0 ? 0 : length < capacity ? length : capacity;
}

fm_cpu_rows fm_cpu_rows_of(const fm_run *run, int32_t tile) {
  const fm_tiling *tiling = &run->tiling;
  const fm_place place = fm_place_of(&run->problem, tiling, tile);
  const int32_t request = place.request, block = place.k; /* a tile is one block here */
  fm_cpu_rows rows = {
      .request = request,
      .kv_head = place.kv_head,
      .queries = fm_query_range_of(&run->problem, request),
      .first_token = block / tiling->head_chunks * tiling->block_tokens,
      .first_head = block % tiling->head_chunks * tiling->block_heads,
  };
  if (FM_FAULTY(FM_FAULT_QUERY_COUNT) && run->problem.varlen) {
    fm_problem unlimited = run->problem;
    unlimited.s_q = unlimited.total_q;
    rows.queries = fm_query_range_of(&unlimited, request);
  }
  rows.tokens = (int32_t)fm_max64(0, fm_min32(tiling->block_tokens, rows.queries.count - rows.first_token));
  rows.heads = fm_min32(tiling->block_heads, tiling->group - rows.first_head);
  rows.count = rows.tokens * rows.heads;
  rows.length = fm_cpu_length(&run->problem, rows.request);
  return rows;
}

int64_t fm_cpu_bound(const fm_problem *problem, const fm_cpu_rows *rows, int32_t token) {
  if (FM_FAULTY(FM_FAULT_CAUSAL_BOUND) && token < rows->queries.count - 1) token++;
  const int32_t count = FM_FAULTY(FM_FAULT_CAUSAL_COUNT) ? problem->s_q : rows->queries.count;
  return fm_attended(problem, rows->request, rows->length, count, token);
}

/* Index along the token axis of q, out and lse. */
static int32_t token_of(const fm_cpu_rows *rows, int32_t row) {
  return rows->queries.begin + rows->first_token + row / rows->heads;
}

static int32_t head_of(const fm_problem *problem, const fm_cpu_rows *rows, int32_t row) {
  const int32_t in_group = rows->first_head + row % rows->heads;
  if (FM_FAULTY(FM_FAULT_HEAD_MAP)) return in_group * problem->h_kv + rows->kv_head;
  return rows->kv_head * (problem->h_q / problem->h_kv) + in_group;
}

const void *fm_cpu_query(const fm_problem *problem, const fm_cpu_rows *rows, int32_t row) {
  const int64_t element = rows->request * problem->q_stride[0] + token_of(rows, row) * problem->q_stride[1] +
                          head_of(problem, rows, row) * problem->q_stride[2];
  return (const char *)problem->q + element * fm_cpu_element_bytes(problem->dtype);
}

/* FM_FAULT_FLOAT32_OUT */
static void write_rounded(const fm_problem *problem, const fm_cpu_kernels *kernels, void *out, const float *values,
                          float scale) {
  float rounded[FM_CPU_SUM_STRIDE] __attribute__((aligned(64)));
  kernels->narrow[problem->dtype](out, values, scale, problem->d_v);
  kernels->widen[problem->dtype](rounded, out, problem->d_v);
  kernels->narrow[FM_FP32](out, rounded, 1.0f, problem->d_v);
}

void fm_cpu_write_row(const fm_problem *problem, const fm_cpu_kernels *kernels, const fm_cpu_rows *rows, int32_t row,
                      const float *values, float scale, double lse) {
  if (FM_FAULTY(FM_FAULT_EMPTY_ROW) && values == NULL) return;
  const int32_t token = token_of(rows, row), head = head_of(problem, rows, row);
  const int64_t element =
      rows->request * problem->out_stride[0] + token * problem->out_stride[1] + head * problem->out_stride[2];
  const int32_t bytes = fm_cpu_element_bytes(problem->out_dtype);
  char *out = (char *)problem->out + element * bytes;
  if (values == NULL)
    memset(out, 0, (size_t)problem->d_v * (size_t)bytes);
  else if (FM_FAULTY(FM_FAULT_FLOAT32_OUT) && problem->out_dtype == FM_FP32)
    write_rounded(problem, kernels, out, values, scale);
  else
    kernels->narrow[problem->out_dtype](out, values, scale, problem->d_v);
  if (problem->lse == NULL) return;
  if (problem->lse_base2 != FM_FAULTY(FM_FAULT_LSE_BASE)) lse /= M_LN2;
  const int64_t *stride = problem->lse_stride;
  float *row_lse = problem->lse + rows->request * stride[0] + head * stride[1] + token * stride[2];
  const float empty_lse = FM_FAULTY(FM_FAULT_EMPTY_LSE) ? INFINITY : problem->empty_lse;
  *row_lse = values == NULL ? empty_lse : (float)lse;
}
