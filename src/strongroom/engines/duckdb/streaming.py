"""Rows from a child process as they are read there: through a pipe, so that they lie nowhere in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pyarrow as pa

from strongroom.engines import isolation
from strongroom.errors import EngineFailed


def streamed(function: str, *arguments: Any) -> Iterator[pa.RecordBatch]:
    """The batches that `function` ('module:name'), called with a descriptor and the arguments, writes there as an Arrow stream; it
    gives the number of rows. Raises EngineFailed if it fails or its stream ends early."""
    reading, writing = os.pipe()
    with ThreadPoolExecutor(1, thread_name_prefix="strongroom-stream") as pool:
        asked = pool.submit(_call, function, writing, arguments)
        rows = 0
        try:
            with os.fdopen(reading, "rb") as pipe, pa.ipc.open_stream(pipe) as stream:
                for batch in stream:
                    rows += batch.num_rows
                    yield batch
        except (pa.ArrowException, OSError) as error:
            _require(asked, -1)
            raise EngineFailed(f"{function}: its stream can't be read: {error}") from error
        except GeneratorExit:
            with suppress(EngineFailed):  # nobody reads on, and that is what it died of
                asked.result()
            raise
        _require(asked, rows)


def _call(function: str, writing: int, arguments: tuple[Any, ...]) -> int:
    try:
        count: int = isolation.ask(function, isolation.Descriptor(writing), *arguments)
        return count
    finally:
        os.close(writing)


def _require(asked: Future[int], rows: int) -> None:
    if asked.result() != rows:
        raise EngineFailed("the engine's process gave fewer rows than it said")
