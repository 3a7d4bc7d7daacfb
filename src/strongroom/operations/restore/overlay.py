"""How a moment is restored where no engine can be told what changed: the snapshot's rows and the journal's operations, put together
row by row, are loaded, and the engine builds its own index. So a moment of one engine can be restored to another one, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.changes import CatalogChange
from strongroom.engines.protocol import Frozen, Stage, Target
from strongroom.engines.staging import remove
from strongroom.errors import Damaged, NotFound, VerificationFailed, WrongRequest
from strongroom.journal.identities import identities_of
from strongroom.journal.overlay import Overlay, ids_of
from strongroom.model import Collection, Fidelity, Selection
from strongroom.operations.journal.moment import MomentPlan, changes_before, changes_of
from strongroom.operations.machine.processor import reproducible
from strongroom.operations.restore.erased_rows import NOTHING_ERASED, Erased
from strongroom.operations.restore.replay import actual_name, ask
from strongroom.operations.restore.rows import SAMPLE, Vectors, core_rows, reshaping_for, same_directions, vectors_by_id
from strongroom.operations.restore.snapshot_rows import snapshot_rows
from strongroom.operations.restore.state import RestoreState
from strongroom.progress import Progress
from strongroom.repository import Repository
from strongroom.snapshots import probes
from strongroom.snapshots.fingerprints import Fingerprinter, RowsRoot
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import ProbeSet, StoredCollection
from strongroom.snapshots.probes import ExactSearch, Probes


@dataclass
class _Final:
    """A collection at the moment: what it is called there, and the snapshot's collection whose rows it has, if any."""

    identity: str
    described: Collection
    base: StoredCollection | None = None
    probes: tuple[ProbeSet, ...] = ()


