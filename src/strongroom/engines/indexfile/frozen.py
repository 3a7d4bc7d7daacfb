"""How one moment of an index file and what lies beside it is shown as rows, artifacts and answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.indexfile import array, describe, exact, repeats
from strongroom.engines.indexfile.content import Content, Matrix, vector_type
from strongroom.engines.indexfile.held import Held, OpenFile
from strongroom.engines.indexfile.join import IdSource, Join, columns_in_order, join
from strongroom.engines.indexfile.order import Order
from strongroom.engines.indexfile.place import SUFFIXES
from strongroom.engines.indexfile.position import position_of
from strongroom.engines.indexfile.sidecar import read_sidecar
from strongroom.engines.protocol import Artifact
from strongroom.engines.regions import by_content
from strongroom.errors import NotFound
from strongroom.model import ROLE, Answers, Cut, Description, Position, Region, Role, RowBlock


@dataclass(frozen=True, slots=True)
class FileArtifact:
    """A held file as an artifact. Index libraries and their users rewrite files under their names, so none is immutable."""

    file: OpenFile
    collection: str
    known: Content | None = None  # the index, if this is its file
    vectors: Matrix | None = None  # the rows' vectors, if parts of this file may be theirs
    immutable: bool = False

    @property
    def path(self) -> str:
        return self.file.path.name

    @property
    def size(self) -> int:
        return self.file.size

    @property
    def cut(self) -> Cut:
        return Cut.CONTENT if self._by_format() is None else Cut.FORMAT

    def regions(self) -> Iterable[Region]:
        """By the layout of the index if it is known; of a file beside it by what are the index's vectors; all else by content."""
        found = self._by_format()
        if found is not None:
            return found
        return repeats.regions(self.file, self.vectors) if self.known is None and self.vectors else by_content(self.read, self.size)

    def _by_format(self) -> Iterable[Region] | None:
        if self.known is not None:
            return self.known.regions()
        return array.regions(self.file, self.vectors) if self.file.path.suffix == ".npy" else None

    def read(self, offset: int, length: int) -> bytes:
        return self.file.read(offset, length)


