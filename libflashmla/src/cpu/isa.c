/* isa.c - the table of instruction sets, and which of them this machine runs.
 * FLASHMLA_CPU_ISA is a name in the table. One that the machine lacks, or another word, means the best, and is
 * reported.
 */
#include "cpu/isa.h"

#include <stdatomic.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/environment.h"

#if defined(__x86_64__)
/* By cpuid itself: __builtin_cpu_supports does not know F16C in clang before 17. */
typedef struct features {
  uint32_t eax, ebx, ecx, edx;
} features;

static features features_of(uint32_t leaf, uint32_t subleaf) {
  features f = {0};
  __get_cpuid_count(leaf, subleaf, &f.eax, &f.ebx, &f.ecx, &f.edx);
  return f;
}

static bool all_of(uint32_t bits, uint32_t wanted) { return (bits & wanted) == wanted; }

/* Registers whose contents the kernel keeps over a task switch. */
static bool saves(uint32_t registers) {
  if (!all_of(features_of(1, 0).ecx, bit_OSXSAVE)) return false;
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return all_of(low, registers);
}

enum { XMM_YMM = 0x6, ZMM = 0xe0 /* and mask registers */ };
enum { TILES = 0x60000 /* their configuration and data */ };
enum { AVX512_BF16 = 1 << 5, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 }; /* not in cpuid.h of every compiler */

static bool has_avx2(void) {
  return saves(XMM_YMM) && all_of(features_of(1, 0).ecx, bit_AVX | bit_FMA | bit_F16C) &&
         all_of(features_of(7, 0).ebx, bit_AVX2);
}

static bool has_avx512(void) {
  return has_avx2() && saves(XMM_YMM | ZMM) &&
         all_of(features_of(7, 0).ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
}

#if FM_CPU_HAS_BF16_SETS
static bool has_avx512_bf16(void) {
  return has_avx512() && features_of(7, 0).eax >= 1 && all_of(features_of(7, 1).eax, AVX512_BF16);
}

/* Linux keeps tiles over a task switch only for a process that asked for it. It refuses where the alternative signal
 * stack of a thread would be too small for them. */
static bool may_use_tiles(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static bool has_amx(void) {
  return has_avx512_bf16() && saves(TILES) && all_of(features_of(7, 0).edx, AMX_BF16 | AMX_TILE) && may_use_tiles();
}
#endif
#endif

static bool always(void) { return true; }

static const fm_cpu_isa table[] = {
/* the best first, the last for any machine */
#if defined(__x86_64__)
#if FM_CPU_HAS_BF16_SETS
    {"amx", has_amx, &fm_cpu_amx_elements, &fm_cpu_amx_step, NULL},
    {"avx512_bf16", has_avx512_bf16, &fm_cpu_avx512_bf16_elements, &fm_cpu_avx512_bf16_step, NULL},
#endif
    {"avx512", has_avx512, &fm_cpu_avx512_elements, &fm_cpu_avx512_step, &fm_cpu_avx512_wide_step},
    {"avx2", has_avx2, &fm_cpu_avx2_elements, &fm_cpu_avx2_step, &fm_cpu_avx2_wide_step},
#endif
    {"portable", always, &fm_cpu_portable_elements, &fm_cpu_portable_step, &fm_cpu_portable_wide_step}};
enum { ROWS = sizeof table / sizeof table[0] };

/* Asked once: in a virtual machine cpuid takes longer than a small call. Threads that ask at the same time find the
 * same. A row that nobody wants is not asked: see may_use_tiles. */
static bool is_supported(int row) {
  static _Atomic uint64_t known; /* bit r: row r was asked; bit 32 + r: it is supported */
  uint64_t rows = atomic_load_explicit(&known, memory_order_relaxed);
  if ((rows >> row & 1) == 0) {
    rows = (uint64_t)1 << row | (uint64_t)table[row].supported() << (32 + row);
    atomic_fetch_or_explicit(&known, rows, memory_order_relaxed);
  }
  return (rows >> (32 + row) & 1) != 0;
}

static atomic_int forced; /* row + 1; 0: none */

static void take_name(const char *value, fm_text *problem) {
  int row = 0;
  while (value != NULL && row < ROWS && strcmp(value, table[row].name) != 0) row++;
  const bool known = value != NULL && row < ROWS;
  if (known && !is_supported(row)) fm_append(problem, ", which this machine lacks; it uses the best it has");
  if (value != NULL && !known) {
    fm_append(problem, "; it must be one of");
    for (int r = 0; r < ROWS; r++) fm_append(problem, "%s %s", r > 0 ? "," : "", table[r].name);
  }
  atomic_store(&forced, known && is_supported(row) ? row + 1 : 0);
}

static const fm_variable cpu_isa = {"FLASHMLA_CPU_ISA", take_name};
FM_VARIABLE(cpu_isa);

const fm_cpu_isa *fm_cpu_select(void) {
  int row = atomic_load_explicit(&forced, memory_order_relaxed) - 1;
  if (row < 0)
    for (row = 0; !is_supported(row);) row++; /* the last row is for any machine */
  return &table[row];
}

const fm_cpu_elements *fm_cpu_elements_for(const fm_cpu_isa *isa, int32_t columns) {
  int row = (int)(isa - table);
  while (!is_supported(row) || columns % table[row].elements->lanes != 0) row++; /* the last row takes all */
  return table[row].elements;
}

static bool takes(const fm_cpu_step *step, const fm_cpu_tile *tile) {
  return step != NULL && (step->q_dtypes & FM_ONLY(tile->q_dtype)) != 0 &&
         (step->cache_dtypes & FM_ONLY(tile->cache_dtype)) != 0 && tile->d_qk <= step->most_d_qk &&
         tile->d_v <= step->most_d_v;
}

const fm_cpu_step *fm_cpu_step_for(const fm_cpu_isa *isa, const fm_cpu_tile *tile) {
  for (int row = (int)(isa - table);; row++) { /* the last row takes all */
    if (!is_supported(row)) continue;
    if (takes(table[row].step, tile)) return table[row].step;
    if (takes(table[row].wide, tile)) return table[row].wide;
  }
}

const char *flashmla_cpu_isa(void) { return fm_cpu_select()->name; }
