"""How the files of an exact restore are written, and proven before they are published.

Each blob's hash is checked just before it is written. What an earlier, interrupted run wrote may be torn: that is read back.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from strongroom.codecs import strided
from strongroom.engines.protocol import Stage
from strongroom.engines.staging import start_writing, sync_directory, sync_tree
from strongroom.errors import Damaged, VerificationFailed
from strongroom.model import Bytes
from strongroom.operations.prefetch import ahead
from strongroom.operations.restore.state import RestoreState
from strongroom.progress import Progress
from strongroom.repository import Repository
from strongroom.snapshots.manifest import Part, StoredArtifact, StoredCollection, Vectors
from strongroom.snapshots.parts import ArtifactReader, holds, offsets
from strongroom.snapshots.slots import Slots

_Piece = tuple[str, int, Part]
"""Of which file, where in it, what."""

_TOGETHER, _GROUPS_AHEAD = 3, 4
"""So many parts, of 8 MiB at most, may share the reading of their vectors; so many such groups wait to be written."""

_FLUSH_BYTES = 32 << 20
_SOURCES = 4
"""Blobs that are kept for the next part: parts that copy follow their sources in order."""

_HOLE = bytes(64 << 10)
"""So many zeros at the end of a part needn't be written."""


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
        missing = []
        for artifact in artifacts:
            path = self._stage.artifact_path(artifact.path)
            there = path.exists() and path.stat().st_size == artifact.size
            if artifact.path in self._state.installed and (self._state.adopted or there):
                self._progress.advance(artifact.size)
            else:
                missing.append(artifact)
        self._write(missing)

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
                self._write([artifact])
                if not self._is_whole(artifact, path):
                    raise VerificationFailed(f"{artifact.path}: the disk gives back other bytes than were written")
            self._progress.advance(artifact.size)
        return mended

    def make_durable(self, artifacts: Sequence[StoredArtifact]) -> None:
        """Before it is noted that they are whole: what a power cut tears after that nobody reads back."""
        paths, top = [self._stage.artifact_path(artifact.path) for artifact in artifacts], self._stage.directory
        for path in paths:
            sync_tree(path)
        for folder in {parent for path in paths for parent in path.parents if parent.is_relative_to(top)}:
            sync_directory(folder)

    def _write(self, artifacts: Sequence[StoredArtifact]) -> None:
        """Write files side by side, so that vectors that several of them hold are read once."""
        with ExitStack() as stack:
            files = {one.path: _File(one, self._stage.artifact_path(one.path), stack) for one in artifacts}
            for one in artifacts:
                if not one.parts:
                    self._finish(files[one.path])
            written = functools.partial(self._write_pieces, files)
            with closing(ahead(_alike(artifacts), written, _GROUPS_AHEAD)) as groups:  # before the files that it writes to
                for path, offset, part in chain.from_iterable(groups):
                    files[path].has(offset, part)
                    self._progress.advance(part.length)
                    if not files[path].missing:
                        self._finish(files[path])

    def _write_pieces(self, files: Mapping[str, _File], pieces: Sequence[_Piece]) -> Sequence[_Piece]:
        """In a thread of its own: the system copies what is written as slowly as a core decodes it."""
        contents = self._reader.read_alike(part for _, _, part in pieces)
        for (path, offset, part), content in zip(pieces, contents, strict=True):
            files[path].write(offset, part, content)
        return pieces

    def _finish(self, file: _File) -> None:
        """All parts of a file are written."""
        artifact = file.artifact
        if file.size() != artifact.size:
            raise Damaged(f"artifact {artifact.path}", "its parts are not as long as the manifest says")
        file.close()
        self._written.add(artifact.path)
        for offset, part in offsets(artifact):
            blob = self._reader.block(part)
            if blob:
                self._places[blob] = (file.path, offset, part)
        self._state.add_installed(artifact.path)

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


def _alike(artifacts: Sequence[StoredArtifact]) -> Iterable[Sequence[_Piece]]:
    """All parts, in order; a few that refer to the same vectors come together, where the first of them does."""
    groups: list[list[_Piece]] = []
    open_groups: dict[Vectors, list[_Piece]] = {}
    for artifact in artifacts:
        for offset, part in offsets(artifact):
            group = open_groups.get(part.vectors, []) if part.vectors else []
            if not group or len(group) == _TOGETHER:
                groups.append(group := [])
                if part.vectors:
                    open_groups[part.vectors] = group
            group.append((artifact.path, offset, part))
    return groups


class _File:
    """A file that is written in any order, from when its first part comes."""

    def __init__(self, artifact: StoredArtifact, path: Path, stack: ExitStack) -> None:
        self.artifact, self.path = artifact, path
        self.missing = len(artifact.parts)
        self._stack = stack
        self._file: BinaryIO | None = None
        self._opening = threading.Lock()
        self._started = self._end = 0

    def write(self, offset: int, part: Part, content: Bytes) -> None:
        """Write a part. Any thread."""
        if len(content) != part.length:
            raise Damaged(f"artifact {self.artifact.path}", "a part of it is not as long as the manifest says")
        descriptor = self._opened().fileno()
        view = _before_hole(memoryview(content).cast("B"))
        while view:
            done = os.pwrite(descriptor, view, offset)
            view, offset = view[done:], offset + done

    def has(self, offset: int, part: Part) -> None:
        """A part was written: have the system begin to bring to the disk what follows what it was told of before."""
        descriptor = self._opened().fileno()
        self._end = max(self._end, offset + part.length)
        self.missing -= 1
        if self._end - self._started >= _FLUSH_BYTES:
            start_writing(descriptor, self._started, self._end - self._started)
            self._started = self._end

    def size(self) -> int:
        descriptor = self._opened().fileno()
        if os.fstat(descriptor).st_size < self._end:  # it ends with a hole
            os.ftruncate(descriptor, self._end)
        return os.fstat(descriptor).st_size

    def close(self) -> None:
        self._opened().close()
        self._file = None

    def _opened(self) -> BinaryIO:
        with self._opening:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._stack.enter_context(self.path.open("wb", buffering=0))
            return self._file


def _before_hole(part: memoryview) -> memoryview:
    """What must be written of a part: zeros at its end are left to be a hole of the new file, as engines leave them."""
    end = len(part)
    while end >= len(_HOLE) and part[end - len(_HOLE) : end] == _HOLE:
        end -= len(_HOLE)
    return part[:end]


def _pread(file: BinaryIO, offset: int, part: Part) -> bytes:
    return os.pread(file.fileno(), part.length, offset)
