"""How are changes of the journal applied to staged tables? What they amount to is found first, so that Lance deletes once and
appends once, however many versions there were; then its indices take the rows in."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from strongroom.engines import isolation
from strongroom.engines.changes import ACT, Act, CatalogChange, Change, RowChanges, column_of, counts_copies, spool, unspool
from strongroom.engines.lancedb.differences import scanned
from strongroom.engines.lancedb.indices import plan
from strongroom.engines.lancedb.keys import Key
from strongroom.engines.lancedb.library import Dataset, failing_as, lance, open_table
from strongroom.engines.lancedb.prints import names
from strongroom.engines.lancedb.versions import SUFFIX
from strongroom.engines.staging import remove
from strongroom.errors import EngineFailed
from strongroom.model import Collection, Role, Selection

_AT_ONCE = 10_000
"""So many rows are named in one delete."""


class Applying:
    """Applies changes to the tables below `root`. `scratch` is a directory for what is gathered."""

    def __init__(self, root: Path, scratch: Path, selection: Selection) -> None:
        self._root = root
        self._scratch = scratch
        self._selection = selection
        self._gathered: dict[str, _Gathered] = {}
        self._wanted: dict[str, Collection] = {}
        self._touched: set[str] = set()

    def run(self, changes: Iterable[Change]) -> int:
        """Gives the number of operations. Raises EngineFailed."""
        count = 0
        try:
            for change in changes:
                if isinstance(change, CatalogChange):
                    self._change_catalog(change)
                    count += 1
                elif self._selection.wants(change.identity) and self._folder(change.identity).is_dir():
                    if change.identity not in self._gathered:
                        self._gathered[change.identity] = _Gathered(self._scratch / f"{change.identity}.spool")
                    self._gathered[change.identity].add(change)
                    count += len(change)
            for name in list(self._gathered):
                self._settle(name)
            for name in sorted(self._touched | self._wanted.keys()):
                self._index(name)
        finally:
            for left in self._gathered.values():
                left.discard()
        return count

    def _folder(self, name: str) -> Path:
        return self._root / f"{self._selection.target_name(name)}{SUFFIX}"

    def _change_catalog(self, change: CatalogChange) -> None:
        for name in filter(self._selection.wants, change.gone):
            if name in self._gathered:
                self._gathered.pop(name).discard()
            self._wanted.pop(name, None)
            self._touched.discard(name)
            remove(self._folder(name))
        for name, collection in change.present.items():
            if not self._selection.wants(name):
                continue
            folder = self._folder(name)
            with failing_as(EngineFailed, f"table {name}"):
                if folder.is_dir():
                    _configure(folder, collection)
                else:
                    _create(folder, collection)
            self._wanted[name] = collection

    def _settle(self, name: str) -> None:
        """Let the table hold what was gathered."""
        gathered = self._gathered.pop(name)
        folder = self._folder(name)
        try:
            with failing_as(EngineFailed, f"table {name}"):
                _delete(folder, gathered)
                _append(folder, gathered.come())
        finally:
            gathered.discard()
        self._touched.add(name)

    def _index(self, name: str) -> None:
        collection = self._wanted.get(name)
        folder = self._folder(name)
        with failing_as(EngineFailed, f"table {name}"):
            plans = None if collection is None else plan(collection, int(open_table(folder).count_rows()))
        isolation.call("strongroom.engines.lancedb.indices:catch_up", str(folder), plans)


class _Gathered:
    """Changes of one table, kept in a file, and what they amount to: by what is in rows how many of each come or go, else which
    operation on each key is the last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._key = ""
        self._net = Counter[str]()
        self._last = dict[Key, int]()
        self._count = 0

    def add(self, change: RowChanges) -> None:
        spool([change], self._file)
        self._key = column_of(change.batch, Role.ID) or ""
        acts, ids = change.batch.column(ACT).to_pylist(), change.batch.column(self._key).to_pylist()
        if counts_copies(change.batch.schema):
            for act, one in zip(acts, ids, strict=True):
                self._net[one] += 1 if act == Act.PUT else -1
        else:
            self._last.update(zip(ids, range(self._count, self._count + len(ids)), strict=True))
            self._count += len(ids)

    def gone(self, table: Dataset) -> list[int]:
        """The row ids of rows that go. Raises EngineFailed if one that is known by what is in it isn't there."""
        left = Counter({one: -count for one, count in self._net.items() if count < 0})
        if not left and not self._last:
            return []
        found: list[int] = []
        columns = [self._key] if self._last else table.schema.names
        for batch in scanned(table, columns=columns, with_row_id=True):
            its = batch.column(self._key) if self._last else names(batch.select(columns))
            for row, one in zip(batch.column("_rowid").to_pylist(), its.to_pylist(), strict=True):
                if one in self._last or left[one] > 0:
                    found.append(row)
                    left[one] -= 1
        if self._net and (+left).total():
            raise EngineFailed(f"{(+left).total():,} rows that were deleted are not there")
        return found

    def come(self) -> Iterator[pa.RecordBatch]:
        """The rows that come."""
        self._file.close()
        left = Counter({one: count for one, count in self._net.items() if count > 0})
        number = 0
        with self._path.open("rb") as file:
            for change in unspool(file):
                assert isinstance(change, RowChanges)  # noqa: S101 - only those are gathered
                chosen = []
                acts, ids = change.batch.column(ACT).to_pylist(), change.batch.column(self._key).to_pylist()
                for place, (act, one) in enumerate(zip(acts, ids, strict=True), number):
                    chosen.append(act == Act.PUT and (left[one] > 0 if self._net else self._last[one] == place))
                    if self._net and chosen[-1]:
                        left[one] -= 1
                number += len(ids)
                if any(chosen):
                    yield change.batch.filter(pa.array(chosen))

    def discard(self) -> None:
        self._file.close()
        remove(self._path)


