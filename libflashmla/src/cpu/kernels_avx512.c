/* kernels_avx512.c - micro-kernels for x86-64 CPUs with AVX-512 F, BW, DQ and VL. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/isa.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#ifndef WIDE
#define NAME(part) fm_cpu_avx512_##part
#endif
#define TILE_TOKENS 6
#define TILE_VECTORS 4
#define SUM_ROWS 6
#define SUM_VECTORS 4
#include "cpu/vectors_avx512.h"

#include "cpu/elements_template.h"
#include "cpu/step_template.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
