"""A library whose AMX row runs on any machine: the tile instructions are those of amx/tiles.h."""

from __future__ import annotations

from pathlib import Path

import build
from planted_faults import Edit, edited_copies

TILES = Path(__file__).parent / "amx" / "tiles.h"
AMX = "libflashmla/src/cpu/kernels_amx.c"
ISA = "libflashmla/src/cpu/isa.c"
TARGET = "amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
ROW = "#if FM_CPU_HAS_BF16_SETS\n    {"
EDITS = (
    Edit(AMX, "#if FM_CPU_HAS_BF16_SETS", "#if 1"),
    Edit(AMX, "#include <immintrin.h>", f'#include "{TILES}"'),
    Edit(AMX, f'#pragma GCC target("{TARGET}")\n', ""),
    Edit(AMX, f'target("{TARGET}")', "unused"),
    Edit(AMX, '#include "cpu/vectors_avx512.h"\n', ""),
    Edit(AMX, '#include "cpu/pairs_avx512.h"\n', ""),
    # The row's own conversions would need those of a machine with AVX-512.
    Edit(ISA, '    {"amx", has_amx, &fm_cpu_amx_elements, &fm_cpu_amx_step, NULL},\n', ""),
    Edit(
        ISA,
        "/* the best first, the last for any machine */\n",
        '    {"amx", always, &fm_cpu_portable_elements, &fm_cpu_amx_step, NULL},\n',
    ),
    Edit(ISA, "static bool has_amx(void) {", "__attribute__((unused)) static bool has_amx(void) {"),
)


def library() -> Path:
    """Builds it, without GPU kernels."""
    folder = build.BUILD / "amx-in-c"
    return build.build_library(cpu_only=True, debug=True, out=folder, edited=edited_copies(EDITS, folder))
