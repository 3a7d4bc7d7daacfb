"""How does a data directory come to be from a snapshot? Its files as they were; PostgreSQL starts on it as after a base backup."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from strongroom.engines.changes import Change
from strongroom.engines.pgvector.physical.frozen import DirectorySource, major_of
from strongroom.engines.pgvector.physical.place import Directory
from strongroom.engines.pgvector.physical.programs import programs_of, run
from strongroom.engines.staged_directory import DirectoryStage, DirectoryTarget
from strongroom.engines.staging import sync_tree
from strongroom.errors import EngineFailed, Refused, VerificationFailed, WrongRequest
from strongroom.model import Collection, Conversion, Description, Fidelity, Selection, Until

_NO_ROWS = "rows can't be loaded into a data directory: it is made of a cluster's own files, by a server of the same major version"


class ClusterTarget(DirectoryTarget):
    """A data directory to be written."""

    holds_one = False

    def __init__(self, place: Directory) -> None:
        super().__init__(place.path)
        self._directory = place

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """Only files make a cluster."""
        return [_NO_ROWS]

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return []

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        return ()

    def fidelity(self, collection: Collection) -> Fidelity:
        return Fidelity.KEPT

    def stage(self, token: str, selection: Selection) -> ClusterStage:
        """Open or re-open the stage of `token` beside the directory. Raises Locked, or WrongRequest if not all is wanted."""
        if selection.renames or set(selection.collections) - set(self._directory.only):
            raise WrongRequest(
                "a cluster comes back whole, all databases under their own names",
                hint="leave --collection and --rename out, or restore to pgvector://HOST/DATABASE, which takes single tables",
            )
        return ClusterStage(self._directory, token)


class ClusterStage(DirectoryStage):
    """A data directory under construction."""

    def __init__(self, place: Directory, token: str) -> None:
        super().__init__(place.path, token)
        self._only = place.only
        self._root.mkdir(mode=0o700, exist_ok=True)

    def adopt(self, description: Description, selection: Selection) -> None:
        """Make folders that have no file, shut others out, and have pg_verifybackup look at it. Raises VerificationFailed."""
        for folder in description.catalog["folders"]:
            self.artifact_path(f"{folder}/x")
        for folder, folders, files in os.walk(self._root):
            for name in folders:
                (Path(folder) / name).chmod(0o700)
            for name in files:
                (Path(folder) / name).chmod(0o600)
        self._root.chmod(0o700)
        program = programs_of(major_of(self._root)).path("pg_verifybackup")
        if program is not None:
            try:
                run(program, "--quiet", str(self._root))
            except EngineFailed as error:
                raise VerificationFailed(f"pg_verifybackup: {error}") from error

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Never. Raises EngineFailed."""
        raise EngineFailed(_NO_ROWS)

    def recover(self, description: Description, log: Iterable[Change], until: Until) -> str:
        """See `recovery`."""
        from strongroom.engines.pgvector.physical.recovery import prepare

        return prepare(self._root, description.catalog, log, until)

    def seal(self) -> None:
        """Make everything durable."""
        sync_tree(self._root)

    def publish(self, receipt: bytes, *, overwrite: bool) -> None:
        """As that of other directories. Raises Refused if a server runs on the old one."""
        if (self._target / "postmaster.pid").exists():
            raise Refused(f"a server runs on {self._target}, or was killed on it", hint="stop it, or restore to another place")
        super().publish(receipt, overwrite=overwrite)

    def source(self) -> DirectorySource:
        """The staged directory, to be read."""
        return DirectorySource(Directory(self._root, self._only))
