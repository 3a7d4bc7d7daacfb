"""What is true of a repository whatever happens to it? A world of sources, machines and a store that fails, with a simple model:
of each snapshot the files and rows that its source had when it was made.
"""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from faulty_store import FaultyStore, Operation, SimulatedCrash, at
from living_sources import Content, Living, content_of, made, restored_files
from towns import empty_store
from worlds import CHEAP, PASSWORD

from strongroom.clock import Clock
from strongroom.engines.indexfile import held
from strongroom.errors import Damaged, NotFound, Overtaken, StrongroomError
from strongroom.operations.backup import predecessor
from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.operations.forget import ForgetOptions, ForgetReport, forget
from strongroom.operations.prune import plan as prune_plan
from strongroom.operations.prune.run import PruneOptions, prune
from strongroom.operations.repair import RepairOptions, repair
from strongroom.operations.verify import Level, VerifyOptions, VerifyReport, verify
from strongroom.policy.retention import Rules, Trust
from strongroom.repository import PACKS, SNAPSHOTS, Repository, Secret, Store, packs
from strongroom.repository.tombstones import What, earliest
from strongroom.snapshots import artifacts, compaction, history, matching, rows_writer, segment_writer

SECRET = Secret.passphrase(PASSWORD)
FOLDERS = ("config", "keys", "packs", "index", "snapshots", "tombstones", "proofs", "probe")
"""The last one has what somebody tried the store with who died before it was gone: of no use, and in nobody's way."""

HOUR = 3600.0
DAY = timedelta(days=1)
LAG = 2 * HOUR
"""So long a stale listing doesn't tell of an object."""

FAULTS = (
    "crash before",
    "crash after",
    "unreachable before",
    "unreachable after",
    "exists after",
    "exists before",
    "full",
    "denied",
    "cut",
    "twice",
    "late",
    "slow",
)
HOOKS = ("backup", "backup of the other", "mark", "mark and sweep", "forget")
SEEN: Counter[str] = Counter()
"""What happened, over all lives."""


@dataclass(frozen=True)
class Mood:
    """How an operation of ours goes: `kind` is well, stale, one of FAULTS or of HOOKS; which operation of the store meets it."""

    kind: str = "well"
    number: int = 0

    @property
    def stale(self) -> bool:
        return self.kind == "stale"


WELL = Mood()


@dataclass(frozen=True)
class Kept:
    source: str
    created: float
    content: Content


