"""What does an index of Milvus answer, with its own defaults?"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.engines import stopwatch
from strongroom.engines.milvus.connection import Server
from strongroom.engines.milvus.listing import Listed
from strongroom.engines.milvus.reading import loaded
from strongroom.model import Answers

_QUERIES_AT_ONCE = 64
_KINDS = {"FloatVector": ("FloatVector", "<f4"), "Float16Vector": ("Float16Vector", "<f2"), "Int8Vector": ("Int8Vector", "i1")}


def load() -> None:
    """There is nothing to be loaded: the server answers."""


def nearest(server: Server, listed: Listed, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
    """Ids and distances, best first. Raises Unreachable, NotFound or what `server` fails with."""
    _, _, common = server.messages
    ids: list[tuple[int | str, ...]] = []
    distances: list[npt.NDArray[np.floating]] = []
    said = {"anns_field": field, "topk": str(k), "params": json.dumps(_params(listed, field, k)), "round_decimal": "-1"}
    with loaded(server, listed):

        def ask(some: npt.NDArray[np.float32]) -> Any:
            return server.ask(
                "Search",
                database=listed.database,
                collection_name=listed.own,
                dsl_type=common.DslType.BoolExprV1,
                placeholder_group=_group(common, listed, field, some),
                search_params=[common.KeyValuePair(key=key, value=value) for key, value in said.items()],
                nq=len(some),
            )

        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            found = ask(queries[start : start + _QUERIES_AT_ONCE]).results
            keys = list(found.ids.str_id.data or found.ids.int_id.data)
            scores = np.array(found.scores, np.float32)
            ends = np.cumsum([0, *found.topks])
            ids += [tuple(keys[a:b]) for a, b in pairwise(ends)]
            distances += [scores[a:b] for a, b in pairwise(ends)]
        stopwatch.again(ask, queries)
    return Answers(tuple(ids), tuple(distances))


def _params(listed: Listed, field: str, k: int) -> dict[str, int]:
    """HNSW wants to look at as many rows as it shall answer with, or more."""
    kinds = [str(one["params"].get("index_type")) for one in listed.said["indexes"] if one["field"] == field]
    return {"ef": max(64, 2 * k)} if any("HNSW" in one for one in kinds) else {}


def _group(common: Any, listed: Listed, field: str, queries: npt.NDArray[np.float32]) -> bytes:
    kind = next(one.kind for one in listed.shape.columns if one.name == field)
    name, code = _KINDS.get(kind, (kind, ""))
    if code:
        values = [row.tobytes() for row in queries.astype(code)]
    else:  # bfloat16: the upper halves
        values = [(row.view("<u4") >> 16).astype("<u2").tobytes() for row in np.ascontiguousarray(queries, "<f4")]
    types = common.PlaceholderType
    one = common.PlaceholderValue(tag="$0", type=types.Value(name), values=values)
    group: bytes = common.PlaceholderGroup(placeholders=[one]).SerializeToString()
    return group
