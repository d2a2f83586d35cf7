/* formats.c - the table of cache formats. */
#include "formats/formats.h"

/* Sources: FlashMLA 9241ae3, tests/quant.py and csrc/params.h (v32, model1); sgl-flash-mla 1.0.0 (v32_nope); vLLM pull
 * request 56893 and SGLang pull request 39123 (v41); vLLM's FlashMLA, flash_mla_with_kvcache_fp8 (fp8). */
static const fm_format table[] = {
    [FLASHMLA_KV_BF16] = {.name = "bf16"},
    [FLASHMLA_KV_V32] = {.name = "v32",
                         .scale = FM_SCALE_FP32,
                         .columns = 576,
                         .quantized = 512,
                         .tile = 128,
                         .token_bytes = 656,
                         .row_bytes = 656,
                         .rope_at = 528,
                         .scales_at = 512,
                         .scales_step = 656},
    [FLASHMLA_KV_V32_NOPE] = {.name = "v32_nope",
                              .scale = FM_SCALE_FP32,
                              .columns = 512,
                              .quantized = 512,
                              .tile = 128,
                              .token_bytes = 528,
                              .row_bytes = 528,
                              .rope_at = 528,
                              .scales_at = 512,
                              .scales_step = 528},
    [FLASHMLA_KV_MODEL1] = {.name = "model1",
                            .scale = FM_SCALE_E8M0,
                            .columns = 512,
                            .quantized = 448,
                            .tile = 64,
                            .token_bytes = 584,
                            .row_bytes = 576,
                            .rope_at = 448,
                            .split = true,
                            .scales_step = 8},
    [FLASHMLA_KV_V41] = {.name = "v41",
                         .scale = FM_SCALE_E8M0,
                         .columns = 512,
                         .quantized = 512,
                         .tile = 32,
                         .token_bytes = 528,
                         .row_bytes = 512,
                         .rope_at = 512,
                         .split = true,
                         .scales_step = 16},
    [FLASHMLA_KV_FP8] = {.name = "fp8", .scale = FM_SCALE_CALL},
};
enum { FORMATS = sizeof table / sizeof table[0] };

const fm_format *fm_format_at(int32_t number) { return number >= 0 && number < FORMATS ? &table[number] : NULL; }

int32_t fm_format_number(const fm_format *format) { return (int32_t)(format - table); }

int32_t flashmla_kv_token_bytes(int32_t kv_format) {
  const fm_format *format = fm_format_at(kv_format);
  return format != NULL ? format->token_bytes : 0;
}

int32_t flashmla_kv_columns(int32_t kv_format) {
  const fm_format *format = fm_format_at(kv_format);
  return format != NULL ? format->columns : 0;
}

flashmla_status fm_find_format(const char *field, int32_t number, const fm_format **format) {
  *format = fm_format_at(number);
  if (*format != NULL) return FLASHMLA_OK;
  return fm_fail(FLASHMLA_ERROR_VALUE, "{params.|}%s is %d; it must be a flashmla_kv_format, in [0, %d)", field, number,
                 FORMATS);
}
