"""What changes between two backups? An index file with its sidecar, written anew, and what a snapshot of it must give back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import faiss
import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from strongroom.operations.restore.rows import stored_rows
from strongroom.operations.restore.run import RestoreOptions, restore
from strongroom.repository import Repository
from strongroom.snapshots import history
from strongroom.snapshots.parts import ArtifactReader
from strongroom.snapshots.slots import Slots

DIMENSION = 16
Draw = np.random.Generator
Rows = dict[str, tuple[bytes, str | None]]
"""Of each id its vector's bytes and its document."""


@dataclass(frozen=True)
class Content:
    """Files by what follows the index's name, and rows."""

    files: dict[str, bytes]
    rows: Rows


@dataclass
class Row:
    key: int
    vector: np.ndarray
    document: str | None


@dataclass
class Living:
    """A source in a folder of its own: `kind` is flat or hnsw (FAISS), or hnswlib."""

    folder: Path
    kind: str
    rows: list[Row] = field(default_factory=list)
    dead: set[int] = field(default_factory=set)
    next_key: int = 0

    @property
    def path(self) -> Path:
        return self.folder / ("things.bin" if self.kind == "hnswlib" else "things.faiss")

    @property
    def url(self) -> str:
        return f"{self.engine}://{self.path}"

    @property
    def engine(self) -> str:
        return "hnswlib" if self.kind == "hnswlib" else "faiss"

    def content(self) -> Content:
        """What a snapshot of this moment must give back."""
        return Content(
            files_beside(self.path),
            {self._id(row): (row.vector.tobytes(), row.document) for row in self.rows if row.key not in self.dead},
        )

    def change(self, what: str, draw: Draw) -> None:
        """One of CHANGES, and the files are written anew."""
        CHANGES[what](self, draw)
        if len(self.rows) - len(self.dead) < 20:
            insert(self, draw)
        self.write()

    def write(self) -> None:
        """Long at rest, as a backup likes it; the files have other stamps each time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self._write_hnswlib if self.kind == "hnswlib" else self._write_faiss)()
        for path in self.folder.iterdir():
            os.utime(path, (1, 1))

    def add(self, vector: np.ndarray, document: str | None, place: int | None = None) -> None:
        row = Row(self.next_key, np.ascontiguousarray(vector, np.float32), document)
        self.rows.insert(len(self.rows) if place is None else place, row)
        self.next_key += 1

    def _id(self, row: Row) -> str:
        return str(row.key) if self.kind == "hnswlib" else f"thing-{row.key}"

    def _write_faiss(self) -> None:
        index = faiss.IndexFlatL2(DIMENSION) if self.kind == "flat" else faiss.IndexHNSWFlat(DIMENSION, 4)
        faiss.omp_set_num_threads(1)
        index.add(np.stack([row.vector for row in self.rows]))
        faiss.write_index(index, str(self.path))
        table = {"id": [self._id(row) for row in self.rows], "document": [row.document for row in self.rows]}
        pq.write_table(pa.table(table), self.path.with_suffix(".parquet"))

    def _write_hnswlib(self) -> None:
        index = hnswlib.Index("l2", DIMENSION)
        index.init_index(len(self.rows) + 10, M=4, ef_construction=20)
        index.add_items(np.stack([row.vector for row in self.rows]), [row.key for row in self.rows], num_threads=1)
        for key in sorted(self.dead):
            index.mark_deleted(key)
        index.save_index(str(self.path))
        Path(f"{self.path}.json").write_text(json.dumps({"space": "l2", "dim": DIMENSION}))
        table = {"id": pa.array([row.key for row in self.rows], pa.int64()), "document": [row.document for row in self.rows]}
        pq.write_table(pa.table(table), self.path.with_suffix(".parquet"))


def files_beside(index: Path) -> dict[str, bytes]:
    """All of a folder but receipts."""
    found = (path for path in index.parent.iterdir() if not path.name.endswith(".strongroom.json"))
    return {path.name.removeprefix(index.stem): path.read_bytes() for path in found}


# -- changes -----------------------------------------------------------------------------------------------------------------


def some(living: Living, draw: Draw, share: float = 0.1) -> Iterator[int]:
    """Places of a few rows."""
    count = max(1, int(len(living.rows) * share))
    return iter(sorted(draw.choice(len(living.rows), count, replace=False).tolist(), reverse=True))


def insert(living: Living, draw: Draw) -> None:
    for vector in draw.standard_normal((int(draw.integers(1, 60)), DIMENSION)):
        living.add(vector, f"text {living.next_key}" if living.next_key % 7 else None)


def insert_between(living: Living, draw: Draw) -> None:
    """Of vectors that are there already, and one that isn't."""
    for place in some(living, draw):
        living.add(living.rows[place].vector, f"again {living.next_key}", place)
    living.add(draw.standard_normal(DIMENSION), "in the middle", len(living.rows) // 2)


def update(living: Living, draw: Draw) -> None:
    for place in some(living, draw):
        living.rows[place].vector = draw.standard_normal(DIMENSION).astype(np.float32)


def rewrite_documents(living: Living, draw: Draw) -> None:
    for place in some(living, draw):
        living.rows[place].document = f"text of {draw.integers(1 << 30)}"


def swap_vectors(living: Living, draw: Draw) -> None:
    """So that rows change and no vector is new."""
    first, *others = some(living, draw)
    for place in others:
        living.rows[first].vector, living.rows[place].vector = living.rows[place].vector, living.rows[first].vector


def delete(living: Living, draw: Draw) -> None:
    for place in some(living, draw, 0.2):
        living.dead.discard(living.rows.pop(place).key)


def delete_most(living: Living, draw: Draw) -> None:
    for place in some(living, draw, 0.7):
        living.dead.discard(living.rows.pop(place).key)


def mark_dead(living: Living, draw: Draw) -> None:
    """Deleted elements of hnswlib keep their slots; some come back. FAISS has no such thing."""
    if living.kind != "hnswlib":
        return delete(living, draw)
    for place in some(living, draw):
        living.dead ^= {living.rows[place].key}
    return None


def reorder(living: Living, draw: Draw) -> None:
    draw.shuffle(living.rows)  # type: ignore[arg-type]


def rotate(living: Living, draw: Draw) -> None:
    at = int(draw.integers(len(living.rows)))
    living.rows = living.rows[at:] + living.rows[:at]


def replace_all(living: Living, draw: Draw) -> None:
    for row in living.rows:
        row.vector = draw.standard_normal(DIMENSION).astype(np.float32)


def rewrite_the_same(_living: Living, _draw: Draw) -> None:
    """The files are other ones, and hold the same."""


CHANGES: dict[str, Callable[[Living, Draw], None]] = {
    one.__name__: one
    for one in (
        insert,
        insert_between,
        update,
        rewrite_documents,
        swap_vectors,
        delete,
        delete_most,
        mark_dead,
        reorder,
        rotate,
        replace_all,
        rewrite_the_same,
    )
}


def made(folder: Path, kind: str, seed: int, rows: int = 120) -> Living:
    """A new source. Those of one seed have the same vectors."""
    living = Living(folder, kind)
    for vector in np.random.default_rng(seed).standard_normal((rows, DIMENSION)):
        living.add(vector, f"text {living.next_key}" if living.next_key % 7 else None)
    living.write()
    return living


# -- what a snapshot gives back ----------------------------------------------------------------------------------------------


def content_of(repository: Repository, snapshot: str) -> Content:
    """Files joined from their blobs, and rows of the segments."""
    record = history.read(repository, snapshot).manifest
    slots = {one.name: Slots(one, repository.read_blob) for one in record.collections}
    reader = ArtifactReader(slots, repository.read_blob, repository.keys.identify)
    stem = Path(record.source).stem
    files = {one.path.removeprefix(stem): b"".join(map(reader.read, one.parts)) for one in record.artifacts}
    rows: Rows = {}
    for collection in record.collections:
        for block in stored_rows(repository.read_blob, collection):
            live = block.live()
            vectors = np.asarray(live.column("vector").flatten(), np.float32).reshape(-1, DIMENSION)
            keys, documents = live.column("id").to_pylist(), live.column("document").to_pylist()
            for key, vector, document in zip(keys, vectors, documents, strict=True):
                assert str(key) not in rows, f"{key} is there twice"
                rows[str(key)] = (vector.tobytes(), document)
    return Content(files, rows)


def restored_files(repository: Repository, snapshot: str, folder: Path) -> dict[str, bytes]:
    """As a restore into a new folder leaves them."""
    record = history.read(repository, snapshot).manifest
    target = folder / Path(record.source).name
    restore(repository, snapshot, f"{record.engine}://{target}", RestoreOptions(replay=False))
    return files_beside(target)
