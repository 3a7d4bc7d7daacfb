"""What does a snapshot say of its rows, slot by slot? Taken from the repository alone, not from what this machine remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from strongroom.codecs.runs import NONE
from strongroom.repository import Repository
from strongroom.snapshots import probes
from strongroom.snapshots.known import read_prints
from strongroom.snapshots.manifest import StoredCollection
from strongroom.snapshots.probes import Probes
from strongroom.snapshots.slots import Slots


@dataclass(frozen=True)
class Told:
    """The root, and of each slot its row: columns that aren't vectors, fingerprint, vectors; None where it is dead."""

    root: str
    count: int
    rows: list[tuple[object, ...] | None]


def told(repository: Repository, stored: StoredCollection) -> Told:
    """All that a snapshot says of a collection's rows."""
    read, slots = repository.read_blob, Slots(stored, repository.read_blob)
    numbers = slots.numbers(0, stored.slots)
    by_number: dict[int, tuple[object, ...] | None] = {}
    for segment in stored.segments:
        rest = pa.ipc.open_stream(pa.py_buffer(read(bytes.fromhex(segment.rest)))).read_next_batch().to_pylist()
        prints = read_prints(segment.prints, segment.rows, read)
        dead = segment.dead_slots()
        of_fields = {name: slots.of_segment(segment, name) for name in stored.vectors}
        for place in range(segment.rows):
            places = {name: of[place : place + 1] for name, of in of_fields.items()}
            vectors = tuple(bytes(slots.reader(n).take(p)) for n, p in places.items() if name_in_blocks(stored, n, p))
            row = (tuple(rest[place].items()), prints[place].tobytes(), vectors)
            by_number[segment.start + place] = None if dead is not None and dead[place] else row
    assert not (numbers == NONE).any()
    live = [number for number, row in by_number.items() if row is not None]
    assert sorted(live) == sorted(number for number in numbers.tolist() if by_number[number] is not None)
    return Told(stored.rows_root, stored.count, [by_number[number] for number in numbers.tolist()])


def name_in_blocks(stored: StoredCollection, name: str, place: np.ndarray) -> bool:
    """Is the vector among those that are stored as a row's?"""
    return any(block.start <= int(place[0]) < block.start + block.count for block in stored.vectors[name])


def sealed(repository: Repository, stored: StoredCollection) -> dict[str, Probes]:
    """The probes of each field."""
    return {one.field: probes.decode(repository.read_blob(bytes.fromhex(one.blob))) for one in stored.probes}


def check_probes(sets: Mapping[str, Probes], ids: list[object], vectors: Mapping[str, np.ndarray]) -> None:
    """Every sealed query has the answers that are right by a plain search of all rows (squared l2), each of them once."""
    places = {identity: place for place, identity in enumerate(ids)}
    for field, one in sets.items():
        of_field = vectors[field].astype(np.float64)
        for query, found, distances in zip(one.queries, one.exact.ids, one.exact.distances, strict=True):
            measured = ((of_field - query) ** 2).sum(axis=1)
            assert len(set(found)) == len(found) == min(one.k, len(ids))
            at = [places[identity] for identity in found]
            assert np.allclose(measured[at], np.sort(measured)[: one.k], atol=1e-4)  # a midpoint is equally near to two
            assert np.allclose(distances, measured[at], atol=1e-4)
