"""How do rows get under the keys of their tenants? Each tenant's go to segments of his own, and nothing of them goes elsewhere."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from strongroom.errors import Damaged, Overtaken, Refused, WrongRequest
from strongroom.journal.ends import has_segments
from strongroom.journal.stream import stream_of
from strongroom.model import INDEX_FILES, Collection, Description, FoundBy, LedgerItem, RowBlock, Status
from strongroom.operations.backup.predecessor import Predecessor, said_lineage
from strongroom.repository import BlobWriter, Repository
from strongroom.repository.erasures import erased_tenants, erasures
from strongroom.repository.tenants import FOLDER, TenantKey, destroy_keys, keys_of, keys_of_all, make_key, with_key
from strongroom.snapshots import manifest
from strongroom.snapshots.fingerprints import Fingerprinter, Prints
from strongroom.snapshots.manifest import Manifest, StoredCollection, TenantPart
from strongroom.snapshots.tenant_parts import PartRecord, parts_of, read_record, sealed_root, tenants_of
from strongroom.snapshots.tenant_rows import Place, TenantRows

WAITING_BYTES = 256 << 20
"""So much of rows may wait, of all tenants together, until it fills segments."""

_ROWS = "each tenant's under a key of his own"
_WHY = "they would hold all tenants' rows: the index is built again"


@dataclass
class TenantReading:
    """One backup by tenant: `column` says whose a row is, `allow` raises Refused for a tenant who may not be kept here."""

    repository: Repository
    writer: BlobWriter
    before: Predecessor
    column: str
    allow: Callable[[str], None]
    skipped: Counter[str] = field(default_factory=Counter)
    named: bool = False
    """Did any row say whose it is?"""

    def __post_init__(self) -> None:
        self._erased = erased_tenants(erasures(self.repository))
        self._keys: dict[str, TenantKey] = {}
        record = self.before.snapshot.manifest if self.before.snapshot else None
        met = {part.tenant for part in parts_of(record)} if record else set()
        self._known = keys_of_all(self.repository, sorted(met - self._erased.keys()))
        self._made: set[str] = set()
        self.fingerprinter = Fingerprinter(self.repository.keys.fingerprint)

    def key_of(self, tenant: str) -> TenantKey | None:
        """The key to seal with, made if there is none; None of a tenant who was erased."""
        if tenant in self._erased:
            return None
        if tenant not in self._keys:
            self.allow(tenant)
            known = self._known.get(tenant) or keys_of(self.repository, tenant)
            self._keys[tenant] = known[0] if known else make_key(self.repository, tenant)
            self._made.update(() if known else (tenant,))
        return self._keys[tenant]

    def place(self) -> Place:
        return Place(self.writer.submit, self.before.has, self.repository.read_blob)

    def ledger(self, description: Description) -> tuple[LedgerItem, ...]:
        """Only rows, schema and settings are kept: what else the engine gives lies in its files."""
        not_rows = [one for one in description.ledger if one.item not in ("rows", INDEX_FILES)]
        given = ", ".join(one.item for one in not_rows if one.status is Status.CAPTURED)
        return (
            LedgerItem("rows", Status.CAPTURED, _ROWS),
            LedgerItem("schema and index settings", Status.CAPTURED),
            *(one for one in not_rows if one.status is not Status.CAPTURED),
            LedgerItem(INDEX_FILES, Status.NOT_CAPTURED, _WHY),
            *(
                [LedgerItem("what lies in the engine's files alone", Status.NOT_CAPTURED, f"as far as no row has it: {given}")]
                if given
                else []
            ),
            LedgerItem("probes", Status.NOT_CAPTURED, "they would hold vectors and answers of all tenants"),
        )

    def left_out(self) -> list[LedgerItem]:
        """Rows that are in the source though their tenant was erased."""
        why = "this tenant was erased and never comes back: take the rows out of the source"
        return [LedgerItem(f"{rows:,} rows of {one}", Status.NOT_CAPTURED, why) for one, rows in sorted(self.skipped.items())]

    def require_unerased(self) -> None:
        """Before the manifest is stored. Raises Overtaken if a tenant was erased meanwhile; a key that was made for him goes."""
        gone = erased_tenants(erasures(self.repository)).keys() & self._keys.keys()
        for tenant in gone & self._made:
            destroy_keys(self.repository.store, self.repository.keys, tenant)
        if gone:
            raise Overtaken(f"tenant {sorted(gone)[0]!r} was erased while the backup ran", hint="run it again")

    def require_named(self, rows: int) -> None:
        """Raises WrongRequest if not one of so many rows said whose it is."""
        if rows and not self.named and not self.skipped:
            hint = "give a column, or a key of the payload, that the rows have"
            raise WrongRequest(f"not one row has {self.column!r}: nobody knows whose they are", hint=hint)


class CollectionByTenant:
    """The rows of one collection, sorted by tenant."""

    def __init__(self, reading: TenantReading, collection: Collection, model: str | None) -> None:
        self.count = 0
        self._reading = reading
        self._collection = collection
        self._model = model
        self._schema = ""
        self._tenants: dict[str, TenantRows] = {}
        self._goes_on = False

    def add(self, block: RowBlock) -> None:
        """The next rows; of dead slots nothing is kept."""
        batch = block.live()
        if not batch.num_rows:
            return
        self._schema = self._schema or manifest.encode_schema(batch.schema)
        names = tenants_of(batch, self._reading.column)
        prints = self._reading.fingerprinter.prints(batch)
        for tenant in dict.fromkeys(names):
            mask = np.array([name == tenant for name in names], np.bool_)
            self._add(tenant, batch.filter(pa.array(mask)), _only(prints, mask))
        self._spare_memory()

    def _add(self, tenant: str, batch: pa.RecordBatch, prints: Prints) -> None:
        key = self._reading.key_of(tenant)
        self.count += batch.num_rows
        if key is None:
            self._reading.skipped[tenant] += batch.num_rows
            return
        self._reading.named |= bool(tenant)
        if tenant not in self._tenants:
            parts = tenant, key, self._collection, self._reading.fingerprinter, self._reading.place()
            self._tenants[tenant] = TenantRows(*parts, self._record(tenant, key))
        self._tenants[tenant].add(batch, prints)

    def _record(self, tenant: str, key: TenantKey) -> PartRecord:
        """Of the snapshot before; an empty one if it can't be gone on from."""
        stored = self._reading.before.collection(self._collection.name)
        if stored is None or stored.schema != self._schema or stored.tenant_column != self._reading.column:
            return PartRecord()
        part = next((one for one in stored.tenants if one.tenant == tenant), None)
        if part is None or with_key([key], part.key) is None or not self._reading.before.has(part.record):
            return PartRecord()
        try:
            record = read_record(self._reading.repository, key, part)
        except Damaged:  # then all of it is new
            return PartRecord()
        self._goes_on = True
        return record

    def _spare_memory(self) -> None:
        waiting = sorted(self._tenants.values(), key=lambda one: one.gathered, reverse=True)
        total = sum(one.gathered for one in waiting)
        for one in waiting:
            if total <= WAITING_BYTES:
                return
            total -= one.gathered
            one.flush()

    def finish(self) -> Callable[[], StoredCollection]:
        """The result gives the collection, once the writer is closed."""
        pending = [self._tenants[name].finish() for name in sorted(self._tenants)]
        shutil.rmtree(self._reading.before.cache(self._collection.name), ignore_errors=True)  # of before it had tenants' keys
        return lambda: self._stored(tuple(part() for part in pending))

    def _stored(self, parts: tuple[TenantPart, ...]) -> StoredCollection:
        lineage = said_lineage(self._collection.lineage, self._model)
        rows = sum(part.rows for part in parts)
        return StoredCollection(
            catalog=replace(self._collection, count=rows, lineage=lineage, feed=None),  # a feed's note may tell of rows
            schema=self._schema,
            rows_root=sealed_root(parts),
            segments=(),
            probes=(),
            found_by=FoundBy.FINGERPRINTS if self._goes_on else FoundBy.ALL,
            slots_read=self.count,
            tenant_column=self._reading.column,
            tenants=parts,
        )


