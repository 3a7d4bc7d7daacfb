"""What the live source can still give: it is backed up once more, and of that only the blobs in question are kept."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from contextlib import suppress

from strongroom.errors import StoreFull, StrongroomError, Unreachable, UnsafeStore
from strongroom.operations.backup import BackupOptions, backup
from strongroom.progress import Progress
from strongroom.repository import BlobWriter, Pack, Repository
from strongroom.repository.blob_index import BlobIndex


def refetch(repository: Repository, source: str, wanted: Collection[bytes], probes: int, progress: Progress) -> set[bytes]:
    """Store those of the wanted blobs durably that the source still gives, listed in the blob index. Gives their ids. Raises what
    `backup` raises; `probes` is as many as the snapshot has."""
    repair = _Refetching(repository, frozenset(wanted))
    with suppress(_AllWasRead):
        backup(repair, source, BackupOptions(probes=probes, reread=True), progress)
    return repair.found


def reason_of(error: StrongroomError) -> str:
    """Why a source gave nothing. What the repository's own store fails at is raised again."""
    if isinstance(error, Unreachable | StoreFull | UnsafeStore):
        raise error
    return str(error)


class _AllWasRead(Exception):
    """Instead of a snapshot, so that nothing remembers one."""


class _Refetching(Repository):
    """The repository as a backup sees it that shall store these blobs alone: it has all others, no earlier snapshot, and takes no
    new one."""

    def __init__(self, repository: Repository, wanted: frozenset[bytes]) -> None:
        super().__init__(repository.store, repository.config, repository.keys, repository.clock)
        self._wanted = wanted
        self.found: set[bytes] = set()

    def manifests(self) -> dict[str, int]:
        return {}

    def writer(self, damaged: Container[str] = ()) -> BlobWriter:
        return BlobWriter(self.store, self.keys, _AllBut(self._wanted))

    def add_index(self, packs: Sequence[Pack]) -> None:
        """Comes last before the manifest."""
        super().add_index(packs)
        self.found |= {blob.id for pack in packs for blob in pack.blobs}
        raise _AllWasRead


class _AllBut(BlobIndex):
    """Every blob lies somewhere, but those wanted."""

    def __init__(self, wanted: frozenset[bytes]) -> None:
        super().__init__()
        self._wanted = wanted

    def __contains__(self, blob_id: bytes) -> bool:
        return blob_id not in self._wanted
