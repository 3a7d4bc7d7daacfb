"""Does what Qdrant's client holds come back? Its local mode is real and runs here; of a server there is a stand-in, which shows the
forms of requests and no more."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import PASSWORD, strongroom
from qdrant_client import QdrantClient, models
from qdrant_stand_in import StandIn

from strongroom import engines
from strongroom.engines.qdrant.server import moment
from strongroom.engines.qdrant.server.cutover import CutOver
from strongroom.errors import EngineFailed, Locked, NotFound, Refused, SourceChanged, StrongroomError, Unreadable, WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.model import Status
from strongroom.operations.restore.plan import Rung
from strongroom.operations.verify import Level
from strongroom.repository import Argon2Cost

ROWS, PAGE = 120, 50
HUGE = (1 << 64) - 1


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Strongroom:
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(moment, "_TOGETHER", PAGE)
    return init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    yield server
    server.stop()


def numbers(*shape: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32).tolist()


def point(i: int) -> models.PointStruct:
    vectors: dict[str, Any] = {}
    if i % 7:
        vectors["text"] = numbers(8, seed=i)
    if i % 3:
        vectors["tokens"] = numbers(1 + i % 4, 3, seed=i)
    if i % 4:
        vectors["words"] = models.SparseVector(indices=[i, 5 * i + 7, (1 << 32) - 1], values=numbers(3, seed=i))
    key = {0: str(uuid.UUID(int=i << 40)), 1: i}.get(i % 2, i)
    nested = {"a": [1, None, {"b": "\0☃\U0001f600"}], "when": "2026-02-29T12:00:00Z", "at": {"lon": 13.4, "lat": 52.5}}
    payload = None if i % 9 == 0 else {"n": i, "big": HUGE, "document": f"text {i} é", "uri": None, "x": i / 7, **nested}
    return models.PointStruct(id=key, vector=vectors, payload=payload)


def fill(client: QdrantClient, distance: models.Distance = models.Distance.DOT) -> None:
    made = models.VectorParams(size=8, distance=distance)
    many = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    tokens = models.VectorParams(size=3, distance=models.Distance.DOT, multivector_config=many)
    words = {"words": models.SparseVectorParams(modifier=models.Modifier.IDF)}
    client.create_collection("docs", {"text": made, "tokens": tokens}, words)
    client.create_collection("plain", models.VectorParams(size=5, distance=models.Distance.EUCLID), metadata={"owner": "me"})
    client.create_collection("empty", models.VectorParams(size=5, distance=models.Distance.MANHATTAN))
    client.upsert("docs", [point(i) for i in range(1, ROWS + 1)])
    edges = [models.PointStruct(id=one, vector=numbers(5, seed=9), payload={}) for one in (0, (1 << 63), HUGE)]
    client.upsert("plain", [*edges, *(models.PointStruct(id=i, vector=numbers(5, seed=i)) for i in range(1, 60))])
    client.update_collection_aliases([_alias("live", "docs"), _alias("old", "docs")])


def _alias(name: str, collection: str) -> models.CreateAliasOperation:
    return models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=collection, alias_name=name))


def state(client: QdrantClient) -> dict[str, Any]:
    """Everything that a user sees, by the names that users have."""
    found = {}
    aliases = {one.alias_name: one.collection_name for one in client.get_aliases().aliases}
    real = {one.name for one in client.get_collections().collections}
    for name in {*(one for one in real if ".strongroom-" not in one), *aliases}:
        points, _ = client.scroll(name, limit=10_000, with_vectors=True)
        said = client.get_collection(name).config
        rows = {one.id: (one.vector, one.payload or {}) for one in points}
        found[name] = (said.params.vectors, said.params.sparse_vectors, said.metadata, rows)
    return found


def local(path: Path) -> dict[str, Any]:
    client = QdrantClient(path=str(path))
    try:
        return state(client)
    finally:
        client.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    client = QdrantClient(path=str(tmp_path / "db"))
    fill(client, models.Distance.COSINE)
    client.close()
    return tmp_path / "db"


# -- the local mode, for real --------------------------------------------------------------------------------------------------


def test_a_folder_of_the_local_mode_comes_back(folder: Path, room: Strongroom, tmp_path: Path) -> None:
    report = room.backup(f"qdrant-local://{folder}")
    record = report.snapshot.manifest
    assert [(one.name, one.count) for one in record.collections] == [("docs", ROWS), ("empty", 0), ("plain", 62)]
    assert record.collections[0].catalog.catalog["qdrant"]["aliases"] == ["live", "old"]
    restored = room.restore("latest", f"qdrant-local://{tmp_path}/new")
    assert "docs: 120 rows read back, all columns equal" in restored.checks
    was = local(folder)
    assert len(was["docs"][3]) == ROWS
    assert local(tmp_path / "new") == was
    assert room.restore("latest", f"qdrant-local://{tmp_path}/new").already_there
    again = room.backup(f"qdrant-local://{tmp_path}/new").snapshot.manifest
    assert (again.root, [one.name for one in again.collections]) == (record.root, [one.name for one in record.collections])
    looked = room.verify(report.snapshot.id, level=Level.ANSWERS)
    assert looked.findings == ()
    assert looked.looked_at["probes"] > 0


def test_vectors_are_called_what_they_were_called(room: Strongroom, tmp_path: Path) -> None:
    """Also `vector`, which is the column of the one without a name."""
    two, three = (models.VectorParams(size=size, distance=models.Distance.EUCLID) for size in (2, 3))
    words = models.SparseVector(indices=[1], values=[2.0])
    kinds: list[tuple[Any, Any, dict[str, Any]]] = [
        ({"vector": two}, None, {"vector": [1.0, 2.0]}),
        ({"": two, "vector": three}, None, {"": [1.0, 2.0], "vector": [3.0, 4.0, 5.0]}),
        ({"": two, "id": three}, {"vector": models.SparseVectorParams()}, {"": [1.0, 2.0], "vector": words, "id": [3.0, 4.0, 5.0]}),
    ]
    client = QdrantClient(path=str(tmp_path / "db"))
    for number, (dense, sparse, vectors) in enumerate(kinds):
        client.create_collection(f"c{number}", dense, sparse)
        client.upsert(f"c{number}", [models.PointStruct(id=7, vector=vectors, payload={"n": 1})])
    client.close()
    room.backup(f"qdrant-local://{tmp_path}/db")
    room.restore("latest", f"qdrant-local://{tmp_path}/new")
    assert local(tmp_path / "new") == local(tmp_path / "db")


def test_a_changed_folder_is_replaced_only_if_asked(folder: Path, room: Strongroom, tmp_path: Path) -> None:
    url = f"qdrant-local://{folder}"
    room.backup(url)
    was = local(folder)
    client = QdrantClient(path=str(folder))
    client.delete("docs", models.PointIdsList(points=[1, 3]))
    client.close()
    with pytest.raises(Refused, match="not empty"):
        room.restore("latest", url)
    room.restore("latest", url, overwrite=True)
    assert local(folder) == was
    client = QdrantClient(path=str(folder))
    client.delete("live", models.PointIdsList(points=[5]))
    before = {one.name for one in client.get_collections().collections}
    client.close()
    room.restore("latest", url, overwrite=True)  # by aliases alone, this time
    assert local(folder) == was
    client = QdrantClient(path=str(folder))
    after = {one.name for one in client.get_collections().collections}
    client.close()
    assert len(after) == 3
    assert not after & before


def test_an_alias_of_something_else_is_not_taken(folder: Path, room: Strongroom, tmp_path: Path) -> None:
    room.backup(f"qdrant-local://{folder}")
    client = QdrantClient(path=str(tmp_path / "new"))
    client.create_collection("other", models.VectorParams(size=5, distance=models.Distance.EUCLID))
    client.update_collection_aliases([_alias("live", "other")])
    client.close()
    with pytest.raises(Refused, match="alias live of docs means something else"):
        room.restore("latest", f"qdrant-local://{tmp_path}/new", overwrite=True)
    assert local(tmp_path / "new").keys() == {"other", "live"}
    room.restore("latest", f"qdrant-local://{tmp_path}/new", collections=["docs"], renames={"docs": "copy"})
    assert local(tmp_path / "new").keys() == {"other", "live", "copy"}
    assert local(tmp_path / "new")["copy"][3] == local(folder)["docs"][3]


def test_a_cut_over_that_was_broken_off_is_finished(folder: Path, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"qdrant-local://{folder}"
    room.backup(url)
    was = local(folder)

    class Killed(BaseException):
        pass

    note = CutOver._note
    noted: list[int] = []

    def killed(cut_over: CutOver, switches: Any) -> None:
        note(cut_over, switches)
        noted.append(1)
        if len(noted) == 3:  # the plan, and two collections deleted
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(CutOver, "_note", killed)
        room.restore("latest", url, overwrite=True)
    assert "docs" not in local(folder)
    assert "an interrupted cut-over was finished" in room.restore("latest", url, overwrite=True).checks
    assert local(folder) == was


def test_rows_go_to_qdrant_edge_and_back(folder: Path, room: Strongroom, tmp_path: Path) -> None:
    room.backup(f"qdrant-local://{folder}")
    room.restore("latest", f"qdrant-edge://{tmp_path}/docs", collections=["docs"])
    room.backup(f"qdrant-edge://{tmp_path}/docs")
    room.restore("latest", f"qdrant-local://{tmp_path}/back")
    was, came = local(folder)["docs"], local(tmp_path / "back")["docs"]
    assert came[:2] == (was[0], was[1])
    for key, (vectors, payload) in was[3].items():
        there, kept = came[3][key]
        assert payload == kept
        assert vectors.keys() == there.keys()
        for name, vector in vectors.items():
            if name == "text":  # by Cosine: Qdrant keeps unit vectors
                assert np.allclose(there[name], np.array(vector) / np.linalg.norm(vector), atol=1e-6)
            else:
                assert there[name] == vector


def test_a_folder_that_is_open_or_none_is_refused(folder: Path, room: Strongroom, tmp_path: Path) -> None:
    client = QdrantClient(path=str(folder))
    with pytest.raises(Locked):
        room.backup(f"qdrant-local://{folder}")
    client.close()
    with pytest.raises(NotFound):
        room.backup(f"qdrant-local://{tmp_path}/nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "url",
    [
        "qdrant:",
        "qdrant://",
        "qdrant:///x",
        "qdrant://h/x",
        "qdrant://h:x",
        "qdrant://h?x=1",
        "qdrant://h?node=k",
        "qdrant-local:x",
    ],
)
def test_urls_of_other_forms_are_wrong(url: str) -> None:
    with pytest.raises(WrongRequest):
        engines.source_of(url)


def test_a_secret_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(WrongRequest) as caught:
        engines.source_of("qdrant://:opensesame@h")
    assert "opensesame" not in str(caught.value) + caught.value.hint


# -- what a stand-in of a server shows -----------------------------------------------------------------------------------------


def test_rows_through_requests(stand_in: StandIn, room: Strongroom, tmp_path: Path) -> None:
    fill(stand_in.local)
    stand_in.indexes["docs"] = {"n": "integer", "document": {"type": "text", "tokenizer": "word", "lowercase": True}}
    stand_in.limits["docs"] = {"enabled": True, "max_query_limit": 50}
    was = state(stand_in.local)
    record = room.backup(stand_in.url).snapshot.manifest
    notes = {item.item: (item.status, item.note) for item in record.ledger}
    assert notes["index files"][0] is Status.NOT_CAPTURED
    assert notes["payload indexes"] == (Status.CAPTURED, "document, n")
    target = StandIn(key="opensesame")
    try:
        with pytest.MonkeyPatch.context() as patch:
            with pytest.raises(Refused, match="API key"):
                room.restore("latest", target.url)
            (tmp_path / "key").write_text("opensesame\n")
            patch.setenv("STRONGROOM_QDRANT_API_KEY_FILE", str(tmp_path / "key"))
            report = room.restore("latest", target.url)
        assert report.plan.rung is Rung.REBUILD
        assert "docs: 120 rows read back, all columns equal" in report.checks
        assert state(target.local) == was
        made = next(one for one in target.indexes if one.startswith("docs."))
        assert target.indexes[made] == stand_in.indexes["docs"]
        assert target.limits[made] == stand_in.limits["docs"]
        waits = [query["wait"] for method, path, query in target.asked if path.endswith("/points") and method == "PUT"]
        assert waits
        assert set(waits) == {"true"}
    finally:
        target.stop()


def test_snapshots_of_every_node_are_recovered_with_priority(stand_in: StandIn, room: Strongroom, tmp_path: Path) -> None:
    fill(stand_in.local)
    was = state(stand_in.local)
    url = f"{stand_in.url}?snapshots=yes&node=127.0.0.1:{stand_in.port}"
    record = room.backup(url).snapshot.manifest
    assert stand_in.snapshots == {}  # none is left on the server
    paths = [f"snapshots/{name}/{node}.snapshot" for name in ("docs", "empty", "plain") for node in (0, 1)]
    assert [one.path for one in record.artifacts] == ["catalog.json", *paths]
    target = StandIn()
    try:
        with pytest.raises(Refused, match="lay on 2 nodes"):
            room.restore("latest", target.url)
        report = room.restore("latest", f"{target.url}?snapshots=yes&node=127.0.0.1:{target.port}")
        assert report.plan.rung is Rung.EXACT
        assert "182 rows in 3 collections: read back, equal to the manifest's root" in report.checks
        assert state(target.local) == was
        uploads = [query for _, path, query in target.asked if path.endswith("/snapshots/upload")]
        assert len(uploads) == 6
        assert {(one["priority"], one["wait"]) for one in uploads} == {("snapshot", "true")}
        assert all(len(one["checksum"]) == 64 for one in uploads)
        target.version = "1.21.3"
        with pytest.raises(Refused, match=r"Qdrant 1\.21\.3, and the files are of 1\.20"):
            room.restore("latest", f"{target.url}?snapshots=yes&node=127.0.0.1:{target.port}&node=localhost:1", overwrite=True)
    finally:
        target.stop()
    looked = room.verify("latest", level=Level.RESTORE)
    assert looked.findings == ()


def test_a_snapshot_that_lacks_rows_is_not_put_in_place(stand_in: StandIn, room: Strongroom) -> None:
    fill(stand_in.local)
    room.backup(f"{stand_in.url}?snapshots=yes")
    target = StandIn()
    take = target.take_snapshot

    def short(body: bytes, query: dict[str, str], name: str) -> Any:
        take(body, query, name)
        if name.startswith("plain"):
            target.local.delete(name, models.PointIdsList(points=[HUGE]))
        return True

    try:
        target.take_snapshot = short  # type: ignore[method-assign]
        with pytest.raises(EngineFailed, match="61 points in 'plain' after 62"):
            room.restore("latest", target.url)
        assert not any(one for one in state(target.local))
    finally:
        target.stop()


def test_points_that_are_counted_and_not_shown_make_no_snapshot(
    stand_in: StandIn, room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(stand_in.local)
    count = stand_in.local.count
    monkeypatch.setattr(stand_in.local, "count", lambda name: models.CountResult(count=count(name).count + 1))
    with pytest.raises(Unreadable, match="docs has 121 points, and shows 120"):
        room.backup(stand_in.url)
    assert room.snapshots() == []


def test_a_source_that_never_holds_still_makes_no_snapshot(
    stand_in: StandIn, room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(stand_in.local)
    read, times = moment.read_once, iter(range(1000))

    def written_to(*given: Any, **named: Any) -> Any:
        found = read(*given, **named)
        stand_in.local.upsert("docs", [point(1000 + next(times))])
        return found

    monkeypatch.setattr(moment, "read_once", written_to)
    monkeypatch.setattr("strongroom.engines.agreement.PATIENCE", 0.0)
    with pytest.raises(SourceChanged, match="3 times over"):
        room.backup(stand_in.url)
    assert room.snapshots() == []


def test_it_is_said_to_be_experimental(stand_in: StandIn, room: Strongroom, tmp_path: Path) -> None:
    fill(stand_in.local)
    environment = {"STRONGROOM_REPOSITORY": str(tmp_path / "repo"), "STRONGROOM_STATE_DIR": str(tmp_path / "state")}
    done = strongroom("backup", stand_in.url, env=environment)
    assert done.code == 0, done
    assert "qdrant is experimental" in done.err
    target = StandIn()
    try:
        done = strongroom("restore", "latest", target.url, "--json", env=environment)
        assert done.code == 0, done
        assert "qdrant is experimental" in done.err
        assert "experimental" not in done.out
    finally:
        target.stop()


def test_what_is_wrong_is_one_line(stand_in: StandIn, room: Strongroom) -> None:
    with pytest.raises(StrongroomError) as caught:
        room.backup("qdrant://127.0.0.1:1")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
