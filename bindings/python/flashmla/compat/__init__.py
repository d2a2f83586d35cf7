"""Stand-ins for other packages' Python interfaces, so that callers of those need not change.

>>> import flashmla.compat
>>> flashmla.compat.install()  # from here on `import flash_mla` finds flashmla.compat.flash_mla
"""

from __future__ import annotations

import sys

from flashmla.compat import flash_mla

_MODULES = {"flash_mla": flash_mla, "flash_mla.flash_mla_interface": flash_mla.flash_mla_interface}
"""The package and the module in it where its functions are defined: callers import from either."""


def install(*, force: bool = False) -> None:
    """Registers `flashmla.compat.flash_mla` as the package `flash_mla`.

    Raises ImportError if a module of the real one was imported before, unless `force`: who imported it keeps what it
    has.

    >>> flashmla.compat.install()
    >>> import flash_mla
    >>> meta, _ = flash_mla.get_mla_metadata()
    """
    for name, module in _MODULES.items():
        imported = sys.modules.get(name)
        if imported not in {None, module} and not force:
            place = getattr(imported, "__file__", None)
            raise ImportError(f"{name} was imported before, from {place}; pass force=True to put this one in its place")
    sys.modules.update(_MODULES)
