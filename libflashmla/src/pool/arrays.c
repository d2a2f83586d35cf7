/* arrays.c - what has changed of the tensors that others read, and bringing them up to date. */
#include "core/arith.h"
#include "pool/pool.h"

int64_t fm_staging_buffer_bytes(const fm_pool_sizes *sizes) {
  const int64_t rows = sizes->rows, entry = sizeof(int32_t), slot = sizeof(int64_t);
  const int64_t table = fm_max64(fm_staged_bytes(sizes->max_blocks * entry), rows * fm_staged_bytes(entry));
  return fm_staged_bytes(rows * entry) + fm_staged_bytes(sizes->slots * slot) + table;
}

void fm_mark_row(flashmla_pool *pool, int32_t row, int32_t first, int32_t end) {
  fm_pool_arrays *arrays = &pool->arrays;
  if (first >= end) return;
  if (arrays->row_first[row] >= arrays->row_end[row]) {
    arrays->dirty_rows[arrays->num_dirty++] = row;
    arrays->row_first[row] = first;
    arrays->row_end[row] = end;
    return;
  }
  arrays->row_first[row] = fm_min32(arrays->row_first[row], first);
  arrays->row_end[row] = fm_max32(arrays->row_end[row], end);
}

void fm_show_length(flashmla_pool *pool, int32_t row, int32_t length) {
  fm_pool_arrays *arrays = &pool->arrays;
  if (arrays->lengths[row] == length) return;
  arrays->lengths[row] = length;
  const bool none = arrays->lengths_first >= arrays->lengths_end;
  arrays->lengths_first = none ? row : fm_min32(arrays->lengths_first, row);
  arrays->lengths_end = none ? row + 1 : fm_max32(arrays->lengths_end, row + 1);
}

void fm_show_sequence(flashmla_pool *pool, const fm_sequence *sequence, int32_t first, int32_t end) {
  fm_mark_row(pool, sequence->row, first, end);
  fm_show_length(pool, sequence->row, sequence->state == FM_ARRIVING ? 0 : sequence->length);
}

void fm_settle(flashmla_pool *pool, fm_sequence *sequence) {
  if (sequence->state != FM_ARRIVING) return;
  sequence->state = FM_RESIDENT;
  fm_wait_for(&pool->books, sequence->arrival);
  fm_show_length(pool, sequence->row, sequence->length);
}

flashmla_status fm_wait_for_swaps(flashmla_pool *pool, void *stream) {
  const uint64_t swap = pool->books.must_wait;
  if (swap <= pool->waited) return FLASHMLA_OK;
  FM_TRY(pool->backend->wait_for_swap(pool, swap, stream));
  pool->waited = swap;
  return FLASHMLA_OK;
}

static flashmla_status upload_rows(flashmla_pool *pool, void *stream) {
  fm_pool_arrays *arrays = &pool->arrays;
  while (arrays->num_dirty > 0) {
    const int32_t row = arrays->dirty_rows[arrays->num_dirty - 1], first = arrays->row_first[row];
    const int32_t count = arrays->row_end[row] - first;
    FM_TRY(pool->backend->upload(pool, arrays->block_table + row * arrays->row_step + first,
                                 pool->books.table + (int64_t)row * pool->books.sizes.max_blocks + first,
                                 count * (int64_t)sizeof(int32_t), stream));
    arrays->row_end[row] = first;
    --arrays->num_dirty;
  }
  return FLASHMLA_OK;
}

static flashmla_status upload_lengths(flashmla_pool *pool, void *stream) {
  fm_pool_arrays *arrays = &pool->arrays;
  const int32_t first = arrays->lengths_first, count = arrays->lengths_end - first;
  if (count <= 0) return FLASHMLA_OK;
  FM_TRY(pool->backend->upload(pool, arrays->cache_seqlens + first, arrays->lengths + first,
                               count * (int64_t)sizeof(int32_t), stream));
  arrays->lengths_end = first;
  return FLASHMLA_OK;
}

static flashmla_status upload_slots(flashmla_pool *pool, void *stream) {
  fm_pool_arrays *arrays = &pool->arrays;
  const int32_t count = fm_max32(arrays->num_slots, arrays->shown_slots);
  if (arrays->slots_dirty && count > 0)
    FM_TRY(pool->backend->upload(pool, arrays->slot_mapping, arrays->slots, count * (int64_t)sizeof(int64_t), stream));
  arrays->slots_dirty = false;
  arrays->shown_slots = arrays->num_slots;
  return FLASHMLA_OK;
}

static flashmla_status upload_all(flashmla_pool *pool, void *stream) {
  FM_TRY(upload_lengths(pool, stream));
  FM_TRY(upload_slots(pool, stream));
  return upload_rows(pool, stream);
}

static flashmla_status update(flashmla_pool *pool, void *stream) {
  fm_pool_arrays *arrays = &pool->arrays;
  FM_TRY(fm_wait_for_swaps(pool, stream));
  if (arrays->num_dirty == 0 && arrays->lengths_first >= arrays->lengths_end && !arrays->slots_dirty && !arrays->unsent)
    return FLASHMLA_OK;
  FM_TRY(pool->backend->begin_upload(pool, stream));
  const flashmla_status status = upload_all(pool, stream);
  const flashmla_status ended = pool->backend->end_upload(pool, stream); /* of what was added, in any case */
  arrays->unsent = ended != FLASHMLA_OK;
  return status != FLASHMLA_OK ? status : ended;
}

flashmla_status flashmla_pool_update(flashmla_pool *pool, void *stream) {
  FM_TRY(fm_enter_pool(pool));
  return fm_leave_pool(pool, update(pool, stream));
}
