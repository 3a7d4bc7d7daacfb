"""How a snapshot becomes a live database again: staged beside the target, verified, then put in its place.

Whatever kills a restore, running it again goes on where it stopped and ends in the same state:

    stage: install or load (noted in state.json) -> seal -> verify -> publish (by renames, old state kept until all is in place)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from strongroom import engines
from strongroom.engines.protocol import Frozen, Recovering, Stage, Target
from strongroom.errors import EngineFailed, NotFound, Refused, StrongroomError, Unreadable, VerificationFailed, from_os_error
from strongroom.model import Fidelity, Selection, Until
from strongroom.operations.journal.moment import MomentPlan, log_of
from strongroom.operations.journal.replay import JournalReplay
from strongroom.operations.machine.processor import reproducible
from strongroom.operations.machine.witness import remembering_damage
from strongroom.operations.restore.erased import erased_in
from strongroom.operations.restore.erased_rows import NOTHING_ERASED, Erased
from strongroom.operations.restore.files import Installation
from strongroom.operations.restore.judge import Judge
from strongroom.operations.restore.overlay import OverlayLoading
from strongroom.operations.restore.plan import RestorePlan, Rung, chosen_collections, installed_artifacts, plan_restore
from strongroom.operations.restore.replay import Replayed, actual_name, names_of, replay
from strongroom.operations.restore.rows import RowsLoading
from strongroom.operations.restore.scratch import Scratch
from strongroom.operations.restore.state import RestoreState
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository
from strongroom.snapshots import history
from strongroom.snapshots.consistency import has_rows_alone
from strongroom.snapshots.fingerprints import Fingerprinter, RowsRoot
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.tenant_parts import opened


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """`rung` asks for a lower rung than the best one; `replay` False leaves the probes to a later verify. `moment` is a later
    moment than the snapshot's, to which the journal leads. `tell` is called with the plan before something is
    done."""

    selection: Selection = field(default_factory=Selection)
    require_exact: bool = False
    overwrite: bool = False
    rung: Rung | None = None
    replay: bool = True
    moment: MomentPlan | None = None
    tell: Callable[[RestorePlan], None] | None = None
    erasing: bool = True
    """False for a scratch copy that is compared with the manifest and dropped: what was erased is in it."""


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was done. `checks` says, a line each, what was verified before the new state was published."""

    plan: RestorePlan
    already_there: bool
    checks: tuple[str, ...]
    recall: Mapping[str, float]
    seconds: float


def restore(
    repository: Repository, snapshot: str, target: str, options: RestoreOptions | None = None, progress: Progress = SILENT
) -> RestoreReport:
    """Restore a snapshot ('latest' or the beginning of an id) to the target that a URL names.

    Raises NotFound, WrongRequest, Refused, Locked, Damaged (naming the object), VerificationFailed (the staged state is not what
    was backed up; the target is untouched). May be repeated after any failure and goes on where it stopped.
    """
    return restore_found(repository, opened(repository, history.find(repository, snapshot)), target, options, progress)


def restore_found(
    repository: Repository, found: Snapshot, target: str, options: RestoreOptions | None = None, progress: Progress = SILENT
) -> RestoreReport:
    """The same, of a snapshot that was found and opened, or of a part of it."""
    chosen = options or RestoreOptions()
    erased = erased_in(repository, found, chosen.moment, chosen.selection) if chosen.erasing else NOTHING_ERASED
    plan = plan_restore(
        found,
        target,
        chosen.selection,
        require_exact=chosen.require_exact,
        rung=chosen.rung,
        moment=chosen.moment,
        erased=erased,
    )
    if chosen.tell is not None and (chosen.overwrite or not plan.occupied):
        chosen.tell(plan)
    asking = engines.prepared(target) if chosen.replay or plan.rung != Rung.EXACT else nullcontext()
    with _local_errors(target), remembering_damage(repository), asking:
        return _Restore(repository, found, plan, chosen, erased, progress).run()


