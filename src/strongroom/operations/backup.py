"""How a source becomes a snapshot: freeze, read once, store packs, then the blob index, then the manifest."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from blake3 import blake3

from strongroom import engines
from strongroom.engines.protocol import Frozen
from strongroom.errors import EngineFailed
from strongroom.model import Answers, Bytes, Collection, Field, LedgerItem, Lineage, RowBlock, Status
from strongroom.operations.processor import processor
from strongroom.operations.witness import Witness
from strongroom.progress import SILENT, Progress
from strongroom.repository import BlobWriter, Repository
from strongroom.snapshots import history, manifest, probes
from strongroom.snapshots.artifacts import store_artifact
from strongroom.snapshots.fingerprints import Fingerprinter, RowsRoot
from strongroom.snapshots.history import Headline, Snapshot
from strongroom.snapshots.manifest import Manifest, ProbeSet, StoredArtifact, StoredCollection
from strongroom.snapshots.probes import ExactSearch, Probes
from strongroom.snapshots.segments import PendingSegment, store_block

_WAITING_BLOCKS = 2
_FEWEST_PROBES = 4
_SCANNED_BYTES = 4 << 30
"""How much an engine without an index may be made to read for the probes of one field."""


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """`model` is NAME@VERSION of the encoder; `probes` queries a vector field are sealed in."""

    model: str | None = None
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    probes: int = probes.PROBES


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
    with engines.prepared(source):
        return _Backup(repository, source, options or BackupOptions(), progress).run()


class _Backup:
    def __init__(self, repository: Repository, source: str, options: BackupOptions, progress: Progress) -> None:
        self._repository = repository
        self._url = source
        self._options = options
        self._progress = progress
        self._fingerprinter = Fingerprinter(repository.keys.fingerprint)
        self._partly: list[LedgerItem] = []
        self._seconds: dict[str, float] = {}

    def run(self) -> BackupReport:
        source = engines.source_of(self._url)
        known, _ = history.headlines(self._repository)
        with (
            self._timed("total"),
            self._repository.writer(Witness(self._repository).damaged) as writer,
            source.freeze(self._progress) as frozen,
            ThreadPoolExecutor(1, thread_name_prefix="strongroom-probes") as asking,
        ):
            readings = [self._read_rows(frozen, collection, writer, asking) for collection in frozen.description.collections]
            artifacts = self._read_artifacts(frozen, writer, self._immutable_of(known, writer), readings)
            with self._timed("probes"):
                asked = [reading.probes(self._partly) for reading in readings]
            frozen.check()
            if not any(reading.root.count for reading in readings):
                self._partly.append(LedgerItem("rows", Status.NOT_CAPTURED, "the source holds not one row: that proves nothing"))
            stored = [reading.finish(writer, answers) for reading, answers in zip(readings, asked, strict=True)]
            files = tuple(artifact() for artifact in artifacts)
            description, position, rows_plane = frozen.description, frozen.position, _rows_plane(frozen)
            packs = writer.close()
        self._repository.add_index(packs)
        record = Manifest(
            created=self._repository.clock.now().isoformat(),
            source=without_password(self._url),
            host=socket.gethostname(),
            engine=description.engine,
            engine_version=description.engine_version,
            strongroom_version=importlib.metadata.version("strongroom"),
            position=position,
            rows_plane=rows_plane,
            root=root_of(stored),
            parents=history.heads(known),
            tags=dict(self._options.tags),
            catalog=description.catalog,
            collections=tuple(stored),
            artifacts=files,
            ledger=(*description.ledger, *self._partly),
            source_bytes=sum(artifact.size for artifact in files),
            stored_bytes=writer.stored_bytes,
            seconds={name: round(value, 4) for name, value in self._seconds.items()},
            processor=processor(),
        )
        snapshot_id = self._repository.add_manifest(manifest.encode(record))
        return BackupReport(Snapshot(snapshot_id, record), tuple(self._partly))

    # -- the rows plane ----------------------------------------------------------------------------------------------------

    def _read_rows(self, frozen: Frozen, collection: Collection, writer: BlobWriter, asking: ThreadPoolExecutor) -> _Reading:
        reading = _Reading(collection, self._fingerprinter, self._options, frozen, asking)
        self._progress.begin(f"rows of {collection.name}", collection.count, "rows")
        keep = not frozen.rows_in_artifacts
        with self._timed("rows"), ThreadPoolExecutor(1, thread_name_prefix="strongroom-rows") as analysis:
            looking: list[Future[None]] = []
            for block in frozen.rows(collection.name):
                reading.schema = reading.schema or manifest.encode_schema(block.batch.schema)
                if keep:
                    reading.segments.append(store_block(block, collection.fields, _submitting(writer)))
                looking.append(analysis.submit(reading.look_at, block))
                if len(looking) > _WAITING_BLOCKS:
                    looking.pop(0).result()
                self._progress.advance(block.batch.num_rows if block.dead is None else int((~block.dead).sum()))
            for future in looking:
                future.result()
        if reading.root.count != collection.count:
            note = f"the engine says {collection.count} rows, {reading.root.count} could be read"
            self._partly.append(LedgerItem(f"{collection.name}: rows", Status.NOT_CAPTURED, note))
        return reading

    # -- the index plane ---------------------------------------------------------------------------------------------------

    def _read_artifacts(
        self,
        frozen: Frozen,
        writer: BlobWriter,
        immutable: Mapping[tuple[str, int], StoredArtifact],
        readings: Sequence[_Reading],
    ) -> list[Callable[[], StoredArtifact]]:
        artifacts = frozen.artifacts()
        self._progress.begin("index and engine files", sum(artifact.size for artifact in artifacts), "bytes")
        stored: list[Callable[[], StoredArtifact]] = []
        blocks = {reading.collection.name: reading.segments for reading in readings}
        with self._timed("artifacts"):
            for artifact in artifacts:
                known = immutable.get((artifact.path, artifact.size)) if artifact.immutable else None
                if known is not None:
                    self._progress.advance(artifact.size)
                    stored.append(_constant(known))
                else:
                    rows = blocks.get(artifact.collection or "", [])
                    identify = self._repository.keys.identify
                    stored.append(store_artifact(artifact, rows, _submitting(writer), identify, self._progress.advance))
        return stored

    def _immutable_of(self, known: Sequence[Headline], writer: BlobWriter) -> dict[tuple[str, int], StoredArtifact]:
        """Files that the engine never changes, from the newest snapshot of this source, if all of their blobs are still there."""
        snapshot = history.newest_of(self._repository, known, without_password(self._url))
        if snapshot is None:
            return {}
        return {
            (artifact.path, artifact.size): artifact
            for artifact in snapshot.manifest.artifacts
            if artifact.immutable and all(writer.has(bytes.fromhex(blob)) for blob in artifact.blobs())
        }

    def _timed(self, name: str) -> _Timed:
        return _Timed(self._seconds, name, self._repository.clock.timer)


@dataclass
class _Asked:
    """The queries of a field, the exact search that goes on, and the live index's answers if they are on their way."""

    queries: probes.Matrix
    exact: ExactSearch
    live: Future[Answers] | None = None


