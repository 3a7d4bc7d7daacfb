"""Do the probes of a snapshot that goes on from another have the right answers, though only new rows were searched?"""

from __future__ import annotations

import os
from pathlib import Path

import hnswlib
import numpy as np
import pytest

from strongroom.engines.indexfile import held
from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.model import FoundBy
from strongroom.repository import Argon2Cost
from strongroom.snapshots import compaction, probes
from strongroom.snapshots.probes import ExactSearch, Probes

DIMENSION, ROWS = 24, 3_000


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    init_repository(str(tmp_path / "repo"), password="one", cost=Argon2Cost(1, 1, 1024))
    return open_repository(str(tmp_path / "repo"), password="one")


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each exact search looked at, backup after backup."""
    looked: list[int] = []
    add = ExactSearch.add

    def counted(self, batch, numbers) -> None:
        looked.append(batch.num_rows)
        add(self, batch, numbers)

    monkeypatch.setattr(ExactSearch, "add", counted)
    return looked


class Source:
    """An index whose vectors are known, by label."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "index.bin"
        self.draw = np.random.default_rng(3)
        self.vectors = self.draw.standard_normal((ROWS, DIMENSION)).astype(np.float32)
        self.gone: set[int] = set()
        self.write()

    def write(self) -> None:
        index = hnswlib.Index("l2", DIMENSION)
        index.init_index(len(self.vectors), M=6, ef_construction=30)
        index.add_items(self.vectors, np.arange(len(self.vectors)), num_threads=1)
        for label in sorted(self.gone):
            index.mark_deleted(label)
        index.save_index(str(self.path))
        os.utime(self.path, (1, 1))

    def update(self, share: float) -> None:
        chosen = np.flatnonzero(self.draw.random(len(self.vectors)) < share)
        self.vectors[chosen] = self.draw.standard_normal((len(chosen), DIMENSION)).astype(np.float32)
        self.write()

    def insert(self, count: int) -> None:
        self.vectors = np.vstack([self.vectors, self.draw.standard_normal((count, DIMENSION)).astype(np.float32)])
        self.write()

    def nearest(self, query: np.ndarray) -> tuple[list[int], np.ndarray]:
        distances = ((self.vectors.astype(np.float64) - query) ** 2).sum(axis=1)
        distances[sorted(self.gone)] = np.inf
        best = np.argsort(distances, kind="stable")[: probes.K]
        return best.tolist(), distances[best]


def backed_up(room: Strongroom, source: Source, **options) -> Probes:
    """A snapshot's probes, after a look at whether they are right."""
    snapshot = room.backup(f"hnswlib://{source.path}?space=l2", **options).snapshot
    (sealed,) = snapshot.manifest.collections[0].probes
    found = probes.decode(room.repository.read_blob(bytes.fromhex(sealed.blob)))
    for query, ids, distances in zip(found.queries, found.exact.ids, found.exact.distances, strict=True):
        expected, apart = source.nearest(query)
        assert {int(one) for one in ids} == set(expected)  # a query in the middle of two has both as far
        assert np.allclose(distances, apart, atol=1e-3)
    assert found.live is not None
    return found


def test_only_new_rows_are_searched(room: Strongroom, tmp_path: Path, searched: list[int]) -> None:
    source = Source(tmp_path)
    first = backed_up(room, source)
    assert sum(searched) == ROWS
    searched.clear()
    source.update(0.01)
    source.insert(30)
    second = backed_up(room, source)
    assert 30 < sum(searched) < 100
    asked = {query.tobytes() for query in first.queries}
    assert {query.tobytes() for query in second.queries} <= asked
    assert len(second.queries) > len(asked) / 2


def test_a_query_goes_with_its_answers(room: Strongroom, tmp_path: Path) -> None:
    source = Source(tmp_path)
    first = backed_up(room, source)
    source.gone = {int(first.exact.ids[5][3])}
    source.write()
    second = backed_up(room, source)
    assert first.queries[5].tobytes() not in {query.tobytes() for query in second.queries}


def test_fresh_queries_come_when_most_answers_are_gone(room: Strongroom, tmp_path: Path, searched: list[int]) -> None:
    source = Source(tmp_path)
    first = backed_up(room, source)
    source.update(0.3)
    searched.clear()
    second = backed_up(room, source)
    assert sum(searched) > ROWS
    assert len(second.queries) == len(first.queries)
    assert first.queries.tobytes() != second.queries.tobytes()


def test_rows_that_are_stored_anew_are_answers_no_more(
    room: Strongroom, tmp_path: Path, searched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that is tidied up gives its rows new numbers: who had them as answers is asked no more, or all is searched."""
    source = Source(tmp_path)
    backed_up(room, source)
    monkeypatch.setattr("strongroom.snapshots.rows_writer.retired", lambda pieces: frozenset(one.start for one in pieces))
    source.update(0.01)
    searched.clear()
    found = backed_up(room, source)
    assert sum(searched) == ROWS
    assert len(found.queries) == probes.PROBES
    monkeypatch.setattr("strongroom.snapshots.rows_writer.retired", compaction.retired)
    source.update(0.01)
    backed_up(room, source)


def test_a_reread_asks_fresh_queries(room: Strongroom, tmp_path: Path, searched: list[int]) -> None:
    source = Source(tmp_path)
    backed_up(room, source)
    searched.clear()
    backed_up(room, source, reread=True)
    assert sum(searched) == ROWS


def test_another_number_of_queries_is_asked(room: Strongroom, tmp_path: Path) -> None:
    source = Source(tmp_path)
    backed_up(room, source)
    source.update(0.005)
    assert len(backed_up(room, source, probes=8).queries) == 8
    source.update(0.005)
    assert len(backed_up(room, source, probes=12).queries) == 12
    source.update(0.005)
    assert len(backed_up(room, source, probes=probes.PROBES).queries) == probes.PROBES


def test_an_unchanged_source_says_that_no_row_was_read(room: Strongroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "TICK_SECONDS", 0.0)
    source = Source(tmp_path)
    backed_up(room, source)
    (stored,) = room.backup(f"hnswlib://{source.path}?space=l2").snapshot.manifest.collections
    assert (stored.found_by, stored.slots_read) == (FoundBy.NOTHING, 0)
