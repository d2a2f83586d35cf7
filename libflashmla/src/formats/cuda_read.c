/* cuda_read.c - tokens from the pages of a cache on a GPU to rows. */
#include "core/arith.h"
#include "formats/read.h"

enum { WARP = 32 /* threads, which read a token */ };

static flashmla_status prepare(fm_call *call, void *state) {
  fm_read *read = state;
  FM_TRY(fm_gpu_open("kv_cache.device.device_id", call->device_id, &read->gpu));
  const fm_need need = {.family = FM_KERNEL_READ_KV,
                        .elements = {.q = FM_ANY_DTYPE, .cache = FM_ANY_DTYPE, .out = FM_ANY_DTYPE}};
  return fm_load(read->gpu, need, &read->kernel);
}

static fm_read_kv_kernel_params params_of(const fm_read *read) {
  const fm_pages *pages = &read->pages;
  const fm_format *format = pages->format;
  return (fm_read_kv_kernel_params){
      .pages = (const void *)pages->data,
      .out = (void *)read->out,
      .descale = pages->descale,
      .block_table = read->block_table,
      .cu_seqlens = read->cu_seqlens,
      .seq_starts = read->seq_starts,
      .block_table_stride = read->block_table_stride,
      .cu_seqlens_stride = read->cu_seqlens_stride,
      .seq_starts_stride = read->seq_starts_stride,
      .out_step = read->out_step,
      .block_step = pages->block_step,
      .row_step = pages->row_step,
      .scales_at = pages->scales_at,
      .scales_step = format->scales_step,
      .num_blocks = pages->num_blocks,
      .page_size = pages->page_size,
      .max_blocks = read->max_blocks,
      .batch = read->batch,
      .gathers = read->block_table != NULL,
      .num_tokens = read->num_tokens,
      .copied = !fm_quantizes(format),
      .encoded = format->scale == FM_SCALE_CALL,
      .row_bytes = pages->columns * fm_dtype_bytes(read->dtype),
      .columns = pages->columns,
      .quantized = format->quantized,
      .rope_at = format->rope_at,
      .tile_shift = fm_tile_shift(format),
      .byte_scales = format->scale == FM_SCALE_E8M0,
      .dtype = (int32_t)read->dtype,
  };
}

static flashmla_status launch(fm_call *call, void *state) {
  const fm_read *read = state;
  const fm_read_kv_kernel_params params = params_of(read);
  const int64_t blocks = fm_ceil_div(read->num_tokens, read->kernel.kernel->threads / WARP);
  const int32_t grid = (int32_t)fm_min64(blocks, FM_KERNEL_READ_BLOCKS * read->gpu.device->processors);
  (void)call;
  return fm_launch_alone(read->gpu, &read->kernel, grid, &params, read->stream);
}

const fm_backend fm_gather_kv_cuda = {prepare, launch}, fm_dequantize_kv_cuda = {prepare, launch};
