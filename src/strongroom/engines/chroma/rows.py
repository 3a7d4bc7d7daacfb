"""What are the rows of a collection, in the order of its vector index? The index's slots first, then what only the log holds.

A slot is dead if hnswlib marks it deleted, if its label stands for no id any more, or if the log changes the id's vector. So
each block's vectors are exactly those of the same slots of `data_level0.bin`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.chroma.catalog import FIELD, Entry
from strongroom.engines.chroma.documents import Columns, Documents, split
from strongroom.engines.chroma.hnsw import LEVEL0, Header, Slots, read_header, read_labels, read_slots
from strongroom.engines.chroma.log import Log, entries_of
from strongroom.engines.chroma.replay import Document, Tail, replay
from strongroom.engines.protocol import rows_per_block
from strongroom.errors import Damaged
from strongroom.model import ROLE, Records, Role, RowBlock, Stretch

_NO_ROW, _IN_TAIL = -1, -2
"""In place of a row number: the label is dead; its metadata come from the log alone."""


def schema_of(dimension: int) -> pa.Schema:
    """The columns of every block."""
    columns = [
        ("id", pa.utf8(), Role.ID, False),
        (FIELD, pa.list_(pa.field("item", pa.float32(), nullable=False), dimension), Role.VECTOR, False),
        ("document", pa.utf8(), Role.DOCUMENT, True),
        ("uri", pa.utf8(), Role.URI, True),
        ("payload", pa.utf8(), Role.PAYLOAD, True),
    ]
    return pa.schema([pa.field(name, kind, nullable, {ROLE: role.encode()}) for name, kind, role, nullable in columns])


@dataclass(frozen=True)
class Places:
    """Where each row of a collection is. `ids` and `rowids` (int64, `embeddings.id`) by label; `tail` the rows that only the
    log holds: sequence number, id and row number. `lost`: ids that have metadata and no vector anywhere. `pending`: ids whose
    vectors the log changes."""

    header: Header | None
    elements: int
    ids: Sequence[str]
    rowids: npt.NDArray[np.int64]
    tail: Sequence[tuple[int, str, int]]
    documents: dict[str, Document | None]
    lost: int
    pending: int

    @property
    def count(self) -> int:
        return int((self.rowids != _NO_ROW).sum()) + len(self.tail)

    def shown(self, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Of slots with these labels: the labels of those whose rows the index shows, 0 for dead ones."""
        known = np.where((labels > 0) & (labels < len(self.ids)), labels, 0)
        return np.where(self.rowids[known] == _NO_ROW, 0, known)


def locate(connection: sqlite3.Connection, log: Log, entry: Entry, root: Path) -> Places:
    """Join the index's labels, sqlite's rows and the log. Takes memory for the ids of the collection, not for its vectors.
    Raises Damaged if the index can't be read."""
    folder = root / entry.vector_segment
    header = read_header(folder)
    if header is None and entry.position("VECTOR"):
        raise Damaged(
            f"collection {entry.address.public!r}",
            "its vector index is gone, and the log that could rebuild it was purged",
            hint="restore this collection from an earlier snapshot, or delete it",
        )
    labels = read_labels(folder) if header else {}
    documents = Documents(connection)
    tail = replay(connection, log, entry, labels.__contains__, lambda identity: documents.one(entry.metadata_segment, identity))
    rowids = np.full(max(labels.values(), default=0) + 1, _NO_ROW, np.int64)
    tail_rowids, lost = _number(connection, entry, labels, tail, rowids)
    ids = [""] * len(rowids)
    for identity, label in labels.items():
        ids[label] = identity
    live = sorted((sequence, identity) for identity, sequence in tail.vectors.items() if sequence is not None)
    rows = [(sequence, identity, tail_rowids[identity]) for sequence, identity in live if identity in tail_rowids]
    return Places(header, len(labels), ids, rowids, rows, tail.documents, lost, len(tail.vectors))


def _number(
    connection: sqlite3.Connection, entry: Entry, labels: dict[str, int], tail: Tail, rowids: npt.NDArray[np.int64]
) -> tuple[dict[str, int], int]:
    """Fill `rowids` by label; return the row numbers of the log's rows and how many ids have no vector."""
    in_tail: dict[str, int] = {}
    lost = 0
    query = "SELECT id, embedding_id FROM embeddings WHERE segment_id = ?"
    for rowid, identity in connection.execute(query, (entry.metadata_segment,)):
        if tail.documents.get(identity, True) is None:
            continue
        if identity in tail.vectors:
            in_tail[identity] = rowid
            lost += tail.vectors[identity] is None
        elif identity in labels:
            rowids[labels[identity]] = rowid
        else:
            lost += 1
    for identity, document in tail.documents.items():
        if document is not None and identity in tail.vectors:
            in_tail.setdefault(identity, _IN_TAIL)
        elif document is not None and identity in labels and rowids[labels[identity]] == _NO_ROW:
            rowids[labels[identity]] = _IN_TAIL
    return in_tail, lost


