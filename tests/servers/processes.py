"""How does a test open a database in a process of its own, so that a reopened one is really reopened?"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["chromadb", "pyarrow.parquet"])  # seconds to import, and nothing of them is open


def apart(function: Callable[..., T], *arguments: object) -> T:
    """Call a function of a module in a process of its own, a fork of one that opens nothing."""
    with ProcessPoolExecutor(1, mp_context=_FORKS) as pool:
        return pool.submit(function, *arguments).result()
