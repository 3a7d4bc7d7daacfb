"""Does a snapshot restore on another kind of processor, where the same index answers with other last bits?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest
from commands import DIMENSION, PASSWORD

from strongroom.engines.faiss.freeze import FaissFrozen
from strongroom.errors import VerificationFailed
from strongroom.library import Strongroom, init_repository
from strongroom.model import Answers, RowBlock
from strongroom.operations.machine import processor as processors
from strongroom.operations.verify import Level
from strongroom.repository import Argon2Cost

Elsewhere = Callable[[], None]


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))


def build(path: Path, factory: str) -> str:
    """The URL of an index of 2,000 vectors."""
    vectors = np.random.default_rng(5).standard_normal((2_000, DIMENSION)).astype(np.float32)
    index = faiss.index_factory(DIMENSION, factory)
    index.train(vectors)
    index.add(vectors)
    path.parent.mkdir(exist_ok=True)
    faiss.write_index(index, str(path))
    return f"faiss://{path}"


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """Let every sum come out one bit higher from now on, as on another processor."""

    def begin() -> None:
        search, rows = FaissFrozen.search, FaissFrozen.rows

        def higher(self: FaissFrozen, *asked: Any) -> Answers:
            given = search(self, *asked)
            return dataclasses.replace(given, distances=tuple(np.nextafter(row, np.float32(np.inf)) for row in given.distances))

        def decoded(self: FaissFrozen, collection: str) -> Iterator[RowBlock]:
            for block in rows(self, collection):
                if self.rows_in_artifacts:
                    values = np.nextafter(block.batch.column("vector").flatten().to_numpy(), np.float32(np.inf))
                    column = pa.FixedSizeListArray.from_arrays(pa.array(values), DIMENSION)
                    block = RowBlock(block.batch.set_column(1, block.batch.schema.field("vector"), column))
                yield block

        monkeypatch.setattr(FaissFrozen, "search", higher)
        monkeypatch.setattr(FaissFrozen, "rows", decoded)

    return begin


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    """Let this be another kind of processor from now on."""
    return lambda: monkeypatch.setattr(processors, "processor", lambda: "x86_64 AnotherMaker 1 2")


@pytest.mark.parametrize("factory", ["HNSW8,Flat", pytest.param("SQ8", marks=pytest.mark.soak)])
def test_other_last_bits_are_no_damage_on_another_processor(
    factory: str, room: Strongroom, tmp_path: Path, rounding: Elsewhere, another: Elsewhere
) -> None:
    made = room.backup(build(tmp_path / "src" / "x.faiss", factory)).snapshot
    assert made.manifest.processor == processors.processor() != ""
    rounding()
    another()
    target = f"faiss://{tmp_path}/out/x.faiss"
    report = room.restore("latest", target)
    assert any("another kind of processor" in line for line in report.checks)
    assert room.restore("latest", target).already_there
    assert room.verify("latest", level=Level.ANSWERS).findings == ()
    assert room.restore("latest", f"faiss://{tmp_path}/renamed/x.faiss", renames={"x": "y"}).checks


@pytest.mark.parametrize("factory", ["HNSW8,Flat", pytest.param("SQ8", marks=pytest.mark.soak)])
def test_other_last_bits_are_found_on_the_same_processor(
    factory: str, room: Strongroom, tmp_path: Path, rounding: Elsewhere
) -> None:
    room.backup(build(tmp_path / "src" / "x.faiss", factory))
    rounding()
    with pytest.raises(VerificationFailed, match="32 of 32 answers differ"):
        room.restore("latest", f"faiss://{tmp_path}/out/x.faiss")
    problems = [finding.problem for finding in room.verify("latest", level=Level.ANSWERS).findings]
    assert any("answers differ" in problem for problem in problems)
    assert any("rows that came back" in problem for problem in problems) == (factory == "SQ8")


def test_worse_answers_are_found_on_any_processor(
    room: Strongroom, tmp_path: Path, another: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.backup(build(tmp_path / "src" / "x.faiss", "HNSW8,Flat"))
    another()
    search = FaissFrozen.search

    def worse(self: FaissFrozen, *asked: Any) -> Answers:
        given = search(self, *asked)
        return dataclasses.replace(given, ids=tuple(row[:5] + (-1,) * 5 for row in given.ids))

    monkeypatch.setattr(FaissFrozen, "search", worse)
    with pytest.raises(VerificationFailed, match="recall fell"):
        room.restore("latest", f"faiss://{tmp_path}/out/x.faiss")


def test_processors_are_told_apart() -> None:
    told = {"vendor_id": "AuthenticAMD", "cpu family": "25", "model": "1", "flags": "fpu sse4_2 avx avx2 fma"}
    one = processors._described("x86_64", told, {})
    assert one == "x86_64 AuthenticAMD 25 1 sse4_2 avx avx2 fma"
    others = [
        processors._described("x86_64", {**told, "flags": told["flags"] + " avx512f"}, {}),
        processors._described("x86_64", {**told, "model": "17"}, {}),
        processors._described("x86_64", told, {"OPENBLAS_CORETYPE": "Haswell"}),
        processors._described("aarch64", {"CPU implementer": "0x41", "CPU part": "0xd4f", "Features": "fp asimd sve"}, {}),
    ]
    assert len({one, *others}) == 5
