"""Which snapshots there are, which one a name means, and whether one was taken away."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from strongroom.errors import Damaged, NotFound
from strongroom.model import Bytes
from strongroom.repository import Repository
from strongroom.repository.cache import Record
from strongroom.repository.tenants import TenantKey
from strongroom.snapshots.manifest import Manifest, decode

_GONE = "it was listed and is not there"
_CACHE = "headline"
_BATCH = 1_000
_READERS = 8


class Descendant(Protocol):
    """Whatever says which snapshots were the newest when it was made: a snapshot or its headline."""

    @property
    def id(self) -> str: ...

    @property
    def parents(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot: its id (64 hex digits) and its manifest. `host` is what the key slot is called of the host that made it, if that
    can only write, `signer` its public key (64 hex digits): proven by its signature, unlike what the manifest says. Of one that was
    opened (`tenant_parts.opened`) `unsealing` are the keys of its tenants' blobs, and `shredded` the rows, by tenant, that no key
    opens any more."""

    id: str
    manifest: Manifest
    host: str = ""
    signer: str = ""
    unsealing: Mapping[bytes, TenantKey] = field(default_factory=dict, repr=False)
    shredded: Mapping[str, int] = field(default_factory=dict)

    @property
    def parents(self) -> tuple[str, ...]:
        return self.manifest.parents

    def reading(self, repository: Repository) -> Callable[[bytes], Bytes]:
        """Reads blobs of its rows, those of tenants by their keys."""

        def read(blob: bytes) -> Bytes:
            key, content = self.unsealing.get(blob), repository.read_blob(blob)
            return content if key is None else key.open(content)

        return read


@dataclass(frozen=True, slots=True)
class Headline:
    """What its place in the history needs of a snapshot, as its manifest says it."""

    id: str
    created: str
    source: str
    parents: tuple[str, ...]


def headlines(repository: Repository) -> tuple[list[Headline], list[Damaged]]:
    """All snapshots, oldest first, and the manifests that can't be read. Costs one listing, and one manifest for each snapshot that
    this machine hasn't met before; the store's listing alone says which there are."""
    listed = repository.manifests()
    known = {record.id: _recalled(record) for record in repository.recall(_CACHE, listed)}
    damaged: list[Damaged] = []
    unknown = sorted(listed.keys() - known.keys())
    with ThreadPoolExecutor(_READERS) as pool:
        for at in range(0, len(unknown), _BATCH):
            fresh: list[Headline] = []
            for read_one in pool.map(lambda snapshot_id: _try(repository, snapshot_id), unknown[at : at + _BATCH]):
                if isinstance(read_one, Damaged):
                    damaged.append(read_one)
                else:
                    record = read_one.manifest
                    fresh.append(Headline(read_one.id, record.created, record.source, record.parents))
            known |= {headline.id: headline for headline in fresh}
            repository.remember(_CACHE, [Record(one.id, listed[one.id], _record_of(one)) for one in fresh])
    return sorted(known.values(), key=lambda headline: (headline.created, headline.id)), _still_there(repository, damaged)


def newest_of(repository: Repository, known: Sequence[Headline], source: str) -> Snapshot | None:
    """The newest snapshot of a source (its URL without password) that can be read."""
    for headline in reversed(known):
        if headline.source == source:
            found = _try(repository, headline.id)
            if isinstance(found, Snapshot):
                return found
    return None


def read_all(repository: Repository) -> tuple[list[Snapshot], list[Damaged]]:
    """All snapshots with their manifests, oldest first, and the manifests that can't be read; from the store itself. One that is
    forgotten meanwhile is neither."""
    found = [_try(repository, snapshot_id) for snapshot_id in repository.manifest_ids()]
    snapshots = [one for one in found if isinstance(one, Snapshot)]
    damaged = _still_there(repository, [one for one in found if isinstance(one, Damaged)])
    return sorted(snapshots, key=lambda snapshot: (snapshot.manifest.created, snapshot.id)), damaged


def read_some(repository: Repository, ids: Sequence[str]) -> tuple[list[Snapshot], list[Damaged]]:
    """As `read_all`, of these ids."""
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda one: _try(repository, one), ids))
    snapshots = [one for one in found if isinstance(one, Snapshot)]
    damaged = _still_there(repository, [one for one in found if isinstance(one, Damaged)])
    return sorted(snapshots, key=lambda snapshot: (snapshot.manifest.created, snapshot.id)), damaged


def of_source(repository: Repository, source: str) -> list[Snapshot]:
    """The snapshots of a source, oldest first, without those that can't be read."""
    return read_some(repository, [one.id for one in headlines(repository)[0] if one.source == source])[0]


def _try(repository: Repository, snapshot_id: str) -> Snapshot | Damaged:
    try:
        return read(repository, snapshot_id)
    except Damaged as error:
        return error
    except NotFound:
        return Damaged(f"snapshots/{snapshot_id}", _GONE)


