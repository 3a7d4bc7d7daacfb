"""Does every state of a collection come back from its snapshot, whatever the snapshots before it hold?

The model is the list of rows as they came. Each state is written with the one before as what is known; blobs are lost in between.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pytest
from any_rows import FINGERPRINTER, Blobs, column_field, identify
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from strongroom.model import Collection, Field, Role, RowBlock
from strongroom.snapshots import compaction, rows_writer, segment_writer
from strongroom.snapshots.fingerprints import RowsRoot, short
from strongroom.snapshots.known import KnownRows, KnownWriter, from_snapshot, open_known
from strongroom.snapshots.manifest import StoredCollection, encode_schema
from strongroom.snapshots.rows_writer import RowsWriter
from strongroom.snapshots.segments import read_segment
from strongroom.snapshots.slots import Slots

DIMENSION = 3
FIELDS = (Field("a", "float32", DIMENSION, "l2"), Field("b", "int8", DIMENSION, "l2"))
DTYPES = {"a": pa.float32(), "b": pa.int8()}


@dataclass(frozen=True)
class Row:
    """A slot: an id, a vector of each field (a number in the place of its bytes, None for null), a document."""

    id: int
    vectors: tuple[int | None, ...]
    document: str | None
    dead: bool = False


@dataclass(frozen=True)
class State:
    """All slots of a collection in storage order, and how many come in a block."""

    slots: tuple[Row, ...]
    fields: int = 1
    block: int = 7
    wide: bool = False

    def schema(self) -> pa.Schema:
        columns = [column_field("id", pa.int64(), Role.ID)]
        columns += [column_field(one.name, pa.list_(DTYPES[one.name], DIMENSION), Role.VECTOR) for one in FIELDS[: self.fields]]
        columns += [column_field("document", pa.string(), Role.DOCUMENT)]
        return pa.schema([*columns, *([column_field("more", pa.int8(), Role.COLUMN)] if self.wide else [])])

    def batch(self, rows: Sequence[Row]) -> pa.RecordBatch:
        columns = [pa.array([row.id for row in rows], pa.int64())]
        for number, one in enumerate(FIELDS[: self.fields]):
            values = [None if row.vectors[number] is None else vector(one.name, row.vectors[number]) for row in rows]
            columns.append(pa.array(values, pa.list_(DTYPES[one.name], DIMENSION)))
        columns.append(pa.array([row.document for row in rows], pa.string()))
        return pa.record_batch(columns + ([pa.array([1] * len(rows), pa.int8())] if self.wide else []), schema=self.schema())

    def blocks(self) -> Iterator[RowBlock]:
        for start in range(0, len(self.slots), self.block):
            rows = self.slots[start : start + self.block]
            dead = np.array([row.dead for row in rows])
            yield RowBlock(self.batch(rows), dead if dead.any() else None)


def vector(name: str, number: int) -> list:
    return [number / 8, number, 1.5] if name == "a" else [number % 128 - 64, number // 128, 1]


CHANGES = (
    "insert",
    "update",
    "document",
    "kill",
    "bury",
    "revive",
    "delete",
    "shuffle",
    "reverse",
    "empty",
    "halve",
    "move",
    "widen",
)


class World:
    """A collection as it goes on, change by change. Vectors are few, so that many are the same."""

    def __init__(self, seed: int, fields: int, nulls: float, rows: int) -> None:
        self._random = random.Random(seed)
        self._fields, self._nulls, self._ids = fields, nulls, itertools.count()
        self.wide = False
        self.slots = [self.row() for _ in range(rows)]

    def row(self) -> Row:
        chance = self._random
        vectors = (None if chance.random() < self._nulls else chance.randrange(30) for _ in range(self._fields))
        return Row(next(self._ids), tuple(vectors), chance.choice([None, "a", "some text"]))

    def state(self, block: int) -> State:
        return State(tuple(self.slots), self._fields, block, self.wide)

    def change(self, change: str) -> None:
        chosen = set(self._random.sample(range(len(self.slots)), min(len(self.slots), self._random.randrange(7))))
        match change:
            case "insert":
                self.slots = self.slots + [self.row() for _ in range(self._random.randrange(1, 25))]
            case "update":
                self._replace(chosen, lambda one: replace(self.row(), id=one.id))
            case "document":
                self._replace(chosen, lambda one: replace(one, document="new"))
            case "kill":
                self._replace(chosen, lambda one: replace(one, dead=True))
            case "bury":
                self._replace(chosen, lambda one: replace(one, dead=True, document=None, id=0))
            case "revive":
                self.slots = [replace(one, dead=False) for one in self.slots]
            case "delete":
                self.slots = [one for n, one in enumerate(self.slots) if n not in chosen]
            case "shuffle":
                self.slots = self._random.sample(self.slots, len(self.slots))
            case "reverse":
                self.slots = self.slots[::-1]
            case "empty":
                self.slots = []
            case "halve":
                self.slots = self.slots[::2]
            case "move":  # to an earlier slot; what it leaves is dead
                for n in sorted(chosen - {0})[-1:]:
                    self.slots = [self.slots[n], *self.slots[1:n], replace(self.slots[n], dead=True), *self.slots[n + 1 :]]
            case "widen":
                self.wide = not self.wide

    def _replace(self, chosen: set[int], by: Callable[[Row], Row]) -> None:
        self.slots = [by(one) if n in chosen else one for n, one in enumerate(self.slots)]


@st.composite
def states(draw) -> list[State]:
    """A collection as it goes on, change by change."""
    world = World(
        draw(st.integers(0, 2**32)), draw(st.integers(1, 2)), draw(st.sampled_from([0, 0, 0.05])), draw(st.integers(0, 40))
    )
    found, block, sizes = [], draw(st.sampled_from([3, 7, 50])), st.sampled_from([3, 7, 50])
    for changes in draw(st.lists(st.lists(st.sampled_from(CHANGES), max_size=3), min_size=1, max_size=6)):
        found.append(world.state(block))
        for change in changes:
            world.change(change)
        block = draw(sizes) if "shuffle" in changes or "widen" in changes else block
    return [*found, world.state(block)]


@dataclass
class Chain:
    """Snapshots of one collection, each with the one before as what is known."""

    blobs: Blobs = field(default_factory=Blobs)
    lost: set[str] = field(default_factory=set)
    stored: StoredCollection | None = None
    known: KnownRows | None = None

    def has(self, blob: str) -> bool:
        return blob not in self.lost

    def write(
        self,
        state: State,
        *,
        rebuilt: bool = False,
        files: Sequence[bytes] = (),
        asked: list[tuple[bytes, np.ndarray]] | None = None,
    ) -> None:
        """Write a state, and files of vectors of field a, whose numbers `asked` gets; `rebuilt` makes what is known of the state
        before from its snapshot."""
        fields, schema = FIELDS[: state.fields], encode_schema(state.schema())
        if self.stored and self.stored.schema != schema:
            self.known = None
        if self.known and (not self.known.slots or self.lost_for_good()):
            self.known = None
        if self.known and rebuilt:
            assert self.stored is not None
            self.known = from_snapshot(self.stored, self.blobs.read, None, identify)
        table = KnownWriter(None, [one.name for one in fields], complete=True)
        root, catalog = RowsRoot(FINGERPRINTER), Collection("x", sum(not row.dead for row in state.slots), fields)
        writer = RowsWriter(
            *(catalog, FINGERPRINTER, self.blobs.submit, identify, table),
            known=self.known,
            has=self.has,
            read_blob=self.blobs.read,
        )
        before = set(self.blobs.kept)
        for block in state.blocks():
            prints = FINGERPRINTER.prints(block.batch)
            root.add_prints(prints.rows if block.dead is None else prints.rows[~block.dead])
            writer.add(block, prints)
        writer.end_of_rows()
        if asked is not None:
            asked += [(content, writer.find_or_store("a", content, 4 * DIMENSION)) for content in files]
        done = writer.finish()()
        self.lost -= {name.hex() for name in set(self.blobs.kept) - before}
        self.stored = StoredCollection(
            *(catalog, schema, root.digest(), done.segments, (), done.vectors, done.order, done.slots),
        )
        self.known = table.finish(self.stored, identify)

    def lost_for_good(self) -> bool:
        """Blobs without which nothing can be relied on, as `operations.backup.predecessor` has it."""
        assert self.stored is not None
        mapped = [blob for segment in self.stored.segments for blob in segment.vectors.values()]
        prints = [one.prints for one in self.stored.segments]
        return not all(map(self.has, (*self.stored.order, *mapped, *prints)))

    def lose(self, names: Sequence[str]) -> None:
        """The store has these blobs no longer: they are not found, and can't be read."""
        for name in names:
            self.lost.add(name)
            self.blobs.kept.pop(bytes.fromhex(name), None)


