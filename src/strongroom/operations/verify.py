"""Is what is kept really there, readable, restorable, and does it answer as it did? Four levels, each with all before it.

A check that looked at nothing is a failure, never a pass.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from strongroom import engines
from strongroom.engines.protocol import Frozen
from strongroom.errors import Damaged, EngineFailed, NotFound, StrongroomError, VerificationFailed
from strongroom.model import Answers, Collection, Selection
from strongroom.operations.consistency import contradictions
from strongroom.operations.processor import reproducible, rounds_alike
from strongroom.operations.replay import actual_name, ask, names_of
from strongroom.operations.restore import RestoreOptions, restore
from strongroom.operations.restore_plan import Rung
from strongroom.operations.restore_rows import stored_rows
from strongroom.operations.witness import Witness
from strongroom.progress import SILENT, Progress
from strongroom.repository import PACKS, SNAPSHOTS, Pack, Repository
from strongroom.repository.packs import read_pack
from strongroom.snapshots import history, probes
from strongroom.snapshots.fingerprints import Fingerprinter, RowsRoot
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import ProbeSet, StoredCollection
from strongroom.snapshots.probes import Probes

_READERS = 3


class Level(IntEnum):
    """How deep to look."""

    OBJECTS = 1
    DATA = 2
    RESTORE = 3
    ANSWERS = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: the object or collection, what is wrong with it, and the snapshots that it breaks."""

    subject: str
    problem: str
    snapshots: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was looked at (objects, bytes, rows, probes), what was found, and the ids of the snapshots that passed everything."""

    level: Level
    findings: tuple[Finding, ...]
    looked_at: dict[str, int]
    healthy: tuple[str, ...]
    recall: dict[str, float]

    @property
    def passed(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """`budget` bounds the bytes that level DATA reads (the least recently proven packs first); `scratch` is where restores go."""

    level: Level = Level.DATA
    budget: int | None = None
    scratch: Path | None = None


def verify(
    repository: Repository, snapshot: str | None = None, options: VerifyOptions | None = None, progress: Progress = SILENT
) -> VerifyReport:
    """Verify one snapshot ('latest' or the beginning of an id), or all of them and everything around them.

    Damage is returned as findings, not raised; raises Unreachable and the like if the store can't be asked.
    """
    return _Verification(repository, options or VerifyOptions(), progress).run(snapshot)


@dataclass
class _Verification:
    repository: Repository
    options: VerifyOptions
    progress: Progress
    _found: dict[tuple[str, str], dict[str, None]] = field(default_factory=dict)
    looked_at: dict[str, int] = field(default_factory=dict)
    recall: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fingerprinter = Fingerprinter(self.repository.keys.fingerprint)

    def run(self, name: str | None) -> VerifyReport:
        self.repository.distrust_cache()
        snapshots, damaged = history.read_all(self.repository)
        self._check_history(snapshots, damaged)
        chosen = self._chosen(name, snapshots)
        self._count("snapshots", len(chosen))
        sizes = {listed.name: listed.size for listed in self.repository.store.list(PACKS)}
        self._check_key_slots()
        self._check_objects(chosen, sizes)
        if self.options.level >= Level.DATA:
            self._check_data(chosen, sizes)
        if self.options.level >= Level.RESTORE:
            for snapshot in chosen:
                self._check_restore(snapshot)
        if self.options.level >= Level.ANSWERS and not self.looked_at.get("probes"):
            self._find("probes", "not one probe could be replayed", chosen)
        broken = {snapshot_id for finding in self.findings for snapshot_id in finding.snapshots}
        healthy = tuple(snapshot.id for snapshot in chosen if snapshot.id not in broken)
        return VerifyReport(self.options.level, self.findings, self.looked_at, healthy, self.recall)

    # -- objects -----------------------------------------------------------------------------------------------------------

    def _check_history(self, snapshots: Sequence[Snapshot], damaged: Sequence[Damaged]) -> None:
        for problem in damaged:
            self._find(problem.subject, problem.problem, ids=(problem.subject.rpartition("/")[2],))
        for missing, namers in history.missing_parents(snapshots, damaged).items():
            self._find(SNAPSHOTS + missing, f"missing: snapshot {namers[0][:12]} names it as its predecessor", ids=(missing,))
        witness = Witness(self.repository)
        present = {snapshot.id for snapshot in snapshots} | {problem.subject.rpartition("/")[2] for problem in damaged}
        for remembered in witness.newest:
            if remembered not in present:
                rolled_back = "missing: this machine saw it as the newest one (rolled back?)"
                self._find(SNAPSHOTS + remembered, rolled_back, ids=(remembered,))
        witness.saw(history.heads(snapshots), present)
        if not snapshots:
            self._find("snapshots/", "there is no readable snapshot: nothing could be checked")

    def _chosen(self, name: str | None, snapshots: Sequence[Snapshot]) -> list[Snapshot]:
        if name is None:
            return list(snapshots)
        if name == "latest":
            return list(snapshots[-1:])
        found = [snapshot for snapshot in snapshots if snapshot.id.startswith(name.lower())]
        if len(found) != 1 and not any(finding.subject.startswith(SNAPSHOTS + name) for finding in self.findings):
            raise NotFound(f"{len(found)} snapshots' ids begin with {name!r}", hint="see 'strongroom snapshots'")
        return found

    def _check_key_slots(self) -> None:
        _, damaged = self.repository.key_slots()
        for problem in damaged:
            self._find(problem.subject, problem.problem)

    def _check_objects(self, chosen: Sequence[Snapshot], sizes: dict[str, int]) -> None:
        needs = self._needs(chosen)
        self.progress.begin("objects", len(needs), "objects")
        self.repository.look_again()
        if not all(self.repository.index.places(blob) for blob in needs):
            self.repository.read_directories()
        for problem in self.repository.problems:
            if not problem.subject.startswith("keys/"):
                self._find(problem.subject, problem.problem)
        for snapshot in chosen:
            self._check_manifest(snapshot)
        for blob, snapshots in needs.items():
            self._check_place(blob, snapshots, sizes)
            self.progress.advance(1)
        self._count("blobs", len(needs))
        for pack in self._packs():
            if sizes.get(pack.name) != pack.size:
                self._check_loss(pack, needs, sizes)
        if not needs and chosen:
            self._find("blobs", "the snapshots need not one blob: nothing could be checked", chosen)

    def _check_manifest(self, snapshot: Snapshot) -> None:
        for part, problem in contradictions(snapshot.manifest):
            self._find(f"{SNAPSHOTS}{snapshot.id}" + (f", {part}" if part else ""), problem, [snapshot])

    def _check_place(self, blob: bytes, snapshots: list[Snapshot], sizes: dict[str, int]) -> None:
        places = self.repository.index.places(blob)
        if not places:
            places = self.repository.unlisted.places(blob)
            for place in places[:1]:
                self._find(place.pack.name, "no index object lists it any more; its own directory serves instead")
        if not places:
            self._find(f"blob {blob.hex()[:16]}", "no index object lists it", snapshots)
        elif not any(sizes.get(place.pack.name) == place.pack.size for place in places):
            pack = places[0].pack
            self._check_size(pack, sizes.get(pack.name), snapshots)

    def _check_loss(self, pack: Pack, needs: dict[bytes, list[Snapshot]], sizes: dict[str, int]) -> None:
        """A pack that isn't there as it was breaks what lies nowhere else; and one that is gone is no loss if all of it does."""

        def lies_elsewhere(blob: bytes) -> bool:
            there = (place.pack for place in self.repository.index.places(blob) if place.pack.id != pack.id)
            return any(sizes.get(other.name) == other.size for other in there)

        lost = [blob.id for blob in pack.blobs if not lies_elsewhere(blob.id)]
        if lost or pack.name in sizes:
            self._check_size(pack, sizes.get(pack.name), _users(lost, needs))

    def _check_size(self, pack: Pack, size: int | None, snapshots: Sequence[Snapshot]) -> None:
        if size is None:
            self._find(pack.name, "missing", snapshots)
        elif size != pack.size:
            self._find(pack.name, f"truncated or altered: {size:,} bytes are there instead of {pack.size:,}", snapshots)

    # -- data ----------------------------------------------------------------------------------------------------------------

    def _check_data(self, chosen: Sequence[Snapshot], sizes: dict[str, int]) -> None:
        needs = self._needs(chosen)
        packs = [pack for pack in self._packs() if sizes.get(pack.name) == pack.size]
        packs = [pack for pack in packs if any(blob.id in needs for blob in pack.blobs)]
        witness = Witness(self.repository)
        packs.sort(key=lambda pack: witness.proven.get(pack.id, 0.0))
        packs = list(_within(packs, self.options.budget))
        self.progress.begin("data", sum(pack.size for pack in packs), "bytes")
        whole, damaged = list[str](), list[str]()
        try:
            with ThreadPoolExecutor(_READERS, thread_name_prefix="strongroom-verify") as pool:
                for pack, problems in zip(packs, pool.map(self._read_whole, packs), strict=True):
                    for subject, problem, blob in problems:
                        hurt = [blob] if blob else [one.id for one in pack.blobs]
                        lost = [one for one in hurt if not self._is_served_elsewhere(one)]
                        self._find(subject, problem, _users(lost, needs))
                    (damaged if problems else whole).append(pack.id)
                    self._count("bytes", pack.size)
                    self.progress.advance(pack.size)
        finally:  # what was read is known, even if the rest can't be
            witness.judged(self.repository.clock.now().timestamp(), whole=whole, damaged=damaged)
        if not packs:
            self._find("packs/", "not one pack could be read: nothing was checked", chosen)

    def _read_whole(self, pack: Pack) -> list[tuple[str, str, bytes | None]]:
        """Everything that is wrong with a pack: subject, problem, and the blob if it is one blob's."""
        problems: list[tuple[str, str, bytes | None]] = []
        try:
            content = self.repository.store.read(pack.name)
        except NotFound:
            return [(pack.name, "missing", None)]
        reader = self.repository.reader(pack)
        for blob in pack.blobs:
            try:
                reader.open(blob, content[blob.offset : blob.offset + blob.stored])
            except Damaged as error:
                problems.append((error.subject, error.problem, blob.id))
        if problems:
            return problems
        try:
            if read_pack(self.repository.keys, pack.name, content).blobs != pack.blobs:
                problems.append((pack.name, "its directory isn't what the blob index says", None))
        except Damaged as error:
            problems.append((error.subject, error.problem, None))
        return problems

    def _is_served_elsewhere(self, blob: bytes) -> bool:
        """Has another pack the blob whole? Then a restore takes it from there."""
        if len(self.repository.index.places(blob)) > 1:
            with suppress(Damaged):
                self.repository.read_blob(blob)
                return True
        return False

    # -- restore and answers -----------------------------------------------------------------------------------------------

    def _check_restore(self, snapshot: Snapshot) -> None:
        """Read the rows plane; restore into a scratch engine, read all rows back, and replay the probes."""
        name = SNAPSHOTS + snapshot.id
        if snapshot.manifest.rows_plane == "segments":
            for collection in snapshot.manifest.collections:
                self._check_segments(snapshot, collection)
        with tempfile.TemporaryDirectory(prefix="strongroom-verify-", dir=self.options.scratch) as place:
            try:
                names = [collection.name for collection in snapshot.manifest.collections]
                url = engines.find(snapshot.manifest.engine).scratch(Path(place), names)
                with engines.prepared(url) if self.options.level >= Level.ANSWERS else nullcontext():
                    report = restore(self.repository, snapshot.id, url, RestoreOptions(Selection(), replay=False), self.progress)
                    if report.plan.rung != Rung.EXACT:
                        self._find(name, f"it could not be restored exactly here: {report.plan.reasons[0]}", [snapshot])
                    self._check_restored(snapshot, url)
            except (Damaged, VerificationFailed, EngineFailed) as error:
                subject = error.subject if isinstance(error, Damaged) else name
                problem = error.problem if isinstance(error, Damaged) else str(error)
                self._find(subject, problem, [snapshot])
            except StrongroomError as error:
                self._find(name, f"it can't be restored: {error}", [snapshot])

    def _check_segments(self, snapshot: Snapshot, collection: StoredCollection) -> None:
        """The rows plane by itself: an exact restore needs none of it, one into another version or engine nothing else."""
        root = RowsRoot(self._fingerprinter)
        try:
            for block in stored_rows(self.repository, collection) if collection.schema else ():
                root.add(block.live())
        except Damaged as error:
            self._find(_subject(snapshot, collection), str(error), [snapshot])
            return
        self._count("stored rows", root.count)
        if root.digest() != collection.rows_root:
            self._find(_subject(snapshot, collection), "its segments don't hold the rows that were backed up", [snapshot])

    def _check_restored(self, snapshot: Snapshot, url: str) -> None:
        with engines.source_of(url).freeze(self.progress) as frozen:
            self._compare_catalog(snapshot, frozen)
            read = {one.name: self._read_rows(snapshot, one, frozen) for one in snapshot.manifest.collections}
            if self.options.level >= Level.ANSWERS:
                for collection in snapshot.manifest.collections:
                    self._check_probes(snapshot, collection, read[collection.name])
                    for probe in collection.probes:
                        self._check_answers(snapshot, collection, probe, frozen)

    def _compare_catalog(self, snapshot: Snapshot, frozen: Frozen) -> None:
        """The collections that came back are those of the manifest, with the same vector fields."""
        came_back = {one.name: _shape(one) for one in frozen.description.collections}
        for collection in snapshot.manifest.collections:
            shape = came_back.pop(actual_name(frozen, collection.name), None)
            if shape is None:
                self._find(_subject(snapshot, collection), "it did not come back", [snapshot])
            elif shape != _shape(collection.catalog):
                problem = f"its vector fields came back as {shape}, the manifest says {_shape(collection.catalog)}"
                self._find(_subject(snapshot, collection), problem, [snapshot])
        for name in came_back:
            self._find(f"{SNAPSHOTS}{snapshot.id}, collection {name}", "it came back, and the manifest has no such", [snapshot])

    def _read_rows(self, snapshot: Snapshot, collection: StoredCollection, frozen: Frozen) -> set[str]:
        """Read all rows back and compare them. Gives the fields that have a vector in any row."""
        root, fields = RowsRoot(self._fingerprinter), set[str]()
        name = actual_name(frozen, collection.name)
        self.progress.begin(f"rows of {collection.name}", collection.count, "rows")
        for block in frozen.rows(name) if name in names_of(frozen) else ():
            live = block.live()
            root.add(live)
            fields |= {one.name for one, column in zip(live.schema, live.columns, strict=True) if column.null_count < len(column)}
            self.progress.advance(block.batch.num_rows)
        self._count("rows", root.count)
        if root.count != collection.count:
            problem = f"{root.count} rows came back, the manifest says {collection.count}"
            self._find(_subject(snapshot, collection), problem, [snapshot])
        elif reproducible(snapshot.manifest, collection) and root.digest() != collection.rows_root:
            problem = "the rows that came back are not the ones that were backed up"
            self._find(_subject(snapshot, collection), problem, [snapshot])
        return fields

    def _check_probes(self, snapshot: Snapshot, collection: StoredCollection, fields: set[str]) -> None:
        """Every field that has vectors must have probes."""
        probed = {probe.field for probe in collection.probes}
        for one in collection.catalog.fields:
            if one.name in fields and one.name not in probed:
                problem = f"field {one.name} has no probes: its answers can't be checked"
                self._find(_subject(snapshot, collection), problem, [snapshot])

    def _check_answers(self, snapshot: Snapshot, collection: StoredCollection, probe: ProbeSet, frozen: Frozen) -> None:
        subject = f"{_subject(snapshot, collection)}, probes of {probe.field}"
        try:
            sealed = probes.decode(self.repository.read_blob(bytes.fromhex(probe.blob)))
            problem = _mismatch(probe, sealed)
            if problem is None:
                given = ask(frozen, actual_name(frozen, collection.name), probe.field, sealed)
                field = f", {probe.field}" if len(collection.probes) > 1 else ""
                exact = probe.repeatable and rounds_alike(snapshot.manifest)
                problem = self._judge(f"{snapshot.id[:12]}/{collection.name}{field}", sealed, given, exact=exact)
        except (Damaged, EngineFailed) as error:
            problem = str(error)
        if problem:
            self._find(subject, problem, [snapshot])

    def _judge(self, name: str, sealed: Probes, given: Answers, *, exact: bool) -> str | None:
        if not any(given.ids):
            return "the index answered nothing"
        self._count("probes", len(given))
        self.recall[name] = sealed.recall(given)
        return probes.disagreement(sealed, given, repeatable=exact)

    # -- bookkeeping -------------------------------------------------------------------------------------------------------

    def _packs(self) -> list[Pack]:
        """Those that index objects list, and those that were found without."""
        return [*self.repository.index.packs.values(), *self.repository.unlisted.packs.values()]

    def _needs(self, chosen: Sequence[Snapshot]) -> dict[bytes, list[Snapshot]]:
        needs: dict[bytes, list[Snapshot]] = {}
        for snapshot in chosen:
            for blob in set(snapshot.manifest.blobs()):
                needs.setdefault(bytes.fromhex(blob), []).append(snapshot)
        return needs

    def _find(self, subject: str, problem: str, snapshots: Sequence[Snapshot] = (), *, ids: tuple[str, ...] = ()) -> None:
        """Note a finding; what is found twice breaks the snapshots of both."""
        broken = self._found.setdefault((subject, problem), {})
        broken.update(dict.fromkeys([*ids, *(snapshot.id for snapshot in snapshots)]))

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(Finding(subject, problem, tuple(broken)) for (subject, problem), broken in self._found.items())

    def _count(self, what: str, amount: int) -> None:
        self.looked_at[what] = self.looked_at.get(what, 0) + amount