@dataclass
class OverlayLoading:
    """Loads the rows of a moment into a stage, and compares what the engine then gives back."""

    repository: Repository
    snapshot: Snapshot
    plan: MomentPlan
    selection: Selection
    fingerprinter: Fingerprinter
    progress: Progress
    same_engine: bool
    erased: Erased = NOTHING_ERASED
    recall: dict[str, float] = field(default_factory=dict)
    _finals: dict[str, _Final] = field(default_factory=dict)
    _searches: dict[str, list[tuple[str, Probes, ExactSearch]]] = field(default_factory=dict)

    def run(self, stage: Stage, target: Target, state: RestoreState) -> tuple[dict[str, str], list[str]]:
        """Gives the root of each collection, by name, and what was compared, a line each. Raises Damaged, NotFound (of a
        collection at that moment), WrongRequest (the target can't hold the rows), EngineFailed or VerificationFailed."""
        scratch = stage.directory / "overlay"
        remove(scratch)
        scratch.mkdir(mode=0o700)
        overlay = Overlay(scratch / "overlay.sqlite")
        try:
            self._settle(overlay, scratch)
            chosen = {name: one for name, one in self._finals.items() if self.selection.wants(name)}
            missing = [name for name in self.selection.collections if name not in chosen]
            if missing:
                raise NotFound(f"there is no collection {missing[0]!r} at that moment", hint=f"there are {', '.join(self._finals)}")
            if target.holds_one and len(chosen) != 1:
                raise WrongRequest(f"there is room for one collection, not {len(chosen)}", hint="choose one with --collection")
            named = {name: replace(one.described, name=self.selection.target_name(name)) for name, one in chosen.items()}
            with state.loading():
                for name, final in chosen.items():
                    if name not in state.loaded:
                        state.add_loaded(name, self._load(stage, target, overlay, scratch, final, named[name]))
            stage.seal()
            roots, lines = {}, [f"{self.plan.operations:,} operations applied to the snapshot's rows, row by row"]
            with stage.source().freeze(self.progress) as frozen:
                for name, final in chosen.items():
                    fidelity = target.fidelity(named[name])
                    rows = self._rows(overlay, scratch, final)
                    sample = _sample(rows) if fidelity is Fidelity.NORMALIZED else {}
                    root, line = self._compare(frozen, named[name].name, state.loaded[name], fidelity, sample)
                    roots[named[name].name] = root
                    lines.append(line + self._recall(frozen, actual_name(frozen, named[name].name)))
            return roots, lines
        finally:
            overlay.close()
            remove(scratch)

    def _settle(self, overlay: Overlay, scratch: Path) -> None:
        """Rows that operations touch, at the moment; and which collections there are then."""
        for change in changes_of(self.repository, self.plan):
            overlay.touch(change)
        collections = self.snapshot.manifest.collections
        identities = identities_of(
            [one.catalog for one in collections],
            changes_of(self.repository, self.plan),
            lambda: changes_before(self.repository, self.plan),
        )
        present = {}
        for collection in collections:
            identity = identities[collection.name]
            overlay.present[identity] = None
            left = self._take(overlay, scratch, identity, collection)
            present[identity] = _Final(identity, collection.catalog, collection if left else None, collection.probes)
        for change in changes_of(self.repository, self.plan):
            overlay.settle(change)
            if isinstance(change, CatalogChange):
                for identity, described in change.present.items():
                    present[identity] = replace(present.get(identity, _Final(identity, described)), described=described)
        for identity in overlay.emptied & present.keys():
            present[identity].base, present[identity].probes = None, ()
        finals = (_measured(one, overlay.schemas(identity)) for identity, one in present.items() if identity in overlay.present)
        self._finals = {one.described.name: one for one in finals}

    def _take(self, overlay: Overlay, scratch: Path, identity: str, collection: StoredCollection) -> int:
        """Gives how many rows no operation touches."""
        root, left = RowsRoot(self.fingerprinter), 0
        self.progress.begin(f"rows of {collection.name}", collection.count, "rows")
        for batch in self._stored(scratch, collection):
            root.add(batch)
            left += batch.num_rows - int(overlay.take(identity, batch).sum())
            self.progress.advance(batch.num_rows)
        if reproducible(self.snapshot.manifest, collection) and root.digest() != collection.rows_root:
            raise Damaged(f"rows of {collection.name}", "they are not the rows that the manifest was signed for")
        return left

    def _stored(self, scratch: Path, collection: StoredCollection) -> Iterator[pa.RecordBatch]:
        place = scratch / f"rows-{self.snapshot.manifest.collections.index(collection)}"
        place.mkdir(mode=0o700, exist_ok=True)
        return snapshot_rows(self.repository, self.snapshot, collection, place)

    def _rows(self, overlay: Overlay, scratch: Path, final: _Final) -> Iterator[pa.RecordBatch]:
        """The rows of a collection at the moment, all of one schema."""
        stored = final.base.arrow_schema() if final.base is not None and final.base.schema else None
        fields: dict[str, pa.Field] = {}
        for schema in (*([stored] if stored is not None else ()), *overlay.schemas(final.identity)):
            for one in schema:
                held = fields.get(one.name)
                fields[one.name] = one if held is None or held.type != one.type else held
        whole = pa.schema(list(fields.values()))
        for batch in self._left(overlay, scratch, final):
            rest = self.erased.left(final.described.name, batch)
            if rest.num_rows:
                yield _conformed(rest, whole, final.described.name)

    def _left(self, overlay: Overlay, scratch: Path, final: _Final) -> Iterator[pa.RecordBatch]:
        """What of the snapshot no operation touched, and what operations left; erased rows, too."""
        if final.base is not None:
            for batch in self._stored(scratch, final.base):
                yield batch.filter(pa.array(~_touched(overlay, final.identity, batch)))
        for _, batch in overlay.rows(final.identity):
            yield batch

    def _load(
        self, stage: Stage, target: Target, overlay: Overlay, scratch: Path, final: _Final, named: Collection
    ) -> dict[str, Any]:
        """Load one collection as `named`. Gives the roots of what was sent."""
        sent, core = RowsRoot(self.fingerprinter), RowsRoot(self.fingerprinter)
        fidelity = target.fidelity(named)
        shape = None if self.same_engine else reshaping_for(target, named, self._rows(overlay, scratch, final))
        searches = self._searches[named.name] = [self._search(named, probe) for probe in final.probes]
        self.progress.begin(f"rows of {named.name}", None, "rows")

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in self._rows(overlay, scratch, final):
                shaped = shape(batch) if shape else batch
                sent.add(shaped)
                core.add(core_rows(batch, fidelity))
                for _, _, search in searches:
                    search.add(batch, np.arange(sent.count - batch.num_rows, sent.count, dtype=np.uint32))
                self.progress.advance(batch.num_rows)
                yield shaped

        first = next(self._rows(overlay, scratch, final), None)
        objections = target.objections(named, first.schema) if first is not None else ()
        if objections:
            raise WrongRequest(f"{named.name} can't be loaded there: {objections[0]}", hint="restore to another engine")
        stage.load(named, batches())
        return {"sent": sent.digest(), "core": core.digest(), "rows": sent.count}

    def _compare(
        self, frozen: Frozen, wanted: str, sent: Mapping[str, Any], fidelity: Fidelity, sample: dict[str, Vectors]
    ) -> tuple[str, str]:
        """Read the loaded rows back. Raises VerificationFailed."""
        name = actual_name(frozen, wanted)
        whole, core = RowsRoot(self.fingerprinter), RowsRoot(self.fingerprinter)
        looked_at = 0
        for block in frozen.rows(name):
            batch = block.live()
            whole.add(batch)
            core.add(core_rows(batch, fidelity))
            looked_at += same_directions(name, batch, sample)
        if core.digest() != sent["core"] or core.count != sent["rows"] or looked_at != len(sample):
            raise VerificationFailed(f"{name}: the rows that the engine gives back are not the ones that it was given")
        equal = "all columns equal" if whole.digest() == sent["sent"] else _KEPT[fidelity]
        return whole.digest(), f"{name}: {core.count:,} rows of the moment read back, {equal}"

    def _search(self, named: Collection, probe: ProbeSet) -> tuple[str, Probes, ExactSearch]:
        """The sealed queries of a field, and what is exactly right at the moment."""
        sealed = probes.decode(self.repository.read_blob(bytes.fromhex(probe.blob)))
        return probe.field, sealed, ExactSearch(sealed.queries, named.vector_field(probe.field), sealed.k)

    def _recall(self, frozen: Frozen, name: str) -> str:
        """How the engine's new index answers the sealed queries; '' if there are none, or an earlier run loaded the rows."""
        found = ""
        for field_, sealed, search in self._searches.get(name, ()):
            right = Probes(sealed.k, sealed.queries, search.answers(), None)
            recall = right.recall(ask(frozen, name, field_, sealed))
            self.recall[name] = recall
            found += f"; recall@{sealed.k} {recall:.3f}"
        return found


