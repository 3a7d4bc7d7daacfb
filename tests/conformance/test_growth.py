"""Do an index's regions lie still while it grows and is updated, so that what isn't vectors costs no more than what changed?

Real files of FAISS and Chroma before and after: each region is compared to the one of its key before, as a backup does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pytest
import raw_engines
from processes import apart

from strongroom import codecs
from strongroom.codecs import difference, strided
from strongroom.engines.chroma import Chroma
from strongroom.engines.faiss import Faiss
from strongroom.engines.protocol import Artifact, Frozen
from strongroom.model import Cut
from strongroom.progress import SILENT

ROWS, DIMENSION = 10_000, 32
CHANGED = ROWS // 100


@dataclass(frozen=True)
class Piece:
    """What of a region isn't vectors that the rows have too."""

    kind: str
    content: bytes


def pieces(artifact: Artifact, frozen: Frozen) -> dict[str, Piece]:
    """The pieces of a file by key. Checks that they cover the file, and that columns are those of the rows."""
    found: dict[str, Piece] = {}
    columns: dict[str, list[bytes]] = {}
    end = 0
    for region in artifact.regions():
        assert region.offset == end
        end += region.length
        content, kind = artifact.read(region.offset, region.length), region.kind
        vectors = content
        if region.stride:
            vectors, content = strided.split(content, region.stride, region.vector_offset, region.vector_length)
            kind = "int32"
        if region.column:
            name = artifact.collection or region.collection
            if name not in columns:
                blocks = list(frozen.rows(name))
                columns[name] = [np.asarray(block.batch.column(region.column).flatten()).tobytes() for block in blocks]
            assert vectors == columns[name][region.block]
            if not region.stride:
                continue
        assert region.key not in found
        found[region.key] = Piece(kind, content)
    assert end == artifact.size
    return found


@dataclass
class Cost:
    """Bytes: of all pieces stored alone, of those that changed stored as differences where that is smaller, and as they are; of
    the bytes that have a counterpart, how many there are and how many differ in place."""

    alone: int = 0
    changed: int = 0
    compared: int = 0
    differing: int = 0

    def add(self, piece: Piece, before: Piece | None) -> None:
        size = len(codecs.encode(piece.content, piece.kind)[1])
        self.alone += size
        if before is None:
            self.changed += size
        elif piece != before:
            found = difference.smaller(piece.content, before.content, piece.kind)
            self.changed += size if found is None else len(found)
            assert found is None or bytes(difference.undo(found, before.content)) == piece.content
        if before is not None:
            common = min(len(piece.content), len(before.content))
            self.compared += common
            self.differing += int(np.count_nonzero(np.frombuffer(difference.xor(piece.content[:common], before.content), np.uint8)))


def cost(old: Iterable[dict[str, Piece]], new: Iterable[dict[str, Piece]]) -> Cost:
    spent = Cost()
    for before, after in zip(old, new, strict=True):
        for key, piece in after.items():
            spent.add(piece, before.get(key))
    return spent


def faiss_pieces(path: Path) -> list[dict[str, Piece]]:
    with Faiss().source(f"faiss://{path}").freeze(SILENT) as frozen:
        assert [artifact.cut for artifact in frozen.artifacts()] == [Cut.FORMAT]
        return [pieces(artifact, frozen) for artifact in frozen.artifacts()]


def grow(index: faiss.Index, more: np.ndarray) -> None:
    index.add(more)


def replace(index: faiss.Index, more: np.ndarray) -> None:
    """1 % of the rows get other vectors, and as many are added."""
    gone = np.random.default_rng(3).choice(ROWS, CHANGED, replace=False)
    index.remove_ids(gone)
    index.add_with_ids(more[:CHANGED], gone)
    index.add_with_ids(more[CHANGED:], np.arange(ROWS, ROWS + CHANGED))


