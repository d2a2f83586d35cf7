/* fake_write.c - see fake_write.h. */
#include "fake_write.h"

fm_write fake_write;

static flashmla_status prepare(fm_call *call, void *state) {
  return fake_prepare(call, &((fm_write *)state)->kernel.handle);
}

static flashmla_status launch(fm_call *call, void *state) {
  fake_write = *(const fm_write *)state;
  return fake_launched(call, fake_write.kernel.handle, NULL, call->cuda ? "fake_cuda_write" : "fake_cpu_write");
}

const fm_backend fm_append_kv_cuda = {prepare, launch}, fm_append_kv_cpu = {.launch = launch};
const fm_backend fm_quantize_kv_cuda = {prepare, launch}, fm_quantize_kv_cpu = {.launch = launch};