def assert_reads_back(state: State, stored: StoredCollection, blobs: Blobs) -> None:
    """By segments, all live rows; by slots, each row where it lay, with the vectors of dead ones too."""
    slots, schema = Slots(stored, blobs.read), stored.arrow_schema()
    live, by_number = [], {}
    for segment in stored.segments:
        block = read_segment(segment, schema, slots, blobs.read)
        live += block.live().to_pylist()
        for number, row in enumerate(block.batch.to_pylist(), segment.start):
            assert number not in by_number, "every number exists once"
            by_number[number] = row
    expected = state.batch(state.slots).to_pylist()
    alive = [row for row, slot in zip(expected, state.slots, strict=True) if not slot.dead]
    assert sorted(map(repr, live)) == sorted(map(repr, alive))
    assert sum(one.rows - one.dead_count() for one in stored.segments) == len(alive) == stored.count
    numbers = slots.numbers(0, stored.slots)
    assert len(numbers) == len(state.slots)
    assert len(set(numbers.tolist())) == len(numbers), "no two slots hold one row"
    for number, row, slot in zip(numbers.tolist(), expected, state.slots, strict=True):
        assert by_number[number]["id"] == row["id"] or slot.dead
        assert slot.dead or by_number[number] == row
    for block_start in range(0, len(state.slots), state.block):
        here = slice(block_start, block_start + state.block)
        for one in FIELDS[: state.fields]:
            wanted = [row[one.name] for row in expected[here]]
            if None not in wanted:
                places = slots.places(one.name, numbers[here])
                content = bytes(slots.reader(one.name).take(places))
                assert content == np.array(wanted, DTYPES[one.name].to_pandas_dtype()).tobytes()
    for blocks in stored.vectors.values():
        taken = sorted((one.start, one.start + one.count) for one in blocks)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(taken)), "no two blocks overlap"
        assert all(0 < one.used <= one.count for one in blocks)