class Life:
    """A repository in memory, two sources that share vectors, three machines, a clock that is set."""

    def __init__(self, folder: Path, kinds: tuple[str, str]) -> None:
        self.folder = folder
        self.seconds = time.time()
        self.names = iter(range(1 << 30))
        self.inner: Store = empty_store()
        self.sources = [made(folder / f"source-{number}", kind, seed=1) for number, kind in enumerate(kinds)]
        self.kept: dict[str, Kept] = {}
        self.left: dict[str, Kept] = {}
        """Of what a forget that failed has only buried: it is there still, and is forgotten with what a later one forgets."""
        self.pending: list[Kept] = []
        self.doubtful: set[str] = set()
        self.damaged = False
        self.born: dict[str, float] = {}
        self.states = [self.folder / f"state-{next(self.names)}" for _ in range(3)]
        self.machine = 0
        self.use(0)
        Repository.create(self.inner, SECRET, clock=self.clock, cost=CHEAP)
        self.restart()
        self.look()

    @property
    def clock(self) -> Clock:
        return Clock(wall=lambda: self.seconds)

    # -- machines and processes ----------------------------------------------------------------------------------------------

    def use(self, machine: int) -> None:
        self.machine = machine
        os.environ["STRONGROOM_STATE_DIR"] = str(self.states[machine])

    def lose_state(self) -> None:
        shutil.rmtree(self.states[self.machine], ignore_errors=True)

    def restart(self) -> None:
        """The process that works on goes, and another one comes."""
        self.store = FaultyStore(self.inner)
        self.server = self.open_on(self.store)

    def open(self) -> Repository:
        """As somebody would whose store never fails."""
        return self.open_on(self.inner)

    def open_on(self, store: Store) -> Repository:
        return Repository.open(store, SECRET, clock=self.clock)

    def copy(self) -> Life:
        """The same repository, sources and machines, to go on apart from this one."""
        other = copy.copy(self)
        other.inner, other.kept, other.pending, other.born = empty_store(), dict(self.kept), [], dict(self.born)
        copy_objects(self.inner, other.inner)
        other.states = [self.folder / f"state-{next(self.names)}" for _ in self.states]
        for mine, theirs in zip(self.states, other.states, strict=True):
            if mine.exists():
                shutil.copytree(mine, theirs)
        other.use(self.machine)
        other.restart()
        return other

    # -- what is done --------------------------------------------------------------------------------------------------------

    def run(self, work: Callable[[], object], mood: Mood, *allowed: type[StrongroomError]) -> object | None:
        """Do something in the server's process while the store is in that mood. None if it failed as that mood lets it fail."""
        self.seconds += 1
        self.store.operations.clear()
        self.store.trouble = self.trouble(mood)
        self.store.hidden = {one for one, born in self.born.items() if mood.stale and born > self.seconds - LAG}
        try:
            return work()
        except SimulatedCrash:
            self.restart()
            SEEN["crashed"] += 1
        except StrongroomError as error:
            if mood.kind not in (*FAULTS, "stale") and not isinstance(error, allowed):
                raise
            SEEN[f"failed: {type(error).__name__}"] += 1
        finally:
            self.store.settle()
            self.store.trouble, self.store.hidden = lambda _: None, set()
            self.look()
        return None

    def trouble(self, mood: Mood) -> Callable[[Operation], str | None]:
        if mood.kind in HOOKS:
            meanwhile = self.hook(mood.kind)

            def happen(operation: Operation) -> None:
                if operation.number == mood.number:
                    with suppress(*([Damaged] if self.damaged else [])):  # then prunes and backups may refuse
                        meanwhile()

            return happen
        if mood.kind in FAULTS:
            fault = at(mood.number, mood.kind)
            return lambda operation: count(f"{mood.kind}", fault(operation))
        return lambda _: None

    def hook(self, kind: str) -> Callable[[], None]:
        """Somebody else's process works while ours is between two operations."""

        def meanwhile() -> None:
            SEEN[f"meanwhile: {kind}"] += 1
            self.seconds += 1
            if kind.startswith("backup"):
                living = self.sources[kind != "backup"]
                self.made(living, backup(self.open(), living.url, BackupOptions(probes=0)).snapshot.id)
            elif kind == "forget":
                if self.kept:
                    oldest = next(iter(self.kept))
                    forget(self.open(), ForgetOptions((oldest,)))
                    self.kept.pop(oldest)
            else:
                prune(self.open(), PruneOptions(DAY, 0.0))
                if kind == "mark and sweep":
                    self.seconds += 25 * HOUR
                    prune(self.open(), PruneOptions(DAY, 0.0))

        return meanwhile

    def back_up(self, which: int, mood: Mood = WELL, *, reread: bool = False, probes: bool = False) -> str | None:
        living = self.sources[which]
        self.pending.append(Kept(living.url, self.seconds, living.content()))
        options = BackupOptions(reread=reread) if probes else BackupOptions(probes=0, reread=reread)

        def work() -> None:
            self.made(living, backup(self.server, living.url, options).snapshot.id)
            SEEN["backups"] += 1

        before = set(self.kept)
        self.run(work, mood, *([Overtaken] if mood.kind == "mark and sweep" else []))
        self.pending.clear()
        return next(reversed([one for one in self.kept if one not in before]), None)

    def made(self, living: Living, snapshot: str) -> None:
        self.kept[snapshot] = Kept(living.url, self.seconds, living.content())

    def forget(self, pick: int, mood: Mood = WELL) -> None:
        """By its name."""
        if self.kept:
            name = list(self.kept)[pick % len(self.kept)]
            self._forget(ForgetOptions((name,)), {name}, mood)

    def forget_by_rules(self, last: int, mood: Mood = WELL) -> None:
        """Who makes a snapshot meanwhile lets one more go; who doesn't see the newest ones lets fewer go."""
        going: set[str] = set()
        more = mood.kind.startswith("backup")
        there = {**self.kept, **self.left}
        for living in self.sources:
            mine = sorted((one.created, name) for name, one in there.items() if one.source == living.url)
            going |= {name for _, name in mine[: max(0, len(mine) - last + more)]}
        if there:
            self._forget(ForgetOptions(rules=Rules(last=last), trust=Trust(10_000, created=True)), going, mood)

    def _forget(self, options: ForgetOptions, going: set[str], mood: Mood) -> None:
        self.doubtful = going
        report = self.run(lambda: forget(self.server, options), mood, *([NotFound] if mood.kind == "forget" else []))
        self.doubtful = set()
        if isinstance(report, ForgetReport):
            assert set(report.forgotten) & set(self.kept) == set()
            if mood.kind == "cut":  # a manifest of which half was read may be any snapshot's: it stays, or has another one stay
                assert set(report.forgotten) <= going
            elif mood.kind in ("well", *FAULTS):
                assert set(report.forgotten) == going
            SEEN["forgotten"] += len(report.forgotten)

    def prune(self, mood: Mood = WELL, *, grace: timedelta = DAY, max_unused: float = 0.0) -> None:
        options = PruneOptions(DAY if mood.stale else grace, max_unused)

        def work() -> None:
            report = prune(self.server, options)
            SEEN["packs deleted"] += report.deleted.packs
            SEEN["packs rewritten"] += report.rewritten.packs

        self.run(work, mood)

    def damage_and_repair(self, kind: str, pick: int, mood: Mood = WELL, *, meanwhile: str = "") -> None:
        """Something rots; the replica is a copy of before. Others may go on before it is found."""
        replica = empty_store()
        copy_objects(self.inner, replica)
        names = [one.name for one in self.inner.list("index/" if kind == "index" else "packs/")]
        if not names:
            return
        name = sorted(names)[pick % len(names)]
        content = bytearray(self.inner.read(name))
        self.inner.delete(name)
        if kind == "flip":
            content[pick % len(content)] ^= 1 << pick % 8
            self.inner.create(name, bytes(content))
        if meanwhile:
            self._go_on_damaged(meanwhile)
        others = [self.open_on(replica)]

        def work(store: Store, *, lied_to: bool) -> None:
            report = repair(store, SECRET, replicas=others, options=RepairOptions(own_sources=False), clock=self.clock)
            nothing = () if self.kept else (SNAPSHOTS, PACKS)  # that nothing could be checked is a finding
            left = [one for one in report.verified.findings if one.subject not in nothing]
            assert not left or lied_to, (left, report.outcomes)

        self.damaged = True  # a listing that hides what is there lets a repair say that it is broken, never that it is whole
        self.run(lambda: work(self.store, lied_to=mood.kind in (*FAULTS, "stale")), mood)
        self.damaged = False
        self.run(lambda: work(self.inner, lied_to=False), WELL)
        self.restart()
        SEEN["repaired"] += 1

    def _go_on_damaged(self, what: str) -> None:
        try:
            if what == "prune":
                prune(self.open(), PruneOptions(DAY, 0.0))
            elif what == "backup":
                living = self.sources[0]
                self.pending.append(Kept(living.url, self.seconds, living.content()))
                self.made(living, backup(self.open(), living.url, BackupOptions(probes=0)).snapshot.id)
            else:
                verify(self.open(), None, VerifyOptions(Level.DATA))
        except Damaged:
            SEEN[f"refused: damaged, {what}"] += 1
        finally:
            self.look()
            self.pending.clear()

    # -- what must be true ---------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """What exists is what the model says, but for what a failed backup may have made or a failed forget may have left."""
        for one in self.inner.list(""):
            assert one.name.split("/")[0] in FOLDERS, one.name
            self.born.setdefault(one.name, self.seconds)
        repository = self.open()
        buried = set(earliest(repository.tombstones(What.FORGOTTEN)))
        listed = set(repository.manifest_ids())
        for name in self.doubtful & buried & set(self.kept):
            self.left[name] = self.kept.pop(name)
        self.left = {name: one for name, one in self.left.items() if name in listed}
        for name in listed - buried - set(self.kept):
            record = history.read(repository, name).manifest
            content = content_of(repository, name)
            (mine,) = [one for one in self.pending if one.source == record.source and one.content == content][:1]
            self.kept[name] = Kept(mine.source, self.seconds, content)
            SEEN["made, and not told"] += 1
        assert set(self.kept) <= listed - buried

    def is_whole(self, names: Iterable[str] | None = None) -> None:
        repository = self.open()
        for name in list(self.kept if names is None else names):
            assert content_of(repository, name) == self.kept[name].content, name

    def one_is_whole(self, pick: int) -> None:
        if self.kept:
            names = list(self.kept)
            self.is_whole({names[pick % len(names)], names[-1]})

    def verified(self, level: Level, snapshot: str | None = None) -> VerifyReport:
        """By a machine that has never seen the repository."""
        before = os.environ["STRONGROOM_STATE_DIR"]
        os.environ["STRONGROOM_STATE_DIR"] = str(self.folder / f"state-{next(self.names)}")
        try:
            return verify(self.open(), snapshot, VerifyOptions(level, scratch=self.folder))
        finally:
            os.environ["STRONGROOM_STATE_DIR"] = before

    def ends_well(self, *, answers: bool = True) -> None:
        """Prunes leave only what is needed; every kept snapshot is restored; one is made whose answers are replayed."""
        for _ in range(3):
            self.prune()
            self.seconds += 25 * HOUR
        repository = self.open()
        report = prune(repository, PruneOptions(DAY, 0.0))
        assert (report.condemned.packs, report.waiting.packs, report.unlisted.packs, report.unused_bytes) == (0, 0, 0, 0)
        assert report.kept.packs == len(list(self.inner.list("packs/")))
        probed = self.back_up(0, reread=True, probes=True) if answers else None
        found = self.verified(Level.DATA)
        assert found.findings == ()
        assert set(found.healthy) == {*self.kept, *self.left}
        self.is_whole()
        for name, one in self.kept.items():
            assert restored_files(self.open(), name, self.folder / f"restored-{next(self.names)}") == one.content.files
        if answers:
            assert probed is not None
            assert self.verified(Level.ANSWERS, probed).passed


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which 150 rows fill several segments and packs, and compaction has something to do."""
    monkeypatch.setattr(held, "QUIET_SECONDS", 0.0)  # nobody writes to a source while it is read
    monkeypatch.setattr(packs, "PACK_BYTES", 16 << 10)
    monkeypatch.setattr(prune_plan, "PACK_BYTES", 16 << 10)
    monkeypatch.setattr(prune_plan, "_SMALL_BYTES", 4 << 10)
    monkeypatch.setattr(prune_plan, "_MANY_SMALL", 4)
    monkeypatch.setattr(compaction, "FEW", 1)
    monkeypatch.setattr(compaction, "_GROWTH", 8)
    monkeypatch.setattr(segment_writer, "_SEGMENT_ROWS", 32)
    monkeypatch.setattr(rows_writer, "_LONGEST_ORDER", 3)
    monkeypatch.setattr(matching, "_STRAYS", 4)
    monkeypatch.setattr(artifacts, "DEEPEST", 3)
    monkeypatch.setattr(predecessor, "HIGHEST", 2_000)
    retired = compaction.retired

    def counted(*arguments) -> frozenset[int]:
        chosen = retired(*arguments)
        SEEN["pieces given up"] += len(chosen)
        return chosen

    monkeypatch.setattr(rows_writer, "retired", counted)
    SEEN.clear()


def count(what: str, fault: str | None) -> str | None:
    if fault:
        SEEN[what] += 1
    return fault


def copy_objects(source: Store, target: Store) -> None:
    for one in list(source.list("")):
        target.create(one.name, source.read(one.name))


def draw_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
