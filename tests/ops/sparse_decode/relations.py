"""What tests of relations between calls of sparse_decode share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attention import Result
from ops.sparse_decode import calls
from ops.sparse_decode.case import Cache, SparseCase
from ops.sparse_decode.data import Data

# Two requests of several units, some of whose indices select nothing; the second has fewer that count.
STEP = SparseCase(
    main=Cache(num_blocks=9, topk=300, lengths=(300, 71)), batch=2, s_q=2, h_q=48, given=("lse",), sink="some", seed=7
)
EXTRA = Cache(num_blocks=50, page_size=7, topk=130, lengths=(65, 129))
TWOFOLD = STEP.but(extra=EXTRA)
# Requests of 3, 0, 1 and 2 query tokens; one token before them and one behind belong to none.
MIXED = TWOFOLD.but(
    batch=4,
    s_q=3,
    cu_seqlens_q=(1, 4, 4, 5, 7),
    total_q=8,
    lengths=(300, 71, 0, 129),
    extra=EXTRA.but(lengths=(65, 129, 130, 0)),
)


def close(case: SparseCase, first: Result, second: Result) -> None:
    """Two results of one problem, each within the tolerance of the truth."""
    calls.close_to(case, first, second, calls.bound_of(case).widened(2))


def gathered(case: SparseCase, data: Data, requests: list[int]) -> tuple[SparseCase, Data]:
    """The call on these requests of another one, in this order, without variable-length queries."""
    caches = {
        prefix: replace(
            one,
            indices=one.indices[requests],
            topk_length=None if one.topk_length is None else one.topk_length[requests],
        )
        for prefix, one in data.caches.items()
    }
    changes: dict = {"batch": len(requests)}
    for name, cache in (("main", case.main), ("extra", case.extra)):
        if cache is not None and cache.lengths is not None:
            changes[name] = cache.but(lengths=tuple(cache.lengths[i] for i in requests))
    return case.but(**changes), replace(data, q=data.q[requests], caches=caches)


def selected(case: SparseCase, data: Data, indices: np.ndarray) -> tuple[SparseCase, Data]:
    """The call with other indices of the main cache, all of which count."""
    main = replace(data.caches[""], indices=indices, topk_length=None)
    return case.but(topk=indices.shape[-1], lengths=None), replace(data, caches=data.caches | {"": main})


def counted(case: SparseCase, data: Data) -> np.ndarray:
    """The indices of the main cache with -1 in the place of those that do not count."""
    indices = data.caches[""].indices.copy()
    for i in range(case.batch):
        indices[i, :, case.main.attended(i) :] = -1
    return indices
