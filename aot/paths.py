"""Where things are in the checkout."""

from pathlib import Path

AOT = Path(__file__).resolve().parent
ROOT = AOT.parent
KERNELS = ROOT / "dsl_kernels"
CACHE = ROOT / "build" / "kernels"
GENERATED = ROOT / "libflashmla" / "generated"
MANIFEST = GENERATED / "kernels.json"
LOCK = ROOT / "build" / "lock"  # one build at a time: build.py takes it too while it compiles C
PARAMS_HEADER = ROOT / "libflashmla" / "src" / "cuda" / "kernel_params.h"
