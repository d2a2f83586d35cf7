/* Stands in for both sides of pools. */
#include "fake_pool.h"

#include "pool/pool.h"

fake_copies fake_pool;

static flashmla_status called(int *counter, int32_t more) {
  if (++fake_pool.calls == fake_pool.fails_at) return fm_fail(FLASHMLA_ERROR_DRIVER, "the stand-in was told to fail");
  *counter += more;
  return FLASHMLA_OK;
}

static int nothing;

static flashmla_status on_stream(flashmla_pool *pool, void *stream) {
  (void)pool, (void)stream;
  return called(&nothing, 0);
}
static void close_pool(flashmla_pool *pool) { (void)pool; }
static flashmla_status check_stream(flashmla_pool *pool, void *stream) {
  (void)pool, (void)stream;
  return FLASHMLA_OK;
}
static flashmla_status copy_blocks(flashmla_pool *pool, const fm_block_copy *copies, int32_t count, void *stream) {
  (void)pool, (void)copies, (void)stream;
  return called(&fake_pool.copied, count);
}
static flashmla_status swap(flashmla_pool *pool, const fm_block_copy *copies, int32_t count, fm_route route,
                            void *stream) {
  (void)pool, (void)copies, (void)route, (void)stream;
  return called(&fake_pool.swapped, count);
}
static flashmla_status wait_for_swap(flashmla_pool *pool, uint64_t number, void *stream) {
  (void)pool, (void)number, (void)stream;
  return called(&fake_pool.waited, 1);
}
static flashmla_status upload(flashmla_pool *pool, void *to, const void *from, int64_t bytes, void *stream) {
  (void)pool, (void)to, (void)from, (void)bytes, (void)stream;
  return called(&fake_pool.uploaded, 1);
}

static flashmla_status end_upload(flashmla_pool *pool, void *stream) {
  (void)pool, (void)stream;
  return called(&fake_pool.ended, 1);
}

#define STAND_IN                   \
  {.open = on_stream,              \
   .close = close_pool,            \
   .check_stream = check_stream,   \
   .copy_blocks = copy_blocks,     \
   .swap = swap,                   \
   .wait_for_swap = wait_for_swap, \
   .begin_upload = on_stream,      \
   .upload = upload,               \
   .end_upload = end_upload}
const fm_pool_backend fm_pool_cpu = STAND_IN, fm_pool_cuda = STAND_IN;
