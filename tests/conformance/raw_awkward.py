"""What can each engine hold that another one may not? One small collection called `things`, made by the engine's own client.

`MAKE[engine](place, kind)`: `plain` has one vector a row; `more` has several, of other types, which a row may lack, where the
engine has that; `rarer` has columns of many types (LanceDB).
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from raw_engines import _duck, _qdrant, _vec0
from raw_servers import _chroma, _milvus, _redis

WIDE = 8
TEXT_IDS = ["plain", "ünï 😀", str(uuid.UUID(int=7)), "007", str(2**64 - 1), "a'b\"c`d"]
WHOLE_IDS = [0, 1, 7, 2**31, 2**53 + 1, 2**62 + 3]
DOCUMENTS = ["a text", "ünï 😀 \" ' \\", "", None, "two\nlines", "007"]
COUNT = len(TEXT_IDS)
FLAT: list[dict[str, Any]] = [
    {"number": 1, "ratio": 0.5, "flag": True, "word": "ünï 😀", "some": 2**62, "various": 1},
    {"number": -7, "ratio": -2.25, "flag": False, "word": "", "various": "one"},
    {"number": 0, "ratio": 1e300, "flag": True, "word": "007", "various": 1.5},
    {"number": 2**53 + 1, "ratio": 5e-324, "flag": True, "word": "null", "various": True},
    {"number": 5, "ratio": 3.0, "flag": False, "word": '{"a": 1}', "odd name!": "x"},
    {"number": -(2**62), "ratio": 0.1, "flag": True, "word": "' \" \\ \n"},
]
LISTS: list[dict[str, Any]] = [{}, {"tags": ["a", "ü"]}, {"tags": ["b"]}, {"sizes": [1, 2]}, {}, {}]
DEEP: list[dict[str, Any]] = [
    {"nested": {"a": {"b": [1, 2.5, None]}, "ü": "x"}},
    {"mixed": [1, "a", {"b": None}]},
    {"nothing": None},
    {"none": []},
    {"bare": {}},
    {"far": [1e17, 5e-324, 2.0], "widest": 2**64 - 1},
]

RARE: list[dict[str, Any]] = [
    {"huge": 2**64},
    {"huge": -(2**63) - 1, "list of huge": [2**70]},
    {"huge": 10**400},
    {"long": 2**63},
    {"odd number": math.nan, "infinite": -math.inf},
    {"inside": {"of": [math.inf, math.nan]}},
]
"""Numbers that JSON has and many an engine doesn't."""
LONG = [
    '{"digits":0.1234567890123456789}', '{"digits":9007199254740993.0}', '{"list of digits":[-1.00000000000000000001,0.5]}',
    '{"far out":1E+400}', '{"digits":0.10000000000000001}', '{"deep":{"digits":1E-400}}',
]  # fmt: skip
"""Numbers that no double is, one of them apart, as JSON writes them."""


def payloads(*parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for part in parts for key, value in part[row].items()} for row in range(COUNT)]


def vectors(start: int = 3, wide: int = WIDE, dtype: Any = np.float32) -> np.ndarray:
    """None of them is of unit length."""
    return (2 * np.random.default_rng(start).standard_normal((COUNT, wide))).astype(dtype)


def listed(values: np.ndarray, *gaps: int) -> pa.Array:
    """A column of vectors; rows of `gaps` have none."""
    mask = pa.array([row in gaps for row in range(len(values))]) if gaps else None
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1], mask=mask)


