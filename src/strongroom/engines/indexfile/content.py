"""What an engine says of its own index file: its rows in storage order, its regions, its answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.indexfile.join import Join
from strongroom.engines.indexfile.order import Ids, Order
from strongroom.model import Bytes, Json, LedgerItem, Records, Region

Numbers = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Matrix:
    """All vectors of an index in storage order as `length` bytes, `record` bytes a vector, wherever the file keeps them."""

    read: Callable[[int, int], bytes]
    length: int
    record: int
    kind: str = "float32"


@dataclass(frozen=True, slots=True)
class Block:
    """Some vectors of an index in storage order, and what else their records hold if the file has them in records."""

    vectors: pa.Array
    records: Records | None = None


class Content(Protocol):
    """One index file as its engine reads it."""

    @property
    def dimension(self) -> int: ...

    @property
    def dtype(self) -> str:
        """Of the vectors of the rows, as `model.Field` names it."""

    @property
    def metric(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Json]:
        """What becomes `model.Field.index`."""

    @property
    def decoded(self) -> bool:
        """True if the index keeps lossy codes: the vectors of the rows are what they decode to."""

    @property
    def opaque(self) -> bool:
        """True if only the engine's library gets the vectors of the rows out of the file: the file then is the rows."""

    @property
    def order(self) -> Order: ...

    @property
    def matrix(self) -> Matrix | None:
        """The vectors that the file holds as they are; None if it holds codes, or none in one piece."""

    def blocks(self) -> Iterator[Block]:
        """The vectors in storage order, dead slots included, in blocks of at most `protocol.rows_per_block` rows."""

    def fetch(self, rows: Ids) -> npt.NDArray[np.float32] | None:
        """The vectors of these slots, rows x dimension; None if the file doesn't hold float32 vectors."""

    def regions(self) -> Iterable[Region] | None:
        """The file cut into regions; None if its format isn't known."""

    def search(self, queries: npt.NDArray[np.float32], k: int) -> tuple[Ids, Ids, Numbers]:
        """What the engine's library answers: labels, ids above them (-1 where there is no answer), distances; each q x k."""

    def ledger(self, plan: Join) -> Sequence[LedgerItem]:
        """What of the index file a snapshot has, whatever lies beside it."""


def vector_type(dtype: str, dimension: int) -> pa.DataType:
    """The Arrow type of a vector column."""
    if dtype == "bfloat16":
        return pa.binary(2 * dimension)
    kinds = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "uint8": pa.uint8()}
    return pa.list_(kinds[dtype], dimension)


def vector_array(content: Bytes, dtype: str, dimension: int) -> pa.Array:
    """Vectors that lie one after another as a column that shares their memory."""
    kind = vector_type(dtype, dimension)
    if dtype == "bfloat16":
        return pa.Array.from_buffers(kind, len(content) // (2 * dimension), [None, pa.py_buffer(content)])
    width = kind.value_type.bit_width // 8
    values = pa.Array.from_buffers(kind.value_type, len(content) // width, [None, pa.py_buffer(content)])
    return pa.FixedSizeListArray.from_arrays(values, type=kind)
