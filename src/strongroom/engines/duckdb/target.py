"""How does a DuckDB database come to be from a snapshot: by its files, or by inserting rows?"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa

from strongroom.engines import isolation
from strongroom.engines.duckdb import conversion
from strongroom.engines.duckdb.definition import place_of
from strongroom.engines.duckdb.frozen import DuckSource
from strongroom.engines.duckdb.moment import SUFFIXES
from strongroom.engines.staged_file import FileStage, FileTarget
from strongroom.engines.staging import remove
from strongroom.errors import EngineFailed
from strongroom.model import Collection, Conversion, Description, Fidelity, Selection

_LIBRARY = "strongroom.engines.duckdb.library"


class DuckTarget(FileTarget):
    """The file of a database, to be written."""

    columnar = True

    whole_only = "DuckDB can't rename a table that has an index, nor drop others without a trace: the rows are loaded"

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return list(conversion.objections(collection, schema))

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return list(conversion.losses(collection, vss=_has_vss()))

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        return conversion.conversions(collection, schema, vss=_has_vss())

    def fidelity(self, collection: Collection) -> Fidelity:
        """A table holds the vectors as they are given."""
        return Fidelity.KEPT

    def stage(self, token: str, selection: Selection) -> DuckStage:
        """Open or re-open the stage of `token` beside the file. Raises Locked."""
        return DuckStage(self._path, token)


class DuckStage(FileStage):
    """A new database under construction. Every step may be repeated after a crash."""

    def __init__(self, target: Path, token: str) -> None:
        super().__init__(target, token, SUFFIXES)

    def adopt(self, description: Description, selection: Selection) -> None:
        """All of it is taken over as it is: of a part the rows are loaded."""

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Make the table, insert the rows, which are spooled to the stage first, and build its indexes. Raises EngineFailed if
        DuckDB refuses, or ends up with another number of rows."""
        stream = iter(batches)
        first = next(stream, None)
        schema = first.schema if first is not None else conversion.schema_of(collection)
        planned = conversion.conversion_of(collection, schema, vss=_has_vss())
        spool, rows = self.directory / "spool.arrow", 0
        try:
            head = pa.record_batch([pa.array([], one.type) for one in schema], schema=schema) if first is None else first
            with pa.ipc.new_stream(str(spool), planned.rows(head.slice(0, 0)).schema) as writer:
                for batch in chain([head], stream):
                    writer.write_batch(planned.rows(batch))
                    rows += batch.num_rows
            place = place_of(collection.name) or ("main", collection.name)
            loaded = isolation.ask(f"{_LIBRARY}:make", str(self._root), place, dict(planned.recipe), str(spool))
        finally:
            remove(spool)
        if loaded != rows:
            raise EngineFailed(f"table {collection.name} has {loaded} rows after {rows} were inserted")

    def seal(self) -> None:
        """Make everything durable. A snapshot without collections becomes an empty database."""
        if not self._root.exists():
            isolation.call(f"{_LIBRARY}:empty", str(self._root))
        super().seal()

    def source(self) -> DuckSource:
        """The staged database, which nobody else writes."""
        return DuckSource(self._root, still=True)


@functools.cache
def _has_vss() -> bool:
    found: bool = isolation.call(f"{_LIBRARY}:has_vss")
    return found
