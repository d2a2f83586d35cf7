/* buffers_bf16.h - what step_bf16.h keeps in its scratch. Included by it, with the constants of a set. */

enum {
  D_PAIRS = FM_CPU_USUAL_D_QK / 2,
  /* Elements between two rows of the buffers: addresses are constants whatever the extents. Where many rows of one
   * column are used together no stride is a large power of two, since those would evict each other from level 1. */
  KEY_STRIDE = FM_CPU_USUAL_D_QK,
  LOGIT_STRIDE = FM_CPU_MOST_ROWS + LANES,
  WEIGHT_STRIDE = KEYS_MANY_ROWS / 2,
  SUM_STRIDE = FM_CPU_USUAL_D_V + LANES,
  PANEL = 64 /* columns of values that lie together */
};
_Static_assert((int)KEYS_MANY_ROWS % KEY_GROUP + (int)KEYS_FEW_ROWS % KEY_GROUP == 0, "whole groups of keys");
_Static_assert((int)KEYS_MANY_ROWS % (2 * LANES) + (int)KEYS_FEW_ROWS % (2 * LANES) == 0, "whole blocks of weights");
_Static_assert((int)KEYS_MANY_ROWS <= FM_CPU_MOST_KEYS && (int)KEYS_FEW_ROWS <= (int)KEYS_MANY_ROWS && LANES == 16,
               "sizes of isa.h; less scratch for fewer rows");

typedef uint16_t bf16;
typedef uint32_t vu_unaligned __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
#define LOAD_PAIRS(p) ((vu)(*(const vu_unaligned *)(p)))
#define STORE_PAIRS(p, v) (*(vu *)(p) = (v))

typedef struct buffers {
  int32_t d_qk, d_v, rows;
  uint32_t *queries; /* [blocks of 16 rows][D_PAIRS][16 rows]; of up to DOT_ROWS rows [rows][D_PAIRS] */
  uint32_t *values;  /* [COLUMNS / PANEL][keys of a step / 2][PANEL]: of 32 columns the even ones, then the odd ones */
  float *logits;     /* [keys of a step][LOGIT_STRIDE]: <q, k> */
  uint32_t *weights; /* [padded rows][WEIGHT_STRIDE]: pairs of tokens, followed by zeros up to a whole vector */
  float *sums;       /* [padded rows][SUM_STRIDE]: sum over tokens of weight * value, columns in the order of values */
  float *row_max;    /* [padded rows], as the next two: largest <q, k> so far */
  float *row_sum;    /* sum of weights relative to row_max */
  float *rescale;    /* factor that moves earlier sums to the new row_max */
  float *result;     /* [d_v] */
  bf16 *copies;      /* [keys of a step][KEY_STRIDE] */
  bf16 *zeros;       /* a key */
  const void **keys; /* [keys of a step]: where each is */
  int32_t *fresh;    /* nothing is attended yet, and sums hold nothing */
} buffers;

static int32_t padded_rows(int32_t rows) { return (rows + LANES - 1) / LANES * LANES; }

static int32_t keys_of_step(const fm_cpu_tile *tile) {
  return fm_cpu_tile_rows(tile) > FEW_ROWS ? KEYS_MANY_ROWS : KEYS_FEW_ROWS;
}

/* Takes bytes of the scratch, of which `taken` are in use; NULL: only counts. */
static void *take(char *scratch, size_t *taken, size_t bytes) {
  char *from = scratch == NULL ? NULL : scratch + *taken;
  *taken += (bytes + 63) / 64 * 64;
  return from;
}

static size_t lay_out(buffers *b, char *scratch, const fm_cpu_tile *tile) {
  const int32_t rows = fm_cpu_tile_rows(tile);
  const size_t padded = (size_t)padded_rows(rows), keys = (size_t)keys_of_step(tile);
  size_t taken = 0;
  *b = (buffers){.d_qk = tile->d_qk, .d_v = tile->d_v, .rows = rows};
  b->queries = take(scratch, &taken, padded * D_PAIRS * sizeof *b->queries);
  b->values = take(scratch, &taken, keys / 2 * COLUMNS * sizeof *b->values);
  b->logits = take(scratch, &taken, keys * LOGIT_STRIDE * sizeof *b->logits);
  b->weights = take(scratch, &taken, padded * WEIGHT_STRIDE * sizeof *b->weights);
  b->sums = take(scratch, &taken, padded * SUM_STRIDE * sizeof *b->sums);
  b->row_max = take(scratch, &taken, padded * sizeof *b->row_max);
  b->row_sum = take(scratch, &taken, padded * sizeof *b->row_sum);
  b->rescale = take(scratch, &taken, padded * sizeof *b->rescale);
  b->result = take(scratch, &taken, FM_CPU_USUAL_D_V * sizeof *b->result);
  b->copies = take(scratch, &taken, COPIES * keys * KEY_STRIDE * sizeof *b->copies);
  b->zeros = take(scratch, &taken, KEY_STRIDE * sizeof *b->zeros);
  b->keys = take(scratch, &taken, keys * sizeof *b->keys);
  b->fresh = take(scratch, &taken, sizeof *b->fresh);
  return taken;
}

static buffers buffers_in(void *scratch, const fm_cpu_tile *tile) {
  buffers b;
  lay_out(&b, scratch, tile);
  return b;
}

static size_t scratch_bytes(const fm_cpu_tile *tile) {
  buffers b;
  return lay_out(&b, NULL, tile);
}