def columns() -> dict[str, Any]:
    """A column of each of many types."""
    moment = datetime.datetime(2024, 2, 29, 12, 30, 15)
    return {
        "whole": pa.array([1, 2**62, -5, None, 0, -(2**63)]),
        "small": pa.array([1, -2, 3, 4, 5, 2**15 - 1], pa.int16()),
        "large": pa.array([1, 2**64 - 1, 3, None, 5, 6], pa.uint64()),
        "ratio": pa.array([0.5, 0.1, -2.25, 1e300, 5e-324, None]),
        "odd": pa.array([0.5, math.nan, math.inf, -math.inf, 1.5, None]),
        "narrow": pa.array([0.5, 0.1, -2.25, 1.5, 3.0, None], pa.float32()),
        "flag": pa.array([True, False, True, None, True, False]),
        "words": pa.array(["p", "ü 😀", "", None, "null", "007"]),
        "raw": pa.array([b"\x00\xff", b"a", b"", None, b"b", b"c"]),
        "list": pa.array([[1, 2], [3], [], None, [5], [6]]),
        "nested": pa.array([{"a": 1, "b": "x"}, {"a": 2, "b": None}, None, {"a": None, "b": "ü"}, {"a": 4, "b": ""}, None]),
        "day": pa.array([moment.date(), None, moment.date(), moment.date(), moment.date(), moment.date()]),
        "moment": pa.array([moment, None, moment, moment, moment, moment], pa.timestamp("us")),
        "exact": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-0.01"), None, None, None], pa.decimal128(10, 2)),
    }


def rarer_columns() -> dict[str, Any]:
    """Of types that fewer engines have, and of some inside of others."""
    moment = datetime.datetime(2024, 2, 29, 12, 30, 15, 123456)
    inside = {"day": moment.date(), "raw": b"\x00\xff", "at": moment, "exact": decimal.Decimal("1.50")}
    kinds = [("day", pa.date32()), ("raw", pa.binary()), ("at", pa.timestamp("us")), ("exact", pa.decimal128(9, 2))]
    return {
        "days": pa.array([[moment.date()], None, [], [], [], []], pa.list_(pa.date32())),
        "raws": pa.array([[b"\x00\xff"], None, [], [], [], []], pa.list_(pa.binary())),
        "mixed": pa.array([inside, None, None, None, None, None], pa.struct(kinds)),
        "fixed": pa.array([b"\x00\xff", b"ab", None, b"\x00\x00", b"cd", b"ef"], pa.binary(2)),
        "span": pa.array([datetime.timedelta(days=1, seconds=1.5), None, None, None, None, None], pa.duration("us")),
        "clock": pa.array([moment.time(), None, None, None, None, None], pa.time64("us")),
        "chosen": pa.array(["a", None, "b", "a", "", "b"]).dictionary_encode(),
        "sizes": pa.array([[2**64 - 1], None, [], [], [], []], pa.list_(pa.uint64())),
        "few odds": pa.array([[math.nan, 1.5], None, None, None, None, None], pa.list_(pa.float64(), 2)),
        "chosen numbers": pa.array([7, None, 7, 8, 8, 8]).dictionary_encode(),
        "odds": pa.array([[math.nan, math.inf], None, [], [], [], []], pa.list_(pa.float64())),
    }


# -- embedded ---------------------------------------------------------------------------------------------------------------


def chroma(path: str, kind: str) -> None:
    import chromadb

    hnsw = {"hnsw": {"space": "l2" if kind == "plain" else "cosine"}}
    made = chromadb.PersistentClient(path).create_collection("things", configuration=hnsw, embedding_function=None)
    for row, one in enumerate(payloads(FLAT, LISTS)):
        more = {"documents": [DOCUMENTS[row]]} if DOCUMENTS[row] is not None else {}
        more |= {"uris": [f"file:///ü{row}"]} if row == 1 else {}
        made.add(ids=[TEXT_IDS[row]], embeddings=vectors()[row : row + 1], metadatas=[one], **more)


def duckdb(path: str, kind: str) -> None:
    connection = _duck(path)
    rows = {"id": TEXT_IDS, "embedding": listed(vectors()), "document": DOCUMENTS, **columns()}
    if kind == "more":
        rows = {"id": WHOLE_IDS, "embedding": listed(vectors(), 2), "other": listed(vectors(4, 3), 3), "document": DOCUMENTS}
    rows = pa.table(rows)
    connection.register("given", rows)
    vector = f"embedding::float[{WIDE}] as embedding" + (", other::float[3] as other" if kind == "more" else "")
    replaced = ", ".join(f"{name}" for name in rows.schema.names if name not in ("id", "embedding", "other"))
    key = "varchar" if kind == "plain" else "bigint"
    connection.execute(f"create table things as select id::{key} as id, {vector}, {replaced} from given")
    connection.execute("alter table things alter id set not null; alter table things add primary key (id)")
    metric = "l2sq" if kind == "plain" else "ip"
    connection.execute(f"create index near on things using hnsw (embedding) with (metric = '{metric}')")
    connection.close()