class _Reading:
    """What is gathered about one collection while its rows stream by."""

    def __init__(
        self,
        collection: Collection,
        fingerprinter: Fingerprinter,
        options: BackupOptions,
        frozen: Frozen,
        asking: ThreadPoolExecutor,
    ) -> None:
        self.collection = collection
        self.root = RowsRoot(fingerprinter)
        self.schema = ""
        self.segments: list[PendingSegment] = []
        self._options = options
        self._frozen = frozen
        self._asking = asking
        self._searches: dict[str, _Asked] = {}

    def look_at(self, block: RowBlock) -> None:
        """Fingerprint the rows, and search them exactly for the queries, which the first rows with vectors give."""
        live = block.live()
        self.root.add(live)
        for field in self.collection.fields:
            if field.name not in self._searches and live.num_rows:
                queries = probes.choose_queries(live, field, self._options.probes)
                if len(queries):
                    self._searches[field.name] = self._ask(field, queries)
            if field.name in self._searches:
                self._searches[field.name].exact.add(live)

    def _ask(self, field: Field, queries: probes.Matrix) -> _Asked:
        """Ask the live index at once if that leaves the frozen files alone, so that the engine starts while rows are read."""
        queries = queries[: _affordable(field, self.collection.count)]
        asked = _Asked(queries, ExactSearch(queries, field, probes.K))
        if not self._frozen.search_disturbs:
            asked.live = self._asking.submit(self._frozen.search, self.collection.name, field.name, queries, probes.K)
        return asked

    def probes(self, partly: list[LedgerItem]) -> dict[str, Probes]:
        """The probes of every field, with what the engine's own index answers at the frozen moment."""
        answered: dict[str, Probes] = {}
        for name, asked in self._searches.items():
            if not len(asked.queries):
                continue
            live: Answers | None = None
            try:
                if asked.live is None:
                    live = self._frozen.search(self.collection.name, name, asked.queries, probes.K)
                else:
                    live = asked.live.result()
            except EngineFailed as error:
                partly.append(LedgerItem(f"{self.collection.name}: live answers", Status.NOT_CAPTURED, str(error)))
            answered[name] = Probes(probes.K, asked.queries, asked.exact.answers(), live)
        return answered

    def finish(self, writer: BlobWriter, asked: Mapping[str, Probes]) -> StoredCollection:
        sets = []
        for name, one in asked.items():
            blob = writer.submit(probes.encode(one), "bytes").result().hex()
            recall = one.recall(one.live) if one.live else None
            repeatable = self._frozen.repeatable(self.collection.name)
            sets.append(ProbeSet(name, one.k, len(one.queries), blob, one.live is not None, repeatable, recall))
        lineage = _lineage(self.collection.lineage, self._options.model)
        return StoredCollection(
            catalog=dataclasses.replace(self.collection, count=self.root.count, lineage=lineage),
            schema=self.schema,
            rows_root=self.root.digest(),
            segments=tuple(segment.result() for segment in self.segments),
            probes=tuple(sets),
        )


