"""What do the versions of LanceDB's tables say, one after the other? Each table has an order of its own: a scope is a table, a mark
one of its versions.

A row is known by its key (`keys`), or where no column is one by what is in it (`prints`): Lance moves rows at will. A version's
operations are one transaction: rows that came, then rows that went. Where columns change, a table is made anew, or its rows become
known by something else, all of its rows come anew. A drop leaves nothing behind to read: it is dated by when it was noticed, and
what the table held since it was looked at last isn't known.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from strongroom.engines.changes import Act, CatalogChange, Change, RowChanges, change_schema
from strongroom.engines.lancedb import describe
from strongroom.engines.lancedb.columns import id_column, row_schema
from strongroom.engines.lancedb.differences import Changed, Difference, difference, read_difference
from strongroom.engines.lancedb.hold import Held, Hold, directory_of, held_at
from strongroom.engines.lancedb.keys import Keys, is_first_choice
from strongroom.engines.lancedb.library import failing_as, open_table
from strongroom.engines.lancedb.manifest import Manifest, read_manifest, version_of
from strongroom.engines.lancedb.prints import FIELD, names
from strongroom.engines.lancedb.versions import SUFFIX, manifests
from strongroom.engines.staging import remove
from strongroom.errors import Gap, NotFound, Unreadable
from strongroom.model import Collection

KIND = "lance-versions"
MOST_BYTES = 256 << 20
"""What one version brings at most; a larger load is kept by a snapshot instead, which takes Lance's own files as they are."""
_READ_BYTES = 8 << 20
_READ_SECONDS = 2.0
"""Many small versions take long for their bytes: what is read of them is to be kept before a follower that dies loses it."""
_SETTLING_SECONDS = 0.3
"""So long after its date a version can be seen, at the latest."""
_DROPPED = ":dropped"


@contextmanager
def following(database: Path, holder: str, batch_key: str | None) -> Iterator[LanceFeed]:
    """The feed of a live database. Raises NotFound."""
    if not database.is_dir():
        raise NotFound(f"there is no directory {database}", hint="check the path")
    feed = LanceFeed(database, holder, batch_key)
    try:
        yield feed
    finally:
        feed.close()


def release(database: Path, holder: str) -> bool:
    """Hold nothing any more. Gives whether something was held. Raises NotFound, or Locked while somebody follows."""
    if not database.is_dir():
        raise NotFound(f"there is no directory {database}", hint="check the path")
    there = directory_of(database, holder).is_dir()
    if there:
        hold = Hold(database, holder)
        remove(hold.directory)
        hold.close()
    return there


