"""Is a moment of a Chroma database the same in another engine, or in Chroma with an index built anew? Every row is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampling import part_of
from test_undo import Row, World, bad_batch, good_writes, names, same, world  # noqa: F401 - a fixture

from strongroom import engines
from strongroom.errors import NotFound, WrongRequest
from strongroom.operations.restore.plan import Rung
from strongroom.progress import SILENT


def rows_of(url: str) -> dict[str, Row]:
    """By Strongroom's own reader of the engine."""
    found: dict[str, Row] = {}
    with engines.source_of(url).freeze(SILENT) as frozen:
        (collection,) = frozen.description.collections
        for block in frozen.rows(collection.name):
            batch = block.live()
            names_ = batch.schema.names
            vector = next(one for one in ("vector", "embedding") if one in names_)
            for row in batch.to_pylist():
                kept = {one: row[one] for one in row.keys() - {"id", vector, "document", "uri", "payload"} if row[one] is not None}
                payload = {**kept, **json.loads(row.get("payload") or "{}")} or None
                found[row["id"]] = (np.asarray(row[vector], np.float32).tolist(), row.get("document"), payload)
    return found


PLACES = ("lancedb:///{}/lance", "faiss:///{}/x.faiss", "hnswlib:///{}/x.hnsw", "usearch:///{}/x.usearch")


@pytest.mark.parametrize("place", part_of(PLACES[1:2], PLACES))
def test_another_engine(world: World, place: str) -> None:  # noqa: F811
    bad_batch(world)
    good_writes(world)
    target = place.format(world.folder).replace("////", "///")
    with_it = world.room.restore("latest", target, at=world.room.journal_status()[0].until)
    real = world.read("db")
    same(rows_of(target), real)
    assert with_it.plan.rung is Rung.CONVERT
    assert with_it.checks
    without = world.room.restore("latest", target, undo="crawl-7", overwrite=True)
    assert without.plan.moment is not None
    same(rows_of(target), world.model)
    assert world.room.restore("latest", target, undo="crawl-7", overwrite=True).already_there


@pytest.mark.soak
def test_chroma_with_an_index_built_anew(world: World) -> None:  # noqa: F811
    """What was made and dropped since the snapshot, too; under another name."""
    good_writes(world)
    world.write({"do": "create", "name": "more", "space": "cosine"}, good=False)
    more: dict[str, Any] = {"do": "upsert", "name": "more", "ids": names("m", 50), "embeddings": world.vectors(50)}
    world.write(more, good=False)
    world.write({"do": "update", "ids": ["d1"], "metadatas": [{"late": True}]})
    report = world.room.restore(
        "latest", f"chroma://{world.folder}/back", at=world.room.journal_status()[0].until, rung=Rung.REBUILD
    )
    same(world.read("back"), world.model)
    with engines.source_of(f"chroma://{world.folder}/back").freeze(SILENT) as frozen:
        counts = {one.name: one.count for one in frozen.description.collections}
        assert counts == {"docs": len(world.model), "more": 50}
        assert {one.name: one.fields[0].metric for one in frozen.description.collections}["more"] == "cosine"
    assert any("more: 50 rows of the moment" in one for one in report.checks)
    world.write({"do": "drop", "name": "more"}, {"do": "drop"}, {"do": "create"}, good=False)
    again = {"ids": ["d1"], "embeddings": world.vectors(1), "metadatas": [{"again": 1}]}
    world.write({"do": "add", **again}, good=False)
    world.run(
        *("restore", "--at", world.room.journal_status()[0].until, f"chroma://{world.folder}/new", "--rung", "rebuild", "--quiet")
    ).done()
    assert {one: row[2] for one, row in world.read("new").items()} == {"d1": {"again": 1}}


def test_a_target_without_room_is_refused(world: World) -> None:  # noqa: F811
    world.write({"do": "create", "name": "more"}, good=False)
    until = world.room.journal_status()[0].until
    with pytest.raises(WrongRequest, match="room for one collection"):
        world.room.restore("latest", f"faiss://{world.folder}/x.faiss", at=until)
    assert not Path(f"{world.folder}/x.faiss").exists()


def test_a_collection_that_was_not_there_then(world: World) -> None:  # noqa: F811
    """Nothing restored is no success."""
    world.write({"do": "drop"}, {"do": "create", "name": "more"}, good=False)
    until = world.room.journal_status()[0].until
    with pytest.raises(NotFound, match="no collection 'docs' at that moment"):
        world.room.restore("latest", f"lancedb://{world.folder}/back", at=until, collections=["docs"])
