/* Query ranges and attended tokens against their definitions in attention.h, counted token by token. */
#include <math.h>

#include "attention/attention.h"
#include "check.h"

static uint32_t state = 3;

static int32_t draw(int32_t low, int32_t high) {
  state = state * 1664525u + 1013904223u;
  return low + (int32_t)((uint64_t)(state >> 8) * (uint64_t)((int64_t)high - low + 1) >> 24);
}

static int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

static void ranges(void) {
  const int32_t odd[] = {INT32_MIN, -1, 0, 1, 5, 6, 7, INT32_MAX};
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j)
      for (int32_t most = 1; most < 9; ++most) {
        const int32_t offsets[] = {odd[i], odd[j]};
        const fm_work work = {.batch = 1, .s_q = most, .varlen = true, .total_q = 6, .cu_seqlens_q = offsets};
        const fm_query_range range = fm_query_range_of(&work, 0);
        const int64_t begin = clamp(odd[i], 0, 6), tokens = clamp(odd[j], begin, 6) - begin;
        CHECK(range.begin == begin && range.count == (tokens < most ? tokens : most));
      }
  const fm_work batched = {.batch = 3, .s_q = 4};
  CHECK(fm_query_range_of(&batched, 2).begin == 0 && fm_query_range_of(&batched, 2).count == 4);
}

/* Local tokens t < length whose global number is below the bound. */
static int64_t counted(const fm_mask *mask, int64_t length, int32_t count, int32_t token) {
  int64_t bound = mask->global_seqlens[0] > 0 ? mask->global_seqlens[0] : 0, attended = 0;
  if (mask->causal) bound -= count - 1 - token;
  const int64_t interleave = mask->cp_interleave;
  for (int64_t t = 0; t < length; ++t)
    attended += t / interleave * interleave * mask->cp_world + mask->cp_rank * interleave + t % interleave < bound;
  return attended;
}

static void shards(void) {
  for (int i = 0; i < 20000; ++i) {
    int32_t global = draw(-3, 200);
    const int32_t world = draw(1, 5);
    const fm_mask mask = {.causal = draw(0, 1),
                          .cp_world = world,
                          .cp_rank = draw(0, world - 1),
                          .cp_interleave = draw(1, 20),
                          .global_seqlens = &global};
    const int32_t count = draw(1, 6), token = draw(0, count - 1), length = draw(0, 80);
    CHECK(fm_attended(&mask, 0, length, count, token) == counted(&mask, length, count, token));
  }
}

/* A round of all shards is longer than 2^31 tokens. */
static void long_rounds(void) {
  const int32_t global = INT32_MAX;
  fm_mask mask = {.cp_world = INT32_MAX, .cp_interleave = INT32_MAX, .global_seqlens = &global};
  CHECK(fm_attended(&mask, 0, 1000, 1, 0) == 1000);
  CHECK(fm_attended(&mask, 0, INT32_MAX, 1, 0) == INT32_MAX);
  mask.cp_rank = INT32_MAX - 1;
  CHECK(fm_attended(&mask, 0, 1000, 1, 0) == 0);
}

static void whole_cache(void) {
  fm_mask mask = {.causal = false};
  CHECK(fm_attended(&mask, 0, 100, 5, 0) == 100);
  mask.causal = true;
  CHECK(fm_attended(&mask, 0, 100, 5, 0) == 96 && fm_attended(&mask, 0, 100, 5, 4) == 100);
  CHECK(fm_attended(&mask, 0, 3, 5, 0) == 0 && fm_attended(&mask, 0, 0, INT32_MAX, 0) == 0);
}

int main(void) {
  ranges();
  shards();
  long_rounds();
  whole_cache();
  return 0;
}
