"""JAX arrays, and what stands for them while JAX traces."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flashmla._framework import DLPACK_VERSION, Described, Framework
from flashmla._words import a
from flashmla.errors import UnsupportedError, invalid


class JAX(Framework):
    """JAX. Its arrays never change once seen, and it shows no stream.

    Inputs are waited for and only read. Outputs are fresh arrays that nobody has seen: each is made, waited for,
    written in place, and returned when the stream has finished, so to JAX they have always held the result.
    """

    mutable = False
    waits = True

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        del stream
        if tensor.is_deleted():
            raise invalid("FLASHMLA_ERROR_NULL_POINTER", f"{argument} was deleted, or donated to another computation")
        return tensor.block_until_ready().__dlpack__(max_version=DLPACK_VERSION)

    def empties(self, like: Any, argument: str, made: Sequence[Described], stream: int | None) -> Sequence[Any]:
        # A program that makes all of them takes far less time than jax.numpy.empty for one.
        del argument, stream
        described = tuple((shape, dtype or like.dtype) for shape, dtype in made)
        return [array.block_until_ready() for array in _jax_maker(described, like.device)()]

    def address(self, tensor: Any) -> int:
        address: int = tensor.unsafe_buffer_pointer()
        return address

    def to_host(self, tensor: Any) -> Any:
        return sys.modules["numpy"].asarray(tensor)

    def from_host(self, host: Any, like: Any) -> Any:
        return sys.modules["jax"].device_put(host, like.device)

    def cast(self, argument: str, dtype: str) -> str:
        return f'{argument}.astype("{dtype}")'


class Tracer(Framework):
    """What JAX passes to a function that it traces: it stands for values that are not there yet."""

    def export(self, tensor: Any, argument: str, stream: int | None) -> Any:
        del stream
        raise UnsupportedError(
            f"{argument} is {a(tensor)}: flashmla cannot be traced by jax.jit, vmap or grad; "
            "call it outside, or through jax.pure_callback"
        )


@functools.lru_cache(maxsize=256)
def _jax_maker(described: tuple[tuple[tuple[int, ...], Any], ...], device: Any) -> Callable[[], Sequence[Any]]:
    """A compiled function that makes new arrays, each in memory of its own."""
    jax = sys.modules["jax"]
    on_device = jax.sharding.SingleDeviceSharding(device)
    made: Callable[[], Sequence[Any]] = jax.jit(
        lambda: tuple(jax.numpy.empty(shape, dtype) for shape, dtype in described), out_shardings=on_device
    )
    return made
