"""How one moment of a FAISS index and its sidecar is shown as rows, artifacts and answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.faiss import describe, exact, repeats, vectors
from strongroom.engines.faiss.headers import METRICS, Truncated, UnknownFormat, parse
from strongroom.engines.faiss.held import Held, OpenFile, hold
from strongroom.engines.faiss.join import IdSource, Join, columns_in_order, join
from strongroom.engines.faiss.layout import Layout, Span
from strongroom.engines.faiss.library import Found
from strongroom.engines.faiss.order import Order, order_of
from strongroom.engines.faiss.place import SUFFIXES
from strongroom.engines.faiss.sidecar import read_sidecar
from strongroom.engines.isolation import Descriptor, call
from strongroom.engines.regions import by_content
from strongroom.errors import EngineFailed, NotFound, StrongroomError, Unreadable
from strongroom.model import ROLE, Answers, Cut, Description, Position, Region, Role, RowBlock
from strongroom.progress import Progress

_LIBRARY = "strongroom.engines.faiss.library"


@dataclass(frozen=True, slots=True)
class FileArtifact:
    """A held file as an artifact. FAISS and its users rewrite files under their names, so none is immutable."""

    file: OpenFile
    layout: Layout | None
    collection: str
    repeated: tuple[OpenFile, Span] | None = None  # the index, and where its vectors lie, if a sidecar repeats them in order
    immutable: bool = False

    @property
    def path(self) -> str:
        return self.file.path.name

    @property
    def size(self) -> int:
        return self.file.size

    @property
    def cut(self) -> Cut:
        return Cut.CONTENT if self.layout is None else Cut.FORMAT

    def regions(self) -> Iterable[Region]:
        """By the layout of the index if it is known; a sidecar by what of it is the index's vectors; all else by content."""
        if self.layout is not None:
            return self.layout.regions()
        if self.repeated is not None:
            return repeats.regions(self.file, *self.repeated)
        return by_content(self.read, self.size)

    def read(self, offset: int, length: int) -> bytes:
        return self.file.read(offset, length)


class FaissFrozen:
    """One moment of an index and its sidecar."""

    search_disturbs = False

    def __init__(self, held: Held, name: str, engine_version: str) -> None:
        """Reads headers, ids and the sidecar. Raises Unreadable, or SourceChanged if index and sidecar don't fit together."""
        self._held = held
        self._layout, self._order = _understood(held.index)
        found = [read_sidecar(file) for file in held.sidecars]
        self._join = join(
            found[0] if found else None,
            self._order,
            self._layout.dimension,
            lambda rows: vectors.fetch(held.index, self._layout, rows),
        )
        self._sidecars = tuple(found)
        self.schema = _schema(self._layout, self._join)
        self.description: Description = describe.description(
            name, held, self._layout, self._order, self._join, self._sidecars, self.schema, engine_version
        )

    @property
    def rows_in_artifacts(self) -> bool:
        """Lossy codes are the rows: what they decode to is many times their size, and can be had from them at any time."""
        return not self._layout.exact

    @property
    def position(self) -> Position:
        """Stamp, size and inode of the index file, and of the sidecars."""
        files = (self._held.index, *self._held.sidecars)
        stamps = (f"{f.status.st_mtime_ns}-{f.status.st_size}-{f.status.st_ino}" for f in files)
        return Position("file", "+".join(stamps))

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """Every vector with its id and the sidecar's columns, in the order of the index file."""
        self._known(collection)
        named = self._join.ids is IdSource.SIDECAR
        fetched = pa.schema([field for field in self.schema if field.name != "vector" and (named or field.name != "id")])
        columns = columns_in_order(self._join, fetched) if len(fetched) else None
        start = 0
        for block in vectors.blocks(self._held.index, self._layout):
            beside = list(columns(len(block))) if columns else []
            ids = beside.pop(0) if named else pa.array(self._int_ids(start, len(block)))
            yield RowBlock(pa.RecordBatch.from_arrays([ids, block, *beside], schema=self.schema))
            start += len(block)

    def _int_ids(self, start: int, count: int) -> npt.NDArray[np.int64]:
        if self._join.ids is IdSource.INDEX:
            return self._order.ids_of(start, count)
        if self._order.ids is not None and self._order.labels is not None:
            return self._order.labels_of(start, count)
        return np.arange(start, start + count, dtype=np.int64)

    def artifacts(self) -> Sequence[FileArtifact]:
        name = self.description.collections[0].name
        known = self._layout if self._layout.spans or not self._layout.count else None
        vectors = self._layout.vectors if self._layout.exact and self._join.repeated and self._join.records is None else None
        repeated = None if vectors is None else (self._held.index, vectors)
        sidecars = (FileArtifact(file, None, name, repeated) for file in self._held.sidecars)
        return (FileArtifact(self._held.index, known, name), *sidecars)

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What the index answers, with the ids that the rows have; exact search for vectors that lie in the sidecar."""
        self._known(collection)
        known = [one.name for one in self.description.collections[0].fields]
        if field not in known or queries.shape[1:] != (self._layout.dimension,):
            hint = f"its fields are {', '.join(known)}, of dimension {self._layout.dimension}"
            raise NotFound(f"{collection} has no field {field!r} for queries of shape {queries.shape}", hint=hint)
        if field != "vector":
            batches = (block.batch for block in self.rows(collection))
            return exact.search(batches, field, self._layout.metric, queries, k)
        labels, ids, distances = call(f"{_LIBRARY}:search", Descriptor(self._held.index.descriptor), queries, k)
        found = [labels[i] >= 0 for i in range(len(labels))]
        named = self._named(labels, ids)
        return Answers(
            tuple(tuple(named[i][j] for j in np.flatnonzero(found[i])) for i in range(len(labels))),
            tuple(distances[i][found[i]] for i in range(len(labels))),
        )

    def _named(self, labels: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]) -> list[list[int | str]]:
        """Each label's id as the rows have it."""
        if self._join.ids is not IdSource.SIDECAR:
            return (labels if self._join.ids is IdSource.POSITION else ids).tolist()  # type: ignore[no-any-return]
        assert self._join.sidecar is not None  # noqa: S101 - it gives the ids
        wanted = np.unique(labels[labels >= 0])
        names: dict[int, int | str] = {-1: -1}
        done = 0
        for batch in self._join.sidecar.batches(["id"], 65_536):
            here = wanted[np.searchsorted(wanted, done) : np.searchsorted(wanted, done + batch.num_rows)]
            names.update(zip(here.tolist(), batch.column(0).take(pa.array(here - done)).to_pylist(), strict=True))
            done += batch.num_rows
        return [[names[label] for label in row] for row in labels.tolist()]

    def repeatable(self, collection: str) -> bool:
        """An index file always answers the same."""
        return True

    def check(self) -> None:
        self._held.check()

    def _known(self, collection: str) -> None:
        if collection != self.description.collections[0].name:
            raise NotFound(f"there is no collection {collection!r}", hint=f"it is {self.description.collections[0].name!r}")


