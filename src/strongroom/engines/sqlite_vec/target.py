"""How does a database with vec0 tables come to be from a snapshot: by its file, or by inserting rows?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa

from strongroom.engines import isolation
from strongroom.engines.private_copy import copy_file
from strongroom.engines.sqlite_vec import conversion
from strongroom.engines.sqlite_vec.frozen import SqliteVecSource
from strongroom.engines.staged_file import FileStage, FileTarget
from strongroom.engines.staging import remove, sync_tree, write_durably
from strongroom.errors import EngineFailed, WrongRequest
from strongroom.model import Collection, Conversion, Description, Fidelity, Selection

_LIBRARY = "strongroom.engines.sqlite_vec.library"
_SUFFIXES = ("-journal", "-wal", "-shm")


class SqliteVecTarget(FileTarget):
    """The file of a database, to be written."""

    columnar = True

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return list(conversion.objections(collection, schema))

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return list(conversion.losses(collection, schema))

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        return conversion.conversions(collection, schema)

    def fidelity(self, collection: Collection) -> Fidelity:
        """A table holds the vectors as they are given."""
        return Fidelity.KEPT

    def stage(self, token: str, selection: Selection) -> SqliteVecStage:
        """Open or re-open the stage of `token` beside the file. Raises Locked."""
        return SqliteVecStage(self._path, token)


class SqliteVecStage(FileStage):
    """A new database under construction. Every step may be repeated after a crash."""

    def __init__(self, target: Path, token: str) -> None:
        super().__init__(target, token, _SUFFIXES)

    def adopt(self, description: Description, selection: Selection) -> None:
        """Drop what isn't selected, rename what is, in a copy that then takes the file's place."""
        if selection.everything:
            return
        done, copy = self.directory / "adopted", self.directory / "adopting.db"
        if not done.exists():
            wanted = {one.name: selection.target_name(one.name) for one in selection.chosen(description.collections)}
            if len(set(wanted.values())) != len(wanted):
                raise WrongRequest("two collections would get the same name", hint="give each --rename a name of its own")
            for leftover in (copy, *(copy.with_name(copy.name + suffix) for suffix in _SUFFIXES)):
                remove(leftover)
            copy_file(self._root, copy)
            isolation.call(f"{_LIBRARY}:keep", str(copy), wanted, bool(selection.collections))
            sync_tree(copy)
            write_durably(done, b"")
        if copy.exists():
            os.replace(copy, self._root)

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Make the table and insert the rows, which are spooled to the stage first: sqlite's process takes them from there. Raises
        EngineFailed if it refuses, or ends up with another number of rows."""
        stream = iter(batches)
        first = next(stream, None)
        planned = conversion.conversion_of(collection, first.schema if first is not None else None)
        spool, rows = self.directory / "spool.arrow", 0
        try:
            if first is not None:
                with pa.ipc.new_stream(str(spool), planned.rows(first.slice(0, 0)).schema) as writer:
                    for batch in chain([first], stream):
                        writer.write_batch(planned.rows(batch))
                        rows += batch.num_rows
            arguments = str(self._root), collection.name, planned.arguments, str(spool) if rows else ""
            loaded = isolation.ask(f"{_LIBRARY}:make", *arguments)
        finally:
            remove(spool)
        if loaded != rows:
            raise EngineFailed(f"table {collection.name} has {loaded} rows after {rows} were inserted")

    def seal(self) -> None:
        """Make everything durable. A snapshot without collections becomes an empty database."""
        if not self._root.exists():
            isolation.call(f"{_LIBRARY}:empty", str(self._root))
        super().seal()

    def source(self) -> SqliteVecSource:
        """The staged database, which nobody else writes."""
        return SqliteVecSource(self._root, still=True)
