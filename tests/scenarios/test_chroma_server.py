"""Does what a Chroma server holds come back, over HTTP alone, whoever writes meanwhile?"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chroma_server import HOME, Server
from tls_front import Front

from strongroom.engines import agreement
from strongroom.engines.chroma.server.connection import Server as Connection
from strongroom.engines.chroma.server.cutover import CutOver
from strongroom.engines.chroma.server.loading import Loading
from strongroom.engines.chroma.server.stage import ServerStage
from strongroom.errors import NotFound, Refused, SourceChanged, Unreachable, Unreadable, WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.model import Status
from strongroom.operations.restore.plan import Rung
from strongroom.operations.verify import Level
from strongroom.repository import Argon2Cost

DIMENSION, ROWS = 16, 200
OTHER = ("default_tenant", "other")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    place = tmp_path_factory.mktemp("chroma")
    started = [Server(place / name) for name in ("source", "target")]
    yield started[0], started[1]
    for server in started:
        server.stop()


@pytest.fixture
def source(servers: tuple[Server, Server]) -> Server:
    servers[0].raw.clear()
    return servers[0]


@pytest.fixture
def target(servers: tuple[Server, Server]) -> Server:
    servers[1].raw.clear()
    return servers[1]


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password="x", cost=Argon2Cost(1, 1, 64))


def vectors(count: int, seed: int = 1) -> list[list[float]]:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32).tolist()


def rows(count: int, seed: int = 1) -> dict[str, Any]:
    metadatas = [None if i % 5 == 0 else {"n": i, "x": i / 3, "even": i % 2 == 0, "tags": ["a", f"é{i}"]} for i in range(count)]
    return {
        "ids": [f"id-{i}" for i in range(count)],
        "embeddings": vectors(count, seed),
        "documents": [None if i % 7 == 0 else f"text {i}\n☃" for i in range(count)],
        "metadatas": metadatas,
        "uris": [f"file:///{i}" if i % 3 == 0 else None for i in range(count)],
    }


def fill(server: Server) -> None:
    raw = server.raw
    raw.ask("POST", "tenants/default_tenant/databases", name="other")
    tuned = {"hnsw": {"space": "ip", "ef_construction": 150, "max_neighbors": 24, "ef_search": 70}}
    raw.make("docs", metadata={"owner": "me", "n": 1, "x": 0.5, "live": True})
    raw.make("people", configuration={"hnsw": {"space": "cosine"}})
    raw.make("empty")
    raw.make("papers", OTHER, configuration=tuned)
    for name, where in (("docs", HOME), ("people", HOME), ("papers", OTHER)):
        raw.do("add", name, where, **rows(ROWS))


def state(server: Server) -> dict[str, Any]:
    """Everything that a user sees."""
    found = {}
    for where in (HOME, OTHER):
        databases = [one["name"] for one in server.raw.ask("GET", "tenants/default_tenant/databases")]
        for name in server.raw.names(where) if where[1] in databases else ():
            said = server.raw.describe(name, where)
            kept = {key: said[key] for key in ("metadata", "configuration_json", "schema", "dimension")}
            found[where[1], name] = (kept, server.raw.rows(name, where))
    return found


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Bit for bit, but for cosine collections: Chroma gives other last bits each time that vectors go through it."""
    assert one.keys() == other.keys()
    for key, (said, held) in one.items():
        assert said == other[key][0]
        assert held.keys() == other[key][1].keys()
        cosine = said["configuration_json"]["hnsw"]["space"] == "cosine"
        for row, (vector, *rest) in held.items():
            came, *others = other[key][1][row]
            assert rest == others
            assert np.allclose(vector, came, rtol=0, atol=1e-6) if cosine else vector == came


def test_everything_comes_back(source: Server, target: Server, room: Strongroom) -> None:
    fill(source)
    record = room.backup(source.url, model="encoder@2").snapshot.manifest
    assert [(one.name, one.count) for one in record.collections] == [
        ("default_tenant/other/papers", ROWS), ("docs", ROWS), ("empty", 0), ("people", ROWS),
    ]  # fmt: skip
    assert all(probe.live and probe.recall > 0.5 for one in record.collections for probe in one.probes)
    missing = {item.item for item in record.ledger if item.status is Status.NOT_CAPTURED}
    assert missing == {"other tenants", "media behind uris"}
    given = {one: np.float32(vector).tolist() for one, vector in zip(rows(ROWS)["ids"], vectors(ROWS), strict=True)}
    for name, where in (("docs", HOME), ("papers", OTHER)):  # as they were given, not only as they came back
        assert {one: row[0] for one, row in source.raw.rows(name, where).items()} == given
    report = room.restore("latest", target.url)
    assert report.plan.rung is Rung.REBUILD
    assert min(report.recall.values()) > 0.5
    same(state(source), state(target))
    assert target.raw.names() == ["docs", "empty", "people"]
    assert room.restore("latest", target.url).already_there
    target.raw.do("update", "docs", ids=["id-1"], documents=["changed"])
    with pytest.raises(Refused):
        room.restore("latest", target.url)
    target.raw.make("unrelated")
    room.restore("latest", target.url, overwrite=True)
    assert target.raw.names() == ["docs", "empty", "people", "unrelated"]
    target.raw.drop("unrelated")
    same(state(source), state(target))


