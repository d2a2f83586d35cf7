/* fake_sparse.c - see fake_sparse.h. */
#include "fake_sparse.h"

fm_sparse_decode fake_sparse;

flashmla_status fm_sparse_decode_cuda_limits(const fm_call *call, const fm_sparse_decode *decode, fm_limits *limits) {
  (void)decode;
  return fm_dense_decode_cuda_limits(call, NULL, limits);
}

static flashmla_status prepare(fm_call *call, void *state) {
  return fake_prepare(call, &((fm_sparse_decode *)state)->kernels.attend.handle);
}

static flashmla_status launch(fm_call *call, void *state) {
  fake_sparse = *(const fm_sparse_decode *)state;
  return fake_launched(call, fake_sparse.kernels.attend.handle, NULL,
                       call->cuda ? "fake_cuda_sparse" : "fake_cpu_sparse");
}

const fm_backend fm_sparse_decode_cuda = {prepare, launch}, fm_sparse_decode_cpu = {.launch = launch};
