"""How does a test open a database in a process of its own, so that a reopened one is really reopened?"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing.forkserver import ensure_running
from typing import TypeVar

T = TypeVar("T")
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["chromadb", "milvus_lite.adapter.grpc.server", "pyarrow.parquet", "lancedb", "faiss", "hnswlib", "usearch.index", "duckdb"]
)  # seconds to import, and nothing of them is open
_QUIET = "ignore:lancedb fork support,ignore:lance is not fork-safe"  # it is, where nothing of it runs


def apart(function: Callable[..., T], *arguments: object) -> T:
    """Call a function of a module in a process of its own, a fork of one that opens nothing."""
    _start()
    with ProcessPoolExecutor(1, mp_context=_FORKS) as pool:
        return pool.submit(function, *arguments).result()


@cache
def _start() -> None:
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = _QUIET
    try:
        ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before
