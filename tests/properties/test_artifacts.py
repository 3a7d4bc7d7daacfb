"""Do the files of every state come back byte for byte, whatever their regions are and whatever the engine says of them?"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pytest
from any_rows import FINGERPRINTER, Blobs, identify
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rows_writer import DIMENSION, FIELDS, State, World

from strongroom.errors import Damaged
from strongroom.model import Collection, Copy, Cut, Region
from strongroom.snapshots.artifacts import ArtifactWriter, Before
from strongroom.snapshots.known import KnownRows, KnownWriter
from strongroom.snapshots.manifest import StoredArtifact, StoredCollection, encode_schema
from strongroom.snapshots.parts import ArtifactReader, holds
from strongroom.snapshots.rows_writer import RowsWriter
from strongroom.snapshots.slots import Slots

WIDTH = 4 * DIMENSION


@dataclass(frozen=True)
class File:
    """A file of the engine's, in memory."""

    pieces: Sequence[tuple[bytes, Region]]
    path: str = "index"
    collection: str | None = "x"
    immutable: bool = False
    cut: Cut = Cut.FORMAT

    @property
    def content(self) -> bytes:
        return b"".join(content for content, _ in self.pieces)

    @property
    def size(self) -> int:
        return len(self.content)

    def regions(self):
        end = 0
        for content, region in self.pieces:
            yield replace(region, offset=end, length=len(content))
            end += len(content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


def records(vectors: bytes, own: int, offset: int, chance: random.Random) -> bytes:
    """Vectors with bytes of their own around them."""
    made = []
    for at in range(0, len(vectors), WIDTH):
        rest = bytes(chance.choices(range(3), k=own))
        made.append(rest[:offset] + vectors[at : at + WIDTH] + rest[offset:])
    return b"".join(made)


def piece(chance: random.Random, columns: Sequence[bytes], bases: dict[str, bytes]) -> tuple[bytes, Region]:
    """One region with what is said of it; `columns` are the vectors of each block of rows."""
    number = chance.randrange(len(columns))
    vectors = columns[number]
    strangers = np.array([[chance.randrange(9)] * DIMENSION for _ in range(4)], np.float32).tobytes()
    own = chance.choice([0, 8, 400])
    offset = chance.randrange(own + 1)
    strided = Region(0, 0, "float32", own + WIDTH, offset, WIDTH, "a", number, key=chance.choice(["", "k", "links"]))
    match chance.randrange(7):
        case 0:
            return bytes(chance.choices(range(256), k=chance.randrange(1, 3000))), Region(0, 0)
        case 1:  # the same name in each state, little changes
            key = chance.choice(["k", "links"])
            content = bytearray(bases.setdefault(key, bytes(chance.choices(range(256), k=4000))))
            content[chance.randrange(len(content))] ^= 1
            bases[key] = bytes(content) + bytes(chance.randrange(3))
            return bases[key], Region(0, 0, "int32", key=key)
        case 2:
            return vectors, Region(0, 0, "float32", column="a", block=number)
        case 3:
            return records(vectors, own, offset, chance), strided if own else replace(strided, block=-1)
        case 4:  # a wrong claim: vectors of the right length that are others
            return records(vectors[WIDTH:] + vectors[:WIDTH], 8, offset % 9, chance), replace(
                strided, stride=8 + WIDTH, vector_offset=offset % 9
            )
        case 5:
            return records(strangers + vectors[:WIDTH], own, offset, chance), replace(strided, block=-1, column=chance.choice("a?"))
    content = b"header" + vectors + b"between" + vectors[:WIDTH] + b"end"
    steps = (Copy(6, len(vectors), "a", number, 0), Copy(13 + len(vectors), WIDTH, "a", number, 0))
    return content, Region(0, 0, copies=steps)


@dataclass
class Chain:
    blobs: Blobs
    stored: StoredCollection | None = None
    known: KnownRows | None = None
    file: StoredArtifact | None = None

    def write(self, state: State, chance: random.Random, bases: dict[str, bytes], pool: ThreadPoolExecutor) -> bytes:
        """Write rows and a file; gives the file's bytes."""
        catalog = Collection("x", sum(not row.dead for row in state.slots), FIELDS[:1])
        table = KnownWriter(None, ["a"], complete=True)
        rows = RowsWriter(catalog, FINGERPRINTER, self.blobs.submit, identify, table, known=self.known, read_blob=self.blobs.read)
        columns = []
        for block in state.blocks():
            rows.add(block, FINGERPRINTER.prints(block.batch))
            columns.append(block.batch.column("a").values.slice(block.batch.column("a").offset).to_numpy().tobytes())
        rows.end_of_rows()
        writer = ArtifactWriter(
            self.blobs.submit,
            identify,
            {"x": rows.written},
            {"x": frozenset("a")},
            lambda _, name, content, width: rows.find_or_store(name, content, width),
            pool,
        )
        pieces = [piece(chance, columns, bases) for _ in range(6)]
        seen: set[str] = set()
        for number, (content, region) in enumerate(pieces):
            pieces[number] = (content, replace(region, key="" if region.key in seen else region.key))
            seen.add(region.key)
        file = File(pieces)
        before = Before({part.key: part for part in self.file.parts if part.key} if self.file else {}, self.blobs.read)
        pending = writer.store(file, before, lambda _: None)
        done = rows.finish()()
        self.file = pending()
        self.stored = StoredCollection(
            catalog, encode_schema(state.schema()), "0" * 64, done.segments, (), done.vectors, done.order, done.slots
        )
        self.known = table.finish(self.stored, identify)
        return file.content


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_files_of_every_state_come_back(seed: int, states: int) -> None:
    chance, chain, past = random.Random(seed), Chain(Blobs()), []
    world, bases = World(seed, 1, 0, 30), dict[str, bytes]()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(states):
            content = chain.write(world.state(7), chance, bases, pool)
            past.append((content, chain.file, chain.stored))
            for change in chance.choices(["insert", "update", "document", "kill", "shuffle", "delete"], k=2):
                world.change(change)
    for content, file, stored in past:
        assert file is not None
        assert stored is not None
        reader, at = ArtifactReader({"x": Slots(stored, chain.blobs.read)}, chain.blobs.read, identify), 0
        for part in file.parts:
            expected = content[at : at + part.length]
            assert bytes(reader.read(part)) == expected
            assert part.sources or part.ranges or holds(part, expected, identify)
            at += part.length
        assert at == len(content)


@pytest.mark.parametrize("seed", range(20))
def test_what_other_blobs_would_make_is_refused(seed: int) -> None:
    """Whole blobs in the wrong place: the vectors, the rest or the check of another part."""
    chance, chain = random.Random(seed), Chain(Blobs())
    with ThreadPoolExecutor(1) as pool:
        chain.write(World(seed, 1, 0, 30).state(7), chance, {}, pool)
    assert chain.file is not None
    assert chain.stored is not None
    reader = ArtifactReader({"x": Slots(chain.stored, chain.blobs.read)}, chain.blobs.read, identify)
    parts = [part for part in chain.file.parts if part.vectors and part.rest]
    refused = 0
    for part, other in itertools.permutations(parts, 2):
        assert part.vectors is not None
        own = bytes(reader.read(part))
        for forged in (
            replace(part, rest=other.rest),
            replace(part, vectors=other.vectors),
            replace(part, vectors=replace(part.vectors, first=part.vectors.first + 1, count=part.vectors.count - 1)),
            replace(part, check=other.check),
        ):
            try:
                assert bytes(reader.read(forged)) == own
                assert forged.check == part.check
            except Damaged:
                refused += 1
    assert refused >= 2 * len(parts) * (len(parts) - 1)