def sidecar(path: str, ids: Any, kind: str) -> None:
    more = columns() if kind == "plain" else {}
    texts = [json.dumps(one, ensure_ascii=False) for one in payloads(FLAT, LISTS, DEEP, RARE)]
    deep = [f"{one[:-1]},{more[1:]}" for one, more in zip(texts, LONG, strict=True)] if kind == "more" else None
    more |= {"payload": deep} if deep else {}
    pq.write_table(pa.table({"id": ids, "document": DOCUMENTS, **more}), Path(path).with_suffix(".parquet"))


def faiss(path: str, kind: str) -> None:
    import faiss

    index = faiss.IndexHNSWFlat(WIDE, 16, faiss.METRIC_L2 if kind == "plain" else faiss.METRIC_INNER_PRODUCT)
    index.add(vectors())
    faiss.write_index(index, path)
    sidecar(path, TEXT_IDS, kind)


def hnswlib(path: str, kind: str) -> None:
    import hnswlib

    index = hnswlib.Index("l2" if kind == "plain" else "cosine", WIDE)
    index.init_index(2 * COUNT, M=8, ef_construction=60)
    index.add_items(vectors(), np.array(WHOLE_IDS, np.uint64), num_threads=1)
    index.save_index(path)
    Path(f"{path}.json").write_text(json.dumps({"space": "l2" if kind == "plain" else "cosine", "dim": WIDE}))
    sidecar(path, WHOLE_IDS, kind)


def usearch(path: str, kind: str) -> None:
    from usearch.index import Index

    index = Index(ndim=WIDE, metric="cos" if kind == "plain" else "l2sq", dtype="f32" if kind == "plain" else "f16")
    index.add(np.array(WHOLE_IDS, np.uint64), vectors(dtype=np.float32 if kind == "plain" else np.float16))
    index.save(path)
    sidecar(path, WHOLE_IDS, kind)


def lancedb(path: str, kind: str) -> None:
    import lancedb

    rows = {"id": pa.array(TEXT_IDS), "vector": listed(vectors()), "document": pa.array(DOCUMENTS), **columns()}
    if kind == "more":
        others = {"half": listed(vectors(4, 4, np.float16), 2), "bytes": listed(np.arange(24, dtype=np.uint8).reshape(6, 4))}
        rows = {"id": pa.array(WHOLE_IDS), "vector": listed(vectors()), **others, "document": pa.array(DOCUMENTS)}
    if kind == "rarer":
        rows = {"id": pa.array(TEXT_IDS), "vector": listed(vectors()), **rarer_columns()}
    table = lancedb.connect(path).create_table("things", pa.table(rows))
    table.create_index("cosine" if kind == "plain" else "l2", index_type="IVF_FLAT", num_partitions=1)


def milvus_lite(path: str, kind: str) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(path)
    milvus_collection(client, several=kind == "more", text=True)
    client.flush("things")


def milvus_collection(client: Any, *, several: bool, text: bool) -> None:
    from pymilvus import CollectionSchema, DataType, FieldSchema

    key = (
        FieldSchema("id", DataType.VARCHAR, is_primary=True, max_length=100)
        if text
        else FieldSchema("id", DataType.INT64, is_primary=True)
    )
    fields = [key, FieldSchema("v", DataType.FLOAT_VECTOR, dim=WIDE), FieldSchema("small", DataType.INT16)]
    fields += (
        [FieldSchema("w", DataType.FLOAT_VECTOR, dim=3), FieldSchema("words", DataType.SPARSE_FLOAT_VECTOR)] if several else []
    )
    client.create_collection("things", schema=CollectionSchema(fields, enable_dynamic_field=True))
    params = client.prepare_index_params()
    params.add_index("v", index_type="HNSW", metric_type="COSINE" if text else "L2", params={"M": 8, "efConstruction": 60})
    if several:
        params.add_index("w", index_type="HNSW", metric_type="IP", params={"M": 8, "efConstruction": 60})
        params.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_index("things", params)
    rows = []
    for row, one in enumerate(payloads(FLAT, LISTS, DEEP)):
        said = {key: value for key, value in one.items() if value is not None}
        document = {"document": DOCUMENTS[row]} if DOCUMENTS[row] is not None else {}
        vector = {
            "v": vectors()[row].tolist(),
            **({"w": vectors(4, 3)[row].tolist(), "words": {row: 0.5, 70_000: 0.25}} if several else {}),
        }
        rows.append({"id": (TEXT_IDS if text else WHOLE_IDS)[row], **vector, "small": row - 2, **said, **document})
    client.insert("things", rows)
    client.load_collection("things")


