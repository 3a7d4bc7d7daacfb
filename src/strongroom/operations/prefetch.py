"""How work of many items is done a few items ahead of its use, in other threads and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 2
_AHEAD = 6
"""Results that may wait for their use; with blobs of 8 MiB at most, 48 MiB."""


def ahead(items: Iterable[T], work: Callable[[T], R], most: int = _AHEAD) -> Generator[R, None, None]:
    """`work` of each item, in order, `most` results ahead. The first failure is raised where its result would have been.
    Whose work has effects closes this before it goes on: no more of it is under way then."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="strongroom-reader") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
