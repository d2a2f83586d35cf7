"""What C programs need, in the usual folders below a prefix. No path in these files is absolute: the tree may move."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

from buildtools import library
from buildtools.tree import BUILD, INCLUDE, ROOT, SONAME, link_to, one_build_at_a_time, say, version

TEMPLATES = {
    "flashmla.pc.in": "pkgconfig/flashmla.pc",
    "cmake/flashmla-config.cmake.in": "cmake/flashmla/flashmla-config.cmake",
    "cmake/flashmla-config-version.cmake.in": "cmake/flashmla/flashmla-config-version.cmake",
}


def headers() -> dict[Path, str]:
    """Header -> its place."""
    return {path: f"include/{path.relative_to(INCLUDE)}" for path in sorted(INCLUDE.rglob("*.h*"))}


def described(*, libraries: str, texts: str, link: str) -> dict[str, str]:
    """Place -> text of the pkg-config and CMake files below `texts`, for a library in `libraries`.

    All are named from the prefix. `link` is what a linker is told.
    """
    found = {}
    for template, name in TEMPLATES.items():
        place = PurePosixPath(texts, name)
        values = {
            "VERSION": version(),
            "SONAME": SONAME,
            "LINK": link,
            "LIBDIR": os.path.relpath(libraries, place.parent),
            "INCLUDEDIR": os.path.relpath("include", place.parent),
        }
        text = (ROOT / "libflashmla" / template).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        found[str(place)] = text
    return found


def put(source: Path | str, place: Path, *, mode: int = 0o644) -> None:
    """A file's copy, or a text; what was there is replaced in one step, since a process may have it mapped."""
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f"{place.name}.{os.getpid()}")
    if isinstance(source, Path):
        shutil.copyfile(source, fresh)
    else:
        fresh.write_text(source)
    fresh.chmod(mode)
    fresh.replace(place)
    say(f"installed {place}")


def install(prefix: Path, *, libdir: str = "lib", cpu_only: bool = False, destdir: str = "") -> None:
    """Header, shared library with its links, archive, pkg-config and CMake files below `destdir` + `prefix`."""
    made = BUILD / ("install-cpu" if cpu_only else "install")
    with one_build_at_a_time():
        kernels = library.kernels_wanted(cpu_only=cpu_only)
        flags = library.compile_flags(sanitize=False, debug=False, kernels=kernels)
        objects = library.compile_objects(flags, kernels=kernels)
        library.link(objects, made / SONAME)
        library.archive(objects, made / "libflashmla.a")
        root = Path(f"{destdir}{prefix}") if destdir else prefix
        folder = root / libdir
        for header, place in headers().items():
            put(header, root / place)
        real = folder / f"libflashmla.so.{version()}"
        put(made / SONAME, real, mode=0o755)
        link_to(real, folder / SONAME)
        link_to(folder / SONAME, folder / "libflashmla.so")
        put(made / "libflashmla.a", folder / "libflashmla.a")
        for place, text in described(libraries=libdir, texts=libdir, link="-lflashmla").items():
            put(text, root / place)
        put(ROOT / "LICENSE", root / "share" / "licenses" / "flashmla" / "LICENSE")
