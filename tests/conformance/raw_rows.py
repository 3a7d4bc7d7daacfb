"""What does each engine's own client find in every row? All of it, so that an adapter can neither leave out nor make up anything.

`READ[engine](place)` gives of each row, by its id as text, its vectors by name and all else by name. JSON that a restore put into
one column is taken apart (`flat`), so that rows of engines with columns and of those with payloads look alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from raw_engines import _duck, _qdrant, _vec0
from raw_servers import _chroma, _milvus, _redis


class Found(NamedTuple):
    vectors: dict[str, list[float]]
    rest: dict[str, Any]


Rows = dict[str, Found]
_PAYLOAD = re.compile(r"(strongroom_)?payload_*")


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Columns and keys of the payload side by side; columns that are null are left out."""
    found = {name: value for name, value in values.items() if value is not None and not _PAYLOAD.fullmatch(name)}
    for name in filter(_PAYLOAD.fullmatch, values):
        given = values[name]
        inside = read_json(given) if isinstance(given, str | bytes) else given or {}
        assert isinstance(inside, dict), (name, given)
        assert not found.keys() & inside.keys(), f"{found.keys() & inside.keys()} twice"
        found |= inside
    return found


def read_json(text: str | bytes) -> Any:
    """What a double would round is a Decimal."""
    return json.loads(text, parse_float=lambda one: float(one) if _is_double(one) else Decimal(one))


def _is_double(text: str) -> bool:
    """Within what is tried here: 17 digits tell one."""
    return Decimal(text) in {Decimal(repr(float(text))), Decimal(f"{float(text):.17g}")}


def numbers(vector: Any) -> list[float]:
    return np.asarray(vector, np.float64).tolist()


def _row(values: Mapping[str, Any], key: str, vectors: Iterable[str]) -> tuple[str, Found]:
    dense = {name: numbers(values[name]) for name in vectors if values[name] is not None}
    return str(values[key]), Found(dense, flat({name: one for name, one in values.items() if name != key and name not in vectors}))


def _of_tuples(names: list[str], rows: Iterable[Any], key: str, vectors: Iterable[str]) -> Rows:
    return dict(_row(dict(zip(names, one, strict=True)), key, list(vectors)) for one in rows)


# -- embedded ---------------------------------------------------------------------------------------------------------------


def _of_chroma(ids: Any, embeddings: Any, documents: Any, metadatas: Any, uris: Any) -> Rows:
    found = {}
    for key, vector, document, metadata, uri in zip(ids, embeddings, documents, metadatas, uris, strict=True):
        texts = {name: text for name, text in (("document", document), ("uri", uri)) if text is not None}
        found[key] = Found({"embedding": numbers(vector)}, flat({**(metadata or {}), **texts}))
    return found


def chroma(path: str) -> Rows:
    import chromadb

    made = chromadb.PersistentClient(path).get_collection("things", embedding_function=None)
    got = made.get(include=["embeddings", "documents", "metadatas", "uris"])
    return _of_chroma(got["ids"], got["embeddings"], got["documents"], got["metadatas"], got["uris"])


def duckdb(path: str) -> Rows:
    connection = _duck(path, read_only=True)
    told = connection.execute("describe things").fetchall()
    names, vectors = [one[0] for one in told], [one[0] for one in told if re.fullmatch(r"FLOAT\[\d+\]", one[1])]
    key = next(one[0] for one in told if one[3] == "PRI")
    asked = ", ".join(f'"{one[0]}"::varchar' if one[1] == "INTERVAL" else f'"{one[0]}"' for one in told)
    return _of_tuples(names, connection.execute(f"select {asked} from things").fetchall(), key, vectors)


def _beside(path: str, vectors: np.ndarray, keys: Any) -> Rows:
    """Of an index: its vectors in order, its keys in that order, and the sidecar, in that order too or with the keys as ids."""
    sidecar = Path(path).with_suffix(".parquet")
    if not sidecar.exists():
        return {str(key): Found({"vector": numbers(one)}, {}) for key, one in zip(keys, vectors, strict=True)}
    records = pq.read_table(sidecar).to_pylist()
    assert len(records) == len(vectors)
    place = {int(key): row for row, key in enumerate(keys)}
    found = {}
    for row, one in enumerate(records):
        key = one.pop("id")
        at = place[key] if isinstance(key, int) and set(place) != set(range(len(place))) else row
        found[str(key)] = Found({"vector": numbers(vectors[at])}, flat(one))
    return found


def faiss(path: str) -> Rows:
    import faiss

    index = faiss.read_index(path)
    if isinstance(index, faiss.IndexIDMap):
        keys = faiss.vector_to_array(index.id_map)
        return _beside(path, faiss.downcast_index(index.index).reconstruct_n(0, index.ntotal), keys)
    return _beside(path, index.reconstruct_n(0, index.ntotal), range(index.ntotal))


def hnswlib(path: str) -> Rows:
    import hnswlib

    said = json.loads(Path(f"{path}.json").read_text())
    index = hnswlib.Index(said["space"], said["dim"])
    index.load_index(path)
    keys = sorted(index.get_ids_list())
    return _beside(path, np.asarray(index.get_items(np.array(keys, np.uint64))), keys)


def usearch(path: str) -> Rows:
    from usearch.index import Index

    index = Index.restore(path)
    keys = np.sort(np.asarray(index.keys))
    return _beside(path, np.asarray(index.get(keys)), keys.tolist())


def lancedb(path: str) -> Rows:
    import lancedb
    import pyarrow as pa

    table = lancedb.connect(path).open_table("things").to_arrow()
    vectors = [one.name for one in table.schema if pa.types.is_fixed_size_list(one.type)]
    return dict(_row(one, "id", vectors) for one in table.to_pylist())


