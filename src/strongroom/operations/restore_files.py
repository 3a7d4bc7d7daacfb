"""How the files of an exact restore are written, and proven before they are published.

Each blob's hash is checked just before it is written. What an earlier, interrupted run wrote may be torn: that is read back.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from strongroom.codecs import strided
from strongroom.engines.protocol import Stage
from strongroom.engines.staging import start_writing
from strongroom.errors import Damaged, VerificationFailed
from strongroom.model import Bytes
from strongroom.operations.prefetch import ahead
from strongroom.operations.restore_state import RestoreState
from strongroom.progress import Progress
from strongroom.repository import Repository
from strongroom.snapshots.manifest import Part, StoredArtifact, StoredCollection
from strongroom.snapshots.parts import ArtifactReader, holds, offsets
from strongroom.snapshots.slots import Slots

_FLUSH_BYTES = 32 << 20
_SOURCES = 4
"""Blobs that are kept for the next part: parts that copy follow their sources in order."""


class Installation:
    """Writes a snapshot's artifacts into a stage."""

    def __init__(
        self,
        repository: Repository,
        collections: Sequence[StoredCollection],
        stage: Stage,
        state: RestoreState,
        progress: Progress,
    ) -> None:
        """`collections` are all of the snapshot: files refer to their vectors."""
        self._repository = repository
        source = functools.lru_cache(_SOURCES)(self._source)
        slots = {one.name: Slots(one, self._source, stage.directory) for one in collections}
        self._reader = ArtifactReader(slots, repository.read_blob, repository.keys.identify, source)
        self._stage = stage
        self._state = state
        self._progress = progress
        self._written: set[str] = set()
        self._places: dict[str, tuple[Path, int, Part]] = {}
        """Where in the files of this run a blob's bytes lie: a file that has them again need not have them decoded again."""

    def install(self, artifacts: Sequence[StoredArtifact]) -> None:
        """Write every file that isn't there yet. Raises Damaged, naming the object that is."""
        self._progress.begin("files", sum(artifact.size for artifact in artifacts), "bytes")
        for artifact in artifacts:
            path = self._stage.artifact_path(artifact.path)
            there = path.exists() and path.stat().st_size == artifact.size
            if artifact.path in self._state.installed and (self._state.adopted or there):
                self._progress.advance(artifact.size)
            else:
                self._write(artifact, path)

    def read_back(self, artifacts: Sequence[StoredArtifact]) -> bool:
        """Read every file that an earlier run wrote, and compare it with the ids of its blobs. What a crash tore is written once
        more: then the result is True. Raises VerificationFailed."""
        mended = False
        earlier = [artifact for artifact in artifacts if artifact.path not in self._written]
        self._progress.begin("reading back", sum(artifact.size for artifact in earlier), "bytes")
        for artifact in earlier:
            path = self._stage.artifact_path(artifact.path)
            if not self._is_whole(artifact, path):
                mended = True
                self._write(artifact, path)
                if not self._is_whole(artifact, path):
                    raise VerificationFailed(f"{artifact.path}: the disk gives back other bytes than were written")
            self._progress.advance(artifact.size)
        return mended

    def _write(self, artifact: StoredArtifact, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        started = 0
        with path.open("wb") as file:
            for part, content in zip(artifact.parts, self._contents(artifact), strict=True):
                if len(content) != part.length:
                    raise Damaged(f"artifact {artifact.path}", "a part of it is not as long as the manifest says")
                file.write(content)
                if file.tell() - started >= _FLUSH_BYTES:
                    file.flush()
                    start_writing(file.fileno(), started, file.tell() - started)
                    started = file.tell()
                self._progress.advance(part.length)
        if path.stat().st_size != artifact.size:
            raise Damaged(f"artifact {artifact.path}", "its parts are not as long as the manifest says")
        self._written.add(artifact.path)
        for offset, part in offsets(artifact):
            blob = self._reader.block(part)
            if blob:
                self._places[blob] = (path, offset, part)
        self._state.add_installed(artifact.path)

    def _contents(self, artifact: StoredArtifact) -> Iterator[Bytes]:
        return ahead(artifact.parts, self._reader.read)

    def _source(self, blob_id: bytes) -> Bytes:
        """A blob of which other bytes are made. These are checked as a whole."""
        if blob_id.hex() not in self._places:
            return self._repository.read_blob(blob_id)
        path, offset, part = self._places[blob_id.hex()]
        with path.open("rb", buffering=0) as file:
            content = _pread(file, offset, part)
        if part.stride in (0, part.vector_length):
            return content
        return strided.split(content, part.stride, part.vector_offset, part.vector_length)[0]

    def _is_whole(self, artifact: StoredArtifact, path: Path) -> bool:
        def same(place: tuple[int, Part]) -> bool:
            return holds(place[1], _pread(file, *place), self._repository.keys.identify)

        with path.open("rb", buffering=0) as file:
            return os.fstat(file.fileno()).st_size == artifact.size and all(list(ahead(offsets(artifact), same)))


def _pread(file: BinaryIO, offset: int, part: Part) -> bytes:
    return os.pread(file.fileno(), part.length, offset)