def _only(prints: Prints, mask: np.ndarray) -> Prints:
    return Prints(prints.rows[mask], {name: those[mask] for name, those in prints.vectors.items()})


def column_wanted(repository: Repository, source: str, asked: str | None, before: Manifest | None, *, unread: bool) -> str:
    """Which column says whose rows are: the one that is asked for ('' for none), else that of the snapshot before. Raises Refused
    if the source has a journal, which is under no tenant's key; or if a snapshot is `unread` that may have told."""
    if asked is None and unread and any(True for _ in repository.store.list(FOLDER)):
        hint = "say --tenants COLUMN, or --tenants '' if its tenants have no keys of their own; and run 'strongroom verify'"
        raise Refused(f"a snapshot can't be read that may say that {source} is kept by tenant: nothing was stored", hint=hint)
    known = next((one.tenant_column for one in before.collections if one.tenant_column), "") if before else ""
    column = known if asked is None else asked
    if column and has_segments(repository, stream_of(repository, source)):
        hint = "back it up into another repository, in which it has no journal"
        raise Refused(f"{source} has a journal here, which no tenant's key protects: nothing was stored", hint=hint)
    return column


def require_followable(source: str, before: Manifest | None) -> None:
    """Raises Refused for a source whose tenants have keys of their own: a journal would hold their rows without."""
    if before is not None and (parts_of(before) or any(one.tenant_column for one in before.collections)):
        hint = "make snapshots more often instead"
        raise Refused(f"tenants of {source} have keys of their own, which a journal hasn't: it isn't followed", hint=hint)
