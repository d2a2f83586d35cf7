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
  const int32_t column = tile / run->problem.batch, block = column % tiling->tiles_per_head;
  fm_cpu_rows rows = {
      .request = tile % run->problem.batch,
      .kv_head = column / tiling->tiles_per_head,
      .first_token = block / tiling->head_chunks * tiling->block_tokens,
      .first_head = block % tiling->head_chunks * tiling->block_heads,
  };
  rows.tokens = fm_min32(tiling->block_tokens, run->problem.s_q - rows.first_token);
  rows.heads = fm_min32(tiling->block_heads, tiling->group - rows.first_head);
  rows.count = rows.tokens * rows.heads;
  rows.length = fm_cpu_length(&run->problem, rows.request);
  return rows;
}

int64_t fm_cpu_bound(const fm_problem *problem, const fm_cpu_rows *rows, int32_t token) {
  if (!problem->causal) return rows->length;
  int64_t bound = rows->length - (problem->s_q - 1 - token);
  if (FM_FAULTY(FM_FAULT_CAUSAL_BOUND) && token < problem->s_q - 1) bound++;
  return bound < 0 ? 0 : bound;
}

static int32_t token_of(const fm_cpu_rows *rows, int32_t row) { return rows->first_token + row / rows->heads; }

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

void fm_cpu_write_row(const fm_problem *problem, const fm_cpu_kernels *kernels, const fm_cpu_rows *rows, int32_t row,
                      const float *values, float scale, double lse) {
  if (FM_FAULTY(FM_FAULT_EMPTY_ROW) && values == NULL) return;
  const int32_t token = token_of(rows, row), head = head_of(problem, rows, row);
  const int64_t element =
      rows->request * problem->out_stride[0] + token * problem->out_stride[1] + head * problem->out_stride[2];
  char *out = (char *)problem->out + element * fm_cpu_element_bytes(problem->dtype);
  if (values == NULL)
    memset(out, 0, (size_t)FM_CPU_D_V * (size_t)fm_cpu_element_bytes(problem->dtype));
  else
    kernels->narrow[problem->dtype](out, values, scale, FM_CPU_D_V);
  if (problem->lse == NULL) return;
  if (FM_FAULTY(FM_FAULT_LSE_BASE)) lse /= M_LN2;
  const int64_t *stride = problem->lse_stride;
  float *row_lse = problem->lse + rows->request * stride[0] + head * stride[1] + token * stride[2];
  *row_lse = values == NULL ? INFINITY : (float)lse;
}
