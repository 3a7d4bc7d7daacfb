"""What the demo's database holds: real sentence embeddings where they lie beside the project, generated ones elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from strongroom.cli.demo.database import Rows

REAL_DATA = Path("../shared/data/summaries-minilm.parquet")
_DIMENSION = 384


def load(count: int) -> tuple[Rows, str]:
    """`count` rows and where they are from. Real ones are repeated with a small rotation if there are too few."""
    if REAL_DATA.exists():
        return _real(count), f"MiniLM embeddings of package summaries ({REAL_DATA.name})"
    return _generated(count), "generated clusters (the real embeddings are not beside the project)"


def _real(count: int) -> Rows:
    table = pq.read_table(REAL_DATA).slice(0, count)
    column = table["vector"].combine_chunks()
    vectors = np.asarray(column.values, np.float32).reshape(-1, _DIMENSION)
    documents, names = table["summary"].to_pylist(), table["id"].to_pylist()
    metadata: list[dict[str, str | int]] = [
        {"version": version, "month": month, "rank": rank}
        for version, month, rank in zip(*(table[name].to_pylist() for name in ("version", "month", "rank")), strict=True)
    ]
    here = len(names)
    extra = np.arange(here, count) % here
    more = _normalized(vectors[extra] + np.float32(0.05) * np.roll(vectors[extra], 1, axis=1))
    return Rows(
        names + [f"{names[place]}~{turn}" for turn, place in enumerate(extra)],
        np.concatenate([vectors, more]),
        documents + [documents[place] for place in extra],
        metadata + [metadata[place] for place in extra],
    )


def _generated(count: int) -> Rows:
    draw = np.random.default_rng(20)
    centres = draw.standard_normal((200, _DIMENSION), np.float32)
    topics = draw.integers(0, len(centres), count)
    vectors = _normalized(centres[topics] + np.float32(0.4) * draw.standard_normal((count, _DIMENSION), np.float32))
    names = [f"document-{number:06}" for number in range(count)]
    metadata: list[dict[str, str | int]] = [{"topic": int(topic), "language": "en"} for topic in topics]
    return Rows(
        names, vectors, [f"text of {name} about topic {topic}" for name, topic in zip(names, topics, strict=True)], metadata
    )


def queries_of(vectors: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
    """Queries (count x d) that no row equals: mixtures of two rows."""
    draw = np.random.default_rng(21)
    pairs = draw.integers(0, len(vectors), (2, count))
    return _normalized(vectors[pairs[0]] + np.float32(0.5) * vectors[pairs[1]])


def _normalized(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    result: npt.NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return result
