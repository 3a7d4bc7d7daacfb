"""What is a key, or an element of a vector set, at a known offset of the stream? Asked together with that offset, in one MULTI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from strongroom.engines.changes import Act
from strongroom.engines.redis.effects import Effect, Gone, Known, RowEffect, Unknown, kind_of
from strongroom.engines.redis.keyfile import Record
from strongroom.engines.redis.names import text_of
from strongroom.engines.redis.rows import VECTOR, Row, attributes_payload, row_of
from strongroom.engines.redis.server import library, offset_in
from strongroom.engines.redis.values import VECTOR_SET
from strongroom.errors import Gap
from strongroom.model import Collection, Field

_FOOTER = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said at `offset`: effects that put what was unknown in its place, and the vector sets that are there."""

    offset: int
    effects: tuple[Effect, ...]
    sets: dict[bytes, Collection | None]
    added: dict[bytes, int]
    """How many elements each vector set ever took, updates counted."""
    wholes: dict[bytes, bytes]
    """The value of each vector set that was asked for as a whole."""


def ask(client: Any, log: str, unknowns: Sequence[Unknown], known: Known) -> Answer:
    """Raises Gap if a key has become a vector set by another way than VADD, Unreachable if the server's log isn't `log` now."""
    keys = [one for one in unknowns if one.element is None]
    elements = [one for one in unknowns if one.element is not None]
    sets = sorted({one.key for one in elements} | known.sets)
    with client.pipeline(transaction=True) as pipeline:
        pipeline.info("replication")
        for one in keys:
            pipeline.execute_command("DUMP", one.key)
            pipeline.execute_command("PEXPIRETIME", one.key)
        for key in sets:
            pipeline.execute_command("VINFO", key)
        for one in elements:
            pipeline.execute_command("VEMB", one.key, one.element)
            pipeline.execute_command("VGETATTR", one.key, one.element)
        replies = pipeline.execute(raise_on_error=False)
    wrong = next((one for one in replies if isinstance(one, library().ResponseError) and "WRONGTYPE" not in str(one)), None)
    if wrong is not None:
        raise wrong
    info, *rest = replies
    replies = iter(rest)
    effects: list[Effect] = []
    wholes: dict[bytes, bytes] = {}
    for one in keys:
        payload, expires = next(replies), next(replies)
        if one.key in known.sets and payload and kind_of(payload) == VECTOR_SET:
            wholes[one.key] = payload
        else:
            effects += _of_key(one.key, payload, int(expires), known)
    infos = {key: next(replies) for key in sets}
    found = {key: collection_of(known.name_of_set(key), said) for key, said in infos.items()}
    for one in elements:
        effects += _of_element(one, next(replies), next(replies), known)
    added = {key: int(_pairs(said)["hnsw-max-node-uid"]) for key, said in infos.items() if found[key] is not None}
    return Answer(offset_in(info, log), tuple(effects), found, added, wholes)


def _of_key(key: bytes, payload: bytes | None, expires: int, known: Known) -> list[Effect]:
    kind = kind_of(payload) if payload else ""
    if kind == VECTOR_SET:
        raise Gap(f"{text_of(key)} became a vector set by a command that isn't VADD")
    found: list[Effect] = []
    if key in known.sets:
        found.append(Gone((known.name_of_set(key),)))
    for one in known.covering(key):
        if payload and one.kind == kind:
            found.append(RowEffect(one.name, Act.PUT, row_of(Record(key, max(expires, -1), payload[:-_FOOTER]), one)))
        else:
            found.append(RowEffect(one.name, Act.DELETE, Row(one.id_of(key), (None,) * len(one.vectors), {})))
    return found


def _of_element(one: Unknown, vector: Any, attributes: Any, known: Known) -> list[Effect]:
    name = known.name_of_set(one.key)
    identity = text_of(one.element or b"")
    if not isinstance(vector, list) or not vector:
        return [RowEffect(name, Act.DELETE, Row(identity, (None,), {}))]
    given = np.array([float(number) for number in vector], np.float32).tobytes()
    return [RowEffect(name, Act.PUT, Row(identity, (given,), attributes_payload(attributes or b"")))]


def collection_of(name: str, info: Any) -> Collection | None:
    """The collection of a vector set as VINFO describes it; None if there is none."""
    if not isinstance(info, list):
        return None
    said = _pairs(info)
    quantization = text_of(said["quant-type"])
    index = {
        "kind": "HNSW",
        "quantization": quantization,
        "m": int(said["hnsw-m"]),
        "reduced_from": int(said["projection-input-dim"]),
    }
    field = Field(VECTOR, "float32", int(said["vector-dim"]), "cosine", index, quantization != "f32")
    return Collection(name, int(said["size"]), (field,), {"kind": "vector set"})


def _pairs(flat: Sequence[Any]) -> dict[str, Any]:
    return {text_of(key): value for key, value in zip(flat[::2], flat[1::2], strict=True)}
