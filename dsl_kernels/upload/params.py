"""Parameters of upload: see core/params.py."""

from dsl_kernels.core.params import Param

LANE_BYTES = 16
PIECE_BYTES = 32 * LANE_BYTES  # at most
CONSTANTS = {"UPLOAD_BYTES": PIECE_BYTES}

PARAMS = (
    Param("staged", "const int32_t*", "a buffer in pinned memory of the host", 16),
    Param("end", "const int32_t*", "of its records: 16 bytes a piece, the first one last", 16),
    Param("num_pieces", "int32_t", "records"),
)
