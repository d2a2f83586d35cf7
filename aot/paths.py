"""Where things are in the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "dsl_kernels"
CACHE = ROOT / "build" / "kernels"
GENERATED = ROOT / "libflashmla" / "generated"
MANIFEST = GENERATED / "kernels.json"
PARAMS_HEADER = ROOT / "libflashmla" / "src" / "cuda" / "kernel_params.h"