class _Restore:
    def __init__(
        self,
        repository: Repository,
        snapshot: Snapshot,
        plan: RestorePlan,
        options: RestoreOptions,
        erased: Erased,
        progress: Progress,
    ) -> None:
        self._repository = repository
        self._snapshot = snapshot
        self._plan = plan
        self._options = options
        self._erased = erased
        self._progress = progress
        self._fingerprinter = Fingerprinter(repository.keys.fingerprint)
        self._checks: list[str] = []
        self._judge = Judge(snapshot.manifest, self._checks)
        self._catalogs: dict[str, str] = {}

    def run(self) -> RestoreReport:
        started = time.perf_counter()
        target = engines.target_of(self._plan.target)
        stage = target.stage(self._plan.token, self._options.selection)
        try:
            already = False
            if RestoreState(stage.directory).replaying:  # half applied: operations can't be told twice
                stage.discard()
                stage = target.stage(self._plan.token, self._options.selection)
            if (stage.directory / "publishing").exists():
                stage.publish(RestoreState(stage.directory).receipt(), overwrite=self._options.overwrite)
                self._checks.append("an interrupted cut-over was finished")
            elif self._is_there(target):
                stage.discard()
                already = True
            else:
                self._build(stage)
        finally:
            stage.close()
        told = (*self._checks, self._erased.why) if self._erased else tuple(self._checks)
        return RestoreReport(self._plan, already, told, self._judge.recall, time.perf_counter() - started)

    def _is_there(self, target: Target) -> bool:
        """Did this very restore end here before, and does the target still hold those rows?"""
        receipt = _receipt_of(target)
        if receipt.get("token") != self._plan.token:
            return False
        try:
            same = self._holds(target, receipt)
        except (NotFound, Unreadable, EngineFailed):
            return False
        if same:
            self._checks.append("the target holds this very state already: rows are equal, nothing was done")
        return same

    def _holds(self, target: Target, receipt: Mapping[str, Any]) -> bool:
        """Does the target hold the receipt's collections as they were, and no others if it is one that is always replaced as a
        whole? Raises NotFound, Unreadable or EngineFailed."""
        with engines.source_of(self._plan.target).freeze(self._progress) as frozen:
            expected = {actual_name(frozen, name): root for name, root in receipt["collections"].items()}
            names = set(names_of(frozen))
            if not set(expected) <= names or (target.occupied(()) and names != set(expected)):
                return False
            rows = all(self._has_rows(frozen, name, root) for name, root in expected.items())
            return rows and receipt.get("catalogs", {}).items() <= _catalogs_of(frozen).items()

    def _build(self, stage: Stage) -> None:
        if _entangled(Path(self._repository.store.url), stage, self._plan):
            stage.discard()
            raise Refused(
                f"{self._plan.target} would replace the repository or lie inside of it",
                hint="restore to a place outside of the repository's directory",
            )
        if self._plan.occupied and not self._options.overwrite:
            stage.discard()
            raise Refused(
                f"{self._plan.target} is not empty ({self._plan.occupied[0]})",
                hint="restore to another place, or give --overwrite to replace it once the new state is verified",
            )
        state = RestoreState(stage.directory)
        if self._options.moment is not None and not self._engine_replays():
            roots = self._overlaid(stage, state, self._options.moment)
        else:
            roots = self._exact(stage, state) if self._plan.rung == Rung.EXACT else self._from_rows(stage, state)
            if self._options.moment is not None:
                roots = self._go_on(stage, state, self._options.moment)
        receipt = {
            "strongroom": 1,
            "repository": self._repository.config.repository_id.hex(),
            "snapshot": self._snapshot.id,
            "rung": self._plan.rung.value,
            "token": self._plan.token,
            "collections": roots,
            "catalogs": {name: self._catalogs[name] for name in roots if name in self._catalogs},
        }
        state.set_receipt(json.dumps(receipt, indent=1).encode())
        stage.publish(state.receipt(), overwrite=self._options.overwrite)

    def _engine_replays(self) -> bool:
        """Can the operations of the journal be left to the engine? It has its own files then, or never had any."""
        record = self._snapshot.manifest
        if self._erased:
            return False
        same = engines.engine_of(self._plan.target).name == record.engine
        return self._plan.rung == Rung.EXACT or (same and has_rows_alone(record) and not self._plan.later)

    def _go_on(self, stage: Stage, state: RestoreState, moment: MomentPlan) -> dict[str, str]:
        """From the snapshot to the later moment. Gives the roots of the collections."""
        state.set_replaying()
        if moment.until is not None and isinstance(stage, Recovering):
            return self._recover(stage, state, moment, moment.until)
        target = engines.target_of(self._plan.target)
        collections = self._snapshot.manifest.description().collections
        found = {target.fidelity(one) for one in collections}
        worst = next((one for one in (Fidelity.CODED, Fidelity.NORMALIZED) if one in found), Fidelity.KEPT)
        replay_ = JournalReplay(self._repository, moment, self._options.selection, self._progress)
        roots, line = replay_.run(stage, worst)
        self._checks.append(line)
        with stage.source().freeze(SILENT) as frozen:
            self._catalogs = _catalogs_of(frozen)
        state.set_replayed()
        return roots

    def _recover(self, stage: Stage, state: RestoreState, moment: MomentPlan, until: Until) -> dict[str, str]:
        """Let the engine go on by its own log, and read what it comes to."""
        assert isinstance(stage, Recovering)  # noqa: S101 - told apart by the caller
        description = self._snapshot.manifest.description()
        self._checks.append(stage.recover(description, log_of(self._repository, moment), until))
        stage.seal()
        with stage.source().freeze(SILENT) as frozen:
            roots = {name: _root_of(frozen, name, self._fingerprinter) for name in names_of(frozen)}
            self._catalogs = _catalogs_of(frozen)
        rows = sum(one.count for one in roots.values())
        self._checks.append(f"the engine came to the moment on a copy: {rows:,} rows in {len(roots)} collections there")
        state.set_replayed()
        return {name: root.digest() for name, root in roots.items()}

    def _overlaid(self, stage: Stage, state: RestoreState, moment: MomentPlan) -> dict[str, str]:
        """Load the rows of the moment. Gives the roots of the collections."""
        parts = (self._repository, self._snapshot, moment, self._options.selection, self._fingerprinter, self._progress)
        loading = OverlayLoading(*parts, same_engine=self._same_engine, erased=self._erased)
        roots, lines = loading.run(stage, engines.target_of(self._plan.target), state)
        self._checks += lines
        self._judge.recall |= loading.recall
        return roots

    def _exact(self, stage: Stage, state: RestoreState) -> dict[str, str]:
        """Install the files, prove them, let the engine take them over, ask it the probes. Gives the roots of the collections."""
        selection = self._options.selection
        artifacts = installed_artifacts(self._snapshot, selection)
        collections = self._snapshot.manifest.collections
        installation = Installation(self._repository, collections, stage, state, self._progress)
        installation.install(artifacts)
        with ThreadPoolExecutor(1, thread_name_prefix="strongroom-replay") as asking:
            # files that nothing has to change may be asked while those of an earlier run are read back
            early = asking.submit(self._ask_stage, stage) if self._options.replay and selection.everything else None
            if not state.adopted:
                mended = installation.read_back(artifacts)
                total = sum(artifact.size for artifact in artifacts)
                self._checks.append(f"{len(artifacts)} files, {total:,} bytes: identical to the source's, blob by blob")
                if mended and early is not None:
                    early = asking.submit(_after, early, self._ask_stage, stage)
                installation.make_durable(artifacts)
                state.set_adopted()
            if early is not None:
                self._judge.require_same(early.result())
        stage.adopt(self._snapshot.manifest.description(), selection)
        stage.seal()
        chosen = chosen_collections(self._snapshot, selection)
        roots = {
            selection.target_name(one.name): one.rows_root if reproducible(self._snapshot.manifest, one) else "" for one in chosen
        }
        if not selection.everything or engines.is_experimental(engines.engine_of(self._plan.target)):
            with stage.source().freeze(SILENT) as frozen:
                self._compare_roots(frozen, roots)
            if self._options.replay:
                self._judge.require_same(self._ask_stage(stage))
        return roots

    def _ask_stage(self, stage: Stage) -> list[Replayed]:
        chosen = chosen_collections(self._snapshot, self._options.selection)
        with stage.source().freeze(SILENT) as frozen:
            self._catalogs = _catalogs_of(frozen)
            return list(replay(self._repository, frozen, chosen, self._options.selection))

    def _from_rows(self, stage: Stage, state: RestoreState) -> dict[str, str]:
        """Load the rows, read them back, measure the new index's recall. Gives the roots of the collections."""
        selection = self._options.selection
        target = engines.target_of(self._plan.target)
        scratch = Scratch(self._repository, self._snapshot, stage.directory / "scratch")
        parts = self._repository, self._snapshot, self._fingerprinter, scratch, self._progress
        loading = RowsLoading(*parts, same_engine=self._same_engine, erased=self._erased)
        chosen = chosen_collections(self._snapshot, selection)
        with state.loading():
            for collection in chosen:
                if collection.name not in state.loaded:
                    named = replace(collection.catalog, name=selection.target_name(collection.name))
                    state.add_loaded(collection.name, loading.load(stage, target, collection, named))
        stage.seal()
        roots = {}
        with stage.source().freeze(self._progress) as frozen:
            for collection in chosen:
                name = selection.target_name(collection.name)
                fidelity = target.fidelity(replace(collection.catalog, name=name))
                roots[name], line = loading.compare(stage, frozen, collection, name, state.loaded[collection.name], fidelity)
                self._checks.append(line)
            if self._options.replay and not self._erased:  # a sealed answer may be a row that doesn't come back
                self._judge.measure(replay(self._repository, frozen, chosen, selection))
        return roots

    @property
    def _same_engine(self) -> bool:
        return engines.engine_of(self._plan.target).name == self._snapshot.manifest.engine

    def _compare_roots(self, frozen: Frozen, roots: Mapping[str, str]) -> None:
        roots = {actual_name(frozen, name): root for name, root in roots.items()}
        if sorted(names_of(frozen)) != sorted(roots):
            raise VerificationFailed(f"the restored collections are {names_of(frozen)}, not {sorted(roots)}")
        for name, root in roots.items():
            if not self._has_rows(frozen, name, root):
                raise VerificationFailed(f"{name}: the restored rows are not the ones that were backed up")
        self._checks.append(f"{self._plan.rows:,} rows in {len(roots)} collections: read back, equal to the manifest's root")

    def _has_rows(self, frozen: Frozen, name: str, root: str) -> bool:
        """Has the collection the rows of this root? One without any is decoded, and here otherwise than where it was backed up."""
        return not root or _root_of(frozen, name, self._fingerprinter).digest() == root


