"""How a LanceDB directory is read at one moment: every table at the version that was current when it was pinned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines import isolation
from strongroom.engines.lancedb import describe, feed, fragments
from strongroom.engines.lancedb.columns import (
    POSITION,
    has_blob_files,
    has_blobs,
    id_column,
    row_schema,
    vector_bytes,
    vector_dtype,
)
from strongroom.engines.lancedb.feed import KIND
from strongroom.engines.lancedb.library import Dataset, failing_as, lance, open_table
from strongroom.engines.lancedb.manifest import mark_of
from strongroom.engines.lancedb.pins import Pin, sweep
from strongroom.engines.lancedb.regions import regions
from strongroom.engines.lancedb.versions import SUFFIX, PinnedTable, manifests, pin_table
from strongroom.engines.protocol import BLOCK_BYTES, Feed, rows_per_block
from strongroom.errors import NotFound, SourceChanged, Unreadable
from strongroom.model import Answers, Collection, Cut, Description, Position, Region, RowBlock, Stretch
from strongroom.progress import Progress

_IMMUTABLE = ("data", "_deletions", "_indices", "_transactions")
"""What Lance names by a uuid or a random number, and so never writes twice under one name."""

_READ_AHEAD_BYTES = 4 * BLOCK_BYTES
"""How much Lance may read ahead of who consumes the rows, one batch at a time; its own 2 GiB would be memory that nobody asked for
(3 GB of rows: 689 MB resident by Lance's defaults, 421 MB so, in the same time)."""


_MOST_OPEN = 256
"""Tables that are open at the same time: each takes 20 KB, and there may be 10,000."""


@dataclass(frozen=True, slots=True)
class LanceFile:
    """A file of a pinned table."""

    collection: str
    path: str
    size: int
    immutable: bool
    file: Path

    @property
    def cut(self) -> Cut:
        return Cut.FORMAT if self._is_lance else Cut.BLOCKS

    @property
    def _is_lance(self) -> bool:
        return self.file.suffix in (SUFFIX, ".idx")

    def regions(self) -> Iterator[Region]:
        """Float vectors apart from the rest: see `regions`."""
        return regions(self.file, self.size, lance_file=self._is_lance)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises SourceChanged if the file is gone or shorter than it was."""
        try:
            with self.file.open("rb") as file:
                file.seek(offset)
                content = file.read(length)
        except FileNotFoundError as error:
            raise SourceChanged(f"{self.path} vanished during the backup") from error
        except OSError as error:
            raise Unreadable(f"{self.path} can't be read: {error.strerror}") from error
        if len(content) != length:
            raise SourceChanged(f"{self.path} became shorter during the backup")
        return content


class FrozenLance:
    """The tables of a LanceDB directory, each at its pinned version. All that is read here is read from the pin."""

    rows_in_artifacts = True
    search_disturbs = False

    def __init__(self, source: Path, pin: Pin, tables: Sequence[PinnedTable], empty: Sequence[str]) -> None:
        self._pin = pin
        self._tables = {table.name: table for table in tables}
        self._opened = _opener(self._tables)
        self._ids: dict[str, str | None] = {}
        self._marks = {table.name: _mark(table) for table in tables}
        collections, blobs = [], set[str]()
        for table in tables:
            with self._reading(table.name):
                data = self._opened(table.name)
                self._ids[table.name] = id_column(data)
                collections.append(describe.collection(table, data, self._ids[table.name]))
                if has_blob_files(data.schema):
                    blobs.add(table.name)
        self.description = Description(
            engine="lancedb",
            engine_version=str(lance().__version__),
            collections=tuple(collections),
            catalog={"pinned_by": "hard links" if pin.holds else "names only"},
            ledger=tuple(describe.ledger(source, tables, blobs, empty)),
        )

    @property
    def position(self) -> Position:
        """The version of each table, with a hash of its manifest (a table may be dropped and made again): the marks of `feed`."""
        return Position(KIND, json.dumps(self._marks, sort_keys=True, separators=(",", ":")))

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """The rows of a table by fragment and place in it, deleted ones left out. Raises SourceChanged, Unreadable."""
        return self._scan(collection, None)

    def unchanged(self, collection: str, then: Collection, since: Position) -> Sequence[Stretch]:
        """The rows of fragments that are the same: see `fragments`."""
        return tuple(fragments.unchanged(self.description.collection(collection), then))

    def other_rows(self, collection: str, stretches: Sequence[Stretch]) -> Iterator[RowBlock]:
        """The rows of the fragments that the stretches leave out. Raises SourceChanged, Unreadable."""
        with self._reading(collection):
            runs = list(fragments.others(self._table(collection), self.description.collection(collection), stretches))
        for run in runs:
            yield from self._scan(collection, run)

    def _scan(self, collection: str, chosen: list[fragments.Fragment] | None) -> Iterator[RowBlock]:
        data, identifier = self._table(collection), self._ids[collection]
        schema = row_schema(data.schema, identifier)
        with self._reading(collection):
            scanner = data.scanner(  # not `to_batches`, which forgets `fragments`
                batch_size=rows_per_block(_row_bytes(data)),
                fragments=chosen,
                scan_in_order=True,
                io_buffer_size=_READ_AHEAD_BYTES,
                batch_readahead=1,
                fragment_readahead=1,
                strict_batch_size=True,
                with_row_id=identifier is None,
                blob_handling="all_binary" if has_blobs(data.schema) else None,
            )
            for batch in scanner.to_batches():
                yield RowBlock(_with_roles(batch, schema))

    def artifacts(self) -> Sequence[LanceFile]:
        """Data, deletions, indices, transactions, tags, hint and manifests of one table after the other."""
        return [_file(table, path) for table in self._tables.values() for path in table.files]

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What the table's index answers with Lance's defaults, in a child process; ids of equal distance in their own order."""
        data, table = self._table(collection), self._tables[collection]
        if data.schema.get_field_index(field) < 0:
            raise NotFound(f"table {collection} has no column {field!r}")
        arguments = (str(table.directory), table.version, field, queries, k, self._ids[collection])
        answers: Answers = isolation.ask("strongroom.engines.lancedb.search:nearest", *arguments)
        return answers

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """A version's files never change, and a manifest names its own transaction. Tags and configuration are in the catalog."""
        return position == self.position

    def as_at(self, position: Position) -> Set[str]:
        """See `protocol.MarksCollections`."""
        marks = json.loads(position.value) if position.kind == KIND else {}
        return {name for name, mark in self._marks.items() if marks.get(name) == mark}

    def repeatable(self, collection: str) -> bool:
        """A version's files always answer the same (measured for every kind of index)."""
        return True

    def check(self) -> None:
        """Raises SourceChanged if files could not be kept and some of them are gone."""
        self._pin.check()

    def _reading(self, name: str) -> AbstractContextManager[None]:
        return failing_as(Unreadable if self._pin.holds else SourceChanged, f"table {name}")

    def _table(self, collection: str) -> Dataset:
        if collection not in self._tables:
            raise NotFound(f"there is no table {collection!r}")
        with self._reading(collection):
            return self._opened(collection)


class LanceSource:
    """A LanceDB directory, to be read."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """Only a frozen moment can tell."""
        return False

    def feed(self, holder: str, batch_key: str | None) -> AbstractContextManager[Feed]:
        """The versions of the tables, as they come. Raises NotFound."""
        return feed.following(self.directory, holder, batch_key)

    def release(self, holder: str) -> bool:
        """Hold no versions for `holder` any more. Raises NotFound or Locked."""
        return feed.release(self.directory, holder)

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[FrozenLance]:
        """All tables at the versions that are current now; nothing is written but the pin, which goes when the context ends.

        Raises NotFound if there is no such directory, Unreadable if it holds no Lance table or a damaged one.
        """
        sweep(self.directory)
        tables, empty = _tables(self.directory)
        pin = Pin(self.directory)
        try:
            progress.begin("pin tables", len(tables), "objects")
            pinned = []
            for table in tables:
                pinned.append(pin_table(table, pin))
                progress.advance(1)
            yield FrozenLance(self.directory, pin, pinned, empty)
        finally:
            pin.release()


def _tables(directory: Path) -> tuple[list[Path], list[str]]:
    """The tables of a LanceDB directory, and the names of those that have no committed version yet."""
    try:
        found = sorted(entry for entry in directory.iterdir() if entry.suffix == SUFFIX and entry.is_dir())
    except FileNotFoundError as error:
        raise NotFound(f"there is no directory {directory}") from error
    except OSError as error:
        raise Unreadable(f"{directory} can't be read: {error.strerror}") from error
    committed = {table: bool(manifests(table)) for table in found}
    tables = [table for table in found if committed[table]]
    if not tables:
        raise Unreadable(f"{directory} holds no LanceDB table", hint="a table is a folder NAME.lance with versions in it")
    return tables, [table.stem for table in found if not committed[table]]


def _mark(table: PinnedTable) -> str:
    return mark_of(table.version, (table.directory / manifests(table.directory)[table.version]).read_bytes())


def _file(table: PinnedTable, path: str) -> LanceFile:
    file = table.directory / path
    try:
        size = file.stat().st_size
    except FileNotFoundError as error:
        raise SourceChanged(f"{table.name}{SUFFIX}/{path} vanished during the backup") from error
    immutable = path.partition("/")[0] in _IMMUTABLE
    return LanceFile(table.name, f"{table.name}{SUFFIX}/{path}", size, immutable, file)


def _opener(tables: Mapping[str, PinnedTable]) -> Callable[[str], Dataset]:
    """Opens them by their names, and keeps those open that were asked for last."""

    @lru_cache(_MOST_OPEN)
    def opened(name: str) -> Dataset:
        return open_table(tables[name].directory, tables[name].version)

    return opened


def _row_bytes(data: Dataset) -> int:
    """About how many bytes a row takes: its vectors, or what its files hold for a row if that is more."""
    vectors = sum(vector_bytes(field.type) for field in data.schema if vector_dtype(field.type))
    fragments = [fragment.metadata for fragment in data.get_fragments()]
    stored = sum(file.file_size_bytes or 0 for fragment in fragments for file in fragment.files)
    return max(vectors, int(stored) // max(1, sum(int(fragment.physical_rows) for fragment in fragments)))


def _with_roles(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [batch.column("_rowid").cast(pa.int64()) if name == POSITION and name not in batch.schema.names
               else batch.column(name) for name in schema.names]  # fmt: skip
    if [column.type for column in columns] != schema.types:  # blobs come as their bytes, not as the places where they lie
        schema = pa.schema(
            [field.with_type(column.type) for field, column in zip(schema, columns, strict=True)], metadata=schema.metadata
        )
    return pa.RecordBatch.from_arrays(columns, schema=schema)
