"""How rows are loaded into an engine that builds its own index, and what of them must come back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.protocol import Columnar, Frozen, Stage, Target
from strongroom.errors import Damaged, VerificationFailed, WrongRequest
from strongroom.model import Collection, Fidelity, Role, RowBlock
from strongroom.operations.machine.processor import reproducible
from strongroom.operations.prefetch import ahead
from strongroom.operations.restore.erased_rows import NOTHING_ERASED, Erased
from strongroom.operations.restore.replay import actual_name
from strongroom.operations.restore.reshaping import Reshaping, reshaping
from strongroom.operations.restore.scratch import Scratch
from strongroom.progress import SILENT, Progress
from strongroom.repository import Repository
from strongroom.snapshots.consistency import contradiction_of
from strongroom.snapshots.fingerprints import Fingerprinter, RowsRoot, role_of, row_key
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import StoredCollection
from strongroom.snapshots.segments import read_segment
from strongroom.snapshots.slots import Slots
from strongroom.snapshots.vectors import ReadBlob

SAMPLE = 1000
"""Of so many rows the directions of the vectors are compared where an engine keeps nothing else."""
_SAME_DIRECTION = 0.9999


@dataclass(frozen=True, slots=True)
class RowsLoading:
    """Loads a snapshot's rows into a stage and compares what the engine then gives back."""

    repository: Repository
    snapshot: Snapshot
    fingerprinter: Fingerprinter
    scratch: Scratch
    progress: Progress
    same_engine: bool
    """Then all columns must come back, and not only those that every engine has; rows keep their shape."""
    erased: Erased = NOTHING_ERASED

    def load(self, stage: Stage, target: Target, collection: StoredCollection, named: Collection) -> dict[str, Any]:
        """Load one collection as `named`. Gives the roots of what was sent. Raises Damaged if that isn't what was signed for,
        WrongRequest if the target can't hold it."""
        problem = contradiction_of(collection, self.snapshot.manifest.rows_plane)
        if problem:
            raise Damaged(f"collection {collection.name}", problem)
        stored, core = RowsRoot(self.fingerprinter), RowsRoot(self.fingerprinter)
        shape = None if self.same_engine else self._reshaping(stage, target, collection, named)
        sent = RowsRoot(self.fingerprinter) if shape or self.erased else stored
        fidelity = target.fidelity(named)
        self.progress.begin(f"rows of {named.name}", collection.count, "rows")

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in self._rows(stage, collection):
                stored.add(batch)
                self.progress.advance(batch.num_rows)
                batch = self.erased.left(collection.name, batch)
                core.add(core_rows(batch, fidelity, every_column=self.same_engine))
                shaped = shape(batch) if shape else batch
                if sent is not stored:
                    sent.add(shaped)
                yield shaped

        stage.load(named, batches())
        if reproducible(self.snapshot.manifest, collection) and stored.digest() != collection.rows_root:
            raise Damaged(f"rows of {collection.name}", "they are not the rows that the manifest was signed for")
        return {"sent": sent.digest(), "core": core.digest(), "rows": sent.count}

    def compare(
        self, stage: Stage, frozen: Frozen, collection: StoredCollection, wanted: str, sent: Mapping[str, Any], fidelity: Fidelity
    ) -> tuple[str, str]:
        """Read the loaded rows back: their root, and a line that says what is equal. Raises VerificationFailed."""
        name = actual_name(frozen, wanted)
        whole, core = RowsRoot(self.fingerprinter), RowsRoot(self.fingerprinter)
        sample = self._sample(stage, collection) if fidelity is Fidelity.NORMALIZED else {}
        looked_at = 0
        for block in frozen.rows(name):
            batch = block.live()
            whole.add(batch)
            core.add(core_rows(batch, fidelity, every_column=self.same_engine))
            looked_at += same_directions(name, batch, sample)
        if core.digest() != sent["core"] or looked_at != len(sample):
            raise VerificationFailed(f"{name}: the rows that the engine gives back are not the ones that it was given")
        if whole.digest() == sent["sent"]:
            return whole.digest(), f"{name}: {core.count:,} rows read back, all columns equal"
        kept = {
            Fidelity.KEPT: "ids and vectors equal",
            Fidelity.NORMALIZED: f"ids equal, vectors of the same direction ({looked_at:,} compared)",
            Fidelity.CODED: "ids equal, vectors coded anew",
        }[fidelity]
        return whole.digest(), f"{name}: {core.count:,} rows read back, {kept}, other columns as the plan says"

    def _reshaping(self, stage: Stage, target: Target, collection: StoredCollection, named: Collection) -> Reshaping | None:
        self.progress.begin(f"payloads of {named.name}", collection.count, "rows")
        rows = (self.erased.left(collection.name, one) for one in counted(self._rows(stage, collection), self.progress))
        return reshaping_for(target, named, rows)

    def _rows(self, stage: Stage, collection: StoredCollection) -> Iterator[pa.RecordBatch]:
        if self.snapshot.manifest.rows_plane == "segments":
            if collection.schema:
                for block in stored_rows(self.snapshot.reading(self.repository), collection, stage.directory):
                    yield block.live()
            return
        with self.scratch.source(collection.name).freeze(SILENT) as frozen:
            for block in frozen.rows(actual_name(frozen, collection.name)):
                yield block.live()

    def _sample(self, stage: Stage, collection: StoredCollection) -> dict[str, Vectors]:
        """The vectors of the first rows by id, as text."""
        sample: dict[str, Vectors] = {}
        for whole in self._rows(stage, collection):
            batch = self.erased.left(collection.name, whole)
            sample |= dict(vectors_by_id(batch.slice(0, SAMPLE - len(sample))))
            if len(sample) >= SAMPLE:
                break
        return sample