def _entangled(repository: Path, stage: Stage, plan: RestorePlan) -> bool:
    """Would what is restored lie in the repository's directory, or what is replaced hold it? False for a repository elsewhere."""
    base, home = stage.directory.resolve().parent, repository.resolve()
    replaced = [base / Path(taken).name for taken in plan.occupied]
    return home.is_dir() and (base.is_relative_to(home) or any(home.is_relative_to(one) for one in replaced))


def _receipt_of(target: Target) -> Mapping[str, Any]:
    """What the last restore left, nothing if somebody else wrote there."""
    try:
        receipt = json.loads(target.receipt() or b"{}")
    except ValueError:
        return {}
    return receipt if isinstance(receipt, dict) else {}


def _catalogs_of(frozen: Frozen) -> dict[str, str]:
    """Of each collection a hash of its vector fields, indexes and whatever else the engine keeps about it."""
    texts = {one.name: [[asdict(field) for field in one.fields], dict(one.catalog)] for one in frozen.description.collections}
    return {name: blake3(json.dumps(text, sort_keys=True, default=str).encode()).hexdigest() for name, text in texts.items()}


def _after(first: Future[list[Replayed]], again: Callable[[Stage], list[Replayed]], stage: Stage) -> list[Replayed]:
    """Ask once more: the first answers, or failure, were those of files that have been mended since."""
    first.exception()
    return again(stage)


def _root_of(frozen: Frozen, collection: str, fingerprinter: Fingerprinter) -> RowsRoot:
    root = RowsRoot(fingerprinter)
    for block in frozen.rows(collection):
        root.add(block.live())
    return root


@contextmanager
def _local_errors(subject: str) -> Iterator[None]:
    try:
        yield
    except StrongroomError:
        raise
    except OSError as error:
        raise from_os_error(error, error.filename or subject) from error
