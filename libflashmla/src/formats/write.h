/* write.h - rows of tokens into the pages of a cache: what append_kv and quantize_kv have in common. */
#ifndef FLASHMLA_FORMATS_WRITE_H_
#define FLASHMLA_FORMATS_WRITE_H_

#include "cuda/launch.h"
#include "formats/pages.h"

enum { FM_TOKENS = FM_ROWS_AXES, FM_D_LATENT, FM_D_ROPE, FM_WRITE_AXES };
/* The tensors of such an operation: rows of its table. */
enum { FM_WRITE_PAGES, FM_WRITE_LATENT, FM_WRITE_ROPE, FM_WRITE_DESCALE, FM_WRITE_SLOTS };
#define FM_LATENT_FIELDS(type)                                                                 \
  FM_FIELD(type, latent), .rank = 2, .axes = {FM_TOKENS, FM_D_LATENT}, .dtypes = FM_ANY_FLOAT, \
      .alignment = FM_VECTOR_BYTES
#define FM_ROPE_FIELDS(type)                                                                                           \
  FM_FIELD(type, rope), .rank = 2, .axes = {FM_TOKENS, FM_D_ROPE}, .like = FM_LIKE(FM_WRITE_LATENT), .optional = true, \
      .alignment = FM_VECTOR_BYTES
#define FM_TOKENS_AXES \
  [FM_TOKENS] = {"num_tokens", true}, [FM_D_LATENT] = {"d_latent", false}, [FM_D_ROPE] = {"d_rope", false}

/* A checked call. Token i has columns of latent[i], then of rope[i], and goes to the slot slot_mapping[i], or i: slot p
 * * page_size + r is row r of page p. Steps are in bytes. */
typedef struct fm_write {
  fm_pages pages;
  bool unrounded; /* scales: FLASHMLA_UNROUNDED_SCALES */
  int32_t num_tokens;
  fm_dtype dtype;                   /* of latent and rope */
  int32_t latent_bytes, rope_bytes; /* of a row */
  const char *latent, *rope;        /* rope_bytes 0: none */
  int64_t latent_step, rope_step;
  const char *slots; /* NULL: token i goes to slot i */
  int64_t slots_step;
  bool wide_slots; /* int64 */
  int32_t num_threads;
  void *stream;
  /* GPU */
  fm_gpu gpu;
  fm_loaded kernel;
} fm_write;

/* Slot of a token; it may be outside the cache. */
static inline int64_t fm_slot_of(const fm_write *write, int64_t token) {
  if (write->slots == NULL) return token;
  const char *slot = write->slots + token * write->slots_step;
  return write->wide_slots ? *(const int64_t *)slot : *(const int32_t *)slot;
}

/* Scalars of a call. */
typedef struct fm_write_scalars {
  uint32_t flags;
  int32_t kv_format, num_threads;
} fm_write_scalars;

/* In read_form; check_shapes; bind. */
flashmla_status fm_write_form(fm_write_scalars scalars, fm_form *form);
flashmla_status fm_check_write(fm_call *call, fm_write_scalars scalars, fm_write *write);
void fm_bind_write(const fm_call *call, void *stream, fm_write *write);

/* For the profiler: as many rows of the cache as there are tokens. */
void fm_describe_write(const fm_call *call, const void *state, fm_facts *facts);

/* cuda_write.c, cpu_write.c */
extern const fm_backend fm_append_kv_cuda, fm_append_kv_cpu, fm_quantize_kv_cuda, fm_quantize_kv_cpu;

#endif /* FLASHMLA_FORMATS_WRITE_H_ */
