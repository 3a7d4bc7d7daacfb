"""How much of what the snapshots need was proven lately, and what never was? By the notes of verifies and drills on any machine.

A blob counts as proven when it was read, decrypted and hashed in a pack that is still there as it was, and wasn't found damaged
since. What only lies in a pack that is gone, or was written anew, or whose note can't be believed, counts as never proven.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from strongroom.operations.machine.witness import Witness
from strongroom.operations.proving import read_notes
from strongroom.repository import PACKS, Repository
from strongroom.repository.blob_index import Place
from strongroom.repository.proofs import Notes
from strongroom.snapshots import history
from strongroom.snapshots.history import Snapshot

DAYS = (1, 7, 30, 90)
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Share:
    """Blobs, and the bytes that they take in packs."""

    blobs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Covered:
    """What was proven of some blobs. `within` tells, for each of `DAYS`, what was within so many days; `never` was not once, or
    was found damaged since (`damaged` of it). `oldest` is when the least recently proven of the others was (ISO 8601, UTC), '' if
    there is none, and the year 1970 if nobody can say when."""

    total: Share
    within: dict[int, Share]
    never: Share
    damaged: Share
    oldest: str

    def share(self, days: int) -> float:
        """Of the bytes, from 0 to 1. Nothing at all is no coverage."""
        return self.within[days].bytes / self.total.bytes if self.total.bytes else 0.0


@dataclass(frozen=True, slots=True)
class CollectionCoverage:
    """One collection of a snapshot; '' is what belongs to none of them."""

    snapshot: str
    created: str
    source: str
    collection: str
    covered: Covered


@dataclass(frozen=True, slots=True)
class CoverageReport:
    """Of all live snapshots together, where a blob that several need counts once, by snapshot, and by collection. `oldest_unproven`
    is when the oldest snapshot was made that needs a blob that was never proven; '' if there is none. `problems` are notes that
    can't be believed and snapshots that can't be read: these are not covered at all."""

    at: str
    covered: Covered
    oldest_unproven: str
    snapshots: dict[str, Covered]
    collections: tuple[CollectionCoverage, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Blob:
    stored: int
    at: float | None
    damaged: bool


def coverage(repository: Repository) -> CoverageReport:
    """Raises Unreachable and the like if the store can't be asked."""
    now = repository.clock.now().timestamp()
    notes, forged = read_notes(repository)
    snapshots, unread = history.read_all(repository)
    repository.look_again()
    reckoning = _Reckoning(repository, notes, now)
    collections = [
        CollectionCoverage(one.id, one.manifest.created, one.manifest.source, name, reckoning.covered(blobs))
        for one in snapshots
        for name, blobs in _parts(one)
    ]
    never = [one.manifest.created for one in snapshots if reckoning.covered(set(one.manifest.blobs())).never.blobs]
    return CoverageReport(
        at=datetime.fromtimestamp(now, UTC).isoformat(),
        covered=reckoning.covered({blob for one in snapshots for blob in one.manifest.blobs()}),
        oldest_unproven=min(never, default=""),
        snapshots={one.id: reckoning.covered(set(one.manifest.blobs())) for one in snapshots},
        collections=tuple(collections),
        problems=tuple(str(one) for one in (*forged, *unread, *repository.problems)),
    )


class _Reckoning:
    """What is known of each blob, looked up once."""

    def __init__(self, repository: Repository, notes: Notes, now: float) -> None:
        self._index = repository.index
        self._notes = notes
        self._now = now
        self._sizes = {listed.name: listed.size for listed in repository.store.list(PACKS)}
        self._met = Witness(repository).damaged
        self._blobs: dict[str, _Blob] = {}

    def covered(self, blobs: Collection[str]) -> Covered:
        found = [self._blob(blob) for blob in blobs]
        proven = [one.at for one in found if one.at is not None]
        return Covered(
            total=_share(found),
            within={days: _share(one for one in found if self._is_within(one, days)) for days in DAYS},
            never=_share(one for one in found if one.at is None),
            damaged=_share(one for one in found if one.at is None and one.damaged),
            oldest=datetime.fromtimestamp(min(proven), UTC).isoformat() if proven else "",
        )

    def _is_within(self, blob: _Blob, days: int) -> bool:
        return blob.at is not None and self._now - blob.at <= days * _DAY

    def _blob(self, blob: str) -> _Blob:
        if blob not in self._blobs:
            places = self._index.places(bytes.fromhex(blob))
            times = [self._proven(place) for place in places]
            damaged = any(self._notes.damaged(place.pack.id, place.blob.number) for place in places)
            latest = max((time for time in times if time is not None), default=None)
            self._blobs[blob] = _Blob(places[0].blob.stored if places else 0, latest, damaged)
        return self._blobs[blob]

    def _proven(self, place: Place) -> float | None:
        """Not if the pack isn't there with its length now, nor if this machine met damage in it since."""
        at = self._notes.proven(place.pack.id, place.blob.number, self._now)
        if at is None or self._sizes.get(place.pack.name) != place.pack.size:
            return None
        return at if self._met.get(place.pack.id, -1.0) < at else None