def _of_milvus(client: Any) -> Rows:
    from pymilvus import DataType

    client.load_collection("things")
    fields = client.describe_collection("things")["fields"]
    key = next(one["name"] for one in fields if one.get("is_primary"))
    vectors = [one["name"] for one in fields if one["type"] == DataType.FLOAT_VECTOR]
    sparse = [one["name"] for one in fields if one["type"] == DataType.SPARSE_FLOAT_VECTOR]
    rows = [dict(one) for one in client.query("things", "", ["*"], limit=100, consistency_level="Strong")]
    for row in rows:
        row |= {name: {"indices": sorted(row[name]), "values": [row[name][one] for one in sorted(row[name])]} for name in sparse}
    return dict(_row(one, key, vectors) for one in rows)


def milvus_lite(path: str) -> Rows:
    from pymilvus import MilvusClient

    return _of_milvus(MilvusClient(path))


def _of_points(points: Any) -> Rows:
    found = {}
    for one in points:
        payload = dict(one.payload or {})
        key = payload.pop("strongroom_id", str(one.id))
        given = one.vector if isinstance(one.vector, dict) else {"": one.vector} if one.vector else {}
        dense = {name or "vector": numbers(its) for name, its in given.items() if isinstance(its, list)}
        sparse = {name: its for name, its in given.items() if not isinstance(its, list)}
        words = {name: {"indices": list(its.indices), "values": list(its.values)} for name, its in sparse.items()}
        found[key] = Found(dense, flat({**payload, **words}))
        found[key].rest.update({name: None for name, value in payload.items() if value is None})
    return found


def qdrant_edge(path: str) -> Rows:
    import qdrant_edge as qdrant

    shard = qdrant.EdgeShard.load(path)
    found, _ = shard.scroll(qdrant.ScrollRequest(limit=100, with_payload=True, with_vector=True))
    rows = _of_points(found)
    shard.close()
    return rows


def qdrant_local(path: str) -> Rows:
    with _qdrant(path) as client:
        found, _ = client.scroll("things", limit=100, with_vectors=True)
    return _of_points(found)


def sqlite_vec(path: str) -> Rows:
    connection = _vec0(path)
    names = [one[1] for one in connection.execute("pragma table_info(things)")]
    (said,) = connection.execute("select sql from sqlite_master where name = 'things'").fetchone()
    kinds = {"float": np.float32, "int8": np.int8}
    vectors = {name: kinds[kind] for name, kind in re.findall(r"(\w+) (float|int8)\[", said)}
    key = re.search(r"(\w+) (?:text|integer) primary key", said)
    names = [name for name in names if name in said]
    rows = connection.execute(f"select {', '.join(names)} from things").fetchall()
    dense = (
        [np.frombuffer(one, vectors[name]) if name in vectors else one for name, one in zip(names, row, strict=True)]
        for row in rows
    )
    assert key is not None
    return _of_tuples(names, dense, key[1], vectors)


# -- servers ----------------------------------------------------------------------------------------------------------------


def chroma_server(address: str) -> Rows:
    raw, where = _chroma(address)
    rows = raw.rows("things", where)
    return _of_chroma(rows.keys(), *zip(*rows.values(), strict=True))


def milvus_server(address: str) -> Rows:
    return _of_milvus(_milvus(address))


_CASTS = {"jsonb": "::text", "real": "::float8"}
"""As text the one is what it was, and the other isn't."""


def pgvector(address: str) -> Rows:
    import psycopg

    types = (
        "SELECT attname, atttypid::regtype::text FROM pg_attribute"
        " WHERE attrelid = 'things'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    keys = "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
    with psycopg.connect(address) as connection:
        kinds = dict(connection.execute(types).fetchall())
        (key,) = connection.execute(f"{keys} WHERE i.indisprimary AND i.indrelid = 'things'::regclass").fetchone()
        vectors = [name for name, kind in kinds.items() if kind in ("vector", "halfvec")]
        asked = ", ".join(
            f'"{name}"::vector::real[]' if name in vectors else f'"{name}"{_CASTS.get(kind, "")}' for name, kind in kinds.items()
        )
        rows = connection.execute(f"SELECT {asked} FROM things").fetchall()
    return _of_tuples(list(kinds), rows, key, vectors)


def redis(address: str) -> Rows:
    client = _redis(address)
    told = client.execute_command("FT.INFO", "things")
    told = dict(zip(told[::2], told[1::2], strict=True))
    kinds = {}
    for one in told[b"attributes"]:
        words = [its.decode() if isinstance(its, bytes) else its for its in one]
        if "VECTOR" in words:
            kinds[words[1]] = np.float16 if "FLOAT16" in words else np.float32
    (prefix,) = dict(zip(told[b"index_definition"][::2], told[b"index_definition"][1::2], strict=True))[b"prefixes"]
    found = {}
    for key in client.scan_iter(prefix + b"*"):
        fields = {name.decode(): value for name, value in client.hgetall(key).items()}
        dense = {name: numbers(np.frombuffer(fields.pop(name), kinds[name])) for name in kinds if name in fields}
        name = key.removeprefix(b"things:").decode()
        found[name] = Found(dense, {name: value.decode() for name, value in fields.items()})
    return found


READ: dict[str, Callable[[str], Rows]] = {
    "chroma": chroma, "duckdb": duckdb, "faiss": faiss, "hnswlib": hnswlib, "lancedb": lancedb, "milvus-lite": milvus_lite,
    "qdrant-edge": qdrant_edge, "sqlite-vec": sqlite_vec, "qdrant-local": qdrant_local, "usearch": usearch,
    "chroma+http": chroma_server, "milvus": milvus_server, "pgvector": pgvector, "redis": redis,
}  # fmt: skip
