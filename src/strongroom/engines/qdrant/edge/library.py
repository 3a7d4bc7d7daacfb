"""What qdrant_edge itself is asked about a shard that nobody else has open. Each runs in a child process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines import stopwatch
from strongroom.engines.changes import ACT, OWN_COLUMNS, Act, CatalogChange, RowChanges, unspool
from strongroom.engines.protocol import rows_per_block
from strongroom.engines.qdrant import conversion
from strongroom.engines.qdrant.edge import indexes
from strongroom.engines.qdrant.shape import Shape, shape_of
from strongroom.errors import EngineFailed
from strongroom.model import Json

CONFIG = "edge_config.json"
_INSERTED = 500
_SCROLLED = 2_000


def load() -> None:
    import qdrant_edge  # noqa: F401 - so that it is there when it is needed


def shard_at(path: str) -> Any:
    """Open a shard. Raises whatever the library does."""
    import qdrant_edge

    return qdrant_edge.EdgeShard.load(path)


def config_at(path: str) -> dict[str, Json]:
    found: dict[str, Json] = json.loads((Path(path) / CONFIG).read_bytes())
    return found


def version_at(path: Path) -> int:
    """The number of the last operation that the segments hold; -1 if there was none. The shard was flushed."""
    found = [json.loads(one.read_bytes()).get("version") for one in (path / "segments").glob("*/segment.json")]
    return max((int(one) for one in found if one is not None), default=-1)


def settle(path: str, rows: str) -> tuple[int, dict[str, Json]]:
    """Let the shard take its log into its segments, until opening it changes nothing any more, and write its rows to the Arrow file
    `rows`. Gives the number of points and the payload's indexes."""
    for _ in range(2):
        shard = shard_at(path)
        shard.flush()
        shard.close()
    shard = shard_at(path)
    try:
        shape = shape_of(config_at(path))
        row_bytes = max((4 * one.dimension for one in shape.vectors if one.kind == "dense"), default=4)
        count = 0
        with pa.ipc.new_file(rows, shape.schema) as writer:
            for records in scrolled(shard, rows_per_block(row_bytes)):
                writer.write_batch(conversion.batch_of(shape, records))
                count += len(records)
        return count, indexes.said_at(Path(path))
    finally:
        shard.close()


def scrolled(shard: Any, most: int) -> Iterator[Sequence[Any]]:
    """All points with all that they have, so many at once; ids ascend."""
    import qdrant_edge

    offset = None
    while True:
        found, offset = shard.scroll(qdrant_edge.ScrollRequest(limit=most, offset=offset, with_payload=True, with_vector=True))
        if found:
            yield found
        if offset is None:
            return


def search(path: str, vector: str, queries: npt.NDArray[np.float32], k: int) -> tuple[list[list[str]], list[Any]]:
    """What the shard answers: the ids of rows, and scores as float64."""
    import qdrant_edge

    shard = shard_at(path)
    try:
        ids, scores = [], []
        for query in stopwatch.each(queries):
            asked = qdrant_edge.Query.Nearest(query.tolist(), using=vector or None)
            found = shard.query(qdrant_edge.QueryRequest(limit=k, query=asked, with_payload=[conversion.ORIGINAL_ID]))
            ids.append([conversion.row_id(one.id, dict(one.payload or {})) for one in found])
            scores.append(np.array([one.score for one in found], np.float64))
        return ids, scores
    finally:
        shard.close()


def make(path: str, config: Mapping[str, Json], payload_indexes: Mapping[str, Json], spool: str) -> int:
    """A new shard in the empty folder `path`, with the rows of an Arrow stream, if there is one; gives how many points it has."""
    import qdrant_edge

    (Path(path) / CONFIG).write_text(json.dumps(config))
    shard = qdrant_edge.EdgeShard.load(path)
    try:
        for key, said in payload_indexes.items():
            shard.update(qdrant_edge.UpdateOperation.create_field_index(key, indexes.made(said)))
        if spool:
            with pa.ipc.open_stream(spool) as stream:
                for batch in stream:
                    insert(shard, batch, shape_of(config).names)
        shard.optimize()
        shard.flush()
        return int(shard.count(qdrant_edge.CountRequest(exact=True)))
    finally:
        shard.close()


