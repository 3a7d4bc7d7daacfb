"""How a snapshot becomes a live database again: staged beside the target, verified, then put in its place.

Whatever kills a restore, running it again goes on where it stopped and ends in the same state:

    stage: install or load (noted in state.json) -> seal -> verify -> publish (by renames, old state kept until all is in place)
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa

from strongroom import engines
from strongroom.engines.protocol import Frozen, Source, Stage, Target
from strongroom.engines.staging import write_durably
from strongroom.errors import Damaged, EngineFailed, Refused, StrongroomError, VerificationFailed, from_os_error
from strongroom.model import Answers, Collection, Role, Selection
from strongroom.operations.restore_plan import RestorePlan, Rung, chosen_collections, installed_artifacts, plan_restore
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository
from strongroom.snapshots import history, probes
from strongroom.snapshots.artifacts import holds, offsets, read_part
from strongroom.snapshots.fingerprints import Fingerprinter, RowsRoot, role_of, row_key
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import Part, ProbeSet, StoredArtifact, StoredCollection
from strongroom.snapshots.segments import read_segment

T = TypeVar("T")
R = TypeVar("R")

FETCHERS = 3
_AHEAD = 6


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """`rung` asks for a lower rung than the best one; `replay` False leaves the probes to a later verify."""

    selection: Selection = field(default_factory=Selection)
    require_exact: bool = False
    overwrite: bool = False
    rung: Rung | None = None
    replay: bool = True


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
    chosen = options or RestoreOptions()
    found = history.find(repository, snapshot)
    plan = plan_restore(found, target, chosen.selection, require_exact=chosen.require_exact, rung=chosen.rung)
    with _local_errors(target):
        return _Restore(repository, found, plan, chosen, progress).run()


class _Restore:
    def __init__(
        self, repository: Repository, snapshot: Snapshot, plan: RestorePlan, options: RestoreOptions, progress: Progress
    ) -> None:
        self._repository = repository
        self._snapshot = snapshot
        self._plan = plan
        self._options = options
        self._progress = progress
        self._fingerprinter = Fingerprinter(repository.keys.fingerprint)
        self._checks: list[str] = []
        self._recall: dict[str, float] = {}

    def run(self) -> RestoreReport:
        started = time.perf_counter()
        target = engines.target_of(self._plan.target)
        stage = target.stage(self._plan.token, self._options.selection)
        try:
            already = False
            if (stage.directory / "publishing").exists():
                stage.publish(_State(stage.directory).receipt(), overwrite=True)
                self._checks.append("an interrupted cut-over was finished")
            elif self._is_there(target):
                stage.discard()
                already = True
            else:
                self._build(stage)
        finally:
            stage.close()
        return RestoreReport(self._plan, already, tuple(self._checks), self._recall, time.perf_counter() - started)

    def _is_there(self, target: Target) -> bool:
        """Did this very restore end here before, and does the target still hold those rows?"""
        receipt = json.loads(target.receipt() or b"{}")
        if receipt.get("token") != self._plan.token:
            return False
        source = engines.source_of(self._plan.target)
        with source.freeze(self._progress) as frozen:
            expected = {_actual_name(frozen, name): root for name, root in receipt["collections"].items()}
            same = set(expected) <= set(_names(frozen)) and all(
                _root_of(frozen, name, self._fingerprinter).digest() == root for name, root in expected.items()
            )
        if same:
            self._checks.append("the target holds this very state already: rows are equal, nothing was done")
        return same

    def _build(self, stage: Stage) -> None:
        if self._plan.occupied and not self._options.overwrite:
            stage.discard()
            raise Refused(
                f"{self._plan.target} is not empty ({self._plan.occupied[0]})",
                hint="restore to another place, or give --overwrite to replace it once the new state is verified",
            )
        state = _State(stage.directory)
        roots = self._exact(stage, state) if self._plan.rung == Rung.EXACT else self._from_rows(stage, state)
        receipt = {
            "strongroom": 1,
            "repository": self._repository.config.repository_id.hex(),
            "snapshot": self._snapshot.id,
            "rung": self._plan.rung.value,
            "token": self._plan.token,
            "collections": roots,
        }
        state.set_receipt(json.dumps(receipt, indent=1).encode())
        stage.publish(state.receipt(), overwrite=self._options.overwrite)

    # -- exact -------------------------------------------------------------------------------------------------------------

    def _exact(self, stage: Stage, state: _State) -> dict[str, str]:
        selection = self._options.selection
        artifacts = installed_artifacts(self._snapshot, selection)
        self._progress.begin("files", sum(artifact.size for artifact in artifacts), "bytes")
        for artifact in artifacts:
            self._install(artifact, stage.artifact_path(artifact.path), state)
        if not state.adopted:
            self._reread(stage, artifacts, state)
            state.set_adopted()
            stage.adopt(self._snapshot.manifest.description(), selection)
        else:
            stage.adopt(self._snapshot.manifest.description(), selection)
        stage.seal()
        chosen = chosen_collections(self._snapshot, selection)
        roots = {selection.target_name(collection.name): collection.rows_root for collection in chosen}
        with stage.source().freeze(self._progress) as frozen:
            if not selection.everything:
                self._compare_roots(frozen, roots)
            if self._options.replay:
                self._replay(frozen, chosen)
        return roots

    def _install(self, artifact: StoredArtifact, path: Path, state: _State) -> None:
        if artifact.path in state.installed and (state.adopted or (path.exists() and path.stat().st_size == artifact.size)):
            self._progress.advance(artifact.size)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for part, content in zip(artifact.parts, self._fetch(artifact), strict=True):
                file.write(content)
                self._progress.advance(part.length)
        if path.stat().st_size != artifact.size:
            raise Damaged(f"artifact {artifact.path}", "its parts are not as long as the manifest says")
        state.add_installed(artifact.path)

    def _fetch(self, artifact: StoredArtifact) -> Iterator[bytes]:
        yield from _ahead(artifact.parts, lambda part: read_part(part, self._repository.read_blob))

    def _reread(self, stage: Stage, artifacts: tuple[StoredArtifact, ...], state: _State) -> None:
        """Read every written file back and compare it with the ids of its blobs; what a crash left torn is written once more."""
        self._progress.begin("reading back", sum(artifact.size for artifact in artifacts), "bytes")
        for artifact in artifacts:
            path = stage.artifact_path(artifact.path)
            if not self._is_whole(artifact, path):
                state.installed.discard(artifact.path)
                self._install(artifact, path, state)
                if not self._is_whole(artifact, path):
                    raise VerificationFailed(f"{artifact.path}: the disk gives back other bytes than were written")
            self._progress.advance(artifact.size)
        total = sum(artifact.size for artifact in artifacts)
        self._checks.append(f"{len(artifacts)} files, {total:,} bytes: read back, identical to the source's")

    def _is_whole(self, artifact: StoredArtifact, path: Path) -> bool:
        with path.open("rb", buffering=0) as file:
            return all(list(self._compare(artifact, file))) and os.fstat(file.fileno()).st_size == artifact.size

    def _compare(self, artifact: StoredArtifact, file: BinaryIO) -> Iterator[bool]:
        def same(place: tuple[int, Part]) -> bool:
            return holds(place[1], _pread(file, *place), self._repository.keys.identify)

        yield from _ahead(list(offsets(artifact)), same)

    # -- rows --------------------------------------------------------------------------------------------------------------

    def _from_rows(self, stage: Stage, state: _State) -> dict[str, str]:
        selection = self._options.selection
        chosen = chosen_collections(self._snapshot, selection)
        for collection in chosen:
            if collection.name not in state.loaded:
                named = replace(collection.catalog, name=selection.target_name(collection.name))
                self._progress.begin(f"rows of {named.name}", collection.count, "rows")
                state.add_loaded(collection.name, self._load(stage, collection, named))
        stage.seal()
        with stage.source().freeze(self._progress) as frozen:
            roots = {}
            for collection in chosen:
                name = selection.target_name(collection.name)
                roots[name] = self._compare_rows(frozen, name, state.loaded[collection.name])
            if self._options.replay:
                self._measure_recall(frozen, chosen)
        return roots

    def _load(self, stage: Stage, collection: StoredCollection, named: Collection) -> dict[str, Any]:
        sent, core = RowsRoot(self._fingerprinter), RowsRoot(self._fingerprinter)

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in self._rows(stage, collection):
                sent.add(batch)
                core.add(core_rows(batch))
                self._progress.advance(batch.num_rows)
                yield batch

        stage.load(named, batches())
        if sent.digest() != collection.rows_root:
            raise Damaged(f"rows of {collection.name}", "they are not the rows that the manifest was signed for")
        return {"sent": sent.digest(), "core": core.digest(), "rows": sent.count}

    def _rows(self, stage: Stage, collection: StoredCollection) -> Iterator[pa.RecordBatch]:
        if self._snapshot.manifest.rows_plane == "segments":
            if collection.schema:
                schema = collection.arrow_schema()
                for block in _ahead(collection.segments, lambda segment: read_segment(segment, schema, self._repository.read_blob)):
                    yield block.live()
            return
        with self._scratch(stage.directory, collection.name).freeze(SILENT) as frozen:
            for block in frozen.rows(collection.name):
                yield block.live()

    def _scratch(self, directory: Path, collection: str) -> Source:
        """The rows live in the engine's own files: restore these exactly, beside the stage, and read them there."""
        place = directory / "scratch"
        place.mkdir(exist_ok=True)
        url = engines.find(self._snapshot.manifest.engine).scratch(place, [collection])
        options = RestoreOptions(Selection((collection,)), require_exact=True, overwrite=True, replay=False)
        restore(self._repository, self._snapshot.id, url, options)
        return engines.source_of(url)

    # -- verification --------------------------------------------------------------------------------------------------------

    def _compare_roots(self, frozen: Frozen, roots: Mapping[str, str]) -> None:
        roots = {_actual_name(frozen, name): root for name, root in roots.items()}
        if sorted(_names(frozen)) != sorted(roots):
            raise VerificationFailed(f"the restored collections are {_names(frozen)}, not {sorted(roots)}")
        for name, root in roots.items():
            if _root_of(frozen, name, self._fingerprinter).digest() != root:
                raise VerificationFailed(f"{name}: the restored rows are not the ones that were backed up")
        self._checks.append(f"{self._plan.rows:,} rows in {len(roots)} collections: read back, equal to the manifest's root")

    def _compare_rows(self, frozen: Frozen, name: str, expected: Mapping[str, Any]) -> str:
        whole, core = RowsRoot(self._fingerprinter), RowsRoot(self._fingerprinter)
        for block in frozen.rows(_actual_name(frozen, name)):
            batch = block.live()
            whole.add(batch)
            core.add(core_rows(batch))
        if core.digest() != expected["core"]:
            raise VerificationFailed(f"{name}: the rows that the engine gives back are not the ones that it was given")
        equal = whole.digest() == expected["sent"]
        same = "all columns equal" if equal else "ids and vectors equal, other columns as the plan says"
        if not equal and self._plan.rung == Rung.REBUILD and not self._plan.losses:
            raise VerificationFailed(f"{name}: ids and vectors came back, but other columns differ")
        self._checks.append(f"{name}: {core.count:,} rows read back, {same}")
        return whole.digest()

    def _replay(self, frozen: Frozen, chosen: tuple[StoredCollection, ...]) -> None:
        exact = 0
        for name, probe, one, given in self._asked(frozen, chosen):
            self._recall[name] = one.recall(given)
            if one.live is None:
                continue
            problem = probes.disagreement(one, given, repeatable=probe.repeatable)
            if problem:
                raise VerificationFailed(f"{name}: {problem}")
            if probe.repeatable:
                exact += probe.count
            else:
                same = probe.count - len(probes.differences(one.live, given))
                self._checks.append(
                    f"{name}: {same} of {probe.count} answers identical, recall as before "
                    "(the engine doesn't repeat its own answers from these files, see the ledger)"
                )
        if exact:
            self._checks.append(f"{exact} sealed queries replayed: ids and distances identical bit for bit")

    def _measure_recall(self, frozen: Frozen, chosen: tuple[StoredCollection, ...]) -> None:
        for name, probe, one, given in self._asked(frozen, chosen):
            self._recall[name] = one.recall(given)
            was = f" (was {probe.recall:.3f} at backup)" if probe.recall is not None else ""
            self._checks.append(f"{name}: recall@{one.k} {self._recall[name]:.3f}{was}")

    def _asked(
        self, frozen: Frozen, chosen: tuple[StoredCollection, ...]
    ) -> Iterator[tuple[str, ProbeSet, probes.Probes, Answers]]:
        """Every sealed set of probes with what the restored index answers to it."""
        for collection in chosen:
            name = _actual_name(frozen, self._options.selection.target_name(collection.name))
            for probe in collection.probes:
                one = probes.decode(self._repository.read_blob(bytes.fromhex(probe.blob)))
                yield name, probe, one, frozen.search(name, _field_name(frozen, name, probe.field), one.queries, one.k)


