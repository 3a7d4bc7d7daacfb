"""How long does an index take for one query? Measured where it is asked: in the engine's child process, or at its client.

Whoever searches walks over the queries with `each`, or asks them once more one by one with `again` if it asks many at once. Nothing
is measured, and nothing asked again, unless the thread is `timing`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class _Laps(threading.local):
    taken: list[float] | None = None


_here = _Laps()


@contextmanager
def timing() -> Iterator[list[float]]:
    """Gives the seconds of each query that this thread asks, or has a child ask, until this ends."""
    before, _here.taken = _here.taken, []
    try:
        yield _here.taken
    finally:
        _here.taken = before


def is_timing() -> bool:
    return _here.taken is not None


def note(laps: Iterable[float]) -> None:
    """These were measured elsewhere."""
    if _here.taken is not None:
        _here.taken.extend(laps)


def each(queries: Iterable[T]) -> Iterator[T]:
    """The queries; what is done with one, until the next is asked for, is what it takes."""
    for query in queries:
        started = time.perf_counter()
        yield query
        if _here.taken is not None:
            _here.taken.append(time.perf_counter() - started)


def again(ask: Callable[[Any], object], queries: Any) -> None:
    """Ask once more, each query alone, if that is to be measured: `queries` can be sliced, and `ask` takes slices of one."""
    if _here.taken is not None:
        for place in each(range(len(queries))):
            ask(queries[place : place + 1])