def insert(shard: Any, batch: pa.RecordBatch, names: Mapping[str, str]) -> None:
    """Put rows, whatever was there of their ids; `names` are those of the vectors."""
    import qdrant_edge

    for start in range(0, batch.num_rows, _INSERTED):
        points = [
            qdrant_edge.Point(one, {name: _vector(value) for name, value in vectors.items()}, payload)
            for one, vectors, payload in conversion.points_of(batch.slice(start, _INSERTED), names)
        ]
        shard.update(qdrant_edge.UpdateOperation.upsert_points(points))


def _vector(value: Any) -> Any:
    import qdrant_edge

    return qdrant_edge.SparseVector(value["indices"], value["values"]) if isinstance(value, dict) else value


# -- the journal -------------------------------------------------------------------------------------------------------------


def replay(path: str, spooled: str) -> None:
    """Apply changes of the journal in their order."""
    shard, names = shard_at(path), shape_of(config_at(path)).names
    try:
        with Path(spooled).open("rb") as file:
            for change in unspool(file):
                if isinstance(change, CatalogChange):
                    for collection in change.present.values():
                        become(shard, Path(path), collection.catalog)
                        names = shape_of(collection.catalog["edge_config"]).names
                else:
                    apply_rows(shard, change, names)
        shard.flush()
    finally:
        shard.close()


def apply_rows(shard: Any, change: RowChanges, names: Mapping[str, str]) -> None:
    """Put and delete points; an operation on an id after another one on it comes after it."""
    import qdrant_edge

    rows = change.batch.drop_columns([one.name for one in OWN_COLUMNS if one.name in change.batch.schema.names])
    name = next(field.name for field in rows.schema if conversion.role_of(field).value == "id")
    ids, acts = rows.column(name).to_pylist(), change.batch.column(ACT).to_pylist()
    for act, start, end in runs(acts, ids):
        if act == Act.DELETE:
            gone: list[Any] = [conversion.point_id(one) for one in ids[start:end]]
            shard.update(qdrant_edge.UpdateOperation.delete_points(gone))
        elif act == Act.PUT:
            insert(shard, rows.slice(start, end - start), names)
        else:
            raise EngineFailed(f"a captured shard has no operation {act}")


def runs(acts: Sequence[int], ids: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """Stretches of one act in which no id occurs twice."""
    start, seen = 0, set[str]()
    for place, (act, one) in enumerate(zip(acts, ids, strict=True)):
        if place and (act != acts[start] or one in seen):
            yield acts[start], start, place
            start, seen = place, set()
        seen.add(one)
    if acts:
        yield acts[start], start, len(acts)


def become(shard: Any, path: Path, catalog: Mapping[str, Json]) -> None:
    """Give the shard the vectors and payload indexes that the catalog names."""
    import qdrant_edge

    operations = qdrant_edge.UpdateOperation
    before, after = indexes.said_at(path), catalog["payload_indexes"]
    for key in sorted(before.keys() - after.keys()):
        shard.update(operations.delete_field_index(key))
    for key in sorted(key for key, said in after.items() if before.get(key) != said):
        shard.update(operations.create_field_index(key, indexes.made(after[key])))
    present, wanted = _vectors(config_at(str(path))), _vectors(catalog["edge_config"])
    for name in sorted(present.keys() - wanted.keys()):
        shard.update(operations.delete_vector_name(name))
    for name in sorted(wanted.keys() - present.keys()):
        shard.update(indexes.new_vector(name, *wanted[name]))


def _vectors(config: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Json]]]:
    shape: Shape = shape_of(config)
    return {one.name: (one.kind, one.said) for one in shape.vectors}