def read(connection: sqlite3.Connection, log: Log, entry: Entry, root: Path, without: Sequence[Stretch] = ()) -> Iterator[RowBlock]:
    """Every row once, in blocks of `rows_per_block(4 * dimension)` slots, none of which goes across a stretch of slots `without`
    which. Raises Damaged if index and id map contradict."""
    places = locate(connection, log, entry, root)
    block = rows_per_block(4 * entry.dimension)
    reader = Documents(connection)
    if places.header is not None:
        if places.header.dimension != entry.dimension:
            raise Damaged(
                f"collection {entry.address.public!r}",
                f"its index has {places.header.dimension} dimensions and its catalog says {entry.dimension}",
                hint="restore this collection from an earlier snapshot, or delete it",
            )
        pieces = list(_pieces(places.header.count, block, without))
        yield from _from_index(places, entry, root, pieces, reader)
    for start in range(0, len(places.tail), block):
        yield _from_log(connection, entry.dimension, places, places.tail[start : start + block], reader)


def _pieces(count: int, block: int, without: Sequence[Stretch]) -> Iterator[tuple[int, int]]:
    """The first slot and the number of slots of each block; a block starts where a stretch that is left out ends."""
    start = 0
    for first, after in (*((one.first, one.first + one.count) for one in without), (count, count)):
        yield from ((at, min(block, first - at)) for at in range(start, first, block))
        start = after


def _from_index(
    places: Places, entry: Entry, root: Path, pieces: Sequence[tuple[int, int]], reader: Documents
) -> Iterator[RowBlock]:
    assert places.header is not None  # noqa: S101 - for the type checker
    folder = root / entry.vector_segment
    ids = np.array(places.ids, dtype=object)
    shown = 0
    for slots in read_slots(folder, places.header, pieces):
        known = (slots.labels > 0) & (slots.labels < len(ids))
        labels = np.where(known, slots.labels, 0)
        mapped = ids[labels] != ""
        if (mapped & slots.deleted).any() or (~mapped & ~slots.deleted).any():
            shown = -1
            break
        shown += int(mapped.sum())
        rowids = places.rowids[labels]
        dead = rowids == _NO_ROW
        names = ids[labels].tolist()
        columns = _columns(reader, rowids, names, places.documents)
        records = _records(slots, places.header, entry)
        yield RowBlock(_batch(names, slots.vectors, columns), dead if dead.any() else None, records)
    everything = sum(number for _, number in pieces) == places.header.count
    if shown < 0 or (everything and shown != places.elements):
        raise Damaged(
            f"Chroma's vector index {folder.name}",
            "its elements and its id map contradict each other",
            hint="run the backup again; if it stays so, restore this collection from an earlier snapshot",
        )


def _records(slots: Slots, header: Header, entry: Entry) -> Records | None:
    """What else the slots hold, if they are all of a region's."""
    number, over = divmod(slots.first, header.block)
    region = header.region(number, entry.address.public)
    if over or region.length != len(slots.rest) * header.stride:
        return None
    return Records(f"{entry.vector_segment}/{LEVEL0}", region, slots.rest.reshape(-1).data)


def _from_log(
    connection: sqlite3.Connection, dimension: int, places: Places, rows: Sequence[tuple[int, str, int]], reader: Documents
) -> RowBlock:
    sequences = [sequence for sequence, _, _ in rows]
    content = b"".join(vector for (vector,) in entries_of(connection, "vector", sequences))
    if len(content) != 4 * dimension * len(rows):
        raise Damaged("chroma.sqlite3", "its log holds vectors of another dimension", hint="restore it from an earlier snapshot")
    vectors = np.frombuffer(content, np.float32).reshape(len(rows), dimension)
    names = [identity for _, identity, _ in rows]
    rowids = np.array([rowid for _, _, rowid in rows], np.int64)
    return RowBlock(_batch(names, vectors, _columns(reader, rowids, names, places.documents)))


def _columns(
    reader: Documents, rowids: npt.NDArray[np.int64], names: Sequence[str], changed: dict[str, Document | None]
) -> Columns:
    columns = reader.columns(rowids)
    if changed:
        for slot, name in enumerate(names):
            document = changed.get(name)
            if document is not None and rowids[slot] != _NO_ROW:
                for column, value in zip(columns, split(document), strict=True):
                    column[slot] = value
    return columns


def _batch(names: Sequence[str], vectors: npt.NDArray[np.float32], columns: Columns) -> pa.RecordBatch:
    schema = schema_of(vectors.shape[1])
    flat = pa.array(vectors.reshape(-1))
    vector = pa.FixedSizeListArray.from_arrays(flat, type=schema.field(FIELD).type)
    texts = [pa.array(column, pa.utf8()) for column in columns]
    return pa.record_batch([pa.array(names, pa.utf8()), vector, *texts], schema=schema)
