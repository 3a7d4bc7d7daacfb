"""How a source becomes a snapshot: freeze, read once, store packs, then the blob index, then the manifest."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TypeVar
from urllib.parse import urlsplit

import pyarrow as pa

from strongroom import engines
from strongroom.engines.protocol import ChangeFeed, Frozen
from strongroom.errors import Damaged, Refused, WrongRequest
from strongroom.model import Collection, Description, FoundBy, LedgerItem, Position, RowBlock, Status
from strongroom.operations.backup.collection_reading import BackupOptions, CollectionReading, Measured
from strongroom.operations.backup.predecessor import VERSION, Predecessor, predecessor_of
from strongroom.operations.backup.tenant_reading import CollectionByTenant, TenantReading, column_wanted
from strongroom.operations.backup.untouched import Untouched, answering_alike, untouched
from strongroom.operations.machine.processor import processor
from strongroom.operations.machine.witness import Witness
from strongroom.operations.policy.residence import Residence
from strongroom.progress import SILENT, Progress
from strongroom.repository import BlobWriter, Repository
from strongroom.snapshots import history
from strongroom.snapshots.artifacts import ArtifactWriter
from strongroom.snapshots.commit import commit
from strongroom.snapshots.fingerprints import Fingerprinter
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.holding import TENANT
from strongroom.snapshots.manifest import Manifest, Part, StoredArtifact, StoredCollection, root_of

__all__ = ["BackupOptions", "BackupReport", "backup", "without_password"]

T = TypeVar("T")

_WAITING_BLOCKS = 4
_WORKING = 2
"""Threads that fingerprint rows, and then take the regions of files apart."""


@dataclass(frozen=True, slots=True)
class BackupReport:
    """The snapshot that was made, and what could not be read (exit code 3 if there is anything)."""

    snapshot: Snapshot
    not_captured: tuple[LedgerItem, ...]


def backup(repository: Repository, source: str, options: BackupOptions | None = None, progress: Progress = SILENT) -> BackupReport:
    """Make a snapshot of the source that a URL names. Nothing is recorded unless all of it was read at one moment.

    Raises what `Source.freeze` raises, SourceChanged, UnsafeStore, Unreachable, StoreFull. Safe to repeat after any failure:
    blobs that are stored already aren't stored again, unless this machine knows their pack to be damaged. Any number of backups
    may run at once.
    """
    return _Backup(repository, source, options or BackupOptions(), progress).run()


class _Backup:
    def __init__(self, repository: Repository, source: str, options: BackupOptions, progress: Progress) -> None:
        self._repository = repository
        self._url = source
        self._source = without_password(source)
        self._options = options
        self._progress = progress
        self._fingerprinter = Fingerprinter(repository.keys.fingerprint)
        self._partly: list[LedgerItem] = []
        self._seconds: dict[str, float] = {}
        self._started = repository.clock.timer()
        self._remembering: list[Callable[[Manifest], None]] = []
        self._tenant_column = ""
        self._by_tenant: TenantReading | None = None

    def run(self) -> BackupReport:
        engine, source = engines.engine_of(self._url), engines.source_of(self._url)
        known, damaged = history.headlines(self._repository)
        with (
            self._repository.writer(Witness(self._repository).damaged) as writer,
            ThreadPoolExecutor(1, thread_name_prefix="strongroom-probes") as asking,
            ExitStack() as unfinished,
        ):
            writer.pace = self._options.pace
            before = predecessor_of(self._repository, writer, self._source, engine.name, known)
            self._tenant_column = self._column_wanted(before, damaged)
            record, finish = before.unread(source, engine.version(), self._options.model) if self._may_rely else None, None
            if record is not None:
                self._require_residence(record.description())
            if record is None:
                with engines.prepared(self._url), source.freeze(self._progress) as frozen:
                    self._require_residence(frozen.description)
                    record = self._unchanged(frozen, before)
                    finish = None if record else self._read(frozen, writer, before, asking, unfinished)
            packs = writer.close()
            self._repository.add_index(packs)
            if finish is not None:
                record = finish()
            assert record is not None  # noqa: S101 - one of both
            if finish is None:
                as_it_was = tuple(replace(one, found_by=FoundBy.NOTHING, slots_read=0) for one in record.collections)
                record = replace(record, collections=as_it_was)
            record = replace(
                record,
                created=self._repository.clock.now().isoformat(),
                parents=history.heads(known),
                tags=dict(self._options.tags),
                stored_bytes=writer.stored_bytes,
                seconds={name: round(value, 4) for name, value in {**self._seconds, "total": self._elapsed()}.items()},
            )
            if self._by_tenant is not None:
                self._by_tenant.require_unerased()
            snapshot_id = commit(self._repository, record)
            for remember in self._remembering:
                remember(record)
        return BackupReport(Snapshot(snapshot_id, record), tuple(self._partly))

    def _require_residence(self, description: Description) -> None:
        """Before a row is read. Raises Refused if the repository's policy keeps one of the collections out of its region."""
        residence = Residence.of(self._repository)
        names, tags = [one.name for one in description.collections], self._options.tags
        told = [tags.get(TENANT), *(one.catalog.get(TENANT) for one in description.collections)]
        tenants: list[str | None] = [one for one in told if isinstance(one, str)]
        for tenant in tenants or [None]:
            residence.require(self._source, names, tags, tenant)

    def _column_wanted(self, before: Predecessor, damaged: Sequence[Damaged]) -> str:
        newest = next((one.id for one in reversed(before.known) if one.source == self._source), None)
        found = before.snapshot
        unread = bool(damaged) or newest != (found.id if found else None)
        asked, record = self._options.tenant_column, found.manifest if found else None
        return column_wanted(self._repository, self._source, asked, record, unread=unread)

    @property
    def _may_rely(self) -> bool:
        """May what looks unchanged be taken for unchanged?"""
        return not self._options.reread and not self._tenant_column and self._options.probes == BackupOptions().probes

    def _unchanged(self, frozen: Frozen, before: Predecessor) -> Manifest | None:
        """The snapshot before, if the source is as it was then: nothing of it needs to be read."""
        record = before.still(frozen, self._options.model) if self._may_rely else None
        if record is not None:
            frozen.check()
        return record

    def _read(
        self,
        frozen: Frozen,
        writer: BlobWriter,
        before: Predecessor,
        asking: ThreadPoolExecutor,
        unfinished: ExitStack,
    ) -> Callable[[], Manifest]:
        """Read all of the source. The result gives the manifest, once the writer is closed."""
        if self._tenant_column:
            return self._read_by_tenant(frozen, writer, before)
        kept = untouched(frozen, before, self._options.model) if self._may_rely else {}
        others = [one for one in frozen.description.collections if one.name not in kept]
        readings = [self._read_rows(frozen, one, writer, before, asking, unfinished) for one in others]
        files = self._read_artifacts(frozen, writer, before, readings, kept)
        with self._timed("probes"):
            alike = answering_alike(frozen, before, self._options.model, files) if self._may_rely else lambda *_: None
            asked = [one.probes(self._partly, alike(one.collection, one.root.digest())) for one in readings]
        frozen.check()
        if not any(reading.root.count for reading in readings) and not any(one.stored.count for one in kept.values()):
            self._partly.append(LedgerItem("rows", Status.NOT_CAPTURED, "the source holds not one row: that proves nothing"))
        pending: dict[str, Callable[[], StoredCollection]] = {name: _constant(one.stored) for name, one in kept.items()}
        for reading, answers in zip(readings, asked, strict=True):
            pending[reading.collection.name] = reading.finish(writer, answers)
        description, position, rows_plane = frozen.description, frozen.position, _rows_plane(frozen)

        def remember(record: Manifest) -> None:
            stored = {one.name: one for one in record.collections}
            for reading in readings:
                reading.remember(stored[reading.collection.name])

        self._remembering.append(remember)
        stored = (pending[one.name] for one in description.collections)
        return lambda: self._record(
            description, position, rows_plane, tuple(one() for one in stored), tuple(file() for file in files.values())
        )

    def _read_by_tenant(self, frozen: Frozen, writer: BlobWriter, before: Predecessor) -> Callable[[], Manifest]:
        """Read the rows alone: an index file or a probe would hold them all, under nobody's key."""
        description, pending, residence = frozen.description, [], Residence.of(self._repository)
        names = [one.name for one in description.collections]

        def allow(tenant: str) -> None:
            residence.require(self._source, names, self._options.tags, tenant or None)

        tenants = TenantReading(self._repository, writer, before, self._tenant_column, allow)
        self._by_tenant = tenants
        with self._timed("rows"):
            for collection in description.collections:
                reading = CollectionByTenant(tenants, collection, self._options.model)
                self._progress.begin(f"rows of {collection.name}", max(collection.count, 0), "rows")
                for block in frozen.rows(collection.name):
                    if not reading.count:
                        self._require_loadable(collection, block.batch.schema)
                    reading.add(block)
                    self._options.pace.read(block.batch.nbytes)
                    self._progress.advance(block.batch.num_rows)
                pending.append(reading.finish())
                self._require_count(collection, reading.count)
        frozen.check()
        tenants.require_named(sum(one.count for one in description.collections))
        self._partly += tenants.left_out()
        kept, position = replace(description, ledger=tenants.ledger(description)), frozen.position
        return lambda: self._record(kept, position, "segments", tuple(one() for one in pending), ())

    def _require_loadable(self, collection: Collection, schema: pa.Schema) -> None:
        """Raises Refused if the source's own engine takes files alone: rows could go into other engines only."""
        try:
            objections = engines.target_of(self._url).objections(collection, schema)
        except WrongRequest as error:  # it isn't restored into what it is read from
            objections = [str(error)]
        if objections:
            raise Refused(f"{collection.name} can't be kept by tenant: {objections[0]}", hint="leave --tenants out")

    def _require_count(self, collection: Collection, read: int) -> None:
        if read != collection.count:
            note = f"the engine says {collection.count} rows, {read} could be read"
            self._partly.append(LedgerItem(f"{collection.name}: rows", Status.NOT_CAPTURED, note))

    def _record(
        self,
        description: Description,
        position: Position,
        rows_plane: str,
        stored: tuple[StoredCollection, ...],
        files: tuple[StoredArtifact, ...],
    ) -> Manifest:
        return Manifest(
            created="",
            source=self._source,
            host=socket.gethostname(),
            engine=description.engine,
            engine_version=description.engine_version,
            strongroom_version=VERSION,
            position=position,
            rows_plane=rows_plane,
            root=root_of(stored),
            parents=(),
            tags={},
            catalog=description.catalog,
            collections=stored,
            artifacts=files,
            ledger=(*description.ledger, *self._partly),
            source_bytes=sum(artifact.size for artifact in files),
            stored_bytes=0,
            processor=processor(),
        )

    def _read_rows(
        self,
        frozen: Frozen,
        collection: Collection,
        writer: BlobWriter,
        before: Predecessor,
        asking: ThreadPoolExecutor,
        unfinished: ExitStack,
    ) -> CollectionReading:
        def begun(*, fresh: bool = False) -> CollectionReading:
            parts = (collection, self._fingerprinter, self._options, frozen, before, writer, asking)
            reading = CollectionReading(*parts, fresh=fresh)
            unfinished.callback(reading.discard)
            return reading

        reading = begun()
        with self._timed("rows"):
            unread = () if self._options.reread else reading.unread()
            if unread and isinstance(frozen, ChangeFeed):
                kept = sum(stretch.count for stretch in unread)
                self._stream(reading, frozen.other_rows(collection.name, unread), collection.count - kept)
            if not unread or not reading.agrees:
                reading = begun() if unread else reading
                self._stream(reading, frozen.rows(collection.name), collection.count)
            if not reading.asks_enough:
                reading = begun(fresh=True)
                self._stream(reading, frozen.rows(collection.name), collection.count)
        self._require_count(collection, reading.root.count)
        return reading

    def _stream(self, reading: CollectionReading, rows: Iterator[RowBlock], count: int) -> None:
        """Have blocks measured by several threads, and looked at by one, in order, while the next ones are read."""
        self._progress.begin(f"rows of {reading.collection.name}", max(count, 0), "rows")
        with (
            ThreadPoolExecutor(1, thread_name_prefix="strongroom-rows") as analysis,
            ThreadPoolExecutor(_WORKING, thread_name_prefix="strongroom-prints") as measuring,
        ):
            looking: deque[Future[None]] = deque()
            for block in rows:
                measured = measuring.submit(reading.measure, block)
                looking.append(analysis.submit(_when_measured, reading, measured, measuring))
                if len(looking) > _WAITING_BLOCKS:
                    looking.popleft().result()
                self._options.pace.read(block.batch.nbytes)
                self._progress.advance(block.batch.num_rows if block.dead is None else int((~block.dead).sum()))
            for future in looking:
                future.result()
            reading.end_of_rows()

    def _read_artifacts(
        self,
        frozen: Frozen,
        writer: BlobWriter,
        before: Predecessor,
        readings: Sequence[CollectionReading],
        kept: Mapping[str, Untouched],
    ) -> dict[str, Callable[[], StoredArtifact]]:
        artifacts = frozen.artifacts()
        self._progress.begin("index and engine files", sum(artifact.size for artifact in artifacts), "bytes")
        by_name = {reading.collection.name: reading for reading in readings}
        working = ThreadPoolExecutor(_WORKING, thread_name_prefix="strongroom-regions")
        files = ArtifactWriter(
            lambda data, kind: writer.submit(data, kind),
            self._repository.keys.identify,
            {name: reading.written for name, reading in by_name.items()},
            {name: reading.fields for name, reading in by_name.items()},
            lambda collection, name, content, width: by_name[collection].find_or_store(name, content, width),
            working,
            {place: part for reading in readings for place, part in reading.parts.items()},
        )
        stored: dict[str, Callable[[], StoredArtifact]] = {}
        with self._timed("artifacts"), working:
            for artifact in artifacts:
                if (same := kept.get(artifact.collection or "")) is not None:
                    self._progress.advance(artifact.size)
                    stored[artifact.path] = _constant(same.files[artifact.path])
                    continue
                known = before.immutable(artifact.path, artifact.size) if artifact.immutable else None
                if known is not None and all(self._keep(part, before, by_name) for part in known.parts):
                    self._progress.advance(artifact.size)
                    stored[artifact.path] = _constant(known)
                else:
                    stored[artifact.path] = files.store(artifact, before.file(artifact.path), self._have_read)
        return stored

    def _have_read(self, amount: int) -> None:
        self._options.pace.read(amount)
        self._progress.advance(amount)

    def _keep(self, part: Part, before: Predecessor, readings: Mapping[str, CollectionReading]) -> bool:
        """May a part of a file that is taken over stay as it is? The vectors that it refers to then stay too."""
        for vectors in (*([part.vectors] if part.vectors else []), *part.ranges):
            reading = readings.get(vectors.collection)
            if reading is None or not reading.keep(vectors, before):
                return False
        return True

    def _elapsed(self) -> float:
        return self._repository.clock.timer() - self._started

    def _timed(self, name: str) -> _Timed:
        return _Timed(self._seconds, name, self._repository.clock.timer)


class _Timed:
    """Adds the seconds inside a `with` to a table."""

    def __init__(self, table: dict[str, float], name: str, timer: Callable[[], float]) -> None:
        self._table, self._name, self._timer = table, name, timer

    def __enter__(self) -> None:
        self._start = self._timer()

    def __exit__(self, *_: object) -> None:
        self._table[self._name] = self._table.get(self._name, 0.0) + self._timer() - self._start


def without_password(url: str) -> str:
    """A URL as it may be shown and stored."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@")).geturl()


def _rows_plane(frozen: Frozen) -> str:
    return "artifacts" if frozen.rows_in_artifacts else "segments"


def _when_measured(reading: CollectionReading, measured: Future[Measured], working: ThreadPoolExecutor) -> None:
    reading.look_at(measured.result())
    reading.store_records(measured.result().block, working)


def _constant(value: T) -> Callable[[], T]:
    return lambda: value
