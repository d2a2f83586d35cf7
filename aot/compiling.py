"""One variant -> cubin and launch facts, cached by a hash of source, configuration and compiler version.

The result for a key is build/kernels/KEY.cubin with KEY.json: entry name, parameter layout, shared bytes, threads,
registers, instruction counts. A cached pair is used as it is, so a second build takes no time.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dsl_kernels import params
from dsl_kernels.variants import Variant

from . import inspect_cubin, paths

COMPILER = "nvidia-cutlass-dsl"
ARCHITECTURE = "sm_90a"
NOT_IN_THE_CODE = ("variants.py", "budget.py")  # the variant itself is hashed in its key
PTX_SIZES = {"f32": 4, "u32": 4, "u64": 8}


def compiler_version() -> str:
    """Version of the DSL and of the part that emits code, which decides which drivers load the cubins."""
    parts = [f"{COMPILER} {importlib.metadata.version(COMPILER)}"]
    for flavour in ("cu12", "cu13"):
        try:
            parts.append(f"{flavour} {importlib.metadata.version(f'{COMPILER}-libs-{flavour}')}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(parts)


def source_digest() -> str:
    """Hash over everything that decides a cubin and its facts besides the variant and the compiler."""
    kernels = [path for path in sorted(paths.KERNELS.rglob("*.py")) if path.name not in NOT_IN_THE_CODE]
    named = {path.relative_to(paths.KERNELS.parent).as_posix(): path for path in kernels}
    named |= {f"aot/{path.name}": path for path in (Path(__file__), Path(inspect_cubin.__file__))}
    digest = hashlib.sha256()
    for name, path in named.items():
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def key_of(variant: Variant, source: str, compiler: str) -> str:
    config = json.dumps([asdict(variant), source, compiler, ARCHITECTURE], sort_keys=True)
    return f"{variant.name}-{hashlib.sha256(config.encode()).hexdigest()[:16]}"


def cached(key: str, cache: Path) -> bool:
    return (cache / f"{key}.cubin").exists() and (cache / f"{key}.json").exists()


def read_facts(key: str, cache: Path) -> dict[str, Any]:
    path = cache / f"{key}.json"
    facts: dict[str, Any] = json.loads(path.read_text())
    if "instructions" not in facts and inspect_cubin.tools():  # compiled before the disassembler was installed
        facts |= inspect_cubin.facts((cache / f"{key}.cubin").read_bytes())
        _store(path, json.dumps(facts, indent=1).encode() + b"\n")
    return facts


def compile_variant(variant: Variant, key: str, cache: Path) -> dict[str, Any]:
    """Compiles, stores cubin and facts under the key, returns the facts."""
    cubin, ptx, kernel = _compile(variant)
    facts = {
        "name": variant.name,
        "operation": variant.operation,
        "dtype": variant.dtype,
        "d_qk": variant.d_qk,
        "d_v": variant.d_v,
        "any_page": variant.any_page,
        "cluster": variant.cluster,
        "architecture": ARCHITECTURE,
        "threads": kernel.threads,
        "shared_bytes": kernel.shared_bytes,
        "sha256": hashlib.sha256(cubin).hexdigest(),
        "bytes": len(cubin),
        **_entry_facts(ptx, variant),
        **inspect_cubin.facts(cubin),
    }
    cache.mkdir(parents=True, exist_ok=True)
    _store(cache / f"{key}.cubin", cubin)
    _store(cache / f"{key}.json", json.dumps(facts, indent=1).encode() + b"\n")  # last: facts vouch for the cubin
    return facts


def _store(path: Path, content: bytes) -> None:
    """At once or not at all: a build that is stopped leaves no half file under the name."""
    fresh = path.with_suffix(f"{path.suffix}.{os.getpid()}")
    fresh.write_bytes(content)
    fresh.replace(path)


def _compile(variant: Variant) -> tuple[bytes, str, Any]:
    os.environ["CUTE_DSL_ARCH"] = ARCHITECTURE  # read once, when cutlass is imported
    import cuda.bindings.driver as cuda
    from cutlass import BFloat16, Float16, Float32, Int32, Int64, cute
    from cutlass.cute.runtime import make_ptr

    module = importlib.import_module(f"dsl_kernels.{variant.operation}")
    kernel = getattr(module, "".join(word.capitalize() for word in variant.operation.split("_")))(variant)
    element = {"bfloat16": BFloat16, "float16": Float16, "float32": Float32, "any": Int32}[variant.dtype]
    pointees = {"int32_t*": Int32, "int64_t*": Int64, "float*": Float32, "half*": Float16, "T*": element}
    scalars = {"int32_t": Int32(0), "int64_t": Int64(0), "float": Float32(0.0)}

    def pointer(ctype: str, align: int) -> Any:
        return make_ptr(pointees[ctype], 16, cute.AddressSpace.gmem, assumed_align=align)

    listed = params.BY_OPERATION[variant.operation]
    maps = [pointer("T*", 16) for p in listed if p.ctype == "tensormap"]
    rest = [p for p in listed if p.ctype != "tensormap"]
    args = tuple(pointer(p.ctype, p.align) if p.ctype.endswith("*") else scalars[p.ctype] for p in rest)
    type(kernel).kernel.set_name_prefix(f"flashmla_{variant.name}")
    with tempfile.TemporaryDirectory() as dump:
        options = f"--gpu-arch {ARCHITECTURE} --keep-cubin --keep-ptx --dump-dir={dump}"
        compiled = cute.compile(kernel, *maps, args, cuda.CUstream(0), options=options)
        return compiled.__cubin__, compiled.__ptx__, kernel


def _entry_facts(ptx: str, variant: Variant) -> dict[str, Any]:
    """Entry name, and the check that its parameters are those of params.py, in order and size."""
    head = ptx[ptx.index(".entry") :]
    head = head[: head.index("{")]
    found = re.findall(
        r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)(?:\s+\.ptr[\w\s.]*?\.align\s+\d+)?\s+\w+?(?:\[(\d+)\])?\s*[,)\n]", head
    )
    sizes = [int(count) if count else PTX_SIZES[kind] for kind, count in found]
    expected = [p.size for p in params.BY_OPERATION[variant.operation]]
    if sizes != expected:
        raise RuntimeError(
            f"{variant.name}: the compiled entry takes parameters of {sizes} bytes, params.py lists {expected}"
        )
    match = re.search(r"\.entry\s+(\w+)", head)
    assert match is not None
    return {"entry": match.group(1), "params": sizes}
