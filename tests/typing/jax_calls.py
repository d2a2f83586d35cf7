"""Checked by mypy, never run: what the functions take and return for JAX arrays."""

from typing import Any, assert_type  # type: ignore[attr-defined] # assert_type: Python 3.11

import jax
import jax.numpy as jnp

import flashmla


def a_decode(q: jax.Array, kv_cache: jax.Array, table: jax.Array, lengths: jax.Array) -> None:
    plan = flashmla.plan_decode(q, kv_cache, table, lengths)
    out, lse = flashmla.dense_decode(q, kv_cache, table, lengths, plan=plan, out_dtype=jnp.float32)
    assert_type(out, jax.Array)
    assert_type(lse, Any)
    assert_type(flashmla.dense_decode(q, kv_cache, table, lengths, return_lse=False), jax.Array)
    flashmla.dense_decode(q, kv_cache, table, lengths, out_dtype=jnp.dtype("bfloat16"))
    flashmla.merge_states([out, out], [lse, lse])