def _measured(final: _Final, schemas: Sequence[pa.Schema]) -> _Final:
    """An engine that described a collection before it held a vector didn't know its dimension."""
    kinds = {one.name: one.type for schema in schemas for one in schema}
    fields = tuple(
        replace(one, dimension=getattr(kinds.get(one.name), "list_size", 0)) if not one.dimension else one
        for one in final.described.fields
    )
    return replace(final, described=replace(final.described, fields=fields))


_KEPT = {
    Fidelity.KEPT: "ids and vectors equal, other columns as the plan says",
    Fidelity.NORMALIZED: "ids equal, vectors of the same direction, other columns as the plan says",
    Fidelity.CODED: "ids equal, vectors coded anew",
}


def _touched(overlay: Overlay, identity: str, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    return np.array([overlay.touches(identity, one) for one in ids_of(batch)], np.bool_)


def _sample(rows: Iterator[pa.RecordBatch]) -> dict[str, Vectors]:
    """The vectors of the first rows by id, as text."""
    sample: dict[str, Vectors] = {}
    for batch in rows:
        sample |= dict(vectors_by_id(batch.slice(0, SAMPLE - len(sample))))
        if len(sample) >= SAMPLE:
            break
    return sample


def _conformed(batch: pa.RecordBatch, schema: pa.Schema, name: str) -> pa.RecordBatch:
    """The same rows under the schema of all; a column that they don't have is null. Raises Damaged."""
    columns = []
    for one in schema:
        column = batch.column(one.name) if one.name in batch.schema.names else pa.nulls(batch.num_rows, one.type)
        if column.type != one.type:
            try:
                column = column.cast(one.type)
            except pa.ArrowException as error:
                raise Damaged(f"rows of {name}", f"column {one.name} is {column.type} in some and {one.type} in others") from error
        columns.append(column)
    return pa.record_batch(columns, schema=schema)
