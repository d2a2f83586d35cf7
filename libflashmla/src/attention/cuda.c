/* cuda.c - see cuda.h. */
#include "attention/cuda.h"

_Static_assert(FM_KERNEL_MAX_SPLITS >= FM_MAX_SPLITS, "combine merges what a plan can split");

flashmla_status fm_load_join(fm_gpu gpu, const fm_attention *attention, fm_dtype dtype, fm_loaded *join) {
  const fm_kernel_family family = attention->tiling.piece_units > 0 ? FM_KERNEL_FOLD : FM_KERNEL_COMBINE;
  const fm_need need = {.family = family, .elements = {.out = (int8_t)dtype}, .d_v = attention->d_v};
  return fm_load(gpu, need, join);
}

static flashmla_status launch_combine(fm_gpu gpu, const fm_loaded *combine, const fm_attention *attention,
                                      void *stream) {
  const fm_combine_kernel_params params = {
      FM_ATTENTION_FIELDS(attention), .slots_per_part = attention->tiling.slots_per_part,
      .by_block_rows = attention->divisors.block_rows, .by_tile_rows = attention->divisors.tile_rows};
  return fm_launch(gpu, combine, gpu.device->processors, &params, stream);
}

static flashmla_status launch_fold(fm_gpu gpu, const fm_loaded *fold, const fm_attention *attention, void *stream) {
  const fm_fold_kernel_params params = {FM_ATTENTION_FIELDS(attention), .capacity = attention->work.capacity,
                                        FM_SLOT_FIELDS(&attention->tiling, &attention->divisors, &attention->schedule)};
  return fm_launch(gpu, fold, gpu.device->processors * FM_KERNEL_FOLD_BLOCKS, &params, stream);
}

flashmla_status fm_launch_join(fm_gpu gpu, const fm_loaded *join, const fm_attention *attention, void *stream) {
  if (attention->tiling.piece_units > 0) return launch_fold(gpu, join, attention, stream);
  return launch_combine(gpu, join, attention, stream);
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
