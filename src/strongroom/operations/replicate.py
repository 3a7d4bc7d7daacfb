"""How replicas are kept in step, each at its own pace, and how far behind each of them is."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from strongroom.errors import Damaged, Stopped, StrongroomError, WrongRequest, from_os_error
from strongroom.journal.ends import read_tail
from strongroom.journal.segments import number_in, segment_name
from strongroom.journal.stream import read_front, streams
from strongroom.operations.copy import CopyOptions, Selection, copy, open_replica
from strongroom.operations.machine.replicas import known, remember, synced
from strongroom.operations.policy.residence import Residence
from strongroom.repository import PACKS, SNAPSHOTS, Repository, Store, open_store
from strongroom.repository.region import region_of
from strongroom.repository.tombstones import What, earliest
from strongroom.snapshots import history

EVERY = 5.0
_LONGEST_PAUSE = 60.0
_WHOLE_LOOK = 60
"""The replica itself is listed every so many cycles, though nothing changed at the primary."""


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a replica is behind: `seconds` since the oldest recovery point that it lacks was made (0: none), and how much it
    lacks. `problem`: why it can't be reached or written; then `seconds` counts from when it was last complete."""

    target: str
    seconds: float
    snapshots: int = 0
    segments: int = 0
    objects: int = 0
    bytes: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ReplicateOptions:
    """A cycle every so many seconds; with `once` until each is complete or has failed."""

    copying: CopyOptions = field(default_factory=CopyOptions)
    every: float = EVERY
    once: bool = False


def replicate(
    primary: Repository,
    targets: Sequence[Store],
    options: ReplicateOptions | None = None,
    *,
    stop: threading.Event | None = None,
    tell: Callable[[Lag], None] = lambda _: None,
) -> list[Lag]:
    """Copy to every target again and again until `stop` is set; one that is slow or away holds up no other, and is tried again
    with growing pauses. A copy under way when `stop` is set ends soon, and what it lacks is told. Raises what failed last if at the
    end all of them fail."""
    if not targets or len({one.url for one in targets}) < len(targets):
        raise WrongRequest("replicate needs different places to replicate to", hint="give each with --to URL")
    following = [_Following(primary, one, options or ReplicateOptions(), stop or threading.Event(), tell) for one in targets]
    threads = [threading.Thread(target=one.run, name="strongroom-replicate", daemon=True) for one in following]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # so that signals are heard
            thread.join(0.5)
    for one in following:
        if one.failed is not None and (one.broken or all(other.failed for other in following)):
            raise one.failed
    return [one.lag for one in following]


@dataclass
class _Following:
    primary: Repository
    target: Store
    options: ReplicateOptions
    stop: threading.Event
    tell: Callable[[Lag], None]
    failed: Exception | None = None
    broken: bool = False
    cycles: int = 0
    _seen: dict[str, int] | None = None
    lag: Lag = Lag("", 0.0)

    def run(self) -> None:
        pause = self.options.every
        while True:
            try:
                self._cycle()
                self.failed = None
                pause = self.options.every
            except Stopped:
                self._say(behind(self.primary, self.target.url, "", self.options.copying.selection))
                return
            except StrongroomError as error:
                self.failed = error
                self._say(behind(self.primary, self.target.url, str(error), self.options.copying.selection))
                pause = min(2 * pause, _LONGEST_PAUSE)
            except Exception as error:  # noqa: BLE001 - a thread's failure must be told by who started it
                self.failed, self.broken = error, True
            if self.broken or self.options.once or self.stop.wait(pause):
                return

    def _cycle(self) -> None:
        """Where nothing changed at the primary a listing is all that it costs."""
        began = self.primary.clock.now().timestamp()
        here = {one.name: one.size for one in self.primary.store.list("")}
        self.cycles += 1
        if here == self._seen and self.cycles % _WHOLE_LOOK:
            remember(self.primary.store.url, self.target.url, began)
            return
        report = copy(self.primary, self.target, self.options.copying, stop=self.stop)
        lag = lag_of(self.primary, self.target, self.options.copying.selection)
        if report.whole:
            self._seen = here
            remember(self.primary.store.url, self.target.url, began)
        else:
            problem = next(iter((*report.damaged, *report.incomplete, *report.different)))
            lag = replace(lag, problem=problem)
        self._say(lag)

    def _say(self, lag: Lag) -> None:
        self.lag = lag
        self.tell(lag)


def lag_of(primary: Repository, target: Store, selection: Selection | None = None) -> Lag:
    """What the target lacks now of what is selected, and whether the primary lost what the target has: two listings, and heads."""
    chosen = selection or Selection()
    try:
        replica = open_replica(primary, target)
        there = {one.name: one.size for one in replica.store.list("")}
        excused = {*earliest(replica.tombstones(What.ABSENT)), *earliest(replica.tombstones(What.FORGOTTEN))}
    except StrongroomError as error:
        return behind(primary, target.url, str(error), chosen)
    here = {one.name: one.size for one in primary.store.list("")}
    partial = bool(earliest(replica.tombstones(What.ABSENT)))
    lacking = {name: size for name, size in here.items() if there.get(name) != size}
    snapshots = {name.removeprefix(SNAPSHOTS) for name in lacking if name.startswith(SNAPSHOTS)} - excused
    missing = _segments(primary, replica, lacking, there, chosen)
    packs = [] if partial or not snapshots else [name for name in lacking if name.startswith(PACKS)]
    names = [*packs, *missing, *(SNAPSHOTS + one for one in snapshots)]
    oldest = min((*_created(primary, snapshots), *_sealed(primary, missing)), default=None)
    seconds = max(0.0, primary.clock.now().timestamp() - oldest) if oldest is not None else 0.0
    size = sum(lacking[name] for name in names)
    return Lag(target.url, seconds, len(snapshots), len(missing), len(names), size, _robbed(primary, here, there))


