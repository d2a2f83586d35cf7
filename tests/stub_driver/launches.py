"""What launches of all kernels have in common, read from the log of the stub driver."""

from __future__ import annotations

import struct

import pytest

from dsl_kernels.variants import FAMILIES

PROCESSORS = 132
CLUSTER, DEPENDENT_LAUNCH = "4", "6"  # launch attributes (cuda.h, CUlaunchAttributeID)
# Nothing else may be called by an operation: no allocation, no synchronisation, nothing that a stream capture forbids.
QUIET = {
    *("cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetAttribute"),
    *("cuDevicePrimaryCtxRetain", "cuCtxGetCurrent", "cuCtxGetDevice", "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2"),
    *("cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelSetAttribute", "cuTensorMapEncodeTiled", "cuLaunchKernelEx"),
    *("cuTensorMapReplaceAddress", "cuOccupancyMaxActiveClusters"),
}
PARAMETERS = {name: family.params for name, family in FAMILIES.items()}


def family(kernel: str) -> str:
    """The family of kernels that an entry's name begins with."""
    return next(name for name in PARAMETERS if kernel.startswith(f"flashmla_{name}_"))


def decoded(launch: dict) -> dict:
    """A launch's parameters by name; tensor maps as the number that the stub wrote into them."""
    formats = {"float": "<f", "int32_t": "<i", "int64_t": "<q", "tensormap": "<Q120x"}
    listed = PARAMETERS[family(launch["kernel"])]
    return {
        p.name: struct.unpack(formats.get(p.ctype, "<Q"), bytes.fromhex(text))[0]
        for p, text in zip(listed, launch["params"], strict=True)
    }


def map_addresses(launch: dict) -> dict[str, int]:
    """Where the tensor maps of a launch point to, by parameter."""
    listed = PARAMETERS[family(launch["kernel"])]
    return {
        p.name: struct.unpack_from("<Q", bytes.fromhex(text), 8)[0]
        for p, text in zip(listed, launch["params"], strict=True)
        if p.ctype == "tensormap"
    }


def same(found: dict, wanted: dict) -> None:
    """Every wanted parameter is there; floats to a rounding."""
    for name, value in wanted.items():
        assert found[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), name


def sizes_header() -> str:
    """For libcuda.c: the sizes of the parameters of each family of kernels, by the beginning of an entry's name."""
    rows = [
        f'    {{"flashmla_{name}_", {{{", ".join(str(p.size) for p in listed)}}}}},'
        for name, listed in PARAMETERS.items()
    ]
    return "\n".join(
        [
            "static const struct {",
            "  const char *prefix;",
            "  size_t sizes[MAX_PARAMS];",
            "} families[] = {",
            *rows,
            "};",
            "",
        ]
    )
