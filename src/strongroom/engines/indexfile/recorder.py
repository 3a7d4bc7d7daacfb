"""How are the operations on a live index recorded, whatever dies in between?

Whoever changes the index applies the change first and records its effect then: the log says what was applied. An operation that
was applied and not recorded went with the memory of the process that died; nobody was told that it was done.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from strongroom.engines.indexfile.live import Live, Vectors
from strongroom.engines.indexfile.logfolder import IndexLogFolder
from strongroom.engines.indexfile.rowlog import Ids, append_rows
from strongroom.engines.oplog.layout import Kind
from strongroom.engines.oplog.recording import Recording
from strongroom.engines.oplog.writer import OplogWriter
from strongroom.engines.staging import sync_directory
from strongroom.errors import from_os_error
from strongroom.model import Json


class Recorder(Recording):
    """Records what is done to one live index."""

    again = "capture the index again with anew=True: it is saved, and another log begins"

    def __init__(self, folder: IndexLogFolder, writer: OplogWriter, live: Live, every: float, lock_file: int) -> None:
        self._live = live
        self._count = live.count()
        self._index = folder
        super().__init__(folder, writer, every, lock_file)

    def require_sound(self) -> None:
        if self._live.count() != self._count and not self._problem:
            self._problem = f"{self._folder.of} was changed past its capture: {self._live.count():,} rows, not {self._count:,}"
        if self._problem:
            super().require_sound()

    def put(self, ids: Ids, vectors: Vectors, count: int | None = None) -> None:
        """These rows are what they are now; `count` is how many there must be, if that is known. Called inside."""
        self._rows(Kind.PUT, ids, vectors, self._live.count() if count is None else count)

    def delete(self, ids: Ids) -> None:
        """These rows are gone. Called inside."""
        self._rows(Kind.DELETE, ids, None, self._live.count())

    def parameters(self, said: Mapping[str, Json]) -> None:
        """From here on the index is searched so. Called inside."""
        self._count = self._live.count()
        self._append(Kind.PARAMETERS, 1, [bytes(8)], json.dumps(dict(said)).encode())

    @property
    def count(self) -> int:
        """How many rows there were after what was recorded last: after `require_sound`, how many there are."""
        return self._count

    def unknown_unless_unchanged(self, what: str) -> None:
        """A call failed, and changed nothing if there are as many rows as before."""
        if self._live.count() != self._count:
            self.unknown(what)

    def save(self) -> None:
        """Replace the index file, all or nothing; its mark is known before. Then what only the old one needed is dropped."""
        with self:
            self.require_sound()
            self.flush()
            index = self._index.index
            try:
                fresh = fresh_path(index)
                save_beside(index, fresh, self._live)
                name_saved(self._index, self._live, fresh, self._writer.end.mark)
            except OSError as error:
                raise from_os_error(error, str(index)) from error
            self._rotate()

    def _rows(self, kind: Kind, ids: Ids, vectors: Vectors | None, count: int) -> None:
        self._count = count
        try:
            append_rows(self._writer, kind, ids, vectors, self.tag)
        except BaseException as error:
            self._not_recorded(error)
            raise


def fresh_path(index: Path) -> Path:
    """Where an index is written before it gets its name."""
    return index.with_name(f".{index.name}.capturing")


def save_beside(index: Path, fresh: Path, live: Live) -> None:
    """Write the index to `fresh`, which nobody may read who may not read `index`."""
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if index.exists() else 0o666))
    live.save(str(fresh))


def name_saved(folder: IndexLogFolder, live: Live, fresh: Path, mark: str) -> None:
    """Give a file that was just written the index's name, once it is durable and known to hold what came up to `mark`."""
    index = folder.index
    with suppress(FileNotFoundError):
        shutil.copymode(index, fresh)
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        folder.remember_saved(os.fstat(descriptor), mark)
    finally:
        os.close(descriptor)
    live.accompany(index)
    os.replace(fresh, index)
    sync_directory(index.parent)
