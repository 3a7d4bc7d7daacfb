"""What the live source can still give: rows and vectors that lie in it, and what a backup of it would store again.

It is backed up as it was backed up then, first knowing what the backup knew that made a lost blob, then knowing nothing, with the
queries of then or fresh ones; of all that only the blobs in question are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from strongroom.errors import Damaged, StoreFull, StrongroomError, Unreachable, UnsafeStore
from strongroom.model import Bytes
from strongroom.operations.backup.run import BackupOptions, backup, without_password
from strongroom.operations.repair.remaking import remake
from strongroom.progress import Progress
from strongroom.repository import BlobWriter, Pack, Repository
from strongroom.repository.blob_index import BlobIndex
from strongroom.snapshots.history import Snapshot

_MOMENTS = 4
"""So many backups of one source are made again, the newest ones."""


@dataclass
class LiveSource:
    """A source to be read again. `snapshots` are all that there are, oldest first; `probes` is how many queries are sealed in."""

    repository: Repository
    url: str
    snapshots: Sequence[Snapshot]
    probes: int
    progress: Progress
    reasons: list[str] = field(default_factory=list)

    def give(self, wanted: Collection[bytes], read_blob: Callable[[bytes], Bytes]) -> set[bytes]:
        """Store those of the wanted blobs durably that the source still gives, listed in the blob index. Gives their ids. What goes
        wrong is noted in `reasons`; raises what the repository's own store fails at. `read_blob` reads fingerprints."""
        left, found = set(wanted), set[bytes]()
        for ask in self._ways(read_blob, left):
            try:
                found |= ask(left)
            except StrongroomError as error:
                self.reasons += [reason for reason in [reason_of(error)] if reason not in self.reasons]
            left -= found
            if not left:
                break
        return found

    def _ways(
        self, read_blob: Callable[[bytes], Bytes], wanted: Collection[bytes]
    ) -> Iterator[Callable[[Collection[bytes]], set[bytes]]]:
        yield lambda left: remake(self.repository, self.url, self.snapshots, left, read_blob, self.progress)
        sealed = {bytes.fromhex(one.blob) for of in self.snapshots for c in of.manifest.collections for one in c.probes}
        fresh = BackupOptions(probes=self.probes, reread=True)
        for known in self._moments(frozenset(wanted)):
            if known and not sealed.isdisjoint(wanted):  # queries may have gone on from those of the snapshot before
                yield lambda left, known=known: self._back_up(left, known, BackupOptions())  # type: ignore[misc]
            yield lambda left, known=known: self._back_up(left, known, fresh)  # type: ignore[misc]

    def _moments(self, wanted: Collection[bytes]) -> list[frozenset[str]]:
        """What backups knew that made some of these blobs, the rows being those of the newest snapshot; and, last, nothing."""
        own = [one for one in self.snapshots if one.manifest.source == without_password(self.url)]
        left, moments = set(wanted), [frozenset[str]()]
        for one in own:
            made = left.intersection(map(bytes.fromhex, one.manifest.blobs()))
            left -= made
            if made and one.manifest.root == own[-1].manifest.root:
                moments.append(frozenset(other.id for other in self.snapshots[: self.snapshots.index(one)]))
        return list(dict.fromkeys(moments[: -_MOMENTS - 1 : -1] + moments[:1]))

    def _back_up(self, wanted: Collection[bytes], known: Container[str], options: BackupOptions) -> set[bytes]:
        again = _Refetching(self.repository, frozenset(wanted), known)
        with suppress(_AllWasRead, Damaged):  # what the backup knew may be lost too
            backup(again, self.url, options, self.progress)
        return again.found


def reason_of(error: StrongroomError) -> str:
    """Why a source gave nothing. What the repository's own store fails at is raised again."""
    if isinstance(error, Unreachable | StoreFull | UnsafeStore):
        raise error
    return str(error)


class _AllWasRead(Exception):
    """Instead of a snapshot, so that nothing remembers one."""


class _Refetching(Repository):
    """The repository as a backup sees it that shall store these blobs alone: it has all others and takes no new snapshot, and there
    are no snapshots but those that are `known`."""

    def __init__(self, repository: Repository, wanted: frozenset[bytes], known: Container[str]) -> None:
        super().__init__(repository.store, repository.config, repository.keys, repository.identity, repository.clock)
        self._wanted = wanted
        self._known = known
        self.found: set[bytes] = set()
        self.distrust_cache()  # what it sees is not what this machine shall remember

    def manifests(self) -> dict[str, int]:
        return {one: size for one, size in super().manifests().items() if one in self._known}

    def writer(self, damaged: Container[str] = ()) -> BlobWriter:
        return _Writing(self.store, self.keys, _AllBut(self._wanted))

    def add_index(self, packs: Sequence[Pack]) -> None:
        """Comes last before the manifest."""
        super().add_index(packs)
        self.found |= {blob.id for pack in packs for blob in pack.blobs}
        raise _AllWasRead


class _Writing(BlobWriter):
    def has(self, blob_id: bytes) -> bool:
        """Nothing counts as lost: the backup then had all that it relied on."""
        return True


class _AllBut(BlobIndex):
    """Every blob lies somewhere, but those wanted."""

    def __init__(self, wanted: frozenset[bytes]) -> None:
        super().__init__()
        self._wanted = wanted

    def __contains__(self, blob_id: bytes) -> bool:
        return blob_id not in self._wanted