class LanceFeed:
    """See `protocol.Feed` and `protocol.Seeing`."""

    kind = KIND

    def __init__(self, database: Path, holder: str, batch_key: str | None) -> None:
        self._database = database
        self._holder = holder
        self._batch_key = batch_key
        self._hold: Hold | None = None
        self._tables: list[Held] = []
        self._finished: list[Held] = []
        self._until = 0
        self.seen = 0
        self._key: str | None = None

    def begin(self) -> Mapping[str, str]:
        hold = self._opened()
        for held in hold.tables():
            hold.drop(held)
        self._tables, self._finished = [], []
        for name, folder in self._folders().items():
            fresh: Held | None = None
            while fresh is None and (present := manifests(folder)):
                fresh = hold.begin(name, max(present))
            if fresh is not None:
                fresh.at = fresh.newest.version
                fresh.key = self._key_of(fresh, fresh.newest)
                self._tables.append(fresh)
        return self._marks()

    def resume(self, marks: Mapping[str, str]) -> None:
        hold = self._opened()
        self._tables, self._finished = hold.tables(), []
        for name, mark in marks.items():
            if not mark.endswith(_DROPPED):
                held = held_at(self._tables, name, mark) or self._found(name, mark)
                held.at = version_of(mark)
                held.key = self._key_of(held, held.versions[held.at])
        self._forget_ended(marks)
        self._look()
        for held in self._tables:
            if held.next is not None:  # what can't be read is a gap already now: it would be one again and again
                list(self._changes(held, held.next))
                held.keys = None

    def read(self) -> tuple[Sequence[Change], Mapping[str, str], bool]:
        """Up to one time of all tables, by as many reads as it takes: a version is dated a little before it can be seen, so what is
        dated before that time is waited for."""
        asked = _now()
        self._look()
        if not self._until:
            until = _now()
            if self._earliest(until) is None:
                self.seen = asked
                return [], self._marks(), False
            time.sleep(_SETTLING_SECONDS)
            self._look()
            self._until = until
        changes: list[Change] = []
        size, started = 0, time.monotonic()
        try:
            while not changes or (size < _READ_BYTES and time.monotonic() < started + _READ_SECONDS):
                held = self._earliest(self._until)
                if held is None:
                    ending = any(one.ended for one in self._tables)  # what came to it just before isn't known
                    self.seen, self._until = 0 if ending else self._until, 0
                    return changes, self._marks(), False
                for change in self._step(held):
                    changes.append(change)
                    size += change.batch.nbytes if isinstance(change, RowChanges) else 1024
        except Gap:
            if not changes:
                raise
        return changes, self._marks(), True

    def behind(self, marks: Mapping[str, str]) -> tuple[int, int]:
        operations = size = 0
        held = directory_of(self._database, self._holder)
        for name, folder in self._folders().items():
            here = manifests(folder)
            before = None
            if name in marks:
                before = _version_at(folder, here, marks[name]) or _held_version(held, name, marks[name])
            first = _first(here) if before is None else before.version + 1
            for version in range(first, max(here) + 1):
                if version not in here:
                    raise Gap(f"version {version} of table {name} was cleaned up before it was read")
                after = read_manifest(folder / here[version])
                found = difference(before, after)
                operations, size, before = operations + found.rows, size + found.bytes, after
        return operations, size

    def shipped(self, marks: Mapping[str, str]) -> None:
        assert self._hold is not None  # noqa: S101 - only what was read is shipped
        for held in self._finished:
            self._hold.drop(held)
        self._finished = []
        for held in self._tables:
            if held.at is not None and marks.get(held.name) == held.mark:
                held.trim(held.at)

    def close(self) -> None:
        if self._hold is not None:
            self._hold.close()
            self._hold = None

    def _opened(self) -> Hold:
        if self._hold is None:
            self._hold = Hold(self._database, self._holder)
        return self._hold

    def _folders(self) -> dict[str, Path]:
        """The tables that have a version."""
        found = (one for one in self._database.iterdir() if one.suffix == SUFFIX and one.is_dir())
        return {one.stem: one for one in sorted(found) if manifests(one)}

    def _marks(self) -> dict[str, str]:
        """Of tables that ended too, until that is shipped: else they might be taken for new ones by who comes after."""
        ended = {held.name: f"{held.mark}{_DROPPED}" for held in self._finished}
        return ended | {held.name: held.mark for held in self._tables if held.mark is not None}

    def _forget_ended(self, marks: Mapping[str, str]) -> None:
        """What was held of tables that ended before the marks."""
        ended = {name for name, mark in marks.items() if mark.endswith(_DROPPED)}
        known = {held.name: place for place, held in enumerate(self._tables) if held.at is not None}
        for place, held in enumerate(list(self._tables)):
            is_it = held.name in ended and held_at([held], held.name, marks[held.name].removesuffix(_DROPPED)) is not None
            if is_it or place < known.get(held.name, 0):
                self._tables.remove(held)
                self._opened().drop(held)

    def _found(self, name: str, mark: str) -> Held:
        """Begin to hold at a mark again: what was held is gone. Raises Gap if the version is too."""
        folder = self._database / f"{name}{SUFFIX}"
        here = manifests(folder)
        if _version_at(folder, here, mark) is not None:
            held = self._opened().begin(name, version_of(mark))
            if held is not None and held.newest.mark == mark:
                self._tables.append(held)
                return held
        raise Gap(f"version {version_of(mark)} of table {name} is gone, or is another one now")

    def _look(self) -> None:
        """Hold what came since: all of it, whether it is read now or later."""
        for held in self._tables:
            held.advance(self._database / f"{held.name}{SUFFIX}")
        living = {held.name for held in self._tables if not held.ended}
        for entry in sorted(self._database.iterdir()):
            if entry.suffix == SUFFIX and entry.stem not in living and (present := manifests(entry)):
                fresh = self._opened().begin(entry.stem, _first(present))
                if fresh is not None:
                    self._tables.append(fresh)
                    fresh.advance(entry)

    def _earliest(self, until: int) -> Held | None:
        """The table whose next step came first, up to a time. A name's tables come one after the other."""
        first: dict[str, Held] = {}
        for held in self._tables:
            first.setdefault(held.name, held)
        due = [(self._due(held), held.name) for held in first.values() if held.next or held.ended]
        return first[min(due)[1]] if due and min(due)[0] <= until else None

    def _due(self, held: Held) -> int:
        """When a table's next step happened, in microseconds: its end no later than the first version of the next of its name."""
        if held.next is not None:
            return held.next.micros
        after = next((one for one in self._tables if one.name == held.name and one is not held), None)
        return held.ended if after is None else min(held.ended, after.versions[min(after.versions)].micros)

    def _fitting(self, held: Held, before: Manifest | None, after: Manifest) -> Difference:
        """What differs. Raises Gap if that is more than can be held in memory."""
        found = difference(before, after)
        if found.bytes > MOST_BYTES:
            raise Gap(f"version {after.version} of table {held.name} brings {found.bytes >> 20} MiB at once: a snapshot keeps them")
        return found

    def _step(self, held: Held) -> Iterator[Change]:
        """The operations of a table's next version, or its end."""
        after = held.next
        if after is None:
            ended = f"{held.mark}{_DROPPED}"
            looked = max(held.looked, held.newest.micros)
            yield CatalogChange({}, (held.name,), self._due(held), ended, scope=held.name, unseen_since=looked)
            self._tables.remove(held)
            self._finished.append(held)
            return
        changes = list(self._changes(held, after))
        held.at, held.key = after.version, self._key
        yield from changes

    def _changes(self, held: Held, after: Manifest) -> Iterator[Change]:
        """The operations of the version after the one that was read last. `_key` is the key after it."""
        before = held.versions[held.at] if held.at is not None else None
        anew = before is None or before.schema != after.schema
        changed = Changed()
        if not anew:
            changed = read_difference(held.folder, before, after, self._fitting(held, before, after), held.key)
            self._key = self._key_after(held, after, changed)
            anew = self._key != held.key
        if anew:
            changed = read_difference(held.folder, None, after, self._fitting(held, None, after), None)
            self._key, held.keys = self._key_of(held, after), None
        if before is None or anew or (before.settings, before.indices) != (after.settings, after.indices):
            gone = (held.name,) if before is not None and anew else ()
            yield CatalogChange({held.name: self._described(held, after)}, gone, after.micros, after.mark, scope=held.name)
        yield from self._row_changes(held.name, after, changed, self._key)

    def _key_after(self, held: Held, after: Manifest, changed: Changed) -> str | None:
        """The key of a version, by that of the one before."""
        if held.key is None:  # rows that come make no column unique
            return self._key_of(held, after) if changed.gone else None
        come = [key for batch in changed.come for key in batch.column(held.key).to_pylist()]
        if not come and not changed.gone:
            return held.key
        if held.keys is None and held.at is not None:
            with failing_as(Unreadable, f"table {held.name}"):
                table = open_table(held.folder, held.at)
                held.keys = Keys(table, held.key) if is_first_choice(table.schema, held.key) else None
        if held.keys is not None and held.keys.exchange(changed.gone_keys, come):
            return held.key
        held.keys = None
        return self._key_of(held, after)

    def _key_of(self, held: Held, version: Manifest) -> str | None:
        with failing_as(Unreadable, f"table {held.name}"):
            return id_column(open_table(held.folder, version.version))

    def _described(self, held: Held, version: Manifest) -> Collection:
        """By the table itself while it has the version, since what an index is like stands in its files."""
        path = held.path(version.version)
        for folder in (self._database / f"{held.name}{SUFFIX}", held.folder):
            with suppress(Unreadable), failing_as(Unreadable, f"table {held.name}"):
                if _version_at(folder, {version.version: path}, version.mark) is not None:
                    return describe.outline(held.name, open_table(folder, version.version))
        raise Unreadable(f"version {version.version} of table {held.name} can't be described")

    def _row_changes(self, name: str, version: Manifest, changed: Changed, key: str | None) -> Iterator[Change]:
        """By the key, if there is one: a row that comes replaces the one of its key. Else by what is in them."""
        for batch in changed.come:
            schema, columns = row_schema(batch.schema, key or ""), batch.columns
            if key is None:
                schema, columns = pa.schema([FIELD, *schema]), [names(batch), *columns]
            own = _own(Act.PUT, version, batch.num_rows, batch, self._batch_key)
            rows = pa.RecordBatch.from_arrays([*own, *columns], schema=change_schema(schema))
            yield RowChanges(name, name, rows, name)
        gone, field = pa.array(changed.gone, pa.utf8()), FIELD
        if key is not None and changed.gone:
            field = self._key_field(name, version, key)
            replaced = {one for batch in changed.come for one in batch.column(key).to_pylist()}
            gone = pa.array([one for one in changed.gone_keys if one not in replaced], field.type)
        if len(gone):
            own = _own(Act.DELETE, version, len(gone), None, None)
            yield RowChanges(name, name, pa.RecordBatch.from_arrays([*own, gone], schema=change_schema(pa.schema([field]))), name)

    def _key_field(self, name: str, version: Manifest, key: str) -> pa.Field:
        held = next(one for one in self._tables if one.name == name)
        return row_schema(open_table(held.folder, version.version).schema, key).field(key)


