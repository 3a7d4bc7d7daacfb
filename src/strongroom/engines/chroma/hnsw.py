"""What is in the files of one HNSW folder of Chroma? Elements by slot, and which id each one's label stands for.

header.bin            i32 version | hnswlib header, 96 bytes
data_level0.bin       `capacity` slots of `stride` bytes: u16 links | u8 deleted | u8 | u32 links[maxM0] | vector | u64 label
index_metadata.pickle a dict: id_to_label, label_to_id (labels count from 1), total_elements_added
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from strongroom.codecs.strided import split_proven
from strongroom.engines.chroma.capture import PICKLE
from strongroom.engines.chroma.catalog import FIELD
from strongroom.engines.protocol import rows_per_block
from strongroom.errors import Damaged
from strongroom.model import Region

LEVEL0 = "data_level0.bin"
_AT_ONCE = 4096
"""Elements that are read in one go for their labels."""

_CACHED_BYTES = 1 << 20
"""So much is taken apart at once: it doesn't leave a core's cache."""

_HEADER = struct.Struct("<iQQQQQQiIQQQdQ")
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Header:
    """Geometry of `data_level0.bin`, in bytes and slots. Slots beyond `count` were never written."""

    capacity: int
    count: int
    stride: int
    label_offset: int
    data_offset: int

    @property
    def dimension(self) -> int:
        return (self.label_offset - self.data_offset) // 4

    @property
    def block(self) -> int:
        """Slots in a block of rows."""
        return rows_per_block(4 * self.dimension)

    def region(self, number: int, collection: str) -> Region:
        """The slots of the collection's block of rows `number`."""
        slot = number * self.block
        return Region(
            slot * self.stride,
            min(self.block, self.count - slot) * self.stride,
            "float32",
            self.stride,
            self.data_offset,
            4 * self.dimension,
            FIELD,
            number,
            key=f"level0 {number}",
            collection=collection,
        )


@dataclass(frozen=True, slots=True)
class Slots:
    """A run of slots from `first` on. `vectors` (n x dimension, float32) are copies; `labels` (n, int64); `deleted` (n, bool).
    `rest` is what the slots hold beside the vectors: both were proven to make their bytes again."""

    first: int
    vectors: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    deleted: npt.NDArray[np.bool_]
    rest: npt.NDArray[np.uint8]


def read_header(folder: Path) -> Header | None:
    """None if nothing was ever persisted. Raises Damaged if the header contradicts itself or the file's length."""
    path = folder / "header.bin"
    if not (folder / PICKLE).exists():
        if path.exists() and any(path.read_bytes()[20:28]):
            raise _damaged(folder, f"it has elements and no {PICKLE}")
        return None
    try:
        fields = _HEADER.unpack(path.read_bytes()[: _HEADER.size])
        size = (folder / LEVEL0).stat().st_size
    except (OSError, struct.error) as error:
        raise _damaged(folder, f"its header can't be read ({error})") from error
    version, offset, capacity, count, stride, label_offset, data_offset = fields[:7]
    sound = version == _VERSION and offset == 0 and data_offset < label_offset and label_offset + 8 == stride
    if not sound or (label_offset - data_offset) % 4 or count > capacity or size < count * stride:
        raise _damaged(folder, "its header contradicts itself or the length of data_level0.bin")
    return Header(capacity, count, stride, label_offset, data_offset)


class _Primitives(pickle.Unpickler):
    """Admits dicts, strings and numbers. A pickle can run any code that it names, and this file comes from elsewhere."""

    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_labels(folder: Path) -> dict[str, int]:
    """id -> label of every element that the index shows. Raises Damaged if the two maps of the file disagree."""
    try:
        with (folder / PICKLE).open("rb") as file:
            content = _Primitives(file).load()
        labels: dict[str, int] = content["id_to_label"]
        ids: dict[int, str] = content["label_to_id"]
        agree = len(labels) == len(ids) and all(ids.get(label) == identity for identity, label in labels.items())
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, pickle.UnpicklingError) as error:
        raise _damaged(folder, f"{PICKLE} can't be read ({error})") from error
    if not agree:
        raise _damaged(folder, f"the maps of {PICKLE} disagree")
    return labels


def read_slots(folder: Path, header: Header, pieces: Iterable[tuple[int, int]]) -> Iterator[Slots]:
    """The slots of each piece (first slot, how many). Raises Damaged if the file ends early."""
    length = header.label_offset - header.data_offset
    step = max(1, _CACHED_BYTES // header.stride)
    for first, raw in _elements(folder, header, pieces):
        some = (raw[start : start + step].data.cast("B") for start in range(0, len(raw), step))
        vectors, rest = split_proven(some, len(raw), header.stride, header.data_offset, length)
        yield Slots(first, vectors.view(np.float32), _labels(raw, header), (raw[:, 2] & 1).astype(np.bool_), rest)


def slot_labels(folder: Path, header: Header) -> npt.NDArray[np.int64]:
    """The label in every slot up to `count`. Raises Damaged if the file ends early."""
    pieces = ((start, min(_AT_ONCE, header.count - start)) for start in range(0, header.count, _AT_ONCE))
    return np.concatenate([np.zeros(0, np.int64), *(_labels(raw, header) for _, raw in _elements(folder, header, pieces))])


def _labels(raw: npt.NDArray[np.uint8], header: Header) -> npt.NDArray[np.int64]:
    return np.ascontiguousarray(raw[:, header.label_offset :]).view(np.int64).reshape(len(raw))


def _elements(folder: Path, header: Header, pieces: Iterable[tuple[int, int]]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    descriptor = os.open(folder / LEVEL0, os.O_RDONLY)
    try:
        for start, number in pieces:
            content = os.pread(descriptor, number * header.stride, start * header.stride)
            if len(content) != number * header.stride:
                raise _damaged(folder, f"{LEVEL0} ends early")
            yield start, np.frombuffer(content, np.uint8).reshape(number, header.stride)
    finally:
        os.close(descriptor)


def _damaged(folder: Path, problem: str) -> Damaged:
    return Damaged(
        f"Chroma's vector index {folder.name}", problem, hint="restore this collection from an earlier snapshot, or delete it"
    )