def test_what_chroma_keeps_of_deleted_collections(source: Server, target: Server, room: Strongroom) -> None:
    """Lists in the metadata of a collection that is deleted turn up in the rows of another one."""
    fill(source)
    room.backup(source.url)
    target.raw.make("before")
    tagged = {**rows(2 * ROWS), "metadatas": [{"leftover": ["of", "before"]}] * 2 * ROWS}
    for what in ("before", "again"):
        target.raw.clear()
        target.raw.make(what)
        target.raw.do("add", what, **(tagged if what == "before" else rows(2 * ROWS)))
        held = target.raw.rows(what)
    assert any("leftover" in (row[2] or {}) for row in held.values()), "Chroma has mended this: so can we"
    target.raw.drop("again")
    room.restore("latest", target.url)
    same(state(source), state(target))


def test_verify_needs_no_server(source: Server, room: Strongroom) -> None:
    source.raw.make("docs", configuration={"hnsw": {"space": "cosine"}})
    source.raw.make("empty")
    source.raw.do("add", "docs", **rows(ROWS))
    room.backup(source.url)
    report = room.verify(level=Level.ANSWERS)
    assert report.findings == ()
    assert report.looked_at["rows"] == ROWS
    assert report.looked_at["probes"] >= 30


def test_what_changed_is_all_that_is_stored(source: Server, room: Strongroom) -> None:
    fill(source)
    first = room.backup(source.url).snapshot.manifest
    assert room.backup(source.url).snapshot.manifest.root == first.root
    source.raw.do("update", "docs", ids=["id-2"], documents=["another text"])
    again = room.backup(source.url).snapshot.manifest
    assert again.root != first.root
    assert again.stored_bytes < first.stored_bytes / 3


def test_one_database_and_other_names(source: Server, target: Server, room: Strongroom) -> None:
    fill(source)
    snapshot = room.backup(f"{source.url}/default_tenant/other").snapshot
    assert [one.name for one in snapshot.manifest.collections] == ["papers"]
    target.raw.make("mine")
    room.restore(snapshot.id, target.url, renames={"papers": "copies"})
    assert target.raw.rows("copies") == source.raw.rows("papers", OTHER)
    room.restore(snapshot.id, f"{target.url}/tenant-2/fresh")  # neither is there yet
    assert target.raw.rows("papers", ("tenant-2", "fresh")) == source.raw.rows("papers", OTHER)
    assert target.raw.names() == ["copies", "mine"]
    everything = room.backup(source.url).snapshot
    with pytest.raises(WrongRequest, match="one database"):
        room.restore(everything.id, f"{target.url}/default_tenant/default_database")
    room.restore(everything.id, f"{target.url}/tenant-2/fresh", collections=["docs"], renames={"docs": "papers"}, overwrite=True)
    assert target.raw.rows("papers", ("tenant-2", "fresh")) == source.raw.rows("docs")
    with pytest.raises(NotFound):
        room.backup(f"{source.url}/no-such-tenant")


def test_into_and_out_of_other_engines(source: Server, target: Server, room: Strongroom, tmp_path: Path) -> None:
    """A server, an embedded database, FAISS, and back."""
    fill(source)
    snapshot = room.backup(source.url).snapshot
    embedded = f"chroma://{tmp_path}/db"
    report = room.restore(snapshot.id, embedded)
    assert report.plan.rung is Rung.CONVERT
    room.backup(embedded)
    room.restore("latest", target.url)
    same(state(source), state(target))
    import faiss

    room.restore(snapshot.id, f"faiss://{tmp_path}/x.faiss", collections=["docs"])
    assert faiss.read_index(str(tmp_path / "x.faiss")).ntotal == ROWS
    room.backup(f"faiss://{tmp_path}/x.faiss")
    room.restore("latest", target.url, renames={"x": "from-faiss"})
    held = target.raw.rows("from-faiss")
    assert {one: row[0] for one, row in held.items()} == {one: row[0] for one, row in source.raw.rows("docs").items()}


