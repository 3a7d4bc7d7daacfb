"""What a backup gathers about one collection while its rows stream by: what must be stored, the root, the probes."""

from __future__ import annotations

import dataclasses
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.codecs.runs import Numbers
from strongroom.engines import stopwatch
from strongroom.engines.protocol import Frozen
from strongroom.errors import Damaged, EngineFailed
from strongroom.model import Answers, Bytes, Collection, Field, FoundBy, LedgerItem, Region, RowBlock, Status, Stretch
from strongroom.operations.backup.change_feed import sealed, unread
from strongroom.operations.backup.predecessor import Predecessor, said_lineage
from strongroom.progress import UNHURRIED, Pace
from strongroom.repository import BlobWriter
from strongroom.snapshots import latency, manifest, probes
from strongroom.snapshots.artifacts import Before, PendingPart, RemainderWriter
from strongroom.snapshots.fingerprints import Fingerprinter, Prints, RowsRoot
from strongroom.snapshots.known import KnownWriter, tidy
from strongroom.snapshots.manifest import ProbeSet, StoredCollection, Vectors
from strongroom.snapshots.probes import ExactSearch, Probes
from strongroom.snapshots.rows_writer import RowsWriter, StoredRows, Written
from strongroom.snapshots.segments import vector_columns
from strongroom.snapshots.slots import Slots

_FEWEST_PROBES = 4
_SCANNED_BYTES = 4 << 30
"""How much an engine without an index may be made to read for the probes of one field."""


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """`model` is NAME@VERSION of the encoder; `probes` queries a vector field are sealed in; `reread` has a source read even if its
    files look as they did at the snapshot before. `pace` spares the source and the network. `tenant_column` names the column, or
    the key of the payload, that says whose a row is: rows are kept under keys of their tenants; None: as in the snapshot before,
    '': by no tenant."""

    model: str | None = None
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    probes: int = probes.PROBES
    reread: bool = False
    pace: Pace = UNHURRIED
    tenant_column: str | None = None