@pytest.fixture(params=["tidy", "lazy"])
def sizes(request, monkeypatch) -> str:
    """Small pieces, so that a few rows do all that many would; 'tidy' gives up segments at every chance."""
    monkeypatch.setattr(segment_writer, "_SEGMENT_ROWS", 9)
    monkeypatch.setattr(rows_writer, "_LONGEST_ORDER", 3)
    monkeypatch.setattr("strongroom.snapshots.matching._STRAYS", 2)
    if request.param == "tidy":
        monkeypatch.setattr(compaction, "FEW", 1)
        monkeypatch.setattr(compaction, "_GROWTH", 2)
    return request.param


many = settings(
    max_examples=60,
    deadline=None,
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ],  # to shrink such a line takes minutes; few changes are drawn to begin with
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@many
@given(states(), st.data())
def test_every_state_comes_back(sizes, line: list[State], data) -> None:
    chain, past = Chain(), []
    for state in line:
        chain.write(state, rebuilt=data.draw(st.booleans()))
        assert chain.stored is not None
        past.append((state, chain.stored))
        for one, stored in past:
            assert_reads_back(one, stored, chain.blobs)


@many
@given(states(), st.data())
def test_what_was_lost_is_stored_anew(sizes, line: list[State], data) -> None:
    chain = Chain()
    for state in line:
        if chain.stored:
            names = sorted(set(chain.stored.blobs()))
            chain.lose(data.draw(st.lists(st.sampled_from(names), max_size=4)) if names else [])
        chain.write(state)
        assert chain.stored is not None
        assert_reads_back(state, chain.stored, chain.blobs)