@pytest.mark.parametrize(
    ("kind", "change", "share", "still"),
    [
        ("HNSW16,Flat", grow, 0.20, True),
        pytest.param("HNSW16,SQ8", grow, 0.20, True, marks=pytest.mark.soak),
        ("HNSW16,PQ8x4", grow, 0.20, True),
        ("IVF16,Flat", replace, 0.25, False),
        pytest.param("IVF16,PQ8", replace, 0.10, False, marks=pytest.mark.soak),
        pytest.param("IVF512,PQ8", replace, 0.10, False, marks=pytest.mark.soak),
        pytest.param("IVF64,SQ8", replace, 0.10, False, marks=pytest.mark.soak),
        pytest.param("IVF4,SQfp16", replace, 0.10, False, marks=pytest.mark.soak),
    ],
)
def test_what_changed_is_a_small_share(tmp_path: Path, kind: str, change: Callable, share: float, still: bool) -> None:
    vectors = raw_vectors(ROWS + 2 * CHANGED)
    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(DIMENSION, kind)
    if isinstance(index, faiss.IndexIVF):
        index.cp.niter = 3
    if isinstance(index, faiss.IndexIVFPQ):
        index.pq.cp.niter = 3
    index.train(vectors[:2_600])
    index.add(vectors[:ROWS])
    path = tmp_path / "index.faiss"
    faiss.write_index(index, str(path))
    old = faiss_pieces(path)
    change(index, vectors[ROWS:])
    faiss.write_index(index, str(path))
    spent = cost(old, faiss_pieces(path))
    print(f"{kind}: {spent} {spent.changed / spent.alone:.3f} {spent.differing / spent.compared:.3f}")
    assert 0 < spent.changed < share * spent.alone
    if still:
        assert spent.differing < 0.1 * spent.compared


def raw_vectors(count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((40, DIMENSION))
    return (centres[rng.integers(0, 40, count)] + 0.5 * rng.standard_normal((count, DIMENSION))).astype(np.float32)


def test_an_index_that_only_faiss_can_read_and_its_sidecar_are_cut_by_content(tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    index = faiss.index_factory(DIMENSION, "LSH")
    index.add(raw_vectors(ROWS))
    faiss.write_index(index, str(path))
    lines = [f'{{"document": "text of {row}"}}\n' for row in range(ROWS)]
    path.with_suffix(".jsonl").write_text("".join(lines))
    old = content_pieces(path)
    lines[700] = '{"document": "another text, and a longer one"}\n'
    path.with_suffix(".jsonl").write_text("".join(lines))
    spent = cost(old, content_pieces(path))
    assert spent.changed < 0.05 * spent.alone


def content_pieces(path: Path) -> list[dict[str, Piece]]:
    with Faiss().source(f"faiss://{path}").freeze(SILENT) as frozen:
        assert [artifact.cut for artifact in frozen.artifacts()] == [Cut.CONTENT, Cut.CONTENT]
        return [pieces(artifact, frozen) for artifact in frozen.artifacts()]


def chroma_pieces(path: Path) -> dict[str, dict[str, Piece]]:
    with Chroma().source(f"chroma://{path}").freeze(SILENT) as frozen:
        cuts = {artifact.path.rpartition("/")[2]: artifact.cut for artifact in frozen.artifacts()}
        assert cuts["chroma.sqlite3"] == cuts["index_metadata.pickle"] == Cut.BLOCKS
        assert cuts["data_level0.bin"] == cuts["link_lists.bin"] == Cut.FORMAT
        return {artifact.path.rpartition("/")[2]: pieces(artifact, frozen) for artifact in frozen.artifacts()}


def test_chromas_files_cost_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "db"
    rows, changed = 2_000, 25
    apart(raw_engines.chroma_make, str(path), 0, rows)
    old = chroma_pieces(path)
    apart(raw_engines.chroma_make, str(path), rows, changed)
    apart(raw_engines.chroma_make, str(path), 1_000, changed)
    new = chroma_pieces(path)
    for name, share in {"data_level0.bin": 0.5, "chroma.sqlite3": 0.5, "index_metadata.pickle": 0.8}.items():
        spent = cost([old[name]], [new[name]])
        print(name, spent, f"{spent.changed / spent.alone:.3f} {spent.differing / spent.compared:.3f}")
        assert 0 < spent.changed < share * spent.alone
        if name == "data_level0.bin":
            assert spent.differing < 0.2 * spent.compared
