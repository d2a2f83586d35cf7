"""Python threads of a test: all start together, and what one of them raises fails the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor


def at_once(work: Callable, arguments: Iterable) -> list:
    """What `work` returns of each argument, in a thread of its own each."""
    arguments = list(arguments)
    start = threading.Barrier(len(arguments))

    def together(argument):
        start.wait()
        return work(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(together, arguments))
