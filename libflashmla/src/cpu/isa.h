/* isa.h - what an instruction set provides: conversions of rows of elements, and a step of attention over a tile of
 * query rows. isa.c has the table of the sets, and says which one runs.
 *
 * Above a step stands what is the same for all sets: which rows and keys there are, the walk over pages, bounds,
 * joining and writing. Below it a set has its own layout of queries, keys and sums. */
#ifndef FLASHMLA_CPU_ISA_H_
#define FLASHMLA_CPU_ISA_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/dtype.h"

enum {
  FM_CPU_MOST_ROWS = 128,  /* query rows of a tile, which share what is done for a key: all heads of DeepSeek V3 */
  FM_CPU_MOST_KEYS = 128,  /* of a step */
  FM_CPU_KEYS_AHEAD = 128, /* the next keys that a step may be told of */
  FM_CPU_MOST_D_QK = 1088,
  FM_CPU_MOST_D_V = 1024,
  FM_CPU_USUAL_D_QK = 576, /* that every step has room for, and no wide one is needed for */
  FM_CPU_USUAL_D_V = 512
};

/* Compilers that know the instructions for bfloat16: AVX-512 BF16 and AMX. */
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define FM_CPU_HAS_BF16_SETS 1
#else
#define FM_CPU_HAS_BF16_SETS 0
#endif

/* Rows of elements. */
typedef struct fm_cpu_elements {
  int32_t lanes; /* floats in a vector */
  /* `count` (a multiple of `lanes`) elements of a dtype to float32; float32 * scale back, to nearest even, NaN kept.
   * The float32 side is 64-byte aligned. */
  void (*widen[FM_FLOATS])(float *to, const void *from, int32_t count);
  void (*narrow[FM_FLOATS])(void *to, const float *from, float scale, int32_t count);
  /* `count` codes of float8_e4m3fn * scale, rounded to float32, 64-byte aligned, with subnormal numbers if the thread
   * keeps them. A NaN is one. */
  void (*decode_e4m3)(float *to, const uint8_t *codes, float scale, int32_t count);
  /* sums += weight * values; `count` as above, sums 64-byte aligned, values not. */
  void (*add_weighted)(float *sums, const float *values, float weight, int32_t count);
} fm_cpu_elements;

/* A tile of query rows, token major: row r is a head of query token r / heads. */
typedef struct fm_cpu_tile {
  fm_dtype q_dtype, cache_dtype;
  int32_t d_qk, d_v; /* multiples of 32 and of 64; a value is the first d_v elements of its key */
  int32_t tokens, heads;
  float scale_log2; /* a weight is 2^(scale_log2 * (logit - largest)) */
} fm_cpu_tile;

static inline int32_t fm_cpu_tile_rows(const fm_cpu_tile *tile) { return tile->tokens * tile->heads; }

/* What a row has attended: sums of weight * value, which are valid until the next call; the largest logit <q, k>, not
 * scaled; and the sum of weights relative to it. */
typedef struct fm_cpu_row_sums {
  const float *values; /* [d_v], 64-byte aligned */
  float largest, weight;
} fm_cpu_row_sums;

/* Attention over a tile with an online softmax, in scratch memory of one thread, which is 64-byte aligned and belongs
 * to the tile from set_queries on. */
typedef struct fm_cpu_step {
  uint32_t q_dtypes, cache_dtypes; /* sets of those that it works on */
  int32_t most_d_qk, most_d_v;     /* that it has room for */
  /* A thread should have so much to do at least: fm_cpu_threads_for's unit. Multiplications and additions count, and
   * bringing a key in like attending it with two more query rows. */
  int32_t flop_per_thread;
  /* Bytes of scratch, a multiple of 64; no more for a tile with fewer rows. */
  size_t (*scratch_bytes)(const fm_cpu_tile *tile);
  /* Keys of a step, at most FM_CPU_MOST_KEYS. The order of the arithmetic follows from it, so it must not depend on
   * anything but the tile. */
  int32_t (*keys)(const fm_cpu_tile *tile);
  int32_t keys_ahead; /* the next keys that it wants to be told of, at most FM_CPU_KEYS_AHEAD */
  void (*set_queries)(void *scratch, const fm_cpu_tile *tile, const void *const queries[]);
  /* Nothing is attended yet. The queries may have been set long before. */
  void (*begin)(void *scratch, const fm_cpu_tile *tile);
  /* Attends `count` keys, rows of the cache; NULL: zeros. The `more` that follow them, at most keys_ahead, may
   * be fetched into the cache on the way: the hardware does not see that page and row strides continue beyond a 4 KiB
   * page of memory. Query token s attends to the first attended[s] keys; what the others hold, NaN perhaps, must not
   * show. NULL: all attend to all. */
  void (*attend)(void *scratch, const fm_cpu_tile *tile, const void *const keys[], int32_t count, int32_t more,
                 const int32_t attended[]);
  fm_cpu_row_sums (*finish)(void *scratch, const fm_cpu_tile *tile, int32_t row);
} fm_cpu_step;

typedef struct fm_cpu_isa {
  const char *name;
  bool (*supported)(void); /* by this machine */
  const fm_cpu_elements *elements;
  const fm_cpu_step *step, *wide; /* wide: for larger head sizes; NULL: none */
} fm_cpu_isa;

/* The best set this machine has, or a lower one that FLASHMLA_CPU_ISA names. */
const fm_cpu_isa *fm_cpu_select(void);
/* The conversions of the set, or of the best lower one whose vectors fill rows of `columns` elements, a multiple of 8.
 */
const fm_cpu_elements *fm_cpu_elements_for(const fm_cpu_isa *isa, int32_t columns);
/* The step of the set, or of the best lower one whose step takes the element types and head sizes of a tile. */
const fm_cpu_step *fm_cpu_step_for(const fm_cpu_isa *isa, const fm_cpu_tile *tile);

/* kernels_<set>.c */
extern const fm_cpu_elements fm_cpu_portable_elements;
extern const fm_cpu_step fm_cpu_portable_step;
extern const fm_cpu_elements fm_cpu_avx2_elements, fm_cpu_avx512_elements, fm_cpu_avx512_bf16_elements,
    fm_cpu_amx_elements;
extern const fm_cpu_step fm_cpu_avx2_step, fm_cpu_avx512_step, fm_cpu_avx512_bf16_step, fm_cpu_amx_step;
/* kernels_<set>_wide.c */
extern const fm_cpu_step fm_cpu_portable_wide_step, fm_cpu_avx2_wide_step, fm_cpu_avx512_wide_step;

#endif /* FLASHMLA_CPU_ISA_H_ */
