"""One variant -> cubin and launch facts, cached by a hash of source, configuration and compiler version.

The result for a key is KEY.cubin with KEY.json in the cache: what the variant's line says, entry, parameters, shared
bytes, threads, registers, instruction counts. A cached pair is used as it is, so a second build takes no time.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import tempfile
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from dsl_kernels.core.params import Param
from dsl_kernels.core.variant import Variant
from dsl_kernels.variants import FAMILIES

from . import cubin, sources

COMPILER = "nvidia-cutlass-dsl"


@cache
def compiler_version() -> str:
    """Version of the DSL and of the part that emits code, which decides which drivers load the cubins."""
    parts = [f"{COMPILER} {importlib.metadata.version(COMPILER)}"]
    for flavour in ("cu12", "cu13"):
        try:
            parts.append(f"{flavour} {importlib.metadata.version(f'{COMPILER}-libs-{flavour}')}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(parts)


def keys(variants: tuple[Variant, ...]) -> list[str]:
    """Of the sources as they are now."""
    digests = {family: sources.digest(FAMILIES[family].module) for family in {v.family for v in variants}}
    return [key_of(v, digests[v.family], compiler_version()) for v in variants]


def key_of(variant: Variant, source: str, compiler: str) -> str:
    config = json.dumps([variant.name, asdict(variant), source, compiler], sort_keys=True)
    return f"{variant.name}-{hashlib.sha256(config.encode()).hexdigest()[:16]}"


def cached(key: str, where: Path) -> bool:
    return (where / f"{key}.cubin").exists() and (where / f"{key}.json").exists()


def read_facts(key: str, where: Path) -> dict[str, Any]:
    path = where / f"{key}.json"
    facts: dict[str, Any] = json.loads(path.read_text())
    tool = cubin.disassembler()
    if "instructions" not in facts and tool:  # compiled before the disassembler was installed
        facts["instructions"] = cubin.count_instructions((where / f"{key}.cubin").read_bytes(), tool)
        _store(path, json.dumps(facts, indent=1).encode() + b"\n")
    return facts


def compile_variant(variant: Variant, key: str, where: Path) -> dict[str, Any]:
    """Compiles, stores cubin and facts under the key, returns the facts."""
    image, shared_bytes = _compile(variant)
    found = cubin.facts(image)
    stated = {"threads": variant.threads, "shared_bytes": variant.shared_bytes, "params": _param_sizes(variant)}
    for what, value in stated.items():
        compiled = shared_bytes if what == "shared_bytes" else found[what]
        if compiled != value:
            raise RuntimeError(f"{variant.name}: the compiled kernel has {what} {compiled}, its folder says {value}")
    facts = {
        "name": variant.name,
        "family": variant.family,
        "target": variant.target.name,
        "arch": variant.target.arch,
        "elements": asdict(variant.elements),
        "kv_format": variant.kv_format,
        "d_qk": variant.d_qk,
        "d_v": variant.d_v,
        "features": variant.features,
        "batch_invariant": variant.batch_invariant,
        "cluster": variant.cluster,
        "shared_bytes": shared_bytes,
        "sha256": hashlib.sha256(image).hexdigest(),
        "bytes": len(image),
        **found,
    }
    tool = cubin.disassembler()
    if tool:
        facts["instructions"] = cubin.count_instructions(image, tool)
    where.mkdir(parents=True, exist_ok=True)
    _store(where / f"{key}.cubin", image)
    _store(where / f"{key}.json", json.dumps(facts, indent=1).encode() + b"\n")  # last: facts vouch for the cubin
    return facts


def _param_sizes(variant: Variant) -> list[int]:
    return [p.size for p in FAMILIES[variant.family].params]


def _store(path: Path, content: bytes) -> None:
    """At once or not at all: a build that is stopped leaves no half file under the name."""
    fresh = path.with_suffix(f"{path.suffix}.{os.getpid()}")
    fresh.write_bytes(content)
    fresh.replace(path)


def _compile(variant: Variant) -> tuple[bytes, int]:
    """The cubin, and its dynamic shared memory in bytes."""
    target = variant.target.name
    # read once, when cutlass is imported: a process compiles for one target
    assert os.environ.setdefault("CUTE_DSL_ARCH", target) == target
    import cuda.bindings.driver as cuda
    from cutlass import Float32, Int32, Int64, cute
    from cutlass.cute.runtime import make_ptr

    from dsl_kernels.core.dtypes import DTYPES

    family = FAMILIES[variant.family]
    kernel = getattr(importlib.import_module(family.module), family.kernel)(variant)
    scalars = {"int32_t": Int32(0), "int64_t": Int64(0), "float": Float32(0.0)}
    pointees = {"int32_t*": Int32, "int64_t*": Int64, "float*": Float32}

    def argument(p: Param) -> Any:
        if p.ctype in scalars:
            return scalars[p.ctype]
        element = DTYPES[getattr(variant.elements, p.element, p.element)] if p.element else None
        pointee = element or pointees[p.ctype.removeprefix("const ")]
        return make_ptr(pointee, 16, cute.AddressSpace.gmem, assumed_align=16 if p.ctype == "tensormap" else p.align)

    maps = [argument(p) for p in family.params if p.ctype == "tensormap"]
    rest = tuple(argument(p) for p in family.params if p.ctype != "tensormap")
    # The compiler appends the class with its module to the entry's name, on which its choices of registers depend.
    # Named for the folder, moving code between files does not change a kernel.
    type(kernel).__module__ = family.module.rpartition(".")[0]
    type(kernel).kernel.set_name_prefix(f"flashmla_{variant.name}")
    with tempfile.TemporaryDirectory() as dump:
        options = f"--gpu-arch {target} --keep-cubin --dump-dir={dump}"
        compiled = cute.compile(kernel, *maps, rest, cuda.CUstream(0), options=options)
        return compiled.__cubin__, kernel.shared_bytes
