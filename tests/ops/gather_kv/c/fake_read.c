/* fake_read.c - see fake_read.h. */
#include "fake_read.h"

fm_read fake_read;

static flashmla_status prepare(fm_call *call, void *state) {
  return fake_prepare(call, &((fm_read *)state)->kernel.handle);
}

static flashmla_status launch(fm_call *call, void *state) {
  fake_read = *(const fm_read *)state;
  return fake_launched(call, fake_read.kernel.handle, NULL, call->cuda ? "fake_cuda_read" : "fake_cpu_read");
}

const fm_backend fm_gather_kv_cuda = {prepare, launch}, fm_gather_kv_cpu = {.launch = launch};
const fm_backend fm_dequantize_kv_cuda = {prepare, launch}, fm_dequantize_kv_cpu = {.launch = launch};
