/* fixture.hpp - checks, and a pool in host memory with a decode call over it. */
#ifndef FIXTURE_HPP_
#define FIXTURE_HPP_

#include <flashmla/flashmla.hpp>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <flashmla/flashmla.hpp> /* a second time */

#define CHECK(condition)                                                                                 \
  do {                                                                                                   \
    if (!(condition)) std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition), std::exit(1); \
  } while (0)

/* The status of a call, in both forms. */
#define CODE_OF(call) (flashmla::attempt([&] { return (call); }).code())
#define CHECK_OK(call) CHECK(CODE_OF(call) == FLASHMLA_OK)

template <class T>
inline constexpr bool moves_alone = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
                                    !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;

constexpr int BLOCKS = 6, PAGE = 4, ROWS = 3, COLUMNS = 4, SLOTS = 16, HOST_BLOCKS = 5, HEADS = 2, D_QK = 160,
              D_V = 128;

struct memory {
  std::vector<float> cache = std::vector<float>(BLOCKS * PAGE * D_QK);
  std::vector<int32_t> table = std::vector<int32_t>(ROWS * COLUMNS), lengths = std::vector<int32_t>(ROWS);
  std::vector<int64_t> slots = std::vector<int64_t>(SLOTS);
  std::vector<uint8_t> host = std::vector<uint8_t>(HOST_BLOCKS * PAGE * D_QK * sizeof(float));
  flashmla::tensor kv_cache{cache.data(), {BLOCKS, PAGE, 1, D_QK}}, block_table{table.data(), {ROWS, COLUMNS}},
      cache_seqlens{lengths.data(), {ROWS}}, slot_mapping{slots.data(), {SLOTS}},
      host_pool{host.data(), {HOST_BLOCKS, PAGE * D_QK * int64_t{sizeof(float)}}};
  const DLTensor *layers[1] = {kv_cache};

  flashmla_pool_params params() const {
    flashmla_pool_params made = FLASHMLA_POOL_PARAMS_INIT;
    made.kv_cache = layers, made.num_layers = 1;
    made.block_table = block_table, made.cache_seqlens = cache_seqlens, made.slot_mapping = slot_mapping;
    made.host_pool = host_pool;
    return made;
  }
  flashmla::pool pool() const {
    flashmla::pool made;
    CHECK_OK(made.create(params()));
    return made;
  }
};

inline int32_t used_blocks(const flashmla::pool &pool) {
  flashmla_pool_usage usage = FLASHMLA_POOL_USAGE_INIT;
  CHECK_OK(pool.get_usage(usage));
  return usage.used_blocks;
}

inline int32_t sequences(const flashmla::pool &pool) {
  flashmla_pool_usage usage = FLASHMLA_POOL_USAGE_INIT;
  CHECK_OK(pool.get_usage(usage));
  return usage.sequences;
}

/* A sequence of so many tokens. */
inline flashmla::sequence grown(flashmla::pool &pool, int32_t tokens) {
  flashmla::sequence made;
  int64_t cached = -1, total = -1;
  CHECK_OK(pool.allocate(nullptr, 0, made, cached));
  CHECK_OK(made.append(tokens, total));
  CHECK(cached == 0 && total == tokens);
  return made;
}

#endif /* FIXTURE_HPP_ */