def _still_there(repository: Repository, damaged: list[Damaged]) -> list[Damaged]:
    """Without those that are listed no more: they were forgotten since they were listed."""
    if not any(problem.problem == _GONE for problem in damaged):
        return damaged
    listed = {f"snapshots/{snapshot_id}" for snapshot_id in repository.manifest_ids()}
    return [problem for problem in damaged if problem.problem != _GONE or problem.subject in listed]


def _record_of(headline: Headline) -> bytes:
    """As it is cached: created NUL parents, with a blank between them, NUL source."""
    return f"{headline.created}\0{' '.join(headline.parents)}\0{headline.source}".encode()


def _recalled(record: Record) -> Headline:
    created, parents, source = record.content.decode().split("\0", 2)
    return Headline(record.id, created, source, tuple(parents.split()))


def read(repository: Repository, snapshot_id: str) -> Snapshot:
    """The snapshot of a whole id. Raises NotFound or Damaged."""
    name = f"snapshots/{snapshot_id}"
    record = decode(name, repository.read_manifest(snapshot_id))
    made_in = repository.hosts.get(snapshot_id)
    return Snapshot(snapshot_id, record, made_in.host, made_in.signer.hex()) if made_in else Snapshot(snapshot_id, record)


def find(repository: Repository, name: str) -> Snapshot:
    """The snapshot that 'latest' or the beginning of an id means; with ~N after it, the N-th one of the same source before that.

    Raises NotFound, or Damaged if it can't be read or if it can't be told because some other can't: an older state must not pass
    for the newest in silence."""
    name, steps = _steps(name)
    if name == "latest":
        found = _latest(repository)
    else:
        ids = [snapshot_id for snapshot_id in repository.manifest_ids() if snapshot_id.startswith(name.lower())]
        if len(ids) != 1 or not name:
            what = "no snapshot's id begins" if not ids else f"{len(ids)} snapshots' ids begin"
            raise NotFound(f"{what} with {name!r}", hint="see 'strongroom snapshots'")
        found = read(repository, ids[0])
    return _earlier(repository, found, steps) if steps else found


def _steps(name: str) -> tuple[str, int]:
    """'latest' and 2 of 'latest~2'."""
    first, tilde, steps = name.partition("~")
    if tilde and not (steps.isascii() and steps.isdecimal() and len(steps) < 10):
        raise NotFound(f"{name!r} names no snapshot", hint="after ~ comes how many snapshots before, as in latest~1")
    return first, int(steps or 0)


def _earlier(repository: Repository, snapshot: Snapshot, steps: int) -> Snapshot:
    known, damaged = headlines(repository)
    if damaged:
        raise _untold(damaged[0])
    same = [one.id for one in known if one.source == snapshot.manifest.source]
    place = same.index(snapshot.id) - steps if snapshot.id in same else -1
    if place < 0:
        before = f"{snapshot.manifest.source} has not {steps} snapshots before {snapshot.id[:12]}"
        raise NotFound(before, hint="see 'strongroom snapshots'")
    return read(repository, same[place])


def _latest(repository: Repository) -> Snapshot:
    """Of the others their headlines are enough, by which this machine knows that they are older."""
    if repository.stand_in is not None:
        repository.stand_in.require_fresh()
    known, damaged = headlines(repository)
    if not damaged and not known:
        raise NotFound("the repository has no snapshot yet", hint="make one with 'strongroom backup SOURCE'")
    newest = damaged[0] if damaged else _try(repository, known[-1].id)
    if isinstance(newest, Snapshot):
        return newest
    raise _untold(newest)


def _untold(problem: Damaged) -> Damaged:
    hint = "it may be the one that is meant: give a snapshot's id; 'strongroom snapshots' lists those that can be read"
    return Damaged(problem.subject, problem.problem, hint=hint)


def heads(snapshots: Sequence[Descendant]) -> tuple[str, ...]:
    """The snapshots that no other names as its parent: what a new one names."""
    named = {parent for snapshot in snapshots for parent in snapshot.parents}
    return tuple(snapshot.id for snapshot in snapshots if snapshot.id not in named)


def missing_parents(
    snapshots: Sequence[Snapshot], damaged: Sequence[Damaged], forgotten: Collection[str] = ()
) -> dict[str, list[str]]:
    """Snapshots that others name and that aren't there, though not forgotten: id to the ids of those that name it."""
    present = {snapshot.id for snapshot in snapshots} | {problem.subject.rpartition("/")[2] for problem in damaged}
    missing: dict[str, list[str]] = {}
    for snapshot in snapshots:
        for parent in snapshot.manifest.parents:
            if parent not in present and parent not in forgotten:
                missing.setdefault(parent, []).append(snapshot.id)
    return missing