@dataclass(frozen=True, slots=True)
class FaissSource:
    """An index file, and the sidecar of its stem if there is one."""

    path: Path
    engine_version: str
    name: str | None = None  # of the collection, if not the file's stem

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[FaissFrozen]:
        """Hold the files open until the end: whoever saves atomically, by rename, or deletes them doesn't disturb us."""
        with hold(self.path, tuple(self.path.with_suffix(suffix) for suffix in SUFFIXES)) as held:
            progress.begin("open", held.index.size, "bytes")
            try:
                frozen = FaissFrozen(held, self.name or self.path.stem, self.engine_version)
            except StrongroomError:
                held.check()  # half a write looks like damage: say what it was
                raise
            yield frozen


def _understood(file: OpenFile) -> tuple[Layout, Order]:
    try:
        layout = parse(file.read, file.size)
        order = order_of(layout, file.read)
    except UnknownFormat as error:
        return _by_library(file, str(error))
    except (Truncated, IndexError) as error:
        raise Unreadable(
            f"{file.path} is not a whole FAISS index: {error}",
            hint="the file is damaged or was saved only in part; restore it from an earlier snapshot",
        ) from error
    return layout, order


def _by_library(file: OpenFile, code: str) -> tuple[Layout, Order]:
    """What FAISS itself says about a file that only it can read: its bytes are kept as they are."""
    if file.size < 4 or code.startswith("IB"):
        problem = "is a binary FAISS index, which isn't supported" if code.startswith("IB") else "is not a FAISS index"
        raise Unreadable(f"{file.path} {problem}", hint="name a file that faiss.read_index opens")
    try:
        found: Found = call(f"{_LIBRARY}:inspect", Descriptor(file.descriptor))
    except (EngineFailed, Unreadable) as error:
        hint = error.hint or "check the path; if the file is damaged restore it from an earlier snapshot"
        raise Unreadable(f"{file.path}: {error}", hint=hint) from error
    index = {"kind": found.kind, "ntotal": found.count, "metric_type": found.metric, "exact": found.exact}
    layout = Layout(file.size, found.dimension, found.count, METRICS.get(found.metric, f"metric_{found.metric}"), index)
    return layout, Order(found.count, found.labels, found.ids)


def _schema(layout: Layout, plan: Join) -> pa.Schema:
    kind = pa.int64()
    if plan.ids is IdSource.SIDECAR and plan.sidecar is not None:
        kind = plan.sidecar.schema.field("id").type
    fields = [
        pa.field("id", kind, nullable=False, metadata={ROLE: Role.ID.encode()}),
        pa.field("vector", vectors.vector_type(layout.dimension), metadata={ROLE: Role.VECTOR.encode()}),
    ]
    for name, shown in plan.columns.items():
        assert plan.sidecar is not None  # noqa: S101 - it gives the columns
        field = plan.sidecar.schema.field(name).with_name(shown)
        if name in plan.vectors:
            field = pa.field(shown, vectors.vector_type(layout.dimension), metadata={ROLE: Role.VECTOR.encode()})
        elif name == "id":
            field = field.with_metadata({ROLE: Role.COLUMN.encode()})
        fields.append(field)
    return pa.schema(fields)
