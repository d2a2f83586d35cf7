"""The table of kernels: the lines of every operation, an operation being a folder with a config.py. Standard library
only.

From it come the cubins, the launcher's table, the manifest, the support matrix and the test ids. To add a kernel, add a
line to its operation's config.py, which says whether it fits the chip; to add an operation, add a folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from .core.params import Param
from .core.variant import Variant


@dataclass(frozen=True)
class Family:
    """The kernels of an operation."""

    name: str
    variants: tuple[Variant, ...]  # the launcher takes the first that does a call
    params: tuple[Param, ...]  # what each of them takes, in order
    constants: dict[str, int]  # that the C core must agree on
    features: tuple[str, ...]

    @property
    def module(self) -> str:
        return f"{__package__}.{self.name}.kernel"

    @property
    def kernel(self) -> str:
        """Name of the class in that module."""
        return "".join(word.capitalize() for word in self.name.split("_"))


def _family(name: str) -> Family:
    config = import_module(f"{__package__}.{name}.config")
    params = import_module(f"{__package__}.{name}.params")
    return Family(name, config.VARIANTS, params.PARAMS, getattr(params, "CONSTANTS", {}), config.Variant.FEATURES)


FAMILIES: dict[str, Family] = {
    path.parent.name: _family(path.parent.name) for path in sorted(Path(__file__).parent.glob("*/config.py"))
}
VARIANTS: tuple[Variant, ...] = tuple(variant for family in FAMILIES.values() for variant in family.variants)
