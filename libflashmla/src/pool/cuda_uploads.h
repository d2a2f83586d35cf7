/* cuda_uploads.h - arrays of a pool are brought up to date on a GPU, through a ring of buffers in pinned memory. */
#ifndef FLASHMLA_POOL_CUDA_UPLOADS_H_
#define FLASHMLA_POOL_CUDA_UPLOADS_H_

#include "cuda/launch.h"
#include "pool/pool.h"

typedef struct fm_uploads {
  fm_gpu gpu;
  char *staging;
  CUdeviceptr mapped; /* staging, as kernels read it; 0: they do not, and the copy engine does */
  fm_loaded kernel;
  int64_t size;                     /* of a buffer */
  CUevent done[FM_STAGING_BUFFERS]; /* a buffer is free again */
  bool busy[FM_STAGING_BUFFERS];    /* its event was recorded, and was not done when it was last looked at */
  int32_t buffer;                   /* in use */
  int64_t used_bytes;               /* of it */
  int32_t num_pieces;               /* in it, which a kernel is to bring */
} fm_uploads;

/* All but fm_uploads_close in a context of the device. */
flashmla_status fm_uploads_open(const flashmla_pool *pool, fm_gpu gpu, fm_uploads *uploads);
void fm_uploads_close(fm_uploads *uploads);
/* As the functions of fm_pool_backend. */
flashmla_status fm_uploads_begin(fm_uploads *uploads, void *stream);
flashmla_status fm_uploads_add(fm_uploads *uploads, void *to, const void *from, int64_t bytes, void *stream);
flashmla_status fm_uploads_end(fm_uploads *uploads, void *stream);

#endif /* FLASHMLA_POOL_CUDA_UPLOADS_H_ */
