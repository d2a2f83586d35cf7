/* A caller that traps floating-point exceptions is not trapped by a merge: see traps.h. */
#include <math.h>

#include "../parts.h"
#include "traps.h"

/* Three parts, some rows of which are empty and hold NaN; the last row is empty in all. */
static void merge(DLDataType dtype, DLDataType out_dtype, uint32_t flags) {
  enum { PARTS = 3, ROWS = B * S * H };
  static _Alignas(64) unsigned char out[PARTS][ROWS * D * 4], merged[ROWS * D * 4];
  static float lse[PARTS][ROWS];
  static parts p;
  init(&p, PARTS, 0, 0);
  p.result_out.dtype = out_dtype;
  p.result_out.data = merged;
  p.params.flags = flags;
  p.params.num_threads = 1;
  for (int part = 0; part < PARTS; ++part) {
    p.out[part].data = out[part];
    p.out[part].dtype = dtype;
    p.lse[part].data = lse[part];
    poison(out[part], sizeof out[part]);
    for (int row = 0; row < ROWS; ++row) { /* out is (b, s, h, d), lse (b, h, s) */
      const int request = row / (S * H), token = row / H % S, head = row % H;
      const bool empty = row == ROWS - 1 || (row + part) % 4 == 0;
      lse[part][(request * H + head) * S + token] =
          empty ? (row % 2 == 0 ? INFINITY : -INFINITY) : (float)(row * part % 7) * 40 - 100;
      for (int d = 0; !empty && d < D; ++d) put(&p.out[part], row * D + d, (float)((row + d) % 9) / 8 - 0.5f);
      if (!empty && !finite_only) put_nan(&p.out[part], row * D + 3);
    }
  }
  if (!finite_only) put_nan(&p.lse[1], 2);
  CHECK_OK(flashmla_merge_states(&p.params));
  check_no_exception();
}

int main(int arguments, char **unused) {
  (void)unused;
  enable_traps(arguments);
  for (int isa = 0; isa < ISAS; ++isa) {
    setenv("FLASHMLA_CPU_ISA", isas[isa], 1);
    flashmla_read_environment();
    flashmla_read_environment();
    for (int type = 0; type < DTYPES; ++type)
      for (int out_type = 0; out_type < DTYPES; ++out_type)
        for (uint32_t base2 = 0; base2 < 2; ++base2)
          merge(dtypes[type], dtypes[out_type], base2 != 0 ? FLASHMLA_LSE_BASE2 : 0);
  }
  return 0;
}
