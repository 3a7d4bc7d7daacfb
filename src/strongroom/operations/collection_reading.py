"""What a backup gathers about one collection while its rows stream by: what must be stored, the root, the probes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from strongroom.codecs.runs import Numbers
from strongroom.engines.protocol import Frozen
from strongroom.errors import EngineFailed
from strongroom.model import Answers, Bytes, Collection, Field, LedgerItem, RowBlock, Status
from strongroom.operations.predecessor import Predecessor, said_lineage
from strongroom.repository import BlobWriter
from strongroom.snapshots import manifest, probes
from strongroom.snapshots.fingerprints import Fingerprinter, RowsRoot
from strongroom.snapshots.known import KnownWriter, tidy
from strongroom.snapshots.manifest import ProbeSet, StoredCollection, Vectors
from strongroom.snapshots.probes import ExactSearch, Probes
from strongroom.snapshots.rows_writer import RowsWriter, StoredRows, Written
from strongroom.snapshots.slots import Slots

_FEWEST_PROBES = 4
_SCANNED_BYTES = 4 << 30
"""How much an engine without an index may be made to read for the probes of one field."""


@dataclass(frozen=True, slots=True)
class BackupOptions:
    """`model` is NAME@VERSION of the encoder; `probes` queries a vector field are sealed in; `reread` has a source read even if its
    files look as they did at the snapshot before."""

    model: str | None = None
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    probes: int = probes.PROBES
    reread: bool = False


@dataclass
class _Asked:
    """The queries of a field, the exact search that goes on, and the live index's answers if they are on their way."""

    queries: probes.Matrix
    exact: ExactSearch
    live: Future[Answers] | None = None


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
    ) -> None:
        self.collection = collection
        self.root = RowsRoot(fingerprinter)
        self.schema = ""
        self._fingerprinter = fingerprinter
        self._options = options
        self._frozen = frozen
        self._before = before
        self._writer = writer
        self._asking = asking
        self._searches: dict[str, _Asked] = {}
        self._table = KnownWriter(before.cache(collection.name), [one.name for one in collection.fields], complete=True)
        self._rows: RowsWriter | None = None

    # -- rows and vectors ------------------------------------------------------------------------------------------------------

    def look_at(self, block: RowBlock) -> None:
        """Store what is new of the rows, and search them exactly for the queries, which the first rows with vectors give."""
        if self._rows is None:
            self.schema = manifest.encode_schema(block.batch.schema)
            self._rows = self._writer_of_rows()
        prints = self._fingerprinter.prints(block.batch)
        self.root.add_prints(prints.rows if block.dead is None else prints.rows[~block.dead])
        self._rows.add(block, prints)
        live = block.live()
        for field in self.collection.fields:
            if field.name not in self._searches and live.num_rows:
                queries = probes.choose_queries(live, field, self._options.probes)
                if len(queries):
                    self._searches[field.name] = self._ask(field, queries)
            if field.name in self._searches:
                self._searches[field.name].exact.add(live)

    def end_of_rows(self) -> None:
        """No more rows follow."""
        if self._rows is None:  # it is empty, and files may hold vectors all the same
            self._rows = self._writer_of_rows()
        self._rows.end_of_rows()

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
        places = Slots(stored, before.repository.read_blob).resolve(vectors)
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
            read_blob=self._before.repository.read_blob,
        )

    # -- probes ----------------------------------------------------------------------------------------------------------------

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
        )

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
