/* cuda_write.c - rows of tokens into the pages of a cache on a GPU. */
#include "core/arith.h"
#include "formats/write.h"

enum { WARP = 32 /* threads, which write a token */ };

static flashmla_status prepare(fm_call *call, void *state) {
  fm_write *write = state;
  FM_TRY(fm_gpu_open("latent.device.device_id", call->device_id, &write->gpu));
  const fm_need need = {.family = FM_KERNEL_WRITE_KV,
                        .elements = {.q = FM_ANY_DTYPE, .cache = FM_ANY_DTYPE, .out = FM_ANY_DTYPE}};
  return fm_load(write->gpu, need, &write->kernel);
}

static fm_write_kv_kernel_params params_of(const fm_write *write) {
  const fm_pages *pages = &write->pages;
  const fm_format *format = pages->format;
  return (fm_write_kv_kernel_params){
      .pages = (void *)pages->data,
      .latent = (const void *)write->latent,
      .rope = (const void *)write->rope,
      .descale = pages->descale,
      .slots = (const void *)write->slots,
      .latent_step = write->latent_step,
      .rope_step = write->rope_step,
      .slots_step = write->slots_step,
      .num_slots = fm_slots_of(pages),
      .block_step = pages->block_step,
      .row_step = pages->row_step,
      .scales_at = pages->scales_at,
      .scales_step = format->scales_step,
      .page_size = pages->page_size,
      .num_tokens = write->num_tokens,
      .wide_slots = write->wide_slots,
      .latent_bytes = write->latent_bytes,
      .given_bytes = write->latent_bytes + write->rope_bytes,
      .copied = !fm_quantizes(format),
      .encoded = format->scale == FM_SCALE_CALL,
      .float16 = write->dtype == FM_FP16,
      .columns = pages->columns,
      .quantized = format->quantized,
      .rope_at = format->rope_at,
      .tile_shift = fm_tile_shift(format),
      .byte_scales = format->scale == FM_SCALE_E8M0,
      .unrounded = write->unrounded,
  };
}

static flashmla_status launch_in(const fm_write *write, int32_t manner, fm_write_kv_kernel_params *params) {
  const int32_t threads = write->kernel.kernel->threads,
                tokens = manner == FM_KERNEL_WRITE_MARK ? threads : threads / WARP;
  const int64_t blocks = fm_ceil_div(write->num_tokens, tokens);
  const int32_t grid = (int32_t)fm_min64(blocks, FM_KERNEL_WRITE_BLOCKS * write->gpu.device->processors);
  params->manner = manner;
  return fm_launch_alone(write->gpu, &write->kernel, grid, params, write->stream);
}

static flashmla_status launch(fm_call *call, void *state) {
  const fm_write *write = state;
  fm_write_kv_kernel_params params = params_of(write);
  (void)call;
  if (write->slots == NULL) return launch_in(write, FM_KERNEL_WRITE_DISTINCT, &params);
  if (write->num_tokens <= FM_KERNEL_WRITE_MOST_SEARCHED) return launch_in(write, FM_KERNEL_WRITE_SEARCH, &params);
  FM_TRY(launch_in(write, FM_KERNEL_WRITE_MARK, &params));
  return launch_in(write, FM_KERNEL_WRITE_MARKED, &params);
}

const fm_backend fm_append_kv_cuda = {prepare, launch}, fm_quantize_kv_cuda = {prepare, launch};