def _share(blobs: Iterable[_Blob]) -> Share:
    found = list(blobs)
    return Share(len(found), sum(one.stored for one in found))


def _parts(snapshot: Snapshot) -> Iterator[tuple[str, set[str]]]:
    """The blobs of each collection with those of its files, and of files that belong to none."""
    record = snapshot.manifest
    for collection in record.collections:
        files = (blob for one in record.artifacts if one.collection == collection.name for blob in one.blobs())
        yield collection.name, {*collection.blobs(), *files}
    named = {one.name for one in record.collections}
    rest = {blob for one in record.artifacts if one.collection not in named for blob in one.blobs()}
    if rest:
        yield "", rest


def as_lines(report: CoverageReport) -> Sequence[dict[str, str | int | float]]:
    """A table: one line of everything, one a snapshot, one a collection."""
    created = {one.snapshot: (one.created, one.source) for one in report.collections}
    lines = [_line("all", "", "", "", "", report.covered)]
    for name, covered in report.snapshots.items():
        when, source = created.get(name, ("", ""))
        lines.append(_line("snapshot", name, when, source, "", covered))
    lines += [_line("collection", o.snapshot, o.created, o.source, o.collection, o.covered) for o in report.collections]
    return lines


def _line(scope: str, snapshot: str, created: str, source: str, collection: str, covered: Covered) -> dict[str, str | int | float]:
    line: dict[str, str | int | float] = {
        "scope": scope,
        "snapshot": snapshot,
        "created": created,
        "source": source,
        "collection": collection,
        "blobs": covered.total.blobs,
        "bytes": covered.total.bytes,
    }
    for days, share in covered.within.items():
        line |= {f"blobs_{days}d": share.blobs, f"bytes_{days}d": share.bytes, f"share_{days}d": round(covered.share(days), 6)}
    line |= {"blobs_never": covered.never.blobs, "bytes_never": covered.never.bytes}
    return line | {"blobs_damaged": covered.damaged.blobs, "oldest_proof": covered.oldest}


def as_metrics(report: CoverageReport) -> str:
    """In the text format of Prometheus, for a textfile collector."""
    lines = [
        "# HELP strongroom_coverage_bytes Bytes of live snapshots that were proven within so many days.",
        "# TYPE strongroom_coverage_bytes gauge",
        *(f'strongroom_coverage_bytes{{days="{days}"}} {one.bytes}' for days, one in report.covered.within.items()),
        "# HELP strongroom_coverage_blobs Blobs of live snapshots that were proven within so many days.",
        "# TYPE strongroom_coverage_blobs gauge",
        *(f'strongroom_coverage_blobs{{days="{days}"}} {one.blobs}' for days, one in report.covered.within.items()),
    ]
    oldest = datetime.fromisoformat(report.covered.oldest).timestamp() if report.covered.oldest else 0.0
    gauges = {
        "total_bytes": ("Bytes that live snapshots need.", report.covered.total.bytes),
        "total_blobs": ("Blobs that live snapshots need.", report.covered.total.blobs),
        "never_bytes": ("Bytes that were never proven, or found damaged since.", report.covered.never.bytes),
        "never_blobs": ("Blobs that were never proven, or found damaged since.", report.covered.never.blobs),
        "damaged_blobs": ("Blobs that were found damaged and not proven since.", report.covered.damaged.blobs),
        "oldest_proof_timestamp_seconds": ("When the least recently proven blob was, 0 if none ever was.", oldest),
        "problems": ("Notes that can't be believed, and snapshots that can't be read.", len(report.problems)),
        "timestamp_seconds": ("When this was reckoned.", datetime.fromisoformat(report.at).timestamp()),
    }
    for name, (meaning, value) in gauges.items():
        full = f"strongroom_coverage_{name}"
        lines += [f"# HELP {full} {meaning}", f"# TYPE {full} gauge", f"{full} {value}"]
    return "\n".join(lines) + "\n"
