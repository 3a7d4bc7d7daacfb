"""The rows of a snapshot that only the engine's own files hold: one collection after another is restored beside, to be read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from strongroom import engines
from strongroom.engines.protocol import Source
from strongroom.engines.staging import remove
from strongroom.model import Selection
from strongroom.repository import Repository
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import StoredArtifact


class Scratch:
    """A directory of the caller's, made anew for each collection, so that it holds no more than one: of 10,000 each would be looked
    at with all before it."""

    def __init__(self, repository: Repository, snapshot: Snapshot, directory: Path) -> None:
        self._repository = repository
        self._snapshot = snapshot
        self._directory = directory
        self._held: tuple[str, str] | None = None

    def source(self, name: str) -> Source:
        """The collection as it was; nothing that an earlier call gave is open. Raises what a restore raises."""
        if self._held is None or self._held[0] != name:
            self._held = None
            remove(self._directory)
            self._directory.mkdir(mode=0o700)
            self._held = name, self._restored(name)
        return engines.source_of(self._held[1])

    def _restored(self, name: str) -> str:
        from strongroom.operations.restore.run import RestoreOptions, restore_found

        url = engines.find(self._snapshot.manifest.engine).scratch(self._directory, [name])
        options = RestoreOptions(Selection((name,)), require_exact=True, overwrite=True, replay=False, erasing=False)
        restore_found(self._repository, self._only(name), url, options)
        return url

    def _only(self, name: str) -> Snapshot:
        """The snapshot as if it were of this collection alone."""
        record = self._snapshot.manifest
        chosen = tuple(one for one in record.collections if one.name == name)
        files = (*self._files[None], *self._files[name])
        return replace(self._snapshot, manifest=replace(record, collections=chosen, artifacts=files))

    @cached_property
    def _files(self) -> dict[str | None, list[StoredArtifact]]:
        found = defaultdict[str | None, list[StoredArtifact]](list)
        for artifact in self._snapshot.manifest.artifacts:
            found[artifact.collection].append(artifact)
        return found