def _users(blobs: Iterable[bytes], needs: dict[bytes, list[Snapshot]]) -> list[Snapshot]:
    return list({snapshot.id: snapshot for blob in blobs for snapshot in needs.get(blob, ())}.values())


def _subject(snapshot: Snapshot, collection: StoredCollection) -> str:
    return f"{SNAPSHOTS}{snapshot.id}, collection {collection.name}"


def _shape(collection: Collection) -> list[str]:
    return sorted(f"{one.name}: {one.dimension} x {one.dtype}, {one.metric}" for one in collection.fields)


def _mismatch(probe: ProbeSet, sealed: Probes) -> str | None:
    """What the manifest says of the probes and the probes themselves don't."""
    if not len(sealed.queries) or len(sealed.queries) != probe.count:
        return f"{len(sealed.queries)} probes are there instead of {probe.count}"
    if sealed.k != probe.k:
        return f"they ask for {sealed.k} neighbours, the manifest says {probe.k}"
    if sealed.live is not None and probe.recall is not None and sealed.recall(sealed.live) != probe.recall:
        return f"their recall is {sealed.recall(sealed.live):.3f}, the manifest says {probe.recall:.3f}"
    return None


def _within(packs: Sequence[Pack], budget: int | None) -> Iterator[Pack]:
    """As many packs as fit the budget, at least one."""
    used = 0
    for pack in packs:
        if budget is not None and used and used + pack.size > budget:
            return
        used += pack.size
        yield pack
