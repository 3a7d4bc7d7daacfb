"""How is a DuckDB database read at one moment? From a private copy, by DuckDB itself in child processes, for reading only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines import isolation
from strongroom.engines.copied_file import CopiedFile, CopyFrozen, copied, require, stamps_of
from strongroom.engines.duckdb import catalog, moment
from strongroom.engines.duckdb.catalog import Catalog
from strongroom.engines.duckdb.definition import Table
from strongroom.engines.duckdb.streaming import streamed
from strongroom.engines.indexfile.held import unchanged_since
from strongroom.engines.protocol import rows_per_block
from strongroom.engines.regions import fixed_blocks
from strongroom.engines.staged_file import FILE
from strongroom.errors import EngineFailed, Unreadable
from strongroom.model import ROLE, Answers, Cut, Description, Position, Region, RowBlock
from strongroom.progress import Progress

_CAPTURE = "strongroom.engines.duckdb.moment:capture"
_LIBRARY = "strongroom.engines.duckdb.library"
_HEADERS = 3 << 12
"""After that come the file's blocks, of 256 KiB unless somebody chose otherwise."""
_BLOCK = 1 << 20


class DuckSource:
    """A database file. Of one that is `still`, which nobody else writes, no copy is made."""

    def __init__(self, path: Path, *, still: bool = False) -> None:
        self._path = path
        self._still = still

    def unchanged_since(self, position: Position, moment_: float) -> bool:
        """By the stamps of the file and of what lies beside it."""
        return unchanged_since(self._path, moment.beside(self._path), position, moment_)

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[DuckFrozen]:
        """A consistent view. Takes the room of a copy where the file system has no reflinks. Raises NotFound, Unreadable, Locked (a
        process has it open for writing) or SourceChanged."""
        require(self._path)
        if self._still:
            with closing(DuckFrozen(self._path, self, stamps_of(self._path, moment.beside(self._path)))) as frozen:
                yield frozen
            return
        with copied(self._path, _CAPTURE, progress) as (copy, position), closing(DuckFrozen(copy, self, position)) as frozen:
            yield frozen


class DuckFrozen(CopyFrozen):
    """One moment of a database, in files that nobody changes."""

    def __init__(self, copy: Path, source: DuckSource, position: Position) -> None:
        self._catalog = _catalog_of(copy)
        paths = (copy, *moment.beside(copy))
        files = [CopiedFile(path, FILE + path.name.removeprefix(copy.name), Cut.BLOCKS, _regions) for path in paths]
        super().__init__(copy, source, position, files)
        self.description = Description("duckdb", _installed(), self._catalog.collections(), {}, self._catalog.ledger())

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """As they lie in the table."""
        table = self._catalog.table(collection)
        names = [name for name, _ in table.roles()]
        arguments = str(self._copy), (table.schema, table.table), list(table.expressions()), names, rows_per_block(table.row_bytes)
        for batch in streamed(f"{_LIBRARY}:rows", *arguments):
            yield RowBlock(_with_roles(table, batch))

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What DuckDB answers, in a child process: by the index, or looking at every vector where there is none."""
        table = self._catalog.table(collection)
        known = next(one for one in table.fields() if one.name == field)
        place = table.schema, table.table
        arguments = str(self._copy), place, table.id_expression(), field, known.metric, bool(known.index), queries, k
        ids, distances = isolation.ask(f"{_LIBRARY}:search", *arguments)
        return Answers(tuple(map(tuple, ids)), tuple(distances))


def _catalog_of(copy: Path) -> Catalog:
    try:
        listed = isolation.call(f"{_LIBRARY}:listed", str(copy))
        drafts = catalog.drafted(listed)
        asked = {one.name: ((one.schema, one.table), catalog.candidates(one), catalog.numbered(one)) for one in drafts}
        looked = isolation.call(f"{_LIBRARY}:looked_into", str(copy), asked) if asked else {}
    except EngineFailed as error:
        hint = "check that this release of DuckDB opens it; if it is damaged restore it from an earlier snapshot"
        raise Unreadable(f"DuckDB can't read it: {error}", hint=hint) from error
    return catalog.completed(listed, drafts, looked)


def _with_roles(table: Table, batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch whose columns say what they mean."""
    columns, fields = [], []
    dimensions = {one.name: one.dimension for one in table.stored}
    for (name, role), column in zip(table.roles(), batch.columns, strict=True):
        vector = column.cast(pa.list_(pa.float32(), dimensions[name])) if dimensions.get(name) else column
        columns.append(vector)
        fields.append(pa.field(name, vector.type, nullable=name != table.id.name, metadata={ROLE: role.encode()}))
    return pa.record_batch(columns, schema=pa.schema(fields))


def _regions(file: CopiedFile) -> Iterable[Region]:
    """Vectors lie there compressed, or between checksums: they are not found again."""
    head = min(file.size, _HEADERS)
    yield from fixed_blocks("head", 0, head)
    yield from fixed_blocks("block", head, file.size, _BLOCK)


def _installed() -> str:
    try:
        return version("duckdb")
    except PackageNotFoundError:
        return "unknown"