def test_a_server_that_gives_few_rows_at_a_time(
    source: Server, target: Server, room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may give no more than a quota of rows, or of collections, however many there are, and not say so."""
    fill(source)
    real, most = Connection._ask_once, [70]

    def few(self: Connection, method: str, path: Any, body: Any) -> Any:
        answer = real(self, method, path, {**body, "limit": most[0]} if path[-1] == "get" else body)
        return answer[:1] if method == "GET" and path[-1] == "collections" else answer

    monkeypatch.setattr(Connection, "_ask_once", few)
    record = room.backup(source.url).snapshot.manifest
    assert {one.name: one.count for one in record.collections if one.count} == {
        "default_tenant/other/papers": ROWS, "docs": ROWS, "people": ROWS,
    }  # fmt: skip
    most[0] = 1_000
    room.restore("latest", target.url)
    same(state(source), state(target))
    monkeypatch.setattr(Connection, "rows", lambda self, where, ids, include: iter(()))
    with pytest.raises(Unreadable, match=f"{ROWS} rows, and the server gives 0"):
        room.backup(source.url)


def test_writers_meanwhile(source: Server, target: Server, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody writes without a pause there is no moment to be had, and that is said; after a pause there is one, and no row
    that stays is skipped or told twice, whatever is deleted in front of it."""
    fill(source)
    stop, pause, rounds = threading.Event(), threading.Event(), [0]

    def write() -> None:
        while not stop.is_set():
            if pause.is_set():
                time.sleep(0.01)
                continue
            rounds[0] += 1
            source.raw.do("delete", "docs", ids=[f"id-{rounds[0] % 100}"])
            one = rows(1, rounds[0])
            source.raw.do("upsert", "docs", **{**one, "ids": [f"id-{rounds[0] % 100}"], "metadatas": [{"round": rounds[0]}]})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        monkeypatch.setattr(agreement, "PATIENCE", 0.5)
        with pytest.raises(SourceChanged):
            room.backup(source.url)
        assert not room.snapshots()
        monkeypatch.setattr(agreement, "PATIENCE", 60.0)
        threading.Timer(0.5, pause.set).start()
        snapshot = room.backup(source.url).snapshot
    finally:
        stop.set()
        writer.join()
    assert rounds[0] > 3
    room.restore(snapshot.id, target.url)
    same(state(source), state(target))


def test_a_restore_goes_on_wherever_it_was_killed(
    source: Server, target: Server, room: Strongroom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of loading, before, between and after the renames, and with the old state in place to begin with."""
    fill(source)
    room.backup(source.url)
    renames = [(CutOver, "_rename", at) for at in (2, 5)]
    for overwrite in (False, True):
        for broken, name, at in ((Loading, "add", 3), *renames, (ServerStage, "discard", 1)):
            target.raw.clear()
            if overwrite:
                target.raw.make("docs", metadata={"old": 1})
                target.raw.make("people")
            _kill_at(monkeypatch, broken, name, at, lambda: room.restore("latest", target.url, overwrite=overwrite))  # noqa: B023
            held = [
                one["metadata"] for one in target.raw.ask("GET", "tenants/default_tenant/databases/default_database/collections")
            ]
            assert not overwrite or {"old": 1} in held or name == "discard", "what is replaced stays until all are in place"
            room.restore("latest", target.url, overwrite=overwrite)
            same(state(source), state(target))
            assert target.raw.names() == ["docs", "empty", "people"]


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


def test_a_name_that_is_taken_meanwhile(source: Server, target: Server, room: Strongroom, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(source)
    snapshot = room.backup(source.url).snapshot.id
    real, made = CutOver._move, [False]

    def raced(self: CutOver, move: Any) -> None:
        if move.wanted == "people" and not made[0]:
            made[0] = True
            target.raw.make("people", metadata={"whose": "somebody's"})
        real(self, move)

    monkeypatch.setattr(CutOver, "_move", raced)
    with pytest.raises(Refused, match="somebody made"):
        room.restore(snapshot, target.url)
    assert target.raw.describe("people")["metadata"] == {"whose": "somebody's"}
    ledger = room.backup(target.url).snapshot.manifest.ledger
    assert any(item.item == "collections of restores under way or broken off" for item in ledger)
    target.raw.drop("people")
    room.restore(snapshot, target.url)
    same(state(source), state(target))


def test_secrets_and_bad_urls(source: Server, room: Strongroom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for url in (
        "chroma+http:",
        "chroma+http://",
        "chroma+http://h/a/b/c",
        "chroma+http://h:x",
        "chroma+http://h/a//",
        "chroma+http://h?x=1",
    ):
        with pytest.raises(WrongRequest):
            room.backup(url)
    with pytest.raises(WrongRequest, match="password") as refused:
        room.backup(f"chroma+http://me:opensesame@127.0.0.1:{source.port}")
    assert "opensesame" not in str(refused.value)
    with pytest.raises(Unreachable):
        room.backup("chroma+http://127.0.0.1:1")


def test_by_tls_with_a_token(source: Server, room: Strongroom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(source)
    front = Front(tmp_path, source.port)
    url = f"chroma+https://127.0.0.1:{front.port}"
    try:
        with pytest.raises(Unreachable):  # nobody vouches for the certificate
            room.backup(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(front.certificate))
        (tmp_path / "token").write_text("opensesame\n")
        monkeypatch.setenv("STRONGROOM_CHROMA_TOKEN_FILE", str(tmp_path / "token"))
        record = room.backup(url).snapshot.manifest
        assert (record.engine, record.rows, record.source) == ("chroma+http", 3 * ROWS, url)
        monkeypatch.setenv("STRONGROOM_CHROMA_TOKEN_FILE", str(tmp_path / "nothing"))
        with pytest.raises(NotFound):
            room.backup(url)
    finally:
        front.close()