class _Timed:
    """Adds the seconds inside a `with` to a table."""

    def __init__(self, table: dict[str, float], name: str, timer: Callable[[], float]) -> None:
        self._table, self._name, self._timer = table, name, timer

    def __enter__(self) -> None:
        self._start = self._timer()

    def __exit__(self, *_: object) -> None:
        self._table[self._name] = self._table.get(self._name, 0.0) + self._timer() - self._start


def _affordable(field: Field, rows: int) -> int:
    """How many queries to ask: all, unless there is no index and the engine would read every vector for each of them."""
    if field.index:
        return sys.maxsize
    return max(_FEWEST_PROBES, _SCANNED_BYTES // max(1, rows * field.dimension * 4))


def root_of(collections: Sequence[StoredCollection]) -> str:
    """The root over all collections: BLAKE3 of their names and roots, in order of name."""
    lines = sorted(f"{collection.name}\0{collection.rows_root}\0{collection.count}" for collection in collections)
    return blake3("\n".join(lines).encode()).hexdigest()


def without_password(url: str) -> str:
    """A URL as it may be shown and stored."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@")).geturl()


def _lineage(engines_own: Lineage, model: str | None) -> Lineage:
    if model is None:
        return engines_own
    name, _, version = model.partition("@")
    return Lineage(name, version or None, "user")


def _rows_plane(frozen: Frozen) -> str:
    return "artifacts" if frozen.rows_in_artifacts else "segments"


def _submitting(writer: BlobWriter) -> Callable[[Bytes, str], Future[bytes]]:
    return lambda data, kind: writer.submit(data, kind)


def _constant(artifact: StoredArtifact) -> Callable[[], StoredArtifact]:
    return lambda: artifact
