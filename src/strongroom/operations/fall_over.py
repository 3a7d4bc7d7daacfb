"""What is read when the primary is gone or damaged? A replica, blob by blob or as a whole. Writes never fall over."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from strongroom.clock import SYSTEM_CLOCK, Clock
from strongroom.errors import Damaged, NoRepository, NotFound, Refused, StoreDenied, StrongroomError, Unreachable, WrongKey
from strongroom.model import Bytes
from strongroom.operations.machine.replicas import known
from strongroom.operations.machine.witness import Witness
from strongroom.repository import Repository, Secret, Store, open_store
from strongroom.repository.packs import CodedBlob
from strongroom.repository.tombstones import What, earliest
from strongroom.snapshots import history

T = TypeVar("T")
N = TypeVar("N")

_GONE = (NoRepository, Unreachable, Damaged, StoreDenied, NotFound)


@dataclass(frozen=True, slots=True)
class Reading:
    """From which `replicas` (URLs) too, beside those of STRONGROOM_REPLICAS and those that this machine knows of. `stale_ok` takes
    an older snapshot for 'latest'; without `by_blob` all is read from one store."""

    replicas: tuple[str, ...] = ()
    stale_ok: bool = False
    by_blob: bool = True


@dataclass
class StandIns:
    """The replicas of an opened repository. `instead`: the URL of the one that was opened in the primary's place, `because` why;
    `stale`: newest snapshots that it lacks, as this machine knows; `given`: blobs and manifests by replica."""

    secret: Secret = field(repr=False)
    urls: tuple[str, ...]
    reading: Reading
    clock: Clock = SYSTEM_CLOCK
    instead: str = ""
    because: str = ""
    stale: tuple[str, ...] = ()
    given: Counter[str] = field(default_factory=Counter)
    problems: dict[str, str] = field(default_factory=dict)
    _opened: dict[str, Repository | None] = field(default_factory=dict)
    _away: StrongroomError | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def blob(self, blob_id: bytes, here: Callable[[bytes], tuple[CodedBlob, Bytes]]) -> tuple[CodedBlob, Bytes]:
        """From the primary while it gives it, else from the first replica that has it whole."""
        if not self.reading.by_blob:
            return here(blob_id)
        return self._first(here, blob_id, lambda replica: replica.open_blob(blob_id))

    def manifest(self, snapshot_id: str, here: Callable[[str], bytes]) -> bytes:
        if not self.reading.by_blob:
            return here(snapshot_id)
        return self._first(here, snapshot_id, lambda replica: replica.read_manifest(snapshot_id))

    def require_fresh(self) -> None:
        """Before 'latest' is taken from a replica. Raises Refused (5) if it lacks what this machine saw as the newest."""
        if self.stale and not self.reading.stale_ok:
            raise Refused(
                f"{self.instead} lacks {len(self.stale)} snapshots that are newer, {self.stale[0][:12]} among them: "
                "its latest isn't the latest",
                hint="bring the primary or a fresher replica back, name a snapshot by its id, or accept it with --stale-ok",
            )

    def said(self) -> list[str]:
        """What a person must know of it, a line each."""
        lines = [f"{self.because}: READ FROM THE REPLICA {self.instead}"] if self.instead else []
        if self.stale:
            lines.append(f"the replica is stale: it lacks {', '.join(one[:12] for one in self.stale)}")
        lines += [f"{count} blobs or manifests came from {url}" for url, count in self.given.items()]
        return lines

    def _first(self, here: Callable[[N], T], name: N, there: Callable[[Repository], T]) -> T:
        first = self._away
        if first is None:
            try:
                return here(name)
            except Damaged as error:
                first = error
            except (Unreachable, StoreDenied) as error:
                first = self._away = error  # it isn't asked again: each time would take as long
        for url in self.urls:
            replica = self.replica(url)
            if replica is None:
                continue
            try:
                found = there(replica)
            except StrongroomError as error:
                self.problems[url] = str(error)
                continue
            with self._lock:
                self.given[url] += 1
            return found
        raise first

    def replica(self, url: str) -> Repository | None:
        """The one at a URL, opened once; None if it can't be."""
        with self._lock:
            if url not in self._opened:
                try:
                    self._opened[url] = Repository.open(open_store(url), self.secret, clock=self.clock)
                except StrongroomError as error:
                    self.problems[url], self._opened[url] = str(error), None
            return self._opened[url]


def open_with_stand_ins(
    location: str, secret: Secret, reading: Reading, clock: Clock = SYSTEM_CLOCK
) -> tuple[Repository, StandIns]:
    """The repository, or the freshest of its replicas if it is gone, damaged or can't be reached. Raises what the primary raised if
    no replica opens; WrongKey always."""
    store = open_store(location)
    urls = tuple(dict.fromkeys(open_store(one).url for one in (*reading.replicas, *known(store.url))))
    stand_ins = StandIns(secret, urls, reading, clock)
    try:
        repository = Repository.open(store, secret, clock=clock)
        if urls:
            repository.look_again()  # is it really there?
            repository.manifest_ids()
    except WrongKey:
        raise
    except _GONE as error:
        return _instead(store, stand_ins, error), stand_ins
    if urls:
        repository.stand_in = stand_ins
    return repository, stand_ins


def _instead(store: Store, stand_ins: StandIns, error: StrongroomError) -> Repository:
    """The replica that lacks least of what this machine saw, then the one with the newest snapshot."""
    opened = [(url, stand_ins.replica(url)) for url in stand_ins.urls if url != store.url]
    standing = [(lacks(one), _newest(one), url, one) for url, one in opened if one is not None]
    if not standing:
        raise error
    fewest = min(len(one[0]) for one in standing)
    stale, _, url, chosen = max((one for one in standing if len(one[0]) == fewest), key=lambda one: one[1])
    stand_ins.instead, stand_ins.because, stand_ins.stale = url, f"{store.url} can't be read ({error})", stale
    chosen.stand_in = stand_ins
    return chosen


def lacks(replica: Repository) -> tuple[str, ...]:
    """Snapshots that this machine saw as the newest and that aren't here, nor were forgotten."""
    present = {*replica.manifest_ids(), *earliest(replica.tombstones(What.FORGOTTEN))}
    return tuple(one for one in Witness(replica).newest if one not in present)


def _newest(replica: Repository) -> str:
    found: Iterable[history.Headline] = history.headlines(replica)[0]
    return max((one.created for one in found), default="")