class _State:
    """What of a stage is done, in its state.json: written after the work that it names, so that it never says too much."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.json"
        self._receipt = directory / "receipt.json"
        known = json.loads(self._path.read_bytes()) if self._path.exists() else {}
        self.installed: set[str] = set(known.get("installed", ()))
        self.loaded: dict[str, dict[str, Any]] = known.get("loaded", {})
        self.adopted: bool = known.get("adopted", False)

    def add_installed(self, path: str) -> None:
        self.installed.add(path)
        self._write()

    def add_loaded(self, name: str, roots: dict[str, Any]) -> None:
        self.loaded[name] = roots
        self._write()

    def set_adopted(self) -> None:
        self.adopted = True
        self._write()

    def set_receipt(self, content: bytes) -> None:
        write_durably(self._receipt, content)

    def receipt(self) -> bytes:
        return self._receipt.read_bytes()

    def _write(self) -> None:
        content = {"installed": sorted(self.installed), "loaded": self.loaded, "adopted": self.adopted}
        write_durably(self._path, json.dumps(content).encode())


def core_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """What every engine must keep of a row: its id, as text, and its vectors."""
    kept = [(f, c) for f, c in zip(batch.schema, batch.columns, strict=True) if role_of(f) in (Role.ID, Role.VECTOR)]
    columns = [row_key(column) if role_of(f) == Role.ID else column for f, column in kept]
    fields = [f.with_type(column.type) for (f, _), column in zip(kept, columns, strict=True)]
    return pa.record_batch(columns, schema=pa.schema(fields))


def _root_of(frozen: Frozen, collection: str, fingerprinter: Fingerprinter) -> RowsRoot:
    root = RowsRoot(fingerprinter)
    for block in frozen.rows(collection):
        root.add(block.live())
    return root


def _names(frozen: Frozen) -> list[str]:
    return [collection.name for collection in frozen.description.collections]


def _actual_name(frozen: Frozen, wanted: str) -> str:
    """The collection of that name, or the only one: an index file's collection is called as the file is."""
    names = _names(frozen)
    return names[0] if len(names) == 1 else wanted


def _field_name(frozen: Frozen, collection: str, wanted: str) -> str:
    """The field to ask: the one of that name, or the only one, whatever the engine calls it."""
    names = [one.name for one in frozen.description.collection(collection).fields]
    if wanted in names:
        return wanted
    if len(names) == 1:
        return names[0]
    raise EngineFailed(f"{collection} has no vector field {wanted!r} any more")


def _pread(file: BinaryIO, offset: int, part: Part) -> bytes:
    return os.pread(file.fileno(), part.length, offset)


def _ahead(items: Sequence[T], work: Callable[[T], R]) -> Iterator[R]:
    """`work` of each item, in order, a few of them at a time in other threads."""
    with ThreadPoolExecutor(FETCHERS, thread_name_prefix="strongroom-reader") as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def _local_errors(subject: str) -> Iterator[None]:
    try:
        yield
    except StrongroomError:
        raise
    except OSError as error:
        raise from_os_error(error, error.filename or subject) from error