def points() -> tuple[list[Any], list[dict[str, Any]]]:
    """Ids and payloads as Qdrant has them."""
    ids = [0, 7, 2**64 - 1, str(uuid.UUID(int=7)), 2**53 + 1, str(uuid.UUID(int=2**127))]
    texts = [{"document": text} if text is not None else {} for text in DOCUMENTS]
    return ids, payloads(FLAT, LISTS, DEEP, texts)


def qdrant_edge(path: str, kind: str) -> None:
    import qdrant_edge as qdrant

    Path(path).mkdir()
    size, several = qdrant.EdgeVectorParams, kind == "more"
    dense = {"image": size(size=WIDE, distance=qdrant.Distance.Dot if several else qdrant.Distance.Euclid)}
    sparse = {}
    if several:
        dense["half"] = size(size=4, distance=qdrant.Distance.Cosine, datatype=qdrant.VectorStorageDatatype.Float16)
        sparse = {"words": qdrant.EdgeSparseVectorParams()}
    shard = qdrant.EdgeShard.create(path, qdrant.EdgeConfig(vectors=dense, **({"sparse_vectors": sparse} if several else {})))
    given = []
    for row, (one, payload) in enumerate(zip(*points(), strict=True)):
        named: dict[str, Any] = {"image": vectors()[row].tolist()}
        if several:
            named |= {"half": vectors(4, 4)[row].tolist(), "words": qdrant.SparseVector([1, 70_000], [0.5, -0.25])}
            named = {} if row == 2 else named
        key = uuid.UUID(one) if isinstance(one, str) else one
        given.append(qdrant.Point(key, named, payload))
    shard.update(qdrant.UpdateOperation.upsert_points(given))
    shard.flush()
    shard.close()


def qdrant_local(path: str, kind: str) -> None:
    from qdrant_client import models

    several = kind == "more"
    dense = {"": models.VectorParams(size=WIDE, distance=models.Distance.COSINE)}
    if several:
        dense = {"image": models.VectorParams(size=WIDE, distance=models.Distance.MANHATTAN)}
        dense["other"] = models.VectorParams(size=3, distance=models.Distance.DOT)
    with _qdrant(path) as client:
        client.create_collection("things", dense if several else dense[""])
        given = []
        for row, (one, payload) in enumerate(zip(*points(), strict=True)):
            named: Any = vectors()[row].tolist()
            if several:
                named = {"image": named, **({} if row == 2 else {"other": vectors(4, 3)[row].tolist()})}
            given.append(models.PointStruct(id=one, vector=named, payload=payload))
        client.upsert("things", given)


def sqlite_vec(path: str, kind: str) -> None:
    connection = _vec0(path)
    vector = f"embedding float[{WIDE}] distance_metric={'l2' if kind == 'plain' else 'cosine'}"
    vector += ", bytes int8[4]" if kind == "more" else ""
    key = "id integer primary key" if kind == "more" else "id text primary key"
    more = "number integer, flag boolean, +document text, +ratio float, +raw blob"
    connection.execute(f"create virtual table things using vec0({key}, {vector}, {more})")
    for row, one in enumerate(FLAT):
        values: list[Any] = [TEXT_IDS[row] if kind == "plain" else WHOLE_IDS[row], vectors()[row].tobytes(), one["number"]]
        values += [one["flag"], DOCUMENTS[row], one["ratio"], b"\x00\xff" * row]
        names = "id, embedding, number, flag, document, ratio, raw"
        if kind == "more":
            names, values = f"{names}, bytes", [*values, np.arange(-row, 4 - row, dtype=np.int8).tobytes()]
        marks = ", ".join("vec_int8(?)" if name == "bytes" else "?" for name in names.split(", "))
        connection.execute(f"insert into things({names}) values ({marks})", values)
    connection.commit()
    connection.close()


