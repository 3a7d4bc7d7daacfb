"""Are the same embeddings in several engines stored once, and does each come back whole from what they share?"""

from __future__ import annotations

from itertools import permutations

import pytest
import shared_vectors
from processes import apart

from strongroom.library import init_repository
from strongroom.operations.verify import Level
from strongroom.repository import Argon2Cost

ENGINES = {"chroma": shared_vectors.in_chroma, "faiss": shared_vectors.in_faiss, "lancedb": shared_vectors.in_lancedb}
VECTOR_BYTES = shared_vectors.ROWS * shared_vectors.DIMENSION * 4


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("sources"))
    return {name: apart(make, folder) for name, make in ENGINES.items()}


def stored_vectors(room) -> int:
    """Bytes of all blocks of vectors in the repository, each counted once."""
    blocks = {
        block.blob: block.count * shared_vectors.DIMENSION * 4
        for snapshot in room.snapshots()
        for collection in snapshot.manifest.collections
        for those in collection.vectors.values()
        for block in those
    }
    return sum(blocks.values())


@pytest.mark.parametrize("order", list(permutations(ENGINES)), ids="-".join)
def test_embeddings_are_stored_once_whichever_engine_comes_first(tmp_path, monkeypatch, sources, order):
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "state"))
    room = init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
    stored = {name: room.backup(sources[name]).snapshot.manifest.stored_bytes for name in order}
    assert stored_vectors(room) == VECTOR_BYTES
    assert stored[order[0]] > 0.8 * VECTOR_BYTES
    for name in order[1:]:  # ids, links and fingerprints; Chroma's database keeps a log and an index of texts too
        assert stored[name] < (0.5 if name == "chroma" else 0.25) * VECTOR_BYTES
    if order == ("chroma", "faiss", "lancedb"):
        report = room.verify(level=Level.ANSWERS)
        assert report.passed, report.findings
        assert report.looked_at["rows"] == 3 * shared_vectors.ROWS


def test_a_table_that_optimize_wrote_anew_stores_only_the_rows_that_came(tmp_path, monkeypatch):
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "state"))
    source = apart(shared_vectors.in_lancedb, str(tmp_path))
    room = init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))
    room.backup(source)
    apart(shared_vectors.optimized, str(tmp_path))
    report = room.backup(source)
    assert stored_vectors(room) == VECTOR_BYTES + 30 * shared_vectors.DIMENSION * 4
    assert report.snapshot.manifest.stored_bytes < 0.15 * VECTOR_BYTES
    whole = shared_vectors.files_of(str(tmp_path / "lance"))
    room.restore("latest", f"lancedb://{tmp_path}/back")
    back = shared_vectors.files_of(str(tmp_path / "back"))
    data = [name for name in back if "/data/" in name]
    assert data and all(back[name] == whole[name] for name in data)
    assert room.verify(level=Level.RESTORE).passed