def _own(act: Act, version: Manifest, count: int, batch: pa.RecordBatch | None, batch_key: str | None) -> list[pa.Array]:
    """The columns of the operations themselves."""
    return [
        pa.array(np.full(count, act), pa.int8()),
        pa.array(np.full(count, version.micros), pa.int64()),
        pa.array([version.mark] * count, pa.utf8()),
        _tags(batch, batch_key, count),
    ]


def _tags(batch: pa.RecordBatch | None, key: str | None, count: int) -> pa.Array:
    """The ingest batch of each row, by the column that names it."""
    if batch is None or key is None or key not in batch.schema.names:
        return pa.nulls(count, pa.utf8())
    values = batch.column(key).to_pylist()
    return pa.array([str(value) if isinstance(value, str | int) else None for value in values], pa.utf8())


def _now() -> int:
    return time.time_ns() // 1000


def _first(present: Mapping[int, str]) -> int:
    """From which version on a table is read that wasn't known: from its first, unless it came with only a part of its history."""
    return 1 if 1 in present else max(present)


def _version_at(folder: Path, here: Mapping[int, str], mark: str) -> Manifest | None:
    """The version of a mark, if the table has it."""
    version = version_of(mark)
    if version not in here:
        return None
    with suppress(FileNotFoundError):
        found = read_manifest(folder / here[version])
        return found if found.mark == mark else None
    return None


def _held_version(directory: Path, name: str, mark: str) -> Manifest | None:
    for folder in directory.glob(f"*/{name}{SUFFIX}"):
        found = _version_at(folder, manifests(folder), mark)
        if found is not None:
            return found
    return None
