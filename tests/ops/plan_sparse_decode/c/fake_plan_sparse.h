/* fake_plan_sparse.h - stands in for the backends of plan_sparse_decode, beside fake_backend.h: records what the last
 * launch was given. */
#ifndef FAKE_PLAN_SPARSE_H_
#define FAKE_PLAN_SPARSE_H_

#include "fake_backend.h"
#include "ops/sparse_decode/sparse_decode.h"

extern fm_sparse_decode fake_plan_sparse;

#endif /* FAKE_PLAN_SPARSE_H_ */
