/* cuda_copies.c - copies of a pool on a GPU: of blocks, by the copy engines, on a stream of its own for swaps; and of
 * arrays (cuda_uploads.c). */
#include <stdlib.h>

#include "pool/cuda_uploads.h"

enum { SWAP_EVENTS = 16 /* of the last swaps; an older one shares that of a later one, which is done behind it */ };

typedef struct fm_cuda_pool {
  const fm_driver *driver;
  const fm_device *device;
  CUstream stream;              /* of swaps; NULL: there is no host_pool, until the pool ends */
  CUevent used;                 /* what is on the caller's stream when a swap begins */
  CUevent swapped[SWAP_EVENTS]; /* a swap is done, by its number */
  fm_uploads uploads;
  bool pushed; /* a context, while arrays are uploaded */
} fm_cuda_pool;

static flashmla_status check_capture(const fm_cuda_pool *gpu, void *stream) {
  int capture = CU_STREAM_CAPTURE_STATUS_NONE;
  FM_DRIVER_TRY(gpu->driver, stream_is_capturing, (CUstream)stream, &capture);
  if (capture == CU_STREAM_CAPTURE_STATUS_NONE) return FLASHMLA_OK;
  return fm_fail(
      FLASHMLA_ERROR_VALUE,
      "{params.|}stream is captured, and the graph would repeat the pool's copies; call this before each replay");
}

/* Runs `work` with a context of the device current and no capture on the stream. */
#define IN_CONTEXT(gpu, stream, work)                               \
  do {                                                              \
    bool pushed;                                                    \
    FM_TRY(fm_device_enter((gpu)->driver, (gpu)->device, &pushed)); \
    flashmla_status in_context = check_capture((gpu), (stream));    \
    if (in_context == FLASHMLA_OK) in_context = (work);             \
    fm_device_leave((gpu)->driver, pushed);                         \
    return in_context;                                              \
  } while (0)

static flashmla_status make_event(const fm_cuda_pool *gpu, CUevent *event) {
  FM_DRIVER_TRY(gpu->driver, event_create, event, CU_EVENT_DISABLE_TIMING);
  return FLASHMLA_OK;
}

static flashmla_status fill(const fm_cuda_pool *gpu, void *memory, uint32_t value, int64_t words, void *stream) {
  FM_DRIVER_TRY(gpu->driver, memset_d32_async, (CUdeviceptr)(uintptr_t)memory, value, (size_t)words, (CUstream)stream);
  return FLASHMLA_OK;
}

static flashmla_status fill_arrays(const flashmla_pool *pool, const fm_cuda_pool *gpu, void *stream) {
  const fm_pool_arrays *arrays = &pool->arrays;
  const fm_pool_sizes *sizes = &pool->books.sizes;
  const bool compact = arrays->row_step == sizes->max_blocks || sizes->rows == 1;
  const int64_t at_once = compact ? sizes->rows : 1;
  for (int64_t row = 0; row < sizes->rows; row += at_once)
    FM_TRY(fill(gpu, arrays->block_table + row * arrays->row_step, UINT32_MAX, at_once * sizes->max_blocks, stream));
  FM_TRY(fill(gpu, arrays->cache_seqlens, 0, sizes->rows, stream));
  return fill(gpu, arrays->slot_mapping, UINT32_MAX, 2 * (int64_t)sizes->slots, stream);
}

static flashmla_status make_all(const flashmla_pool *pool, fm_cuda_pool *gpu, void *stream) {
  FM_TRY(fill_arrays(pool, gpu, stream));
  FM_TRY(fm_uploads_open(pool, (fm_gpu){gpu->driver, gpu->device}, &gpu->uploads));
  if (pool->memory.host == NULL) return FLASHMLA_OK;
  FM_TRY(make_event(gpu, &gpu->used));
  for (int32_t i = 0; i < SWAP_EVENTS; ++i) FM_TRY(make_event(gpu, &gpu->swapped[i]));
  FM_DRIVER_TRY(gpu->driver, stream_create, &gpu->stream, CU_STREAM_NON_BLOCKING);
  return FLASHMLA_OK;
}

static flashmla_status open_pool(flashmla_pool *pool, void *stream) {
  flashmla_status status;
  fm_cuda_pool *gpu = pool->backend_state = calloc(1, sizeof *gpu);
  if (gpu == NULL) return fm_fail(FLASHMLA_ERROR_OUT_OF_MEMORY, "host memory for a pool could not be allocated");
  gpu->driver = fm_driver_open(&status);
  if (gpu->driver == NULL) return status;
  FM_TRY(fm_device_get(gpu->driver, "kv_cache.device.device_id", pool->memory.device_id, &gpu->device));
  IN_CONTEXT(gpu, stream, make_all(pool, gpu, stream));
}

static void destroy_event(const fm_cuda_pool *gpu, CUevent event) {
  if (event != NULL) gpu->driver->event_destroy(event);
}

/* Until nothing copies from or to the memory of the pool any more; a device that fails copies nothing. */
static void finish_copies(fm_cuda_pool *gpu) {
  for (int32_t i = 0; i < FM_STAGING_BUFFERS; ++i)
    if (gpu->uploads.busy[i]) {
      if (gpu->stream == NULL && gpu->driver->stream_create(&gpu->stream, CU_STREAM_NON_BLOCKING) != 0) return;
      gpu->driver->stream_wait_event(gpu->stream, gpu->uploads.done[i], 0);
    }
  if (gpu->stream != NULL) gpu->driver->stream_synchronize(gpu->stream);
}

