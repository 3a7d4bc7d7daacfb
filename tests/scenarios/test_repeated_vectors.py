"""Is a vector stored once although the index, its rows and its sidecar hold it? And does every file come back byte for byte?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import usearch.index
from commands import DIMENSION, PASSWORD

from strongroom.errors import Damaged
from strongroom.library import Strongroom, init_repository
from strongroom.operations.backup.run import backup
from strongroom.operations.verify import Level
from strongroom.repository import Argon2Cost
from strongroom.snapshots.manifest import Part

ROWS = 40_000
FORMS: dict[str, dict[str, Any]] = {
    "as written by default": {},
    "uncompressed": {"compression": "none"},
    "without dictionary": {"compression": "none", "use_dictionary": False},
    "in row groups": {"row_group_size": 7_000, "data_page_size": 100_000, "use_dictionary": False},
}


def build(path: Path, *, order: str = "same", **form: Any) -> tuple[bytes, bytes]:
    """An index and a sidecar that has its vectors too: the bytes of both."""
    vectors = np.random.default_rng(5).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    index = faiss.IndexFlatL2(DIMENSION)
    index.add(vectors)
    path.parent.mkdir(exist_ok=True)
    faiss.write_index(index, str(path))
    shown = vectors if order == "same" else vectors[::-1]
    column = pa.FixedSizeListArray.from_arrays(pa.array(shown.ravel()), DIMENSION)
    table = pa.table(
        {"id": [f"doc-{row}" for row in range(ROWS)], "embedding": column, "text": [f"text {row}" for row in range(ROWS)]}
    )
    pq.write_table(table, path.with_suffix(".parquet"), **form)
    return path.read_bytes(), path.with_suffix(".parquet").read_bytes()


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))


def copying(room: Strongroom) -> list[Part]:
    """The parts of the newest snapshot that copy from other blobs."""
    artifacts = room.snapshot().manifest.artifacts
    return [part for artifact in artifacts for part in artifact.parts if part.sources or part.ranges]


@pytest.mark.parametrize("form", FORMS)
def test_a_sidecar_that_repeats_the_vectors_costs_next_to_nothing(form: str, room: Strongroom, tmp_path: Path) -> None:
    index, sidecar = build(tmp_path / "src" / "x.faiss", **FORMS[form])
    report = room.backup(f"faiss://{tmp_path}/src/x.faiss")
    fingerprints = 24 * report.snapshot.manifest.rows
    assert report.snapshot.manifest.stored_bytes < 1.05 * len(index) + fingerprints
    assert len(sidecar) > len(index)
    assert copying(room)
    room.restore("latest", f"faiss://{tmp_path}/out/y.faiss")
    assert (tmp_path / "out" / "y.faiss").read_bytes() == index
    assert (tmp_path / "out" / "y.parquet").read_bytes() == sidecar
    assert room.verify("latest", level=Level.ANSWERS).passed


@pytest.mark.parametrize(("form", "order"), [({"compression": "zstd"}, "same"), ({}, "reversed")])
def test_what_can_not_be_found_there_is_kept_as_it_is(form: dict[str, Any], order: str, room: Strongroom, tmp_path: Path) -> None:
    index, sidecar = build(tmp_path / "src" / "x.faiss", order=order, **form)
    room.backup(f"faiss://{tmp_path}/src/x.faiss")
    assert not copying(room)
    room.restore("latest", f"faiss://{tmp_path}/out/x.faiss")
    assert (tmp_path / "out" / "x.faiss").read_bytes() == index
    assert (tmp_path / "out" / "x.parquet").read_bytes() == sidecar


def test_a_recipe_of_other_bytes_is_found_by_name(room: Strongroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a vector blob another one than the file was compared with, the file would come back wrong: it doesn't come back."""
    build(tmp_path / "src" / "x.faiss")
    monkeypatch.setattr("strongroom.engines.indexfile.repeats._by_block", _one_byte_off)
    snapshot = backup(room.repository, f"faiss://{tmp_path}/src/x.faiss").snapshot
    with pytest.raises(Damaged, match="not what was backed up"):
        room.restore("latest", f"faiss://{tmp_path}/out/x.faiss")
    assert not (tmp_path / "out" / "x.faiss").exists()
    report = room.verify("latest", level=Level.RESTORE)
    assert snapshot.id in {broken for finding in report.findings for broken in finding.snapshots}


@pytest.mark.parametrize("torn", ["x.faiss", "x.parquet"])
def test_what_a_killed_restore_left_torn_is_written_again(
    torn: str, room: Strongroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, sidecar = build(tmp_path / "src" / "x.faiss")
    room.backup(f"faiss://{tmp_path}/src/x.faiss")

    def killed(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("strongroom.operations.restore.files.Installation.read_back", killed)
        room.restore("latest", f"faiss://{tmp_path}/out/x.faiss")
    (staged,) = (path for path in (tmp_path / "out").rglob(torn))
    with staged.open("r+b") as file:
        file.seek(staged.stat().st_size // 2)
        file.write(bytes(64))
    room.restore("latest", f"faiss://{tmp_path}/out/x.faiss")
    assert (tmp_path / "out" / "x.faiss").read_bytes() == index
    assert (tmp_path / "out" / "x.parquet").read_bytes() == sidecar


def _one_byte_off(run: Any, block: int) -> Any:
    from strongroom.model import Copy

    number, within = divmod(run.offset, block)
    if within:
        yield Copy(run.place, min(run.length, block - within), "vector", number, within - 1)


@pytest.mark.parametrize("engine", ["faiss", "hnswlib", "usearch"])
def test_an_array_of_the_vectors_beside_the_index_costs_nothing(engine: str, room: Strongroom, tmp_path: Path) -> None:
    vectors = np.random.default_rng(5).standard_normal((3_000, DIMENSION)).astype(np.float32)
    path = tmp_path / "src" / "x.index"
    path.parent.mkdir()
    if engine == "faiss":
        index = faiss.IndexHNSWFlat(DIMENSION, 8)
        index.add(vectors)
        faiss.write_index(index, str(path))
    elif engine == "hnswlib":
        graph = hnswlib.Index("l2", DIMENSION)
        graph.init_index(len(vectors), M=8)
        graph.add_items(vectors, num_threads=2)  # in any order
        graph.save_index(str(path))
    else:
        other = usearch.index.Index(ndim=DIMENSION, metric="l2sq", dtype="f32", connectivity=8)
        other.add(np.arange(len(vectors)), vectors, threads=2)
        other.save(str(path))
    np.save(path.with_suffix(".npy"), vectors)
    content = path.with_suffix(".npy").read_bytes()
    report = room.backup(f"{engine}://{path}")
    assert report.snapshot.manifest.stored_bytes < 1.1 * path.stat().st_size
    room.restore("latest", f"{engine}://{tmp_path}/out/y.index")
    assert (tmp_path / "out" / "y.npy").read_bytes() == content
    assert (tmp_path / "out" / "y.index").read_bytes() == path.read_bytes()
