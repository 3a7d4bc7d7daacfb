"""How a source without a log is followed: frozen every so often, and compared row by row with what it was.

What happened between two scans isn't told apart, and all of it has the time of the later one. A source that can be frozen can be
followed so: index files that are replaced by an atomic save, and any engine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from strongroom import engines
from strongroom.engines.changes import ACT, BATCH, MARK, TIME, Act, CatalogChange, Change, RowChanges, change_schema
from strongroom.engines.protocol import Frozen
from strongroom.engines.staging import remove
from strongroom.errors import Gap, SourceChanged, Unreadable
from strongroom.journal.ends import ends
from strongroom.journal.identities import identities_of
from strongroom.journal.marks import SCAN, scan_mark
from strongroom.journal.overlay import OWN, ids_of
from strongroom.journal.spans import spans
from strongroom.journal.timeline import Moment
from strongroom.model import ROLE, Collection, Json, Position, Role
from strongroom.operations.follow.scan_state import Flags, ScanState
from strongroom.operations.journal.moment import base_of, changes_before, changes_of, plan_from, reader
from strongroom.operations.restore.snapshot_rows import snapshot_rows
from strongroom.progress import SILENT
from strongroom.repository import Repository
from strongroom.repository.state import state_directory
from strongroom.snapshots.fingerprints import Fingerprinter, role_of
from strongroom.snapshots.history import Snapshot

MOST_BYTES = 128 << 20
"""If a scan finds more than that changed, a snapshot is made instead: it costs less to keep and to restore."""
_NAMING = ("fields", "id")
"""If these become others, all rows of a collection are new ones."""
_PATIENCE = 10
"""So many scans in a row may find the source in the middle of a save."""


class Scanned:
    """A source as `protocol.Followed`, whatever its engine is."""

    def __init__(self, repository: Repository, source: str, every: float, snapshot: Callable[[], Snapshot]) -> None:
        """It is scanned every so many seconds; `snapshot` makes a new one of it."""
        self.repository, self.source, self.every, self.snapshot = repository, source, every, snapshot
        self.overflow = ""
        """Why the next session begins with a new snapshot."""

    @contextmanager
    def feed(self, holder: str, batch_key: str | None) -> Iterator[ScanFeed]:
        state = ScanState(_place(self.repository, holder))
        try:
            yield ScanFeed(self, holder, batch_key, state)
        finally:
            state.close()

    def release(self, holder: str) -> bool:
        return release(self.repository, holder)


def release(repository: Repository, holder: str) -> bool:
    """Forget what scans found. Gives whether there was anything."""
    place = _place(repository, holder)
    there = place.exists()
    remove(place)
    return there


class ScanFeed:
    """See `protocol.Feed`. Each read that is due scans the source; the only scope is ''."""

    kind = SCAN

    def __init__(self, scanned: Scanned, stream: str, batch_key: str | None, state: ScanState) -> None:
        self._scanned, self._stream, self._batch_key, self._state = scanned, stream, batch_key, state
        self._repository = scanned.repository
        self._source = engines.source_of(scanned.source)
        self._fingerprinter = Fingerprinter(self._repository.keys.fingerprint)
        self._mark = ""
        self._due = 0.0
        self._disturbed = 0
        self._position: tuple[Position, float] | None = None
        self.seen = 0
        """When the last scan was, in microseconds since 1970."""

    def begin(self) -> Mapping[str, str]:
        """From a new snapshot on."""
        self._scanned.overflow = ""
        began = self._micros()
        snapshot = self._scanned.snapshot()
        self._mark, self.seen = scan_mark(snapshot.manifest.position), began
        self._state.clear()
        self._know_rows(snapshot, lambda collection: collection.name)
        self._state.keep(self._mark)
        return {"": self._mark}

    def resume(self, marks: Mapping[str, str]) -> None:
        if self._scanned.overflow:
            raise Gap(self._scanned.overflow)
        self._mark = marks.get("", "")
        if not self._mark.startswith(f"{SCAN}:"):
            raise Gap("the source was followed by its engine's log before, and not by scans")
        if self._state.mark != self._mark:
            self._remember()

    def read(self) -> tuple[Sequence[Change], Mapping[str, str], bool]:
        if time.monotonic() < self._due:
            return (), {"": self._mark}, False
        self._due = time.monotonic() + self._scanned.every
        began = self._micros()
        if self._position is not None and self._source.unchanged_since(*self._position):
            self.seen = began
            return (), {"": self._mark}, False
        try:
            changes = self._scan()
            self._disturbed = 0
        except SourceChanged:
            self._disturbed += 1
            if self._disturbed >= _PATIENCE:
                raise
            changes = []
        return changes, {"": self._mark}, False

    def behind(self, marks: Mapping[str, str]) -> tuple[int, int]:
        raise Gap("what the source has that isn't kept yet is known when it is scanned")

    def shipped(self, marks: Mapping[str, str]) -> None:
        if marks[""] == self._mark:  # else there is more, of a scan that isn't kept yet
            self._state.keep(self._mark)

    # -- one scan --------------------------------------------------------------------------------------------------------------

    def _scan(self) -> list[Change]:
        began = time.time()
        with self._source.freeze(SILENT) as frozen:
            moment, position = self._micros(), frozen.position
            mark = scan_mark(position)
            changes: list[Change] = []
            if mark != self._mark:
                self._state.begin()
                try:
                    changes = list(self._compare(frozen, moment, mark))
                    frozen.check()
                except BaseException:
                    self._state.undo()
                    raise
                self._state.end()
        self._mark, self._position, self.seen = mark, (position, began), moment
        return changes

    def _compare(self, frozen: Frozen, moment: int, mark: str) -> Iterator[Change]:
        """What is other than it was: collections first, then rows. Raises Gap if that is too much."""
        before = self._state.collections
        now = {one.name: one for one in frozen.description.collections}
        said = {name: {**before.get(name, {}), "shape": _shape(one)} for name, one in now.items()}
        for name in now:
            said[name] |= {"fields": _fields(now[name]), **_id_of(frozen, name)}
        same = before.keys() & now.keys()
        anew = {name for name in same if any(before[name].get(key, said[name].get(key)) != said[name].get(key) for key in _NAMING)}
        gone = (before.keys() - now.keys()) | anew
        for name in gone:
            self._state.drop(name)
        changed = {name: one for name, one in now.items() if name in anew or before.get(name, {}).get("shape") != _shape(one)}
        if changed or gone:
            present = {name: replace(one, feed=None) for name, one in changed.items()}
            yield CatalogChange(present, tuple(sorted(gone)), moment, mark)
        room = MOST_BYTES
        for name in now:
            for change in self._compare_rows(frozen, name, moment, mark):
                room -= change.batch.nbytes
                if room < 0:
                    self._scanned.overflow = f"a scan found more changes than {MOST_BYTES >> 20} MiB: a snapshot keeps them"
                    raise Gap(self._scanned.overflow)
                yield change
        self._state.say_collections(said)

    def _compare_rows(self, frozen: Frozen, name: str, moment: int, mark: str) -> Iterator[RowChanges]:
        seen: Flags = np.zeros(self._state.highest + 1, np.bool_)
        there = self._state.count(name)
        for block in frozen.rows(name):
            batch = block.live()
            ids, prints = ids_of(batch), self._fingerprinter.rows(batch)
            numbers, differs = self._state.find(name, ids, prints)
            known = numbers[numbers > 0]
            if seen[known[known < len(seen)]].any() or (known >= len(seen)).any() or len(set(ids)) < len(ids):
                raise Unreadable(f"{name} holds several rows of one id, which scans can't tell apart", hint="make the ids unique")
            seen[known] = True
            if differs.any():
                mask = pa.array(differs)
                chosen = [one for one, differs_ in zip(ids, differs.tolist(), strict=True) if differs_]
                self._state.put(name, chosen, prints[differs])
                yield self._changes(name, Act.PUT, batch.filter(mask), moment, mark)
        if seen.sum() < there:
            for gone in list(self._state.others(name, seen)):
                self._state.forget(name, gone)
                yield self._changes(name, Act.DELETE, _only_ids(gone), moment, mark)

    def _changes(self, name: str, act: Act, rows: pa.RecordBatch, moment: int, mark: str) -> RowChanges:
        schema = change_schema(rows.schema)
        own = {
            ACT: pa.array([act.value] * rows.num_rows, pa.int8()),
            TIME: pa.array([moment] * rows.num_rows, pa.int64()),
            MARK: pa.array([mark] * rows.num_rows, pa.utf8()),
            BATCH: pa.array(list(self._tags(rows)) if act is Act.PUT else [None] * rows.num_rows, pa.utf8()),
        }
        return RowChanges(name, name, pa.record_batch([*own.values(), *rows.columns], schema=schema))

    def _tags(self, rows: pa.RecordBatch) -> Iterator[str | None]:
        """The batch that each row came with: the value of a key of its payload, or of a column."""
        key = self._batch_key
        payload = next((field.name for field in rows.schema if role_of(field) is Role.PAYLOAD), None)
        values: list[Any] = [None] * rows.num_rows
        if key is not None and key in rows.schema.names:
            values = rows.column(key).to_pylist()
        elif key is not None and payload is not None:
            values = [json.loads(one).get(key) if one else None for one in rows.column(payload).to_pylist()]
        for value in values:
            yield str(value) if isinstance(value, str | int) else None

    # -- what is known to begin with -------------------------------------------------------------------------------------------

    def _remember(self) -> None:
        """Where the journal ends, from its snapshot and its operations. Raises Gap if the snapshot is gone."""
        read = reader(self._repository, 1)
        for chain in ends(self._repository, self._stream):
            found = spans(chain)
            moment = Moment(found[-1], found[-1].last, found[-1].until) if found else None
            base = base_of(self._repository, moment, read) if moment is not None else None
            if moment is not None and base is not None:
                break
        else:
            raise Gap("the snapshot that the journal goes on from is gone, and so is what this machine knew of it")
        plan = plan_from(self._repository, moment, base, read)
        collections = [one.catalog for one in base[0].manifest.collections]
        names = identities_of(collections, changes_of(self._repository, plan), lambda: changes_before(self._repository, plan))
        self._state.clear()
        self._know_rows(base[0], lambda collection: names[collection.name])
        for change in changes_of(self._repository, plan):
            self._know(change)
        self._state.keep(self._mark)

    def _know_rows(self, snapshot: Snapshot, name_of: Callable[[Collection], str]) -> None:
        said: dict[str, Json] = {}
        place = _place(self._repository, self._stream).with_suffix(".rows")
        for collection in snapshot.manifest.collections:
            name = name_of(collection.catalog)
            said[name] = _said(collection.catalog)
            remove(place)
            place.mkdir(mode=0o700)
            try:
                for batch in snapshot_rows(self._repository, snapshot, collection, place):
                    said[name]["id"] = _id_text(batch.schema)
                    self._state.put(name, ids_of(batch), self._fingerprinter.rows(batch))
            finally:
                remove(place)
        self._state.say_collections(said)

    def _know(self, change: Change) -> None:
        if isinstance(change, CatalogChange):
            said = {name: one for name, one in self._state.collections.items() if name not in change.gone}
            for name in change.gone:
                self._state.drop(name)
            self._state.say_collections(said | {name: {**said.get(name, {}), **_said(one)} for name, one in change.present.items()})
            return
        rows = change.batch.select([field.name for field in change.batch.schema if field.name not in OWN])
        if change.batch.column(ACT)[0].as_py() == Act.DELETE:
            self._state.forget(change.name, ids_of(rows))
        else:
            said = self._state.collections
            if said.get(change.name, {}).get("id") != _id_text(rows.schema):
                self._state.say_collections(said | {change.name: {**said.get(change.name, {}), "id": _id_text(rows.schema)}})
            self._state.put(change.name, ids_of(rows), self._fingerprinter.rows(rows))

    def _micros(self) -> int:
        return int(self._repository.clock.now().timestamp() * 1e6)


def _place(repository: Repository, stream: str) -> Path:
    """Where this machine keeps what scans found."""
    return state_directory() / "scans" / repository.config.repository_id.hex() / f"{stream}.sqlite"


def _only_ids(ids: list[str]) -> pa.RecordBatch:
    """Rows of which nothing but the id is known, as text."""
    schema = pa.schema([pa.field("id", pa.string(), metadata={ROLE: Role.ID.encode()})])
    return pa.record_batch([pa.array(ids, pa.string())], schema=schema)


def _id_of(frozen: Frozen, name: str) -> dict[str, Json]:
    """By which column rows are known now; nothing if there are none."""
    first = next(iter(frozen.rows(name)), None)
    return {} if first is None else {"id": _id_text(first.batch.schema)}


def _id_text(schema: pa.Schema) -> str:
    return next(f"{field.name} {field.type}" for field in schema if role_of(field) is Role.ID)


def _said(one: Collection) -> dict[str, Json]:
    return {"shape": _shape(one), "fields": _fields(one)}


def _shape(one: Collection) -> str:
    """What a change of the catalog would change."""
    return json.dumps([[asdict(field) for field in one.fields], dict(one.catalog)], sort_keys=True, default=str)


def _fields(one: Collection) -> str:
    """If these become others, all rows are new ones."""
    return json.dumps([[field.name, field.dtype, field.dimension] for field in one.fields])