/* In the thread's relaxed mode: a capture that is under way, of this thread or another, has no part in the pool, and
 * neither forbids anything here nor is ended by it. */
static void close_pool(flashmla_pool *pool) {
  fm_cuda_pool *gpu = pool->backend_state;
  bool pushed;
  if (gpu != NULL && gpu->device != NULL && fm_device_enter(gpu->driver, gpu->device, &pushed) == FLASHMLA_OK) {
    int mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    gpu->driver->exchange_capture_mode(&mode);
    finish_copies(gpu);
    fm_uploads_close(&gpu->uploads);
    for (int32_t i = 0; i < SWAP_EVENTS; ++i) destroy_event(gpu, gpu->swapped[i]);
    destroy_event(gpu, gpu->used);
    if (gpu->stream != NULL) gpu->driver->stream_destroy(gpu->stream);
    gpu->driver->exchange_capture_mode(&mode);
    fm_device_leave(gpu->driver, pushed);
  }
  free(gpu);
}

static flashmla_status check_stream(flashmla_pool *pool, void *stream) {
  const fm_cuda_pool *gpu = pool->backend_state;
  IN_CONTEXT(gpu, stream, FLASHMLA_OK);
}

typedef struct copying {
  const fm_driver *driver;
  CUstream stream;
} copying;

static flashmla_status copy(const void *with, void *to, const void *from, int64_t bytes) {
  const copying *by = with;
  FM_DRIVER_TRY(by->driver, memcpy_async, (CUdeviceptr)(uintptr_t)to, (CUdeviceptr)(uintptr_t)from, (size_t)bytes,
                by->stream);
  return FLASHMLA_OK;
}

static flashmla_status copy_blocks(flashmla_pool *pool, const fm_block_copy *copies, int32_t count, void *stream) {
  const fm_cuda_pool *gpu = pool->backend_state;
  const copying by = {gpu->driver, (CUstream)stream};
  IN_CONTEXT(gpu, stream, fm_copy_pieces(pool, copies, count, FM_WITHIN_CACHES, copy, &by));
}

/* Behind all that the caller's stream does now, which may be writing what is copied, or reading what is overwritten. */
static flashmla_status swap_behind(const flashmla_pool *pool, const fm_block_copy *copies, int32_t count,
                                   fm_route route, void *stream) {
  const fm_cuda_pool *gpu = pool->backend_state;
  const fm_driver *driver = gpu->driver;
  const copying by = {driver, gpu->stream};
  FM_DRIVER_TRY(driver, event_record, gpu->used, (CUstream)stream);
  FM_DRIVER_TRY(driver, stream_wait_event, gpu->stream, gpu->used, 0);
  FM_TRY(fm_copy_pieces(pool, copies, count, route, copy, &by));
  FM_DRIVER_TRY(driver, event_record, gpu->swapped[(pool->swaps + 1) % SWAP_EVENTS], gpu->stream);
  return FLASHMLA_OK;
}

static flashmla_status swap(flashmla_pool *pool, const fm_block_copy *copies, int32_t count, fm_route route,
                            void *stream) {
  const fm_cuda_pool *gpu = pool->backend_state;
  IN_CONTEXT(gpu, stream, swap_behind(pool, copies, count, route, stream));
}

static flashmla_status wait_on(const fm_cuda_pool *gpu, CUevent event, void *stream) {
  FM_DRIVER_TRY(gpu->driver, stream_wait_event, (CUstream)stream, event, 0);
  return FLASHMLA_OK;
}

static flashmla_status wait_for_swap(flashmla_pool *pool, uint64_t number, void *stream) {
  const fm_cuda_pool *gpu = pool->backend_state;
  IN_CONTEXT(gpu, stream, wait_on(gpu, gpu->swapped[number % SWAP_EVENTS], stream));
}

static flashmla_status check_and_begin(fm_cuda_pool *gpu, void *stream) {
  FM_TRY(check_capture(gpu, stream));
  return fm_uploads_begin(&gpu->uploads, stream);
}

static flashmla_status begin_upload(flashmla_pool *pool, void *stream) {
  fm_cuda_pool *gpu = pool->backend_state;
  FM_TRY(fm_device_enter(gpu->driver, gpu->device, &gpu->pushed));
  const flashmla_status status = check_and_begin(gpu, stream);
  if (status != FLASHMLA_OK) fm_device_leave(gpu->driver, gpu->pushed);
  return status;
}

static flashmla_status upload(flashmla_pool *pool, void *to, const void *from, int64_t bytes, void *stream) {
  fm_cuda_pool *gpu = pool->backend_state;
  return fm_uploads_add(&gpu->uploads, to, from, bytes, stream);
}

static flashmla_status end_upload(flashmla_pool *pool, void *stream) {
  fm_cuda_pool *gpu = pool->backend_state;
  const flashmla_status status = fm_uploads_end(&gpu->uploads, stream);
  fm_device_leave(gpu->driver, gpu->pushed);
  return status;
}

const fm_pool_backend fm_pool_cuda = {.open = open_pool,
                                      .close = close_pool,
                                      .check_stream = check_stream,
                                      .copy_blocks = copy_blocks,
                                      .swap = swap,
                                      .wait_for_swap = wait_for_swap,
                                      .begin_upload = begin_upload,
                                      .upload = upload,
                                      .end_upload = end_upload};
