/* cuda.c - see cuda.h. */
#include "attention/cuda.h"

_Static_assert(FM_KERNEL_MAX_SPLITS >= FM_MAX_SPLITS, "combine merges what a plan can split");

flashmla_status fm_load_combine(fm_gpu gpu, const fm_attention *attention, fm_dtype dtype, fm_loaded *combine) {
  const fm_need need = {.family = FM_KERNEL_COMBINE, .elements = {.out = (int8_t)dtype}, .d_v = attention->d_v};
  return fm_load(gpu, need, combine);
}

flashmla_status fm_launch_combine(fm_gpu gpu, const fm_loaded *combine, const fm_attention *attention, void *stream) {
  const fm_combine_kernel_params params = {
      FM_ATTENTION_FIELDS(attention), .by_block_rows = attention->divisors.block_rows,
      .by_tile_rows = attention->divisors.tile_rows, .piece_units = attention->tiling.piece_units};
  return fm_launch(gpu, combine, gpu.device->processors, &params, stream);
}

/* With variable-length queries the tokens of all requests are those of one. Rows beyond the tensor read as zeros. */
fm_tensor_map fm_query_map(const fm_attention *attention, fm_dtype dtype, int32_t d, const void *q,
                           const int64_t stride[3]) {
  const fm_work *work = &attention->work;
  const fm_tiling *tiling = &attention->tiling;
  return (fm_tensor_map){.dtype = dtype,
                         .rank = 5,
                         .address = q,
                         .extents = {d, tiling->group, work->varlen ? work->total_q : work->s_q, work->h_kv,
                                     work->varlen ? 1 : work->batch},
                         .strides = {1, stride[2], stride[1], stride[2] * tiling->group, stride[0]},
                         .box = {(uint32_t)(FM_SWIZZLE_BYTES / fm_dtype_bytes(dtype)), (uint32_t)tiling->block_heads,
                                 (uint32_t)tiling->block_tokens, 1, 1}};
}
