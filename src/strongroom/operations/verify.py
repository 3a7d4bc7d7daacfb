"""Is what is kept really there, readable, restorable, and does it answer as it did? Four levels, each with all before it.

A check that looked at nothing is a failure, never a pass.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from strongroom import engines
from strongroom.errors import Damaged, EngineFailed, NotFound, StrongroomError, VerificationFailed
from strongroom.model import Answers, Selection
from strongroom.operations.backup import root_of
from strongroom.operations.restore import RestoreOptions, restore
from strongroom.operations.restore_plan import Rung
from strongroom.operations.witness import Witness
from strongroom.progress import SILENT, Progress
from strongroom.repository import PACKS, SNAPSHOTS, Pack, Repository
from strongroom.repository.packs import read_pack
from strongroom.snapshots import history, probes
from strongroom.snapshots.fingerprints import Fingerprinter, RowsRoot
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import StoredCollection

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
    findings: list[Finding] = field(default_factory=list)
    looked_at: dict[str, int] = field(default_factory=dict)
    recall: dict[str, float] = field(default_factory=dict)

    def run(self, name: str | None) -> VerifyReport:
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
        return VerifyReport(self.options.level, tuple(self.findings), self.looked_at, healthy, self.recall)

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
            self._check_size(pack, sizes.get(pack.name), self._users(pack, needs))
        if not needs and chosen:
            self._find("blobs", "the snapshots need not one blob: nothing could be checked", chosen)

    def _check_manifest(self, snapshot: Snapshot) -> None:
        """What can be seen in the manifest alone: planes that are empty, counts, roots and dimensions that don't fit."""
        record, name = snapshot.manifest, SNAPSHOTS + snapshot.id
        if record.root != root_of(record.collections):
            self._find(name, "its root doesn't fit its collections", [snapshot])
        if not record.rows:
            self._find(name, "it holds not one row: that is no backup", [snapshot])
        if not record.artifacts:
            self._find(name, "it holds no file of the index plane", [snapshot])
        for artifact in record.artifacts:
            if sum(part.length for part in artifact.parts) != artifact.size:
                self._find(f"{name}, artifact {artifact.path}", "its parts are not as long as the file was", [snapshot])
        for collection in record.collections:
            problem = _inconsistency(collection, record.rows_plane)
            if problem:
                self._find(f"{name}, collection {collection.name}", problem, [snapshot])

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

    def _check_size(self, pack: Pack, size: int | None, snapshots: Sequence[Snapshot]) -> None:
        if size is None:
            self._find(pack.name, "missing", snapshots)
        elif size != pack.size:
            self._find(pack.name, f"truncated or altered: {size:,} bytes are there instead of {pack.size:,}", snapshots)

    # -- data ----------------------------------------------------------------------------------------------------------------

    def _check_data(self, chosen: Sequence[Snapshot], sizes: dict[str, int]) -> None:
        needs = self._needs(chosen)
        packs = [pack for pack in self._packs() if sizes.get(pack.name) == pack.size]
        packs = [pack for pack in packs if self._users(pack, needs)]
        witness = Witness(self.repository)
        packs.sort(key=lambda pack: witness.proven.get(pack.id, 0.0))
        packs = list(_within(packs, self.options.budget))
        self.progress.begin("data", sum(pack.size for pack in packs), "bytes")
        proven: list[str] = []
        with ThreadPoolExecutor(_READERS, thread_name_prefix="strongroom-verify") as pool:
            for pack, problems in zip(packs, pool.map(self._read_whole, packs), strict=True):
                for subject, problem, blob in problems:
                    self._find(subject, problem, needs.get(blob, []) if blob else self._users(pack, needs))
                if not problems:
                    proven.append(pack.id)
                self._count("bytes", pack.size)
                self.progress.advance(pack.size)
        witness.proved(proven, self.repository.clock.now().timestamp())
        if not packs:
            self._find("packs/", "not one pack could be read: nothing was checked", chosen)

    def _read_whole(self, pack: Pack) -> list[tuple[str, str, bytes | None]]:
        """Everything that is wrong with a pack: subject, problem, and the blob if it is one blob's."""
        problems: list[tuple[str, str, bytes | None]] = []
        content = self.repository.store.read(pack.name)
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

    # -- restore and answers -----------------------------------------------------------------------------------------------

    def _check_restore(self, snapshot: Snapshot) -> None:
        """Restore into a scratch engine, read all rows back, and replay the probes."""
        name = SNAPSHOTS + snapshot.id
        with tempfile.TemporaryDirectory(prefix="strongroom-verify-", dir=self.options.scratch) as place:
            try:
                names = [collection.name for collection in snapshot.manifest.collections]
                url = engines.find(snapshot.manifest.engine).scratch(Path(place), names)
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

    def _check_restored(self, snapshot: Snapshot, url: str) -> None:
        fingerprinter = Fingerprinter(self.repository.keys.fingerprint)
        with engines.source_of(url).freeze(self.progress) as frozen:
            for collection in snapshot.manifest.collections:
                root = RowsRoot(fingerprinter)
                self.progress.begin(f"rows of {collection.name}", collection.count, "rows")
                for block in frozen.rows(collection.name):
                    root.add(block.live())
                    self.progress.advance(block.batch.num_rows)
                self._count("rows", root.count)
                self._compare_rows(snapshot, collection, root)
            if self.options.level >= Level.ANSWERS:
                for collection in snapshot.manifest.collections:
                    self._check_answers(snapshot, collection, frozen.search)

    def _compare_rows(self, snapshot: Snapshot, collection: StoredCollection, root: RowsRoot) -> None:
        subject = f"{SNAPSHOTS}{snapshot.id}, collection {collection.name}"
        if root.count != collection.count:
            self._find(subject, f"{root.count} rows came back, the manifest says {collection.count}", [snapshot])
        elif root.digest() != collection.rows_root:
            self._find(subject, "the rows that came back are not the ones that were backed up", [snapshot])

    def _check_answers(self, snapshot: Snapshot, collection: StoredCollection, search: Callable[..., Answers]) -> None:
        subject = f"{SNAPSHOTS}{snapshot.id}, collection {collection.name}"
        if collection.count and not collection.probes:
            self._find(subject, "it has no probes: its answers can't be checked", [snapshot])
        for probe in collection.probes:
            one = probes.decode(self.repository.read_blob(bytes.fromhex(probe.blob)))
            if not len(one.queries) or len(one.queries) != probe.count:
                self._find(subject, f"{len(one.queries)} probes are there instead of {probe.count}", [snapshot])
                continue
            given = search(collection.name, probe.field, one.queries, one.k)
            if not any(given.ids):
                self._find(subject, "the index answered nothing", [snapshot])
                continue
            self._count("probes", len(given))
            self.recall[f"{snapshot.id[:12]}/{collection.name}"] = one.recall(given)
            problem = probes.disagreement(one, given, repeatable=probe.repeatable)
            if problem:
                self._find(subject, problem, [snapshot])

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

    def _users(self, pack: Pack, needs: dict[bytes, list[Snapshot]]) -> list[Snapshot]:
        users = {snapshot.id: snapshot for blob in pack.blobs for snapshot in needs.get(blob.id, ())}
        return list(users.values())

    def _find(self, subject: str, problem: str, snapshots: Sequence[Snapshot] = (), *, ids: tuple[str, ...] | None = None) -> None:
        finding = Finding(subject, problem, ids if ids is not None else tuple(snapshot.id for snapshot in snapshots))
        if not any(known.subject == subject and known.problem == problem for known in self.findings):
            self.findings.append(finding)

    def _count(self, what: str, amount: int) -> None:
        self.looked_at[what] = self.looked_at.get(what, 0) + amount


def _inconsistency(collection: StoredCollection, rows_plane: str) -> str | None:
    """What doesn't fit together in a collection's record."""
    for one in collection.catalog.fields:
        if one.dimension < 0 or (collection.count and one.dimension == 0):
            return f"field {one.name} has dimension {one.dimension}"
    if rows_plane != "segments":
        return None
    live = 0
    for segment in collection.segments:
        dead = segment.dead_slots()
        live += segment.rows - (int(dead.sum()) if dead is not None else 0)
    if live != collection.count:
        return f"its segments hold {live} rows, it says {collection.count}"
    if collection.count and not collection.schema:
        return "it has rows and no schema"
    if collection.schema:
        schema = collection.arrow_schema()
        for one in collection.catalog.fields:
            kind = schema.field(one.name).type
            if getattr(kind, "list_size", one.dimension) != one.dimension:
                return f"field {one.name} has dimension {one.dimension}, its rows have {kind.list_size}"
    return None


def _within(packs: Sequence[Pack], budget: int | None) -> Iterator[Pack]:
    """As many packs as fit the budget, at least one."""
    used = 0
    for pack in packs:
        if budget is not None and used and used + pack.size > budget:
            return
        used += pack.size
        yield pack
