"""What a cubin says of itself: ELF ABI version; registers, stack and instruction counts through NVIDIA's disassembler.

The disassembler (extra `[aot]`: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm) is optional for a build, the checks need
it.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

INSTRUCTIONS = ("HGMMA", "UTMALDG", "WARPGROUP.DEPBAR", "LDL", "STL")


def facts(cubin: bytes) -> dict[str, Any]:
    result: dict[str, Any] = {"elf_abi": cubin[8]}
    found = tools()
    if found is None:
        return result
    cuobjdump, nvdisasm = found
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        usage = subprocess.run([cuobjdump, "-res-usage", f.name], capture_output=True, text=True, check=True).stdout
        sass = subprocess.run([nvdisasm, "-c", f.name], capture_output=True, text=True, check=True).stdout
    for name, label in (("registers", "REG"), ("stack", "STACK"), ("local", "LOCAL")):
        match = re.search(rf"\b{label}:(\d+)", usage)
        assert match is not None, usage
        result[name] = int(match.group(1))
    result["instructions"] = {name: len(re.findall(rf"\b{re.escape(name)}\b", sass)) for name in INSTRUCTIONS}
    return result


def tools() -> tuple[str, str] | None:
    """Paths of cuobjdump and nvdisasm, if both are installed."""
    cuobjdump, nvdisasm = _tool("cuobjdump"), _tool("nvdisasm")
    return (cuobjdump, nvdisasm) if cuobjdump and nvdisasm else None


def _tool(name: str) -> str | None:
    """The wheels put the binary under nvidia/*/bin, without the execute bit."""
    site = Path(sysconfig.get_paths()["purelib"])
    for path in sorted(site.glob(f"nvidia/**/bin/{name}")):
        if not os.access(path, os.X_OK):
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)
    return shutil.which(name)