@dataclass
class _Asked:
    """The queries of a field, the exact search that goes on, and the live index's answers if they are on their way. `known` are
    the answers of the snapshot before to the same queries, if the search goes on from them."""

    queries: probes.Matrix
    exact: ExactSearch
    live: Future[Answers] | None = None
    known: Probes | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A block of rows, its fingerprints, and the keyed hashes of its vector columns, if they were asked for."""

    block: RowBlock
    prints: Prints
    identities: Mapping[str, bytes]


class CollectionReading:
    """One collection on its way into a snapshot."""

    def __init__(
        self,
        collection: Collection,
        fingerprinter: Fingerprinter,
        options: BackupOptions,
        frozen: Frozen,
        before: Predecessor,
        writer: BlobWriter,
        asking: ThreadPoolExecutor,
        *,
        fresh: bool = False,
    ) -> None:
        """`fresh` has new queries chosen, and searched for in all rows."""
        self.collection = collection
        self.root = RowsRoot(fingerprinter)
        self.schema = ""
        self._fingerprinter = fingerprinter
        self._options = options
        self._frozen = frozen
        self._before = before
        self._writer = writer
        self._asking = asking
        self._fresh = fresh or options.reread
        self._searches: dict[str, _Asked] = {}
        self._table = KnownWriter(before.cache(collection.name), [one.name for one in collection.fields], complete=True)
        self._rows: RowsWriter | None = None
        self._to_keep: deque[Stretch] = deque()
        self._following = False
        self._fits = True
        self._read = 0
        self._latency: dict[str, Mapping[str, float]] = {}
        self.parts: dict[tuple[str, Region], Future[PendingPart]] = {}
        """Regions of files that were stored with the rows that were read from them."""
        self._files: dict[str, Before] = {}

    # -- rows and vectors ------------------------------------------------------------------------------------------------------

    def unread(self) -> Sequence[Stretch]:
        """What is known of the rows without reading them, by the engine's own change feed: slots that need not be looked at. Asked
        first of all."""
        found = unread(self._frozen, self.collection, self._before, self._options.probes)
        if found is None:
            return ()
        self.schema = found.schema
        rows = self._writer_of_rows()
        known = self._known_queries(rows, found.sealed)
        if known is None:
            return ()
        self._to_keep.extend(rows.expect(found.stretches))
        if self._to_keep:
            self._rows, self._following = rows, True
            self._ask_again(known)
        return tuple(self._to_keep)

    def _known_queries(self, rows: RowsWriter, sealed: Mapping[str, Probes]) -> Mapping[str, Probes] | None:
        """Those of the queries of before of which no answer is about to be stored anew; None if they are too few."""
        known = {}
        for field in self.collection.fields:
            if field.name in sealed:
                one = sealed[field.name]
                if self._options.probes != probes.PROBES and len(one.queries) < self._wanted(field):
                    return None  # so many were asked for
                stays = [place for place, numbers in enumerate(one.rows or ()) if rows.stays(numbers).all()]
                known[field.name] = one.only(np.array(stays[: self._wanted(field)], np.intp))
        return known if self._are_enough({name: len(one.queries) for name, one in known.items()}) else None

    def _ask_again(self, known: Mapping[str, Probes]) -> None:
        for field in self.collection.fields:
            if field.name in known:
                self._searches[field.name] = self._ask(field, known[field.name].queries, known[field.name])

    def measure(self, block: RowBlock) -> Measured:
        """The fingerprints of a block of rows, for `look_at`. Any thread."""
        prints = self._fingerprinter.prints(block.batch)
        identities = {}
        if self._before.collection(self.collection.name) is not None:  # then most of it is known, and isn't hashed to be stored
            identify, columns = self._before.repository.keys.identify, vector_columns(block.batch, self.collection.fields)
            identities = {name: identify(content) for name, content in columns.items()}
        return Measured(block, prints, identities)

    def look_at(self, measured: Measured) -> None:
        """Store what is new of the rows, and search them exactly for the queries: those of the snapshot before, so that only new
        rows need be looked at, or such as the first rows with vectors give."""
        block = measured.block
        if self._rows is None:
            self.schema = manifest.encode_schema(block.batch.schema)
            self._rows = self._writer_of_rows()
            if self._rows.goes_on and not self._fresh:
                found = sealed(self._frozen, self.collection, self._before, self._options.probes)
                self._ask_again(self._known_queries(self._rows, found or {}) or {})
        if self._following:
            self._keep_what_comes_next(self._rows)
            beyond = bool(self._to_keep) and self._rows.slots + block.batch.num_rows > self._to_keep[0].first
            if beyond or manifest.encode_schema(block.batch.schema) != self.schema:
                self._fits = False
        if self._fits:
            self._look_at(self._rows, measured)

    def _look_at(self, rows: RowsWriter, measured: Measured) -> None:
        block, prints = measured.block, measured.prints
        dead = np.zeros(block.batch.num_rows, np.bool_) if block.dead is None else block.dead
        self.root.add_prints(prints.rows[~dead])
        numbers, new = rows.add(block, prints, measured.identities)
        self._read += block.batch.num_rows
        live = block.live()
        for field in self.collection.fields:
            if field.name not in self._searches and live.num_rows:
                queries = probes.choose_queries(live, field, self._options.probes)
                if len(queries):
                    self._searches[field.name] = self._ask(field, queries[: self._wanted(field)])
            if field.name in self._searches:
                asked = self._searches[field.name]
                if asked.known is None:
                    asked.exact.add(live, numbers[~dead])
                elif new.any():  # what was there then is in the answers already
                    asked.exact.add(live.filter(pa.array(new[~dead])), numbers[new & ~dead])

    def store_records(self, block: RowBlock, working: ThreadPoolExecutor) -> None:
        """After `look_at` of the same block: have `working` store what lay beside its vectors where it was read."""
        records = block.records
        if records is None or self._rows is None or not self._fits or records.region.column not in self.written[-1].checks:
            return
        if records.path not in self._files:
            self._files[records.path] = self._before.file(records.path)
        store = RemainderWriter(self._writer.submit, self._before.repository.keys.identify).of_block
        parts = (self.collection.name, records, self.written[-1], self._files[records.path])
        self.parts[records.path, records.region] = working.submit(store, *parts)

    def _keep_what_comes_next(self, rows: RowsWriter) -> None:
        """Take over the stretches that lie before the next rows that are read."""
        while self._fits and self._to_keep and self._to_keep[0].first == rows.slots:
            self.root.add_prints(rows.keep_stretch(self._to_keep.popleft()))

    @property
    def agrees(self) -> bool:
        """Asked at the end of rows if some were not read: was the change feed right as far as that can be seen? If not, all rows
        are to be read, by another `CollectionReading`."""
        return self._fits and not self._to_keep and self.root.count == self.collection.count

    @property
    def asks_enough(self) -> bool:
        """Asked at the end of rows: do enough queries go on, none of whose answers is gone? If not, all rows are to be read with
        fresh ones, by another `CollectionReading`."""
        return self._are_enough({name: len(self._lasting(asked)) for name, asked in self._searches.items() if asked.known})

    def _are_enough(self, queries: Mapping[str, int]) -> bool:
        wanted = {one.name: min(self._wanted(one), self.collection.count) for one in self.collection.fields}
        return all(2 * count >= wanted[name] for name, count in queries.items())

    def _lasting(self, asked: _Asked) -> npt.NDArray[np.intp]:
        """The places of the queries none of whose known answers is a row that is gone."""
        if asked.known is None or asked.known.rows is None or self._rows is None:
            return np.arange(len(asked.queries))
        return np.array([place for place, rows in enumerate(asked.known.rows) if self._rows.has_live(rows).all()], np.intp)

    def _wanted(self, field: Field) -> int:
        """How many queries a field is asked."""
        return min(self._options.probes, _affordable(field, self.collection.count))

    def end_of_rows(self) -> None:
        """No more rows follow."""
        if self._following and self._rows is not None:
            self._keep_what_comes_next(self._rows)
        if self._rows is None:  # it is empty, and files may hold vectors all the same
            self._rows = self._writer_of_rows()
        self._rows.end_of_rows()
        self.root.settle()

    @property
    def written(self) -> Sequence[Written]:
        """The blocks of rows as they came."""
        return self._rows.written if self._rows else ()

    @property
    def fields(self) -> frozenset[str]:
        """The fields whose vectors are stored by number."""
        return frozenset(one.name for one in self.collection.fields)

    def find_or_store(self, name: str, content: Bytes, width: int) -> Numbers:
        """The numbers of vectors that lie in a file; those that aren't stored yet are."""
        assert self._rows is not None  # noqa: S101 - files come after the rows
        return self._rows.find_or_store(name, content, width)

    def keep(self, vectors: Vectors, before: Predecessor) -> bool:
        """A file that is taken over needs these vectors. False if they are not where they were: slots may hold other rows now."""
        stored = before.collection(self.collection.name)
        if self._rows is None or stored is None or vectors.by != "numbers" or not self._rows.goes_on:
            return False
        try:
            places = Slots(stored, before.repository.read_blob).resolve(vectors)
        except Damaged:  # which ones they are is lost, or not for this host to read
            return False
        return self._rows.keep(vectors.field, places)

    def _writer_of_rows(self) -> RowsWriter:
        rows_plane = "artifacts" if self._frozen.rows_in_artifacts else "segments"
        known = self._before.rows(self.collection, self.schema, rows_plane)
        return RowsWriter(
            self.collection,
            self._fingerprinter,
            lambda data, kind: self._writer.submit(data, kind),
            self._before.repository.keys.identify,
            self._table,
            known=known,
            seeds=self._before.seeds(self.collection, known=known is not None),
            with_vectors=not self._frozen.rows_in_artifacts,
            has=self._before.has,
            read_blob=self._before.repository.read_blob if self._before.repository.reads else None,
        )

    # -- probes ----------------------------------------------------------------------------------------------------------------

    def _ask(self, field: Field, queries: probes.Matrix, known: Probes | None = None) -> _Asked:
        """Ask the live index at once if that leaves the frozen files alone, so that the engine starts while rows are read."""
        asked = _Asked(queries, ExactSearch(queries, field, probes.K, known), known=known)
        if not self._frozen.search_disturbs:
            asked.live = self._asking.submit(self._timed_search, field.name, queries)
        return asked

    def _timed_search(self, name: str, queries: probes.Matrix) -> Answers:
        """What the live index answers, and how long it took for each query: while the backup reads, so rather longer."""
        with stopwatch.timing() as laps:
            answers = self._frozen.search(self.collection.name, name, queries, probes.K)
        if laps:
            self._latency[name] = latency.summary(laps)
        return answers

    def probes(self, partly: list[LedgerItem], then: StoredCollection | None = None) -> dict[str, Probes]:
        """The probes of every field, with what the engine's own index answers at the frozen moment: as it did `then`, if it is what
        it was."""
        answered: dict[str, Probes] = {}
        for name, asked in self._searches.items():
            if not len(asked.queries):
                continue
            live: Answers | None = None
            try:
                live = self._answers(name, asked, then)
            except EngineFailed as error:
                partly.append(LedgerItem(f"{self.collection.name}: live answers", Status.NOT_CAPTURED, str(error)))
            answered[name] = Probes(probes.K, asked.queries, asked.exact.answers(), live, asked.exact.rows()).only(
                self._lasting(asked)
            )
        return answered

    def _answers(self, name: str, asked: _Asked, then: StoredCollection | None) -> Answers:
        """Raises EngineFailed."""
        if then is not None and asked.known is not None and asked.known.live is not None:
            self._latency.update({field: told for field, told in then.latency.items() if field == name})
            return asked.known.live
        return self._timed_search(name, asked.queries) if asked.live is None else asked.live.result()

    # -- the end ---------------------------------------------------------------------------------------------------------------

    def finish(self, writer: BlobWriter, asked: Mapping[str, Probes]) -> Callable[[], StoredCollection]:
        """Hand over what is left. The result gives the collection as the manifest has it, once the writer is closed."""
        assert self._rows is not None  # noqa: S101 - files come after the rows
        sets = []
        for name, one in asked.items():
            blob = writer.submit(probes.encode(one), "bytes").result().hex()
            recall = one.recall(one.live) if one.live else None
            repeatable = self._frozen.repeatable(self.collection.name)
            sets.append(ProbeSet(name, one.k, len(one.queries), blob, one.live is not None, repeatable, recall))
        rows = self._rows.finish()
        return lambda: self._stored(rows(), sets)

    def _stored(self, rows: StoredRows, sets: Sequence[ProbeSet]) -> StoredCollection:
        lineage = said_lineage(self.collection.lineage, self._options.model)
        return StoredCollection(
            catalog=dataclasses.replace(self.collection, count=self.root.count, lineage=lineage),
            schema=self.schema,
            rows_root=self.root.digest(),
            segments=rows.segments,
            probes=tuple(sets),
            vectors=rows.vectors,
            order=rows.order,
            slots=rows.slots,
            found_by=self._found_by,
            slots_read=self._read,
            latency=self._latency,
        )

    @property
    def _found_by(self) -> FoundBy:
        if self._following:
            return FoundBy.FEED
        return FoundBy.FINGERPRINTS if self._rows is not None and self._rows.goes_on else FoundBy.ALL

    def remember(self, stored: StoredCollection) -> None:
        """The snapshot exists: keep here what the next backup will ask of its rows."""
        with suppress(OSError):  # the next backup then asks the repository
            self._table.finish(stored, self._before.repository.keys.identify)
            tidy(self._before.cache(self.collection.name), stored)

    def discard(self) -> None:
        """Leave nothing unfinished behind."""
        self._table.discard()


def _affordable(field: Field, rows: int) -> int:
    """How many queries to ask: all, unless there is no index and the engine would read every vector for each of them."""
    if field.index:
        return sys.maxsize
    return max(_FEWEST_PROBES, _SCANNED_BYTES // max(1, rows * field.dimension * 4))