# -- servers ----------------------------------------------------------------------------------------------------------------


def chroma_server(address: str, kind: str) -> None:
    raw, where = _chroma(address)
    raw.make("things", where, configuration={"hnsw": {"space": "ip" if kind == "plain" else "cosine"}})
    ids = {"ids": TEXT_IDS, "embeddings": vectors().tolist(), "documents": DOCUMENTS, "metadatas": payloads(FLAT, LISTS)}
    raw.do("add", "things", where, **ids, uris=[None, "file:///ü", *([None] * (COUNT - 2))])


def milvus_server(address: str, kind: str) -> None:
    milvus_collection(_milvus(address), several=False, text=kind == "more")


def pgvector(address: str, kind: str) -> None:
    import psycopg

    key, more = ("uuid", "") if kind == "plain" else ("bigint", ", half halfvec(4), sparse sparsevec(5)")
    types = "whole bigint, small smallint, ratio float8, odd float8, narrow real, flag boolean, words text, raw bytea"
    types += ", tags text[], meta jsonb, day date, moment timestamp, zoned timestamptz, exact numeric, document text"
    with psycopg.connect(address) as connection:
        connection.execute(f"CREATE TABLE things (id {key} PRIMARY KEY, v vector({WIDE}), {types}{more})")
        metric = "l2" if kind == "plain" else "ip"
        connection.execute(f"CREATE INDEX near ON things USING hnsw (v vector_{metric}_ops)")
        made = {name: values.to_pylist() for name, values in columns().items()}
        deep = payloads(FLAT, LISTS, DEEP)
        for row in range(COUNT):
            named = {name: made[name][row] for name in ("whole", "small", "ratio", "odd", "narrow", "flag", "words", "raw")}
            named |= {"id": str(uuid.UUID(int=row + 5)) if kind == "plain" else WHOLE_IDS[row], "v": str(vectors()[row].tolist())}
            named |= {"tags": LISTS[row].get("tags"), "meta": json.dumps(deep[row]), "document": DOCUMENTS[row]}
            named |= {name: made[name][row] for name in ("day", "moment", "exact")} | {"zoned": made["moment"][row]}
            if kind == "more":
                named |= {"half": str(vectors(4, 4)[row].tolist()), "sparse": "{1:0.5,5:-0.25}/5"}
                named |= {"v": None} if row == 2 else {}
            marks = ", ".join(["%s"] * len(named))
            connection.execute(f"INSERT INTO things ({', '.join(named)}) VALUES ({marks})", list(named.values()))


def redis(address: str, kind: str) -> None:
    client = _redis(address)
    vector = f"v VECTOR HNSW 6 TYPE FLOAT32 DIM {WIDE} DISTANCE_METRIC {'L2' if kind == 'plain' else 'COSINE'}"
    half = " half VECTOR HNSW 6 TYPE FLOAT16 DIM 4 DISTANCE_METRIC IP" if kind == "more" else ""
    client.execute_command(*f"FT.CREATE things PREFIX 1 thing- SCHEMA {vector}{half} document TEXT number NUMERIC".split())
    for row, one in enumerate(payloads(FLAT, LISTS)):
        said = {key: value if isinstance(value, str) else json.dumps(value) for key, value in one.items()}
        said |= {"v": vectors()[row].tobytes()} | ({"document": DOCUMENTS[row]} if DOCUMENTS[row] is not None else {})
        if kind == "more":
            said |= {"half": vectors(4, 4, np.float16)[row].tobytes()} if row != 2 else {}
        client.hset(f"thing-{TEXT_IDS[row]}", mapping=said)


MAKE: dict[str, Callable[[str, str], None]] = {
    "chroma": chroma, "duckdb": duckdb, "faiss": faiss, "hnswlib": hnswlib, "lancedb": lancedb, "milvus-lite": milvus_lite,
    "qdrant-edge": qdrant_edge, "sqlite-vec": sqlite_vec, "qdrant-local": qdrant_local, "usearch": usearch,
    "chroma+http": chroma_server, "milvus": milvus_server, "pgvector": pgvector, "redis": redis,
}  # fmt: skip