@many
@given(states(), st.data())
def test_vectors_of_files_are_found_or_stored(sizes, line: list[State], data) -> None:
    """Of rows, of the snapshot before, of the file itself, or new: they come back by their numbers."""
    chain, kinds = Chain(), st.integers(0, 45)
    for state in line:
        asked: list[tuple[bytes, np.ndarray]] = []
        files = data.draw(st.lists(st.lists(kinds, min_size=1, max_size=12), max_size=3))
        chain.write(
            state, files=[np.array([vector("a", one) for one in numbers], np.float32).tobytes() for numbers in files], asked=asked
        )
        assert chain.stored is not None
        assert_reads_back(state, chain.stored, chain.blobs)
        for content, places in asked:
            assert bytes(Slots(chain.stored, chain.blobs.read).reader("a").take(places)) == content


@many
@given(states(), st.integers(0, 60), st.integers(0, 60))
def test_what_is_known_is_what_the_snapshot_says(sizes, line: list[State], first: int, count: int) -> None:
    chain = Chain()
    for state in line:
        chain.write(state)
        if not state.slots:
            continue
        assert chain.known is not None
        assert chain.stored is not None
        kept, made = chain.known, from_snapshot(chain.stored, chain.blobs.read, None, identify)
        ours, theirs = kept.lines(0, kept.slots), made.lines(0, made.slots)
        assert ours.numbers.tolist() == theirs.numbers.tolist()
        assert ours.live.tolist() == theirs.live.tolist() == [not row.dead for row in state.slots]
        assert short(ours.rows)[ours.live].tolist() == short(theirs.rows)[ours.live].tolist()
        for name, places in theirs.places.items():
            assert places.tolist() == ours.places[name].tolist()
            seen = ours.vectors[name].any(axis=1)
            assert ours.vectors[name][seen].tolist() == theirs.vectors[name][seen].tolist()
        window = kept.lines(first, count)
        assert window.numbers.tolist() == ours.numbers[first : first + count].tolist()
        assert window.rows.tolist() == ours.rows[first : first + count].tolist()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_table_that_was_altered_is_not_believed(tmp_path_factory, data) -> None:
    """In any one byte, cut, or of another snapshot: then it is made anew of the snapshot."""
    world, folder, chain = World(1, 1, 0, 20), tmp_path_factory.mktemp("known"), Chain()
    chain.write(world.state(7))
    assert chain.stored is not None
    open_known(chain.stored, folder, identify, chain.blobs.read)
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    match data.draw(st.sampled_from(["change", "change", "change", "cut", "nothing"])):
        case "change":
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        case "cut":
            content = content[: data.draw(st.integers(0, len(content) - 1))]
    altered, reads = bytes(content) != path.read_bytes(), []
    path.write_bytes(content)

    def read(name: bytes) -> bytes:
        reads.append(name)
        return chain.blobs.read(name)

    known = open_known(chain.stored, folder, identify, read)
    assert known.lines(0, 20).numbers.tolist() == Slots(chain.stored, read).numbers(0, 20).tolist()
    assert bool(reads) == altered