class IndexFrozen:
    """One moment of an index and what lies beside it."""

    search_disturbs = False

    def __init__(self, held: Held, name: str, engine: str, engine_version: str, content: Content) -> None:
        """Reads the sidecar. Raises Unreadable, or SourceChanged if index and sidecar don't fit together."""
        self._held = held
        self._content = content
        found = [read_sidecar(file) for file in held.sidecars]
        self._join = join(found[0] if found else None, content.order, content.dimension, content.fetch)
        self.schema = _schema(content, self._join)
        self.description: Description = describe.description(engine, engine_version, name, held, content, self._join, found)

    @property
    def rows_in_artifacts(self) -> bool:
        """Lossy codes are the rows: what they decode to is many times their size, and can be had from them at any time."""
        return self._content.opaque

    @property
    def position(self) -> Position:
        """The mark of a captured index; else stamps, size and inode of the index file, and of those beside it."""
        return position_of(self._held)

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """The source was asked already."""
        return False

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """Every vector with its id and the sidecar's columns, in the order of the index file."""
        self._known(collection)
        order = self._content.order
        named = self._join.ids is IdSource.SIDECAR
        fetched = pa.schema([field for field in self.schema if field.name != "vector" and (named or field.name != "id")])
        columns = columns_in_order(self._join, fetched) if len(fetched) else None
        start = 0
        for block in self._content.blocks():
            count = len(block.vectors)
            beside = list(columns(count)) if columns else []
            ids = beside.pop(0) if named else self._own_ids(start, count)
            dead = None if order.dead is None else order.dead[start : start + count]
            batch = pa.RecordBatch.from_arrays([ids, block.vectors, *beside], schema=self.schema)
            yield RowBlock(batch, dead, block.records)
            start += count

    def _own_ids(self, start: int, count: int) -> pa.Array:
        order = self._content.order
        if self._join.ids is IdSource.INDEX:
            ids = order.ids_of(start, count)
            return pa.array(ids.view(np.uint64)).cast(pa.string()) if order.unsigned else pa.array(ids)
        if order.ids is not None and order.labels is not None:
            return pa.array(order.labels_of(start, count))
        return pa.array(np.arange(start, start + count, dtype=np.int64))

    def artifacts(self) -> Sequence[Artifact]:
        name = self.description.collections[0].name
        repeated = self._content.matrix if self._join.repeated and in_order(self._join, self._content.order) else None
        found = [FileArtifact(self._held.index, name, self._content)]
        for file in self._held.beside:
            found.append(FileArtifact(file, name, None, repeated if file.path.suffix in SUFFIXES else self._content.matrix))
        return found

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What the index answers, with the ids that the rows have; exact search for vectors that lie in the sidecar."""
        self._known(collection)
        known = [one.name for one in self.description.collections[0].fields]
        if field not in known or queries.shape[1:] != (self._content.dimension,):
            hint = f"its fields are {', '.join(known)}, of dimension {self._content.dimension}"
            raise NotFound(f"{collection} has no field {field!r} for queries of shape {queries.shape}", hint=hint)
        if field != "vector":
            batches = (block.live() for block in self.rows(collection))
            return exact.search(batches, field, self._content.metric, queries, k)
        labels, ids, distances = self._content.search(queries, k)
        found = ~np.isnan(distances) if self._content.order.unsigned else labels >= 0
        named = self._named(labels, ids)
        return Answers(
            tuple(tuple(named[i][j] for j in np.flatnonzero(found[i])) for i in range(len(labels))),
            tuple(distances[i][found[i]] for i in range(len(labels))),
        )

    def _named(self, labels: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]) -> list[list[int | str]]:
        """Each label's id as the rows have it."""
        if self._join.ids is IdSource.INDEX and self._content.order.unsigned:
            return [[str(one) for one in row] for row in ids.view(np.uint64).tolist()]
        if self._join.ids is not IdSource.SIDECAR:
            return (labels if self._join.ids is IdSource.POSITION else ids).tolist()  # type: ignore[no-any-return]
        assert self._join.sidecar is not None  # noqa: S101 - it gives the ids
        wanted = np.unique(labels[labels >= 0])
        names: dict[int, int | str] = {-1: -1}
        done = 0
        for batch in self._join.sidecar.batches(["id"], 65_536):
            here = wanted[np.searchsorted(wanted, done) : np.searchsorted(wanted, done + batch.num_rows)]
            found = batch.column(0).take(pa.array(here - done)).cast(self.schema.field("id").type)
            names.update(zip(here.tolist(), found.to_pylist(), strict=True))
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


def in_order(plan: Join, order: Order) -> bool:
    """Do the sidecar's records come in the order of the slots?"""
    if plan.records is None:
        return True
    live = plan.records >= 0 if order.dead is None else ~order.dead
    return bool((np.diff(plan.records[live]) > 0).all())


def _schema(content: Content, plan: Join) -> pa.Schema:
    kind = pa.string() if content.order.unsigned and plan.ids is IdSource.INDEX else pa.int64()
    if plan.ids is IdSource.SIDECAR and plan.sidecar is not None:
        kind = plan.sidecar.schema.field("id").type
        kind = pa.string() if pa.types.is_uint64(kind) else kind
    fields = [
        pa.field("id", kind, nullable=False, metadata={ROLE: Role.ID.encode()}),
        pa.field("vector", vector_type(content.dtype, content.dimension), metadata={ROLE: Role.VECTOR.encode()}),
    ]
    for name, shown in plan.columns.items():
        assert plan.sidecar is not None  # noqa: S101 - it gives the columns
        field = plan.sidecar.schema.field(name).with_name(shown)
        if name in plan.vectors:
            field = pa.field(shown, vector_type("float32", content.dimension), metadata={ROLE: Role.VECTOR.encode()})
        elif name == "id":
            field = field.with_metadata({ROLE: Role.COLUMN.encode()})
        fields.append(field)
    return pa.schema(fields)
