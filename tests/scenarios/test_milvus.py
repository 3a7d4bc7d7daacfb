"""Does what a Milvus server holds come back, whoever writes meanwhile, and safely into place?"""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import COMMAND
from commands import Place as Pristine
from milvus_server import Milvus
from pymilvus import CollectionSchema, DataType, FieldSchema, MilvusClient
from tls_front import certificate

from strongroom import engines
from strongroom.engines import agreement
from strongroom.engines.milvus import moment, reading
from strongroom.engines.milvus.cutover import CutOver
from strongroom.engines.milvus.loading import Loading
from strongroom.engines.milvus.place import Place
from strongroom.engines.milvus.stage import ServerStage
from strongroom.errors import EngineFailed, NotFound, Refused, SourceChanged, Unreachable, Unreadable, WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.model import ROLE, Status
from strongroom.operations.restore.plan import Rung
from strongroom.operations.verify import Level
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost

DIMENSION, ROWS = 16, 300
ODD = [
    'a"b',
    "a'b",
    "a\\b",
    "ü€😀",
    "a\nb",
    "a\tb",
    "%",
    "_",
    "a\x01b",
    "a\x00b",
    "\u2028",
    'a\\"b',
    "{x}",
    "",
    " ",
    "\\",
    '"',
    "z" * 200,
]
ID = FieldSchema("id", DataType.INT64, is_primary=True)
VECTOR = FieldSchema("v", DataType.FLOAT_VECTOR, dim=DIMENSION)
HNSW = {"index_type": "HNSW", "metric_type": "COSINE", "params": {"M": 8, "efConstruction": 64}}
FLAT = {"index_type": "FLAT", "metric_type": "L2", "params": {}}


class Database:
    """A database of the test's own, as its users know it."""

    made = 0

    def __init__(self, server: Milvus) -> None:
        Database.made += 1
        self.name = f"db{Database.made}"
        MilvusClient(uri=server.uri).create_database(self.name)
        self.client = MilvusClient(uri=server.uri, db_name=self.name)
        self.uri = server.uri
        self.url = f"{server.url}/{self.name}"

    def make(self, name: str, fields: list[FieldSchema], index: dict[str, Any] | None, on: str = "v", **more: Any) -> None:
        shards = {key: more.pop(key) for key in ("num_partitions", "consistency_level") if key in more}
        self.client.create_collection(name, schema=CollectionSchema(fields, **more), **shards)
        if index is not None:
            params = self.client.prepare_index_params()
            params.add_index(on, index_name=f"of_{on}", **index)
            self.client.create_index(name, params)
            self.client.load_collection(name)

    def rows(self, name: str, partition: str) -> list[dict[str, Any]]:
        found = self.client.query(
            name, "", ["*"], limit=16_384, partition_names=[partition] if partition else None, consistency_level="Strong"
        )
        return [dict(one) for one in found]

    def state(self) -> dict[str, Any]:
        """Everything that a user sees."""
        found = {}
        for name in self.client.list_collections():
            said = self.client.describe_collection(name)
            gone = ("collection_id", "created_timestamp", "collection_name", "auto_id")
            kept = {key: value for key, value in said.items() if key not in gone}
            kept["fields"] = [{k: v for k, v in one.items() if k not in ("field_id", "auto_id")} for one in said["fields"]]
            counts = ("total_rows", "indexed_rows", "pending_index_rows")
            indexes = [self.client.describe_index(name, one) for one in self.client.list_indexes(name)]
            kept["indexes"] = [{k: v for k, v in one.items() if k not in counts} for one in indexes]
            kept["load"] = str(self.client.get_load_state(name)["state"])
            readable = bool(indexes) and "NotLoad" not in kept["load"]
            kept["partitions"] = partitions = sorted(self.client.list_partitions(name))
            named = ("",) if len(partitions) > 3 else partitions
            found[name] = (kept, {one: self.rows(name, one) if readable else None for one in named})
        return found


@pytest.fixture
def source(milvus: Milvus) -> Database:
    return Database(milvus)