def _robbed(primary: Repository, here: Iterable[str], there: Iterable[str]) -> str:
    """The replica is whole, and its primary isn't: somebody takes snapshots away, or writes to both."""
    only_there = {name.removeprefix(SNAPSHOTS) for name in there if name.startswith(SNAPSHOTS)}.difference(
        name.removeprefix(SNAPSHOTS) for name in here
    )
    gone = only_there - earliest(primary.tombstones(What.FORGOTTEN)).keys() if only_there else only_there
    if not gone:
        return ""
    return f"{primary.store.url} lacks {len(gone)} snapshots that are at the replica, and nobody forgot them: {min(gone)[:12]} ..."


def lags_of(primary: Repository, targets: Sequence[str]) -> list[Lag]:
    """Of these replicas, or of those that this machine knows of."""
    return [lag_of(primary, open_store(one)) for one in targets or known(primary.store.url)]


def _segments(
    primary: Repository, replica: Repository, lacking: Iterable[str], there: Iterable[str], chosen: Selection
) -> list[str]:
    """Those that the replica lacks, but for streams of which it is to have nothing, by residency or by what was chosen."""
    missing = [(found[0], name) for name in lacking if (found := number_in(name)) is not None]
    unknown = {stream for stream, _ in missing} - {found[0] for name in there if (found := number_in(name)) is not None}
    residence = Residence.at(primary, replica.store.url, region_of(replica)) if unknown else None
    for stream in unknown:
        tail = read_tail(primary, stream)
        if residence is None or tail is None:
            continue
        unwanted = chosen.sources and tail.head.source not in chosen.sources
        if unwanted or residence.problem(tail.head.source, ()) is not None:
            missing = [one for one in missing if one[0] != stream]
    return [name for _, name in missing]


def behind(primary: Repository, target: str, problem: str, selection: Selection | None = None) -> Lag:
    """Of a replica that isn't asked: what came, of what is selected, since this machine last completed it."""
    since = synced(primary.store.url, target)
    chosen = selection or Selection()
    try:
        found, _ = history.headlines(primary)
        sealed = list(_sealed_since(primary, since, chosen))
    except StrongroomError as error:
        problem = f"{problem}; {error}" if problem else str(error)
        return Lag(target, max(0.0, primary.clock.now().timestamp() - since) if since else 0.0, problem=problem)
    made = [at for one in found if (at := _seconds(one.created)) > since and (not chosen.sources or one.source in chosen.sources)]
    oldest = min((*made, *(at for at, _ in sealed)), default=None)
    seconds = max(0.0, primary.clock.now().timestamp() - oldest) if oldest is not None else 0.0
    return Lag(target, seconds, len(made), sum(count for _, count in sealed), problem=problem)


def _sealed_since(primary: Repository, since: float, chosen: Selection) -> Iterable[tuple[float, int]]:
    """Of each stream that goes on after a moment: when the first segment after it was sealed, and how many there are. They are in
    the order of their times, so few heads are read."""
    for stream, present in streams(primary).items():
        names = [segment_name(stream, number) for number in sorted(present)]
        with suppress(Damaged):  # its copy says what is wrong with it
            if chosen.sources and read_front(primary, names[-1]).head.source not in chosen.sources:
                continue
            first = bisect_right(names, since, key=lambda name: read_front(primary, name).head.sealed / 1e6)
            if first < len(names):
                yield read_front(primary, names[first]).head.sealed / 1e6, len(names) - first


def _created(primary: Repository, snapshots: set[str]) -> Iterable[float]:
    found, _ = history.headlines(primary) if snapshots else ([], [])
    return [_seconds(one.created) for one in found if one.id in snapshots]


def _sealed(primary: Repository, names: Iterable[str]) -> Iterable[float]:
    """When the oldest missing segment of each stream was sealed."""
    first: dict[str, str] = {}
    for name in sorted(names):
        first.setdefault(name.rpartition("/")[0], name)
    for name in first.values():
        with suppress(StrongroomError):
            yield read_front(primary, name).head.sealed / 1e6


def _seconds(created: str) -> float:
    return datetime.fromisoformat(created).timestamp()


def metrics(lags: Iterable[Lag]) -> str:
    """As Prometheus reads it."""
    lines = []
    gauges: tuple[tuple[str, str, Callable[[Lag], float]], ...] = (
        ("lag_seconds", "Age of the oldest recovery point that the replica lacks", lambda lag: lag.seconds),
        ("missing_objects", "Objects that it lacks", lambda lag: lag.objects),
        ("missing_bytes", "Bytes that it lacks", lambda lag: lag.bytes),
        ("missing_snapshots", "Snapshots that it lacks", lambda lag: lag.snapshots),
        ("up", "1 if it can be reached and written", lambda lag: 0 if lag.problem else 1),
    )
    told = list(lags)
    for name, help_, value in gauges:
        lines += [f"# HELP strongroom_replica_{name} {help_}.", f"# TYPE strongroom_replica_{name} gauge"]
        lines += [f'strongroom_replica_{name}{{replica="{_label(lag.target)}"}} {value(lag):g}' for lag in told]
    return "\n".join([*lines, ""])


def write_metrics(path: Path, lags: Iterable[Lag]) -> None:
    """Whole or not at all: a collector may read it at any time. Raises what the file system says."""
    fresh = path.with_name(f".{path.name}.fresh")
    try:
        fresh.write_text(metrics(lags))
        fresh.replace(path)
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
