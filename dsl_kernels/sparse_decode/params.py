"""Parameters of sparse_decode: see core/params.py."""

from dsl_kernels.core import schedule_params as shared
from dsl_kernels.core.params import Param

CONSTANTS = shared.CONSTANTS


def _cache(prefix: str, which: str) -> tuple[Param, ...]:
    """One of the two caches that a query token selects from, and what it selects there."""
    return (
        Param(f"{prefix}cache", "const void*", f"pages of the {which} cache", 16, "cache"),
        Param(
            f"{prefix}indices",
            "const void*",
            "slots that each query token attends; outside [0, slots): none",
            4,
            "float32",
        ),
        Param(f"{prefix}indices_stride_b", "int64_t", "elements between requests; 0 with cu_seqlens_q"),
        Param(f"{prefix}indices_stride_s", "int64_t", "elements between query tokens"),
        Param(f"{prefix}slots", "int64_t", "tokens that the cache has room for: num_blocks * page_size"),
        Param(f"{prefix}block_step", "int64_t", "bytes between pages"),
        Param(f"{prefix}scales_at", "int64_t", "byte of a page at which the scales of its first token are"),
        Param(f"{prefix}by_page", "int64_t", "divides by page_size"),
        Param(f"{prefix}page_size", "int32_t", "tokens of a page"),
        Param(f"{prefix}row_step", "int32_t", "bytes between the tokens of a page"),
        Param(f"{prefix}scales_step", "int32_t", "bytes between the scales of a page's tokens"),
        Param(f"{prefix}wide_indices", "int32_t", "0: indices are int32; 1: int64"),
    )


PARAMS = (
    Param(
        "tma_q",
        "tensormap",
        "latent columns of q as (d, head, token, 1, request); box of one row block",
        element="q",
    ),
    Param("tma_q_rope", "tensormap", "likewise its RoPE columns, where there are any", element="q"),
    *_cache("", "main"),
    *_cache("extra_", "extra"),
    *shared.LENGTHS,
    *shared.EXTRA_LENGTHS,
    shared.CUTS,
    shared.PARTIAL,
    shared.PARTIAL_FACTS,
    *shared.OUTPUT,
    Param("scale_log2", "float", "softmax_scale * log2(e)"),
    *shared.QUERIES,
    *shared.TILING,
    *shared.DIVISORS,
    *shared.KNOWN_CUTS,
    shared.SLOTS,
    Param("stores_all", "int32_t", "1: every piece goes to its part's first slot, whole tiles too"),
)