@pytest.fixture
def target(milvus: Milvus) -> Database:
    return Database(milvus)


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))


def vectors(count: int, seed: int = 1) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.standard_normal((count, DIMENSION)) * draw.lognormal(0, 2, (count, 1))).astype(np.float32)


def fill(database: Database) -> None:
    client = database.client
    every = [
        ID, VECTOR,
        FieldSchema("text", DataType.VARCHAR, max_length=500, description="what was said"),
        FieldSchema("flag", DataType.BOOL), FieldSchema("tiny", DataType.INT8), FieldSchema("small", DataType.INT16),
        FieldSchema("whole", DataType.INT32), FieldSchema("long", DataType.INT64), FieldSchema("single", DataType.FLOAT),
        FieldSchema("exact", DataType.DOUBLE), FieldSchema("said", DataType.JSON),
        FieldSchema("list", DataType.ARRAY, element_type=DataType.INT64, max_capacity=8),
        FieldSchema("words", DataType.ARRAY, element_type=DataType.VARCHAR, max_length=40, max_capacity=8),
        FieldSchema("parts", DataType.ARRAY, element_type=DataType.FLOAT, max_capacity=8),
    ]  # fmt: skip
    database.make("docs", every, HNSW, enable_dynamic_field=True, description="all kinds", consistency_level="Strong")
    client.alter_collection_properties("docs", {"collection.ttl.seconds": "864000000"})
    client.create_partition("docs", "old")
    client.create_partition("docs", "unused")
    client.create_alias("docs", "current")
    for start, partition in ((0, "_default"), (ROWS // 2, "old")):
        found = zip(range(start, start + ROWS // 2), vectors(ROWS)[start : start + ROWS // 2], strict=True)
        client.insert("docs", [row(number, vector) for number, vector in found], partition_name=partition)
    client.delete("docs", ids=[key(3), key(ROWS - 3)])
    client.upsert("docs", [row(5, vectors(1, 9)[0])])
    bits = {"index_type": "BIN_IVF_FLAT", "metric_type": "JACCARD", "params": {"nlist": 4}}
    database.make("bits", [ID, FieldSchema("b", DataType.BINARY_VECTOR, dim=24)], bits, "b")
    client.insert("bits", [{"id": number, "b": bytes([number, 255 - number, 7])} for number in range(50)])
    place = FieldSchema("town", DataType.VARCHAR, max_length=40, is_partition_key=True)
    database.make("keyed", [ID, VECTOR, place], FLAT, num_partitions=4)
    client.insert("keyed", [{"id": i, "v": one, "town": f"town {i % 7}"} for i, one in enumerate(vectors(60, 3))])
    database.make("auto", [FieldSchema("id", DataType.INT64, is_primary=True, auto_id=True), VECTOR], FLAT)
    client.insert("auto", [{"v": one} for one in vectors(20, 4)])
    client.release_collection("auto")
    database.make("empty", [ID, VECTOR], None)


def key(number: int) -> int:
    """Beyond what a float64 tells apart; some are negative, one the least there is."""
    return -(1 << 63) if number == 0 else ((1 << 60) + number) * (-1 if number % 5 == 0 else 1)


def row(number: int, vector: np.ndarray) -> dict[str, Any]:
    return {
        "id": key(number), "v": vector, "text": f"text {number} “☃”\n'\"\\", "flag": number % 3 == 0,
        "tiny": number % 256 - 128, "small": -number, "whole": number * 1000, "long": (1 << 62) + number, "single": number / 3,
        "exact": number / 7, "said": {"n": number, "deep": [1, {"x": None, "é": 0.1}]}, "list": list(range(number % 4)),
        "words": [f"é{number}", ""], "parts": [number / 3], "loose": number if number % 2 else f"é {number}", "uri": f"file:///{number}",
        **({"document": f"document {number}"} if number % 3 else {}),
    }  # fmt: skip


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, (said, held) in one.items():
        assert said == other[name][0], name
        assert held.keys() == other[name][1].keys()
        for partition, rows in held.items():
            assert rows == other[name][1][partition], (name, partition)


def test_everything_comes_back(source: Database, target: Database, room: Strongroom) -> None:
    fill(source)
    before = source.state()
    record = room.backup(source.url, model="encoder@2").snapshot.manifest
    assert source.state() == before, "what wasn't loaded isn't loaded now"
    counts = {one.name: one.count for one in record.collections}
    assert counts == {"docs": ROWS - 2, "bits": 50, "keyed": 60, "auto": 20, "empty": 0}
    assert all(probe.live and probe.recall > 0.5 for one in record.collections for probe in one.probes)
    ledger = {item.item: item for item in record.ledger}
    missing = {name for name, item in ledger.items() if item.status is Status.NOT_CAPTURED}
    assert missing == {"replicas, resource groups, quotas", "bits: answers of b"}
    assert ledger["passwords"].status is ledger["index files"].status is Status.NOT_OFFERED
    report = room.restore("latest", target.url)
    assert report.plan.rung is Rung.REBUILD
    assert "auto: ids stay what they are, so Milvus won't make them any more (auto_id is off)" in report.plan.losses
    assert "docs: rows expire by their TTL from the restore on" in report.plan.losses
    assert sum("all columns equal" in check for check in report.checks) == len(counts), report.checks
    assert min(report.recall.values()) > 0.5
    after = target.state()
    target.client.load_collection("auto")
    source.client.load_collection("auto")
    assert target.rows("auto", "_default") == source.rows("auto", "_default")
    same(after, before)
    given = {key(number): vector.tobytes() for number, vector in enumerate(vectors(ROWS)) if number not in (3, 5, ROWS - 3)}
    came = {one["id"]: np.asarray(one["v"], np.float32).tobytes() for part in after["docs"][1].values() for one in part}
    assert {one: came[one] for one in given} == given  # as they were given, not only as they came back
    assert room.restore("latest", target.url).already_there


@pytest.mark.soak
def test_verify_uses_a_database_of_its_own(
    source: Database, room: Strongroom, milvus: Milvus, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(source)
    room.backup(source.url)
    assert "only looked at" in str(room.verify("latest", level=Level.RESTORE).findings)
    monkeypatch.setenv("STRONGROOM_MILVUS_SCRATCH", milvus.url)
    verified = room.verify("latest", level=Level.ANSWERS)
    assert not verified.findings, verified.findings
    assert verified.looked_at["rows"] == 40
    assert not [one for one in source.client.list_databases() if one.startswith("strongroom")]


@pytest.mark.soak
def test_a_key_a_page(source: Database, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key is where a page begins, whatever is in it."""
    monkeypatch.setattr(reading, "_MOST_ROWS", 1)
    whole = [-(1 << 63), 1 - (1 << 63), -1, 0, 1, (1 << 53) + 1, (1 << 53) + 2, (1 << 63) - 2]
    text_key = FieldSchema("name", DataType.VARCHAR, is_primary=True, max_length=400)
    tuned = {"index_type": "IVF_FLAT", "metric_type": "L2", "params": {"nlist": 4}}
    for name, key_field, keys in (("names", text_key, ODD), ("numbers", ID, whole)):
        source.make(name, [key_field, FieldSchema("v", DataType.FLOAT_VECTOR, dim=2)], tuned)
        source.client.insert(name, [{key_field.name: one, "v": [number, 1]} for number, one in enumerate(keys)])
        with engines.source_of(source.url).freeze(SILENT) as frozen:
            found = [one for block in frozen.rows(name) for one in block.batch.to_pylist()]
        assert [one[key_field.name] for one in found] == sorted(keys, key=lambda one: one.encode() if isinstance(one, str) else one)
        assert all(keys[int(one["v"][0])] == one[key_field.name] for one in found)
        source.client.drop_collection(name)


def small(database: Database, count: int = 40, seed: int = 1, name: str = "docs") -> None:
    """One collection, with an alias and a partition."""
    database.make(name, [ID, VECTOR], FLAT, enable_dynamic_field=True, description=f"seed {seed}")
    database.client.create_partition(name, "old")
    for partition, start in (("_default", 0), ("old", count // 2)):
        found = zip(range(start, start + count // 2), vectors(count, seed)[start:], strict=False)
        database.client.insert(name, [{"id": i, "v": one, "n": i} for i, one in found], partition_name=partition)


@pytest.mark.soak
def test_what_stands_there_stays_until_the_new_is_in_place(
    source: Database, target: Database, room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(source)
    source.client.create_alias("docs", "current")
    room.backup(source.url)
    wanted = source.state()
    small(target, seed=2)
    target.client.create_alias("docs", "mine")
    old = target.state()
    with pytest.raises(Refused, match="not empty"):
        room.restore("latest", target.url)
    kills = ((Loading, "_insert", 1), (CutOver, "_rename", 1), (CutOver, "_rename", 2), (CutOver, "_rename", 2))
    for broken, name, at in (*kills, (ServerStage, "discard", 1)):
        _kill_at(monkeypatch, broken, name, at, lambda: room.restore("latest", target.url, overwrite=True))
        held = {one: said["description"] for one, (said, _) in target.state().items()}
        assert "seed 2" in held.values() or name == "discard", "what is replaced stays until all is in place"
        if at == 1 and name != "discard":
            assert target.state()["docs"] == old["docs"]
    room.restore("latest", target.url, overwrite=True)
    same(target.state(), wanted)
    assert room.restore("latest", target.url).already_there
    target.client.delete("docs", ids=[1])
    small(target, seed=3, name="other")
    target.client.alter_alias("other", "current")
    with pytest.raises(Refused):
        room.restore("latest", target.url)
    report = room.restore("latest", target.url, overwrite=True)
    assert "docs: the alias current stays that of other" in report.plan.losses
    assert target.client.describe_collection("current")["description"] == "seed 3"
    assert target.state()["docs"][1] == wanted["docs"][1]
    room.restore("latest", target.url, collections=["docs"], renames={"docs": "copy"})
    assert target.state()["copy"][1] == wanted["docs"][1]
    with pytest.raises(WrongRequest, match="letters, digits"):
        room.restore("latest", target.url, collections=["docs"], renames={"docs": "no-name"})
    with pytest.raises(Refused, match="is an alias of other"):
        room.restore("latest", target.url, collections=["docs"], renames={"docs": "current"}, overwrite=True)


def _kill_at(patch: pytest.MonkeyPatch, owner: type, name: str, at: int, run: Any) -> None:
    """Die at the n-th call of a method: before it (odd n) or after it (even n)."""
    real, calls = getattr(owner, name), [0]

    def dying(self: Any, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == (at + 1) // 2 and at % 2:
            raise KeyboardInterrupt
        answer = real(self, *arguments, **options)
        if calls[0] == (at + 1) // 2:
            raise KeyboardInterrupt
        return answer

    with patch.context() as changed:
        changed.setattr(owner, name, dying)
        with pytest.raises(KeyboardInterrupt):
            run()


@pytest.mark.soak
def test_a_restore_that_was_killed_goes_on(source: Database, target: Database, room: Strongroom, tmp_path: Path) -> None:
    """By SIGKILL, while it loads."""
    small(source, 20_000)
    room.backup(source.url)
    environment = {**os.environ, "STRONGROOM_REPOSITORY": str(tmp_path / "repo"), "STRONGROOM_PASSWORD": "x"}
    killed = subprocess.Popen([COMMAND, "restore", "latest", target.url, "--quiet"], env=environment)
    while not any(one.startswith("strongroom_") for one in target.client.list_collections()):
        assert killed.poll() is None
    killed.kill()
    killed.wait()
    assert "docs" not in target.client.list_collections()
    subprocess.run([COMMAND, "restore", "latest", target.url, "--quiet"], env=environment, check=True)
    assert target.client.list_collections() == ["docs"]
    assert target.rows("docs", "old") == source.rows("docs", "old")
    assert target.rows("docs", "_default") == source.rows("docs", "_default")


def test_a_name_that_is_taken_meanwhile(
    source: Database, target: Database, room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(source)
    room.backup(source.url)
    publish = ServerStage.publish

    def late(stage: ServerStage, receipt: bytes, *, overwrite: bool) -> None:
        target.make("docs", [ID, VECTOR], None, description="somebody's")
        publish(stage, receipt, overwrite=overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(ServerStage, "publish", late)
        with pytest.raises(Refused, match="already there"):
            room.restore("latest", target.url)
    assert target.client.describe_collection("docs")["description"] == "somebody's"


def test_writers_meanwhile(source: Database, target: Database, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody writes without a pause there is no moment to be had, and that is said. What is backed up between two bursts is
    one of the states that the writer knows: no row skipped, none told twice, whatever comes and goes before and behind the page."""
    small(source, 200)
    monkeypatch.setattr(reading, "_MOST_ROWS", 16)
    stop, pause = threading.Event(), threading.Event()
    now = {one["id"]: one["n"] for part in source.state()["docs"][1].values() for one in part}
    known = [dict(now)]

    def write() -> None:
        writer, turn = MilvusClient(uri=source.uri, db_name=source.name), 0
        while not stop.is_set():
            turn += 1
            if pause.is_set() and turn % 40 == 0:
                stop.wait(4)
            if turn % 3:
                one = turn * 7919 % 400
                writer.upsert("docs", [{"id": one, "v": vectors(1, turn)[0], "n": 1000 + turn}], partition_name="_default")
                now[one] = 1000 + turn
            else:
                one = min(now)
                writer.delete("docs", ids=[one])
                del now[one]
            known.append(dict(now))

    with_all = source.client.query("docs", "", ["id"], partition_names=["old"], limit=999)
    source.client.delete("docs", ids=[one["id"] for one in with_all])
    now = {one: n for one, n in now.items() if one not in {its["id"] for its in with_all}}
    known[:] = [dict(now)]
    writer = threading.Thread(target=write)
    writer.start()
    try:
        monkeypatch.setattr(agreement, "PATIENCE", 0.5)
        with pytest.raises(SourceChanged):
            room.backup(source.url)
        assert not room.snapshots()
        monkeypatch.setattr(agreement, "PATIENCE", 90.0)
        pause.set()
        snapshot = room.backup(source.url).snapshot
    finally:
        stop.set()
        writer.join()
    assert len(known) > 50
    room.restore(snapshot.id, target.url)
    came = [one for part in target.state()["docs"][1].values() for one in part]
    assert len({one["id"] for one in came}) == len(came)
    assert {one["id"]: one["n"] for one in came} in known


@pytest.mark.soak
def test_what_is_dropped_and_made_meanwhile(source: Database, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading in which a collection was listed and then not there isn't one of anything."""
    small(source)
    small(source, name="goes")
    real, turn = moment.read_once, [0]

    def raced(*given: Any, **more: Any) -> Any:
        turn[0] += 1
        if turn[0] == 2:
            source.client.drop_collection("goes")
            small(source, name="comes")
        return real(*given, **more)

    monkeypatch.setattr(moment, "read_once", raced)
    record = room.backup(source.url).snapshot.manifest
    assert [(one.name, one.count) for one in record.collections] == [("comes", 40), ("docs", 40)]
    assert turn[0] == 4


def test_what_cant_be_read_is_said_and_what_isnt_loaded_is(source: Database, target: Database, room: Strongroom) -> None:
    small(source)
    source.client.release_partitions("docs", ["old"])
    source.client.insert("docs", [{"id": 1, "v": [0] * DIMENSION, "n": -1}])  # another entity of that id
    before = [str(source.client.get_load_state("docs", partition_name=one)["state"]) for one in ("_default", "old")]
    record = room.backup(source.url).snapshot.manifest
    assert [str(source.client.get_load_state("docs", partition_name=one)["state"]) for one in ("_default", "old")] == before
    assert (record.collections[0].count, len(set(before))) == (40, 2)
    assert any(item.item == "docs: 1 more entities" and item.status is Status.NOT_OFFERED for item in record.ledger)
    source.make("bare", [ID, VECTOR], None)
    source.client.insert("bare", [{"id": 1, "v": [1] * DIMENSION}])
    with pytest.raises(Unreadable, match="bare has 1 rows and no index"):
        room.backup(source.url)


@pytest.mark.soak
def test_into_and_out_of_other_engines(
    source: Database, target: Database, room: Strongroom, tmp_path: Path, pristine: Pristine
) -> None:
    index = f"faiss:{pristine.source.partition(':')[2]}"
    first = room.backup(index).snapshot
    name = first.manifest.collections[0].name
    report = room.restore(first.id, target.url, renames={name: "things"}, collections=[name])
    assert (report.plan.rung, min(report.recall.values()) > 0.5) == (Rung.CONVERT, True)
    back = room.backup(target.url).snapshot
    room.restore(back.id, f"faiss://{tmp_path}/things.faiss")
    again = room.backup(f"faiss://{tmp_path}/things.faiss").snapshot
    assert [one.count for one in again.manifest.collections] == [one.count for one in first.manifest.collections]
    assert vectors_by_id(pristine.source) == vectors_by_id(f"faiss://{tmp_path}/things.faiss")
    fields = [ID, VECTOR, FieldSchema("text", DataType.VARCHAR, max_length=50)]
    source.make("docs", fields, FLAT, enable_dynamic_field=True)
    source.client.insert("docs", [{"id": key(i), "v": one, "text": f"é{i}", "n": i} for i, one in enumerate(vectors(30))])
    room.backup(source.url)
    room.restore("latest", f"milvus-lite://{tmp_path}/notes.db")
    room.backup(f"milvus-lite://{tmp_path}/notes.db")
    report = room.restore("latest", target.url)
    assert target.state()["docs"][1] == source.state()["docs"][1]


def vectors_by_id(url: str) -> dict[str, bytes]:
    """By the adapter of an engine that other tests vouch for."""
    found = {}
    with engines.source_of(url).freeze(SILENT) as frozen:
        for block in frozen.rows(frozen.description.collections[0].name):
            batch = block.live()
            roles = [one.metadata[ROLE].decode() for one in batch.schema]
            ids, dense = (batch.column(roles.index(role)).to_pylist() for role in ("id", "vector"))
            found |= {str(one): np.asarray(vector, np.float32).tobytes() for one, vector in zip(ids, dense, strict=True)}
    return found


def test_what_is_too_long_is_refused_and_not_cut(target: Database, room: Strongroom, tmp_path: Path) -> None:
    import lancedb

    made = lancedb.connect(str(tmp_path / "db"))
    made.create_table("wide", [{"id": "a", "vector": [0.5] * 32_769}])
    made.create_table(
        "long", [{"id": "a", "vector": [0.5, 1.0], "document": "x"}, {"id": "b" * 65_536, "vector": [1.0, 2.0], "document": ""}]
    )
    room.backup(f"lancedb://{tmp_path}/db")
    with pytest.raises(WrongRequest, match="32,769 dimensions"):
        room.plan_restore("latest", target.url, collections=["wide"])
    with pytest.raises(EngineFailed, match="length"):
        room.restore("latest", target.url, collections=["long"])
    assert "long" not in target.client.list_collections()


def test_names_in_a_database_where_a_restore_is_only_looked_at() -> None:
    """It has the collections of all databases."""
    scratch = Place.parse("milvus://host/strongroom_scratch_0123456789ab")
    for name in ("docs", "other/docs"):
        assert scratch.named(*scratch.address(name)) == name


def test_secrets_and_bad_urls(milvus: Milvus, room: Strongroom) -> None:
    for url in ("milvus:", "milvus://", "milvus://h/a/b", "milvus://h:x", "milvus://h?x=1", "milvus://h/no-name"):
        with pytest.raises(WrongRequest):
            room.backup(url)
    with pytest.raises(WrongRequest, match="password") as refused:
        room.backup(f"milvus://me:opensesame@127.0.0.1:{milvus.port}")
    assert "opensesame" not in str(refused.value)
    with pytest.raises(Unreachable):
        room.backup("milvus://127.0.0.1:1")
    with pytest.raises(NotFound, match="no such database"):
        room.backup(f"{milvus.url}/nowhere")


@pytest.mark.soak
def test_users_roles_and_grants(room: Strongroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Milvus(tmp_path / "milvus", users=True)
    try:
        root = MilvusClient(uri=server.uri, user="root", password="Milvus")
        root.create_user("reader", "opensesame")
        root.create_role("readers")
        root.grant_role("reader", "readers")
        root.grant_privilege("readers", "Collection", "Search", "docs")
        root.create_collection("docs", dimension=4)
        with pytest.raises(Refused):
            room.backup(server.url)
        (tmp_path / "token").write_text("Milvus\n")
        monkeypatch.setenv("STRONGROOM_MILVUS_TOKEN_FILE", str(tmp_path / "token"))
        url = server.url.replace("//", "//root@")
        catalog = room.backup(url).snapshot.manifest.catalog
        assert catalog["users"] == ["reader", "root"]
        assert catalog["roles"]["readers"]["users"] == ["reader"]
        assert "docs" in str(catalog["roles"]["readers"]["grants"])
        monkeypatch.setenv("STRONGROOM_MILVUS_TOKEN", "wrong")
        with pytest.raises(Refused) as refused:
            room.backup(url)
        assert "wrong" not in str(refused.value)
    finally:
        server.stop()


@pytest.mark.soak
def test_by_tls(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    server = Milvus(tmp_path / "milvus", certificate=made)
    try:
        trusting = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(made[0])}
        url = server.url.replace("milvus:", "milvus+https:")
        client = MilvusClient(uri=f"https://127.0.0.1:{server.port}", server_pem_path=str(made[0]), server_name="127.0.0.1")
        client.create_collection("docs", dimension=4)
        client.insert("docs", [{"id": 1, "vector": [1, 2, 3, 4]}])
        environment = {**os.environ, "STRONGROOM_REPOSITORY": str(tmp_path / "repo"), "STRONGROOM_PASSWORD": "x"}

        def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([COMMAND, *words], env={**environment, **more}, capture_output=True, text=True)

        assert run("init").returncode == 0
        untrusted = run("backup", url)
        assert untrusted.returncode == 1
        assert not any("Traceback" in one for one in (untrusted.stdout, untrusted.stderr))
        done = run("backup", url, **trusting)
        assert done.returncode == 0, done.stderr
        assert "1 row" in done.stdout + done.stderr
    finally:
        server.stop()


@pytest.mark.soak
def test_many_segments(source: Database, target: Database, room: Strongroom) -> None:
    """Sealed and growing ones, with rows deleted and put again across them, and more pages than one."""
    source.make("docs", [ID, VECTOR], HNSW)
    draw, now = np.random.default_rng(1), {}
    for turn in range(6):
        ids = draw.choice(60_000, 8_000, replace=False)
        given = vectors(len(ids), turn)
        for start in range(0, len(ids), 2_000):
            rows = [{"id": int(i), "v": one} for i, one in zip(ids[start : start + 2000], given[start:], strict=False)]
            source.client.upsert("docs", rows)
        now |= {int(i): one.tobytes() for i, one in zip(ids, given, strict=True)}
        gone = draw.choice(sorted(now), 1_000, replace=False).tolist()
        source.client.delete("docs", ids=gone)
        now = {i: one for i, one in now.items() if i not in set(gone)}
        if turn < 4:
            source.client.flush("docs")
    room.backup(source.url)
    room.restore("latest", target.url)
    with engines.source_of(target.url).freeze(SILENT) as frozen:
        came = {}
        for block in frozen.rows("docs"):
            came |= dict(zip(*(block.batch.column(one).to_pylist() for one in ("id", "v")), strict=True))
    assert {i: np.asarray(one, np.float32).tobytes() for i, one in came.items()} == now