def _delete(folder: Path, gathered: _Gathered) -> None:
    table = open_table(folder)
    ids = gathered.gone(table)
    for start in range(0, len(ids), _AT_ONCE):
        table.delete(f"_rowid IN ({','.join(map(str, ids[start : start + _AT_ONCE]))})")


def _append(folder: Path, batches: Iterator[pa.RecordBatch]) -> None:
    first = next(batches, None)
    if first is None:
        return
    schema = open_table(folder).schema

    def stored() -> Iterator[pa.RecordBatch]:
        for batch in (first, *batches):
            yield pa.RecordBatch.from_arrays([batch.column(name) for name in schema.names], schema=schema)

    lance().write_dataset(pa.RecordBatchReader.from_batches(schema, stored()), str(folder), mode="append")


def _create(folder: Path, collection: Collection) -> None:
    """An empty table as the collection was."""
    catalog = collection.catalog
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(catalog["schema_ipc"])))
    lance().write_dataset(
        pa.RecordBatchReader.from_batches(schema, iter(())),
        str(folder),
        mode="create",
        enable_stable_row_ids=bool(catalog.get("stable_row_ids", False)),
        data_storage_version=str(catalog.get("data_storage_version") or "") or None,
    )
    _configure(folder, collection)


def _configure(folder: Path, collection: Collection) -> None:
    """The configuration and the metadata that the collection had."""
    table, catalog = open_table(folder), collection.catalog
    _replace(table.config(), catalog.get("config") or {}, table.update_config, table.delete_config_keys)
    if dict(table.metadata) != dict(catalog.get("metadata") or {}):
        table.update_metadata(dict(catalog.get("metadata") or {}), replace=True)
    wanted = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(catalog["schema_ipc"]))).metadata or {}
    if (table.schema.metadata or {}) != wanted:
        table.update_schema_metadata({key.decode(): value.decode() for key, value in wanted.items()}, replace=True)


def _replace(present: Mapping[str, str], wanted: Mapping[str, str], update: object, delete: object) -> None:
    if dict(present) == dict(wanted):
        return
    assert callable(update) and callable(delete)  # noqa: S101 - two methods of Lance's
    if present.keys() - wanted.keys():
        delete(sorted(present.keys() - wanted.keys()))
    if wanted:
        update(dict(wanted))