def counted(batches: Iterable[pa.RecordBatch], progress: Progress) -> Iterator[pa.RecordBatch]:
    """The same batches, their rows told to `progress`."""
    for batch in batches:
        progress.advance(batch.num_rows)
        yield batch


def reshaping_for(target: Target, named: Collection, batches: Iterator[pa.RecordBatch]) -> Reshaping | None:
    """How all these rows of another engine are shaped for the target. Raises WrongRequest if it can't hold them then."""
    first = next(batches, None)
    if first is None:
        return None
    columnar = isinstance(target, Columnar) and target.columnar
    shape = reshaping(first.schema, chain([first], batches), columnar=columnar)
    objections = target.objections(named, shape.schema) if shape else ()
    if objections:
        raise WrongRequest(f"{named.name} can't be loaded there: {objections[0]}", hint="restore to another engine")
    return shape


def stored_rows(read_blob: ReadBlob, collection: StoredCollection, spill: Path | None = None) -> Iterator[RowBlock]:
    """The rows of a collection's segments, dead slots included; `spill` is as in `Slots`. Raises Damaged."""
    assert not collection.tenants  # noqa: S101 - `tenant_parts.opened` comes first: else rows would be missing in silence
    schema, slots = collection.arrow_schema(), Slots(collection, read_blob, spill)
    yield from ahead(collection.segments, lambda one: read_segment(one, schema, slots, read_blob))


def core_rows(batch: pa.RecordBatch, fidelity: Fidelity, *, every_column: bool = False) -> pa.RecordBatch:
    """What must come back of a row: its id, as text, and its vectors, as float32, if the engine keeps their values."""
    roles = {Role.ID, *(Role if every_column else ())} - {Role.VECTOR} | ({Role.VECTOR} if fidelity is Fidelity.KEPT else set())
    kept = [(f, c) for f, c in zip(batch.schema, batch.columns, strict=True) if role_of(f) in roles]
    columns = [row_key(column) if role_of(f) == Role.ID else _as_float32(column) for f, column in kept]
    fields = [f.with_type(column.type) for (f, _), column in zip(kept, columns, strict=True)]
    return pa.record_batch(columns, schema=pa.schema(fields))


def _as_float32(column: pa.Array) -> pa.Array:
    """The same vectors in the type that every engine has: each narrower type goes into it without loss."""
    kind = column.type
    if not pa.types.is_fixed_size_list(kind) or pa.types.is_float32(kind.value_type):
        return column
    return column.cast(pa.list_(pa.float32(), kind.list_size))


Vectors = Mapping[str, npt.NDArray[np.float64]]
"""Those of a row by field, empty where it has none."""


def vectors_by_id(batch: pa.RecordBatch) -> Iterator[tuple[str, Vectors]]:
    """Id and vectors of each row."""
    ids = next(c for f, c in zip(batch.schema, batch.columns, strict=True) if role_of(f) == Role.ID)
    columns = {f.name: c.to_pylist() for f, c in zip(batch.schema, batch.columns, strict=True) if role_of(f) == Role.VECTOR}
    for row, key in enumerate(row_key(ids).to_pylist()):
        yield key, {name: _floats(values[row]) for name, values in columns.items()}


def _floats(vector: list[float] | bytes | None) -> npt.NDArray[np.float64]:
    if isinstance(vector, bytes):  # bfloat16
        return (np.frombuffer(vector, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.asarray(vector or (), np.float64)


def same_directions(name: str, batch: pa.RecordBatch, sample: Mapping[str, Vectors]) -> int:
    """How many rows of the batch are in the sample. Raises VerificationFailed if a vector of one points elsewhere."""
    if not sample:
        return 0
    ids = row_key(next(c for f, c in zip(batch.schema, batch.columns, strict=True) if role_of(f) == Role.ID))
    wanted = pa.array([one in sample for one in ids.to_pylist()])
    found = 0
    for key, vectors in vectors_by_id(batch.filter(wanted)):
        others = (vector for field, vector in vectors.items() if field not in sample[key])  # an engine may name its only one
        for field, right in sample[key].items():
            if not _is_direction(vectors[field] if field in vectors else next(others, _floats(None)), right):
                raise VerificationFailed(f"{name}: the vector of {key!r} came back as another one")
        found += 1
    return found


def _is_direction(vector: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> bool:
    lengths = float(np.linalg.norm(vector) * np.linalg.norm(right))
    return len(vector) == len(right) and (not lengths or float(vector @ right) / lengths >= _SAME_DIRECTION)
