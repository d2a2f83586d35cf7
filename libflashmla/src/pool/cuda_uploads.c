/* cuda_uploads.c - see cuda_uploads.h. A kernel brings all pieces of a buffer: copies would wait for those of swaps,
 * since one engine does one after the other (dsl_kernels/upload). Where no kernel is for the device, or staging is not
 * pinned, they are copies. */
#include "pool/cuda_uploads.h"

#include <string.h>

enum { WARP = 32 /* threads, which bring a piece */ };

/* What the kernel reads of a piece. Records lie at the end of a buffer, the first one last. */
typedef struct piece {
  uint64_t to;
  int32_t bytes;
  int32_t place; /* in the buffer, in units of FM_STAGING_ALIGNMENT */
} piece;
_Static_assert(sizeof(piece) == FM_STAGING_ALIGNMENT, "as fm_staged_bytes counts");
_Static_assert(FM_STAGING_PIECE == FM_KERNEL_UPLOAD_BYTES, "of a warp");

static flashmla_status load_kernel(fm_uploads *uploads) {
  const fm_need need = {.family = FM_KERNEL_UPLOAD,
                        .elements = {.q = FM_ANY_DTYPE, .cache = FM_ANY_DTYPE, .out = FM_ANY_DTYPE}};
  const fm_gpu gpu = uploads->gpu;
  if (fm_kernel_find(&need, gpu.device->arch, gpu.driver->version) == NULL) return FLASHMLA_OK;
  const CUresult result = gpu.driver->pointer_get_attribute(&uploads->mapped, CU_POINTER_ATTRIBUTE_DEVICE_POINTER,
                                                            (CUdeviceptr)(uintptr_t)uploads->staging);
  if (result == CUDA_ERROR_INVALID_VALUE) return FLASHMLA_OK; /* it is not pinned */
  if (result != 0) return fm_driver_fail(gpu.driver, "pointer_get_attribute", result);
  return fm_load(gpu, need, &uploads->kernel);
}

flashmla_status fm_uploads_open(const flashmla_pool *pool, fm_gpu gpu, fm_uploads *uploads) {
  uploads->gpu = gpu;
  uploads->staging = pool->memory.staging;
  uploads->size = fm_staging_buffer_bytes(&pool->books.sizes);
  for (int32_t i = 0; i < FM_STAGING_BUFFERS; ++i)
    FM_DRIVER_TRY(gpu.driver, event_create, &uploads->done[i], CU_EVENT_DISABLE_TIMING);
  return load_kernel(uploads);
}

void fm_uploads_close(fm_uploads *uploads) {
  for (int32_t i = 0; i < FM_STAGING_BUFFERS; ++i)
    if (uploads->done[i] != NULL) uploads->gpu.driver->event_destroy(uploads->done[i]);
}

static flashmla_status launch(const fm_uploads *uploads, void *stream) {
  const int64_t begin = uploads->buffer * uploads->size;
  const fm_upload_kernel_params params = {
      .staged = (const int32_t *)(uintptr_t)(uploads->mapped + (CUdeviceptr)begin),
      .end = (const int32_t *)(uintptr_t)(uploads->mapped + (CUdeviceptr)(begin + uploads->size)),
      .num_pieces = uploads->num_pieces};
  const int32_t grid = (int32_t)fm_ceil_div(uploads->num_pieces, uploads->kernel.kernel->threads / WARP);
  return fm_launch(uploads->gpu, &uploads->kernel, grid, &params, stream);
}

/* What is in the buffer; what could not be launched is there still. */
static flashmla_status send(fm_uploads *uploads, void *stream) {
  if (uploads->used_bytes == 0) return FLASHMLA_OK;
  if (uploads->num_pieces > 0) FM_TRY(launch(uploads, stream));
  uploads->num_pieces = 0;
  FM_DRIVER_TRY(uploads->gpu.driver, event_record, uploads->done[uploads->buffer], (CUstream)stream);
  uploads->busy[uploads->buffer] = true;
  return FLASHMLA_OK;
}

/* The next buffer of the ring, which must have been read. */
static flashmla_status turn(fm_uploads *uploads) {
  const fm_driver *driver = uploads->gpu.driver;
  const int32_t next = (uploads->buffer + 1) % FM_STAGING_BUFFERS;
  if (uploads->busy[next]) {
    const CUresult result = driver->event_query(uploads->done[next]);
    if (result == CUDA_ERROR_NOT_READY)
      return fm_fail(FLASHMLA_ERROR_STAGING_BUSY,
                     "staging holds %d uploads that the device has not done yet; wait for the stream and call again",
                     FM_STAGING_BUFFERS);
    if (result != 0) return fm_driver_fail(driver, "event_query", result);
  }
  uploads->busy[next] = false;
  uploads->buffer = next;
  uploads->used_bytes = 0;
  return FLASHMLA_OK;
}

flashmla_status fm_uploads_begin(fm_uploads *uploads, void *stream) {
  /* of an end that failed: it may have launched, and its event not have been recorded */
  if (!uploads->busy[uploads->buffer]) FM_TRY(send(uploads, stream));
  return turn(uploads);
}

static void add_pieces(fm_uploads *uploads, char *to, const char *staged, int64_t bytes) {
  char *buffer = uploads->staging + uploads->buffer * uploads->size;
  for (int64_t at = 0; at < bytes; at += FM_STAGING_PIECE) {
    const piece made = {.to = (uint64_t)(uintptr_t)(to + at),
                        .bytes = (int32_t)fm_min64(bytes - at, FM_STAGING_PIECE),
                        .place = (int32_t)((staged + at - buffer) / FM_STAGING_ALIGNMENT)};
    memcpy(buffer + uploads->size - ++uploads->num_pieces * (int64_t)sizeof made, &made, sizeof made);
  }
}

flashmla_status fm_uploads_add(fm_uploads *uploads, void *to, const void *from, int64_t bytes, void *stream) {
  const int64_t more = fm_staged_bytes(bytes);
  if (uploads->used_bytes + more > uploads->size) {
    FM_TRY(send(uploads, stream));
    FM_TRY(turn(uploads));
  }
  const int64_t records = uploads->num_pieces * (int64_t)sizeof(piece);
  char *staged = uploads->staging + uploads->buffer * uploads->size + uploads->used_bytes - records;
  memcpy(staged, from, (size_t)bytes);
  uploads->used_bytes += more;
  if (uploads->mapped != 0)
    add_pieces(uploads, to, staged, bytes);
  else
    FM_DRIVER_TRY(uploads->gpu.driver, memcpy_async, (CUdeviceptr)(uintptr_t)to, (CUdeviceptr)(uintptr_t)staged,
                  (size_t)bytes, (CUstream)stream);
  return FLASHMLA_OK;
}

flashmla_status fm_uploads_end(fm_uploads *uploads, void *stream) { return send(uploads, stream); }
