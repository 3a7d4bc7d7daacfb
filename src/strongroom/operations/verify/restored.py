"""Does a snapshot come back? Its rows plane by itself, and all of it restored into a scratch engine and read back."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pyarrow as pa

from strongroom import engines
from strongroom.engines.protocol import Frozen, ScratchElsewhere
from strongroom.errors import Damaged, EngineFailed, StrongroomError, VerificationFailed
from strongroom.model import Collection, Selection
from strongroom.operations.machine.processor import reproducible
from strongroom.operations.restore.plan import Rung
from strongroom.operations.restore.replay import actual_name
from strongroom.operations.restore.rows import stored_rows
from strongroom.operations.restore.run import RestoreOptions, restore
from strongroom.operations.verify.answers import check_answers, check_probes
from strongroom.operations.verify.examination import Examination, subject_of
from strongroom.operations.verify.report import Level
from strongroom.repository import SNAPSHOTS
from strongroom.snapshots.consistency import has_rows_alone
from strongroom.snapshots.fingerprints import RowsRoot
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import StoredCollection
from strongroom.snapshots.tenant_parts import opened


def check_restore(look: Examination, snapshot: Snapshot) -> None:
    """Read the rows plane; restore into a scratch engine, read all rows back, and replay the probes."""
    name = SNAPSHOTS + snapshot.id
    try:
        snapshot = opened(look.repository, snapshot)
    except Damaged as error:
        look.find(error.subject, error.problem, [snapshot])
        return
    if snapshot.shredded and not snapshot.manifest.rows:
        return  # all of its tenants were erased
    if snapshot.manifest.rows_plane == "segments":
        for collection in snapshot.manifest.collections:
            check_segments(look, snapshot, collection)
    with tempfile.TemporaryDirectory(prefix="strongroom-verify-", dir=look.options.scratch) as place, ExitStack() as leaving:
        try:
            names = [collection.name for collection in snapshot.manifest.collections]
            engine = engines.find(snapshot.manifest.engine)
            url = engine.scratch(Path(place), names)
            if isinstance(engine, ScratchElsewhere):
                leaving.callback(engine.drop_scratch, url)
            with engines.prepared(url) if look.options.level >= Level.ANSWERS else nullcontext():
                report = restore(
                    look.repository, snapshot.id, url, RestoreOptions(Selection(), replay=False, erasing=False), look.progress
                )
                exact = report.plan.rung == Rung.EXACT or has_rows_alone(snapshot.manifest)
                if not exact and engines.engine_of(url).name == engine.name:
                    look.find(name, f"it could not be restored exactly here: {report.plan.reasons[0]}", [snapshot])
                _check_restored(look, snapshot, url)
        except (Damaged, VerificationFailed, EngineFailed) as error:
            subject = error.subject if isinstance(error, Damaged) else name
            problem = error.problem if isinstance(error, Damaged) else str(error)
            look.find(subject, problem, [snapshot])
        except StrongroomError as error:
            look.find(name, f"it can't be restored: {error}", [snapshot])


def check_segments(look: Examination, snapshot: Snapshot, collection: StoredCollection) -> None:
    """The rows plane by itself: an exact restore needs none of it, one into another version or engine nothing else."""
    root = RowsRoot(look.fingerprinter)
    try:
        for block in stored_rows(snapshot.reading(look.repository), collection) if collection.schema else ():
            root.add(block.live())
    except Damaged as error:
        look.find(subject_of(snapshot, collection), str(error), [snapshot])
        return
    look.count("stored rows", root.count)
    if root.digest() != collection.rows_root:
        look.find(subject_of(snapshot, collection), "its segments don't hold the rows that were backed up", [snapshot])


def _check_restored(look: Examination, snapshot: Snapshot, url: str) -> None:
    with engines.source_of(url).freeze(look.progress) as frozen:
        compare_catalog(look, snapshot, frozen)
        read = {one.name: read_rows(look, snapshot, one, frozen) for one in snapshot.manifest.collections}
        if look.options.level >= Level.ANSWERS:
            for collection in snapshot.manifest.collections:
                check_probes(look, snapshot, collection, read[collection.name])
                for probe in collection.probes:
                    check_answers(look, snapshot, collection, probe, frozen)


def compare_catalog(look: Examination, snapshot: Snapshot, frozen: Frozen) -> None:
    """The collections that came back are those of the manifest, with the same vector fields."""
    came_back = {one.name: _shape(one) for one in frozen.description.collections}
    for collection in snapshot.manifest.collections:
        shape = came_back.pop(actual_name(frozen, collection.name), None)
        if shape is None:
            look.find(subject_of(snapshot, collection), "it did not come back", [snapshot])
        elif shape != _shape(collection.catalog):
            problem = f"its vector fields came back as {shape}, the manifest says {_shape(collection.catalog)}"
            look.find(subject_of(snapshot, collection), problem, [snapshot])
    for name in came_back:
        look.find(f"{SNAPSHOTS}{snapshot.id}, collection {name}", "it came back, and the manifest has no such", [snapshot])


def read_rows(
    look: Examination,
    snapshot: Snapshot,
    collection: StoredCollection,
    frozen: Frozen,
    each: Callable[[pa.RecordBatch], None] = lambda _: None,
) -> set[str]:
    """Read all rows back and compare them; `each` is shown them too. Gives the fields that have a vector in any row."""
    root, fields = RowsRoot(look.fingerprinter), set[str]()
    name = actual_name(frozen, collection.name)
    look.progress.begin(f"rows of {collection.name}", collection.count, "rows")
    for block in frozen.rows(name) if frozen.description.has(name) else ():
        live = block.live()
        root.add(live)
        each(live)
        fields |= {one.name for one, column in zip(live.schema, live.columns, strict=True) if column.null_count < len(column)}
        look.progress.advance(block.batch.num_rows)
    look.count("rows", root.count)
    if root.count != collection.count:
        problem = f"{root.count} rows came back, the manifest says {collection.count}"
        look.find(subject_of(snapshot, collection), problem, [snapshot])
    elif reproducible(snapshot.manifest, collection) and root.digest() != collection.rows_root:
        problem = "the rows that came back are not the ones that were backed up"
        look.find(subject_of(snapshot, collection), problem, [snapshot])
    return fields


def _shape(collection: Collection) -> list[str]:
    return sorted(f"{one.name}: {one.dimension} x {one.dtype}, {one.metric}" for one in collection.fields)
