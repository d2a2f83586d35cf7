/* fake_sparse.h - stands in for the backends of sparse_decode, beside fake_backend.h: records what the last launch was
 * given. */
#ifndef FAKE_SPARSE_H_
#define FAKE_SPARSE_H_

#include "fake_backend.h"
#include "ops/sparse_decode/sparse_decode.h"

extern fm_sparse_decode fake_sparse;

#endif /* FAKE_SPARSE_H_ */
