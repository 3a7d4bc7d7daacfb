"""Which rows of any engine can be points, and what of them changes? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from strongroom.engines.conversions import Becoming, Loaded, Ways, of_payloads, table
from strongroom.engines.qdrant.conversion import ORIGINAL_ID, points_of, role_of, row_id
from strongroom.engines.qdrant.shape import DISTANCES, KIND, config_for, fields_of, shape_of
from strongroom.model import Collection, Conversion, Fidelity, Field, Role, Verdict

_LARGEST = 65_536


def fidelity_of(collection: Collection) -> Fidelity:
    """With Cosine Qdrant keeps unit vectors, and those that it has made so stay as they are."""
    if "edge_config" in collection.catalog and any(field.decoded for field in collection.fields):
        return Fidelity.CODED
    return Fidelity.NORMALIZED if _is_normalized_here(collection) else Fidelity.KEPT


def _is_normalized_here(collection: Collection) -> bool:
    made_so = "edge_config" in collection.catalog and not collection.catalog.get("as_given")
    return not made_so and any(one.metric == "cosine" for one in collection.fields)


def objections_of(collection: Collection, schema: pa.Schema) -> Iterator[str]:
    own = "edge_config" in collection.catalog
    if not collection.fields and not own:
        yield "the rows have no vector"
    for one in collection.fields:
        if one.dimension > _LARGEST:
            yield f"Qdrant's vectors have at most {_LARGEST:,} numbers (field {one.name!r})"
        if one.metric not in DISTANCES and not own:
            yield f"Qdrant has no metric {one.metric!r} (field {one.name!r})"
    if sum(role_of(field) is Role.ID for field in schema) != 1:
        yield "the rows have no id column"


def conversions_of(collection: Collection, schema: pa.Schema, fidelity: Fidelity, *, local: bool = False) -> Sequence[Conversion]:
    """What becomes of each part of such rows; the local mode of Qdrant's client has no index, and float32 alone."""
    own = "edge_config" in collection.catalog
    config = config_for(collection)
    shape = shape_of(config)
    there = {one.name: one for one in fields_of(config, shape)}

    def load(batch: pa.RecordBatch) -> Loaded:
        points = list(points_of(batch, shape.names))
        return of_payloads(batch, [row_id(point, dict(payload)) for point, _, payload in points], [one[2] for one in points])

    def vector(field: Field) -> Becoming:
        its = there[field.name]
        return Becoming("float32" if local else its.dtype, its.metric, "" if local else "hnsw")

    found = table(collection, schema, Ways(load, vector, fidelity, gaps=True, own=own))
    return [_as_point(one) if one.part.startswith("id ") and not own else one for one in found]


def _as_point(one: Conversion) -> Conversion:
    """A row's id comes back, but it isn't always the point's."""
    return replace(
        one, becomes="whole number or UUID", verdict=Verdict.WIDENED, note=f"else a UUID, with {ORIGINAL_ID} in the payload"
    )


def losses_of(collection: Collection, schema: pa.Schema) -> Iterator[str]:
    """What loading such rows changes beside their parts."""
    columns = [field for field in schema if role_of(field) is Role.COLUMN and KIND not in (field.metadata or {})]
    if columns and "edge_config" not in collection.catalog:
        yield "columns become keys of the payload"
