"""Faults of dense_decode's kernels on caches and queries that are codes, and of 8-bit products, which the GPU suite
must find.
"""

from __future__ import annotations

from planted_faults import Edit, KernelFault

FOLDER = "dsl_kernels/dense_decode/"
CODE_QK, CODE_PV, TURNED = FOLDER + "code_qk.py", FOLDER + "code_pv.py", FOLDER + "turned.py"
EPILOGUE, UNSCALED_QK = FOLDER + "epilogue.py", FOLDER + "unscaled_qk.py"


CODES = ("dense_decode of codes",)


def fault(name: str, file: str, before: str, after: str, *, always: bool = True) -> KernelFault:
    return KernelFault(name, (Edit(file, before, after),), always, CODES)


CODE_FAULTS = [
    fault(
        "an infinite scale of Q's codes", EPILOGUE, "spoiled(spoiled(total, scale), scale_q)", "spoiled(total, scale)"
    ),
    fault(
        "sign of the scale of Q's codes",
        UNSCALED_QK,
        "codes = [words[j][2 * half + k] ^ sign",
        "codes = [words[j][2 * half + k]",
    ),
    fault(
        "codes of Q that numbers went over",
        UNSCALED_QK,
        "            cute.arch.sync_warp()  # numbers go there now\n",
        "",
        always=False,
    ),
    fault(
        "logits without the size of both scales",
        UNSCALED_QK,
        "self.a.scale_log2 * cute.arch.fmax(scale, -scale)",
        "self.a.scale_log2",
    ),
    fault(
        "half of the codes is not waited for",
        CODE_QK,
        "for half in cutlass.range_constexpr(2):",
        "for half in cutlass.range_constexpr(1):",
        always=False,
    ),
    fault("lse with the weight of a row's maximum", CODE_QK, "self.factor(row) - TOP_LOG2", "self.factor(row)"),
    fault("columns of V that are stored together", TURNED, "(((lane >> 3) & 1) ^ (row >> 2))", "((lane >> 3) & 1)"),
    fault("tokens of V", TURNED, "FIRST, SECOND = 0x6420, 0x7531", "FIRST, SECOND = 0x6240, 0x7351"),
    fault("a sign in a NaN", TURNED, "(word & Uint32(0x7F7F7F7F))", "(word & Uint32(0xFFFFFFFF))"),
    fault(
        "a copy that other warps read",
        CODE_PV,
        "                        self.await_other_warps(half, it - 1)  # the next unit has the same copy\n",
        "",
        always=False,
    ),
    fault(
        "the copy of the other half",
        FOLDER + "shared_memory.py",
        "self.copy_bytes // 2 * self.copy_of(half, item)",
        "self.copy_bytes // 2 * self.copy_of(1 - half, item)",
    ),
    fault(
        "sign of the scales with 8-bit products",
        CODE_QK,
        "words[4 * step + i] = found[i] ^ sign",
        "words[4 * step + i] = found[i]",
    ),
    fault("NaN behind a length", CODE_PV, "            clear_turned(kernel, half, it)\n", "            pass\n"),
    fault("P goes over the RoPE part", CODE_QK, "P_STEP = 2 ", "P_STEP = 0 ", always=False),
    fault(
        "a unit is not rescaled",
        CODE_PV,
        "o_rows[1, None].store(o_rows[1, None].load() * scale1)",
        "o_rows[1, None].store(o_rows[1, None].load() * scale0)",
    ),
    fault("weights beyond the largest code", CODE_QK, "TOP_LOG2, LAZY_LOG2 = 8.0", "TOP_LOG2, LAZY_LOG2 = 9.0"),
]
