"""The model of loaders that gather where these tell which rows are attended. Producers always do."""

from __future__ import annotations

from dsl_kernels.sparse_decode.barrier_table import barriers
from ops.dense_decode.gather_model import CopiesArrive


class CopiesArriveAndTell(CopiesArrive):
    tells = True
    barriers = barriers(copies_arrive=True)
