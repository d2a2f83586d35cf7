/* cpu.h - the CPU runtime: micro-kernels of the instruction set that isa.c chose, with the buffers of a thread that
 * works with them, and threads.c. */
#ifndef FLASHMLA_CPU_H_
#define FLASHMLA_CPU_H_

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/arith.h"
#include "core/dtype.h"

enum {
  /* Floats between two rows of a thread's buffers: the largest d_qk and d_v that the argument rules let through.
   * Smaller ones leave the rest of a row unused, so the micro-kernels address with constants whatever the extents. */
  FM_CPU_KEY_STRIDE = 576, /* keys and queries */
  FM_CPU_SUM_STRIDE = 512,
  FM_CPU_BLOCK_ROWS = 128, /* query rows that share one conversion of the KV rows: all heads of DeepSeek V3 */
  FM_CPU_MANY_ROWS = 32,   /* more rows use the keys of a step so often that they may lie in level 2 */
  /* Tokens of a step, multiples of 12 (see fm_cpu_kernels.logits): with 128 query rows all fits 1 MB of level 2. */
  FM_CPU_TOKENS_MANY_ROWS = 72,
  FM_CPU_TOKENS_FEW_ROWS = 12, /* and the keys alone fit level 1 */
  /* Floats between two tokens of a weight tile: room for a block's rows, and not a multiple of 4 KiB / 12 ways, which
   * would make the lines of one column of the tile evict each other from a level-1 cache. */
  FM_CPU_WEIGHT_STRIDE = FM_CPU_BLOCK_ROWS + 16
};

/* Tokens of a step over a tile of `rows` query rows. The order of the arithmetic follows from it, so it must not depend
 * on anything but the tile. */
static inline int32_t fm_cpu_step_tokens(int32_t rows) {
  return rows > FM_CPU_MANY_ROWS ? FM_CPU_TOKENS_MANY_ROWS : FM_CPU_TOKENS_FEW_ROWS;
}

/* Buffers of one thread, all 64-byte aligned, with room for the tokens of a step. */
typedef struct fm_cpu_scratch {
  int32_t d_qk, d_v; /* multiples of 64 */
  int32_t tile;      /* whose queries are packed; -1: none yet */
  float *queries;    /* packed by the micro-kernels: [padded rows][FM_CPU_KEY_STRIDE] in some order */
  float *keys;       /* [tokens][FM_CPU_KEY_STRIDE]; values are the first d_v columns */
  float *weights;    /* [tokens][FM_CPU_WEIGHT_STRIDE]: logits <q, k>, then exp of them, row by row in the columns */
  float *sums;       /* [padded rows][FM_CPU_SUM_STRIDE]: sum over tokens of weight * value */
  float *row_max;    /* [padded rows], as the next two: largest <q, k> so far */
  float *row_sum;    /* sum of weights relative to row_max */
  float *rescale;    /* factor that moves earlier sums to the new row_max */
} fm_cpu_scratch;

/* Micro-kernels of one instruction set. Row counts are rounded up to `lanes` inside; the buffers have room for that. */
typedef struct fm_cpu_kernels {
  const char *isa;
  int32_t lanes; /* floats in a vector */
  /* `count` (a multiple of `lanes`) elements of an fm_dtype to float32; float32 * scale back, to nearest even, NaN
   * kept. The float32 side is 64-byte aligned. */
  void (*widen[3])(float *to, const void *from, int32_t count);
  void (*narrow[3])(void *to, const float *from, float scale, int32_t count);
  /* sums += weight * values; `count` as above, sums 64-byte aligned, values not. */
  void (*add_weighted)(float *sums, const float *values, float weight, int32_t count);
  /* Puts query `row` of `rows` where `logits` reads it. The padding must be zero before. */
  void (*pack_query)(const fm_cpu_scratch *scratch, const float *query, int32_t row, int32_t rows);
  /* weights[t][r] = <query r, key t>. Keys from `tokens` up to the next multiple of 12 are set to zeros. */
  void (*logits)(const fm_cpu_scratch *scratch, int32_t rows, int32_t tokens);
  /* One step of the online softmax over `tokens` columns: weights become 2^((logit - row_max) * scale_log2), row_max,
   * row_sum, rescale follow. */
  void (*softmax)(const fm_cpu_scratch *scratch, int32_t rows, int32_t tokens, float scale_log2);
  /* sums[r] = rescale[r] * sums[r] + sum over t of weights[t][r] * values[t], for rows [row, row + rows). */
  void (*accumulate)(const fm_cpu_scratch *scratch, int32_t row, int32_t rows, int32_t tokens);
} fm_cpu_kernels;

extern const fm_cpu_kernels fm_cpu_portable;
#if defined(__x86_64__)
extern const fm_cpu_kernels fm_cpu_avx2;
extern const fm_cpu_kernels fm_cpu_avx512;
#endif

/* isa.c: the best set this machine has, or a lower one that FLASHMLA_CPU_ISA names. Read at each call, so a test can
 * change it. */
const fm_cpu_kernels *fm_cpu_select(void);

/* threads.c: `requested` if > 0, else FLASHMLA_NUM_THREADS, else the CPUs of the affinity mask. */
int32_t fm_cpu_num_threads(int32_t requested);
/* Of these at most `most`, and so many that each has something to do: `work` is in units of what a thread should have
 * at least, about 25 us of it. */
int32_t fm_cpu_threads_for(int32_t requested, int32_t most, double work);
/* workers.c. Calls work(context, thread) for the threads 0 ... threads - 1 at the same time and returns when all are
 * done. 0 is the caller's thread. Another one is not called where the system refuses threads, or where it has not begun
 * when work(context, 0) returns: what there is to do must be shared out as threads come for it. */
void fm_cpu_parallel(int32_t threads, void (*work)(void *context, int32_t thread), void *context);
/* Within such work: threads wait until one of them opens the gate, which begins as {0}. */
typedef struct fm_cpu_gate {
  atomic_uint state;
} fm_cpu_gate;
void fm_cpu_gate_wait(fm_cpu_gate *gate);
void fm_cpu_gate_open(fm_cpu_gate *gate);

#endif /* FLASHMLA_CPU_H_ */
