"""QK where rows are gathered."""

import cutlass.cute as cute

from .descale import logit_factor
from .qk import QK
from .rows import see_rows


class GatherQK(QK):
    def see_rows(self):
        see_rows(self.kernel)

    def await_unused(self):
        """Nothing is fetched without work."""


class UnscaledQK(GatherQK):
    """Of codes with one scale for all."""

    @cute.jit
    def run(self, warp):
        a = self.a
        self.kernel.a = self.a = a.but(scale_log2=logit_factor(a))
        QK.run(self, warp)
        self.kernel.a = self.a = a
