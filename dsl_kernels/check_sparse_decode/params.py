"""Parameters of check_sparse_decode: see core/params.py. What says where indices lie is sparse_decode's; where their
address is null they are not looked at.
"""

from dsl_kernels.core import finding_params
from dsl_kernels.core import schedule_params as shared
from dsl_kernels.core.params import Param
from dsl_kernels.sparse_decode.params import PARAMS as OF_SPARSE_DECODE

CONSTANTS = finding_params.CONSTANTS

_SELECTION = ("indices", "indices_stride_b", "indices_stride_s", "slots", "wide_indices")
_NAMES = {prefix + name for prefix in ("", "extra_") for name in _SELECTION}

PARAMS = (
    *(param for param in OF_SPARSE_DECODE if param.name in _NAMES),
    *shared.LENGTHS,
    *shared.EXTRA_LENGTHS,
    *shared.QUERIES,
    Param("s_q", "int32_t", "query tokens of a request, with cu_seqlens_q at most"),
    Param("batch", "int32_t", "requests; batch * s_q is less than 2^31"),
    finding_params.FINDINGS,
)
