"""Where the Lance library enters: loaded on first use (it takes half a second), its errors told apart once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from strongroom.errors import StrongroomError, WrongRequest

_PLAIN = (OSError, ValueError, RuntimeError, KeyError, NotImplementedError)

Dataset = Any
"""A `lance.LanceDataset`."""


def lance() -> Any:
    """The module `lance`. Raises WrongRequest, with the extra to install, if it isn't there."""
    # Statistics of an index need not hold its centroids, which are large: Lance's own switch for that.
    os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
    try:
        import lance as library
    except ImportError as error:
        raise WrongRequest("LanceDB isn't installed here", hint="pip install 'strongroom[lancedb]'") from error
    return library


def open_table(path: Path, version: int | None = None) -> Dataset:
    """The table in the directory `path`, at `version` or its latest. Raises what Lance raises: see `failing_as`."""
    return lance().dataset(str(path), version=version)


@contextmanager
def failing_as(kind: type[StrongroomError], what: str) -> Iterator[None]:
    """Whatever Lance raises inside becomes `kind`, as one sentence about `what`."""
    try:
        yield
    except BaseException as error:
        # Lance raises plain ones, as does Arrow; a panic in its Rust code comes as a BaseException of no public class.
        if not isinstance(error, _PLAIN) and type(error).__name__ != "PanicException":
            raise
        lines = str(error).splitlines() or [type(error).__name__]
        raise kind(f"{what}: {lines[0]}") from error
