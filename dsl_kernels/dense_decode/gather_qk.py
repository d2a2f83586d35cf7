"""QK where rows are gathered."""

from .qk import QK
from .rows import see_rows


class GatherQK(QK):
    def see_rows(self):
        see_rows(self.kernel)

    def await_unused(self):
        """Nothing is fetched without work."""
