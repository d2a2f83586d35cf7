"""Where things are in the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "dsl_kernels"
CACHE = ROOT / "build" / "kernels"
GENERATED = ROOT / "libflashmla" / "generated"
PARAMS_HEADER = ROOT / "libflashmla" / "src" / "cuda" / "kernel_params.h"
MANIFEST = ROOT / "aot" / "kernels.json"
