"""Faults of dense_decode's kernels on caches and queries that are codes, which the GPU suite must find."""

from __future__ import annotations

from planted_faults import Edit, KernelFault

FOLDER = "dsl_kernels/dense_decode/"
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
]
