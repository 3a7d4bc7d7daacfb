"""Does every store keep the same promises? One suite over a local directory, memory, a real S3 server and Azure's emulator.

Seeded and inspected with plain files and the raw client, so that a store can't vouch for itself.
"""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

import obstore
import pytest
from commands import PASSWORD, Place, build_index, strongroom
from seaweed import SeaweedFS

from strongroom.errors import AlreadyExists, NotFound, StoreDenied, StrongroomError, Unreachable, UnsafeStore, WrongRequest
from strongroom.library import init_repository, open_repository
from strongroom.repository import Argon2Cost, open_store
from strongroom.repository.local_store import LocalStore
from strongroom.repository.object_store import Objects
from strongroom.repository.store import Store, require_conditional_create

CHEAP = Argon2Cost(1, 1, 64)
NUMBERS = itertools.count()


@dataclass(frozen=True)
class Kept:
    """A store under test, and how to look behind it."""

    store: Store
    put: Callable[[str, bytes], object]
    get: Callable[[str], bytes]
    names: Callable[[], set[str]]


def kept_locally(folder: Path) -> Kept:
    def put(name: str, content: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    def names() -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    return Kept(open_store(str(folder)), put, lambda name: (folder / name).read_bytes(), names)


def kept_in(raw: Any, store: Store) -> Kept:
    return Kept(
        store,
        lambda name, content: obstore.put(raw, name, content),
        lambda name: bytes(obstore.get(raw, name).bytes()),
        lambda: {item["path"] for chunk in obstore.list(raw) for item in chunk},
    )


@pytest.fixture(params=["local", "memory", "s3", "azure"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """An empty store."""
    if request.param == "local":
        return kept_locally(tmp_path / "objects")
    number = next(NUMBERS)
    if request.param == "memory":
        store = open_store(f"memory://conformance-{number}")
        assert isinstance(store, Objects)
        return kept_in(store._backend, store)
    if request.param == "azure":
        azurite = request.getfixturevalue("azurite")
        azurite.make_container("conformance")
        for name, value in azurite.environment().items():
            monkeypatch.setenv(name, value)
        prefix = f"of many/test-{number}"
        return kept_in(azurite.raw("conformance", prefix), open_store(f"az://conformance/{prefix}"))
    seaweed = request.getfixturevalue("seaweed")
    seaweed.make_bucket("conformance")
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    prefix = f"of many/test-{number}"
    return kept_in(seaweed.raw("conformance", prefix), open_store(f"s3://conformance/{prefix}"))


# -- what every store promises ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 5_000])
@pytest.mark.parametrize("kind", [bytes, memoryview, bytearray])
def test_what_is_created_is_there_and_comes_back(kept: Kept, content: bytes, kind: type) -> None:
    kept.store.create("packs/ab/" + "0" * 64, kind(content))
    assert kept.get("packs/ab/" + "0" * 64) == content
    assert kept.names() == {"packs/ab/" + "0" * 64}
    assert kept.store.read("packs/ab/" + "0" * 64) == content
    assert kept.store.size("packs/ab/" + "0" * 64) == len(content)


def test_nothing_is_ever_overwritten(kept: Kept) -> None:
    kept.put("keys/a", b"first")
    for content in (b"second", b"first", b""):
        with pytest.raises(AlreadyExists):
            kept.store.create("keys/a", content)
    assert kept.get("keys/a") == b"first"
    assert kept.names() == {"keys/a"}


def test_of_eight_that_create_at_once_exactly_one_wins(kept: Kept) -> None:
    contents = [bytes([number]) * (1 + 100_000 * (number % 2)) for number in range(8)]
    for attempt in range(4):
        name, start = f"index/{attempt}", threading.Barrier(8)

        def create(content: bytes, name: str = name, start: threading.Barrier = start) -> bytes | None:
            start.wait()
            try:
                kept.store.create(name, content)
            except AlreadyExists:
                return None
            return content

        with ThreadPoolExecutor(8) as pool:
            winners = [won for won in pool.map(create, contents) if won is not None]
        assert len(winners) == 1
        assert kept.get(name) == winners[0]
    assert kept.names() == {f"index/{attempt}" for attempt in range(4)}


def test_parts_of_an_object(kept: Kept) -> None:
    content = bytes(range(256)) * 40
    kept.put("packs/ab/x", content)
    for offset, length in [(0, 10), (0, None), (5, None), (5, 100), (10_230, 10), (10_239, None), (0, 10_240), (7, 1)]:
        end = None if length is None else offset + length
        assert kept.store.read("packs/ab/x", offset, length) == content[offset:end], (offset, length)


def test_past_the_end_there_is_nothing(kept: Kept) -> None:
    kept.put("packs/ab/x", b"0123456789")
    kept.put("packs/ab/empty", b"")
    assert kept.store.read("packs/ab/x", 8, 100) == b"89"
    assert kept.store.read("packs/ab/x", 0, 100) == b"0123456789"
    for offset, length in [(10, 1), (10, None), (500, 7), (500, None), (3, 0), (500, 0)]:
        assert kept.store.read("packs/ab/x", offset, length) == b"", (offset, length)
    assert kept.store.read("packs/ab/empty", 0, 5) == b""
    assert kept.store.read("packs/ab/empty") == b""


def assert_not_found(store: Store, name: str) -> None:
    for ask in (
        lambda: store.read(name),
        lambda: store.read(name, 0, 4),
        lambda: store.read(name, 4, 4),
        lambda: store.read(name, 4),
        lambda: store.read(name, 4, 0),
        lambda: store.size(name),
    ):
        with pytest.raises(NotFound):
            ask()


@pytest.mark.parametrize("name", ["config", "packs/ab/y", "packs/cd/x", "packs/ab/x/y"])
def test_what_is_missing_is_not_found(kept: Kept, name: str) -> None:
    kept.put("packs/ab/x", b"1")
    assert_not_found(kept.store, name)


def test_a_folder_is_no_object(kept: Kept) -> None:
    kept.put("packs/ab/x", b"1")
    assert_not_found(kept.store, "packs/ab")


def test_a_listing_is_of_one_folder(kept: Kept) -> None:
    for name in ("packs/ab/one", "packs/cd/two", "packs2/ab/three", "config", "index/packs"):
        kept.put(name, name.encode())
    assert {(one.name, one.size) for one in kept.store.list("packs/")} == {("packs/ab/one", 12), ("packs/cd/two", 12)}
    assert [one.name for one in kept.store.list("index/")] == ["index/packs"]
    assert list(kept.store.list("snapshots/")) == []


def test_a_listing_may_begin_after_a_name(kept: Kept) -> None:
    names = ["j/a/1", "j/a/2", "j/a/2~/1", "j/a/3", "j/a/x/1", "j/b/1", "j/c", "k/a/1"]
    for name in names:
        kept.put(name, b"content")
    for after in ["", "j/a/0", "j/a/1", "j/a/15", "j/a/2", "j/a/3", "j/a/9"]:
        expected = {name for name in names if name.startswith("j/a/") and name > after}
        assert {one.name for one in kept.store.list("j/a/", after)} == expected, after
    assert sorted(kept.store.folders("j/")) == ["a", "b"]
    assert sorted(kept.store.folders("j/a/")) == ["2~", "x"]
    assert list(kept.store.folders("none/")) == []


def test_a_long_listing_is_whole(kept: Kept) -> None:
    count = 1_100 if "://conformance" in kept.store.url else 2_600  # one page and a part; two pages and a part
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: kept.put(f"packs/{number % 7}/{number:05}", b"x" * (number % 5)), range(count)))
    listed = {one.name: one.size for one in kept.store.list("packs/")}
    assert listed == {f"packs/{number % 7}/{number:05}": number % 5 for number in range(count)}


def test_deleting_twice_is_deleting_once(kept: Kept) -> None:
    kept.put("keys/a", b"1")
    kept.put("keys/b", b"2")
    kept.store.delete("keys/a")
    assert kept.names() == {"keys/b"}
    kept.store.delete("keys/a")
    kept.store.delete("tombstones/never")
    assert kept.names() == {"keys/b"}
    kept.store.create("keys/a", b"again")
    assert kept.get("keys/a") == b"again"


def test_digits_of_a_name_are_no_answer_of_a_server(kept: Kept) -> None:
    """403, 404 and 412 occur in hashes."""
    for code in ("401", "403", "404", "412", "416", "507"):
        name = f"packs/{code}/status code: {code} (code: AccessDenied)"
        with pytest.raises(NotFound):
            kept.store.read(name)
        kept.store.create(name, b"x")
        assert kept.store.read(name, 1, 5) == b""


def test_conditional_creates_are_proven_without_a_trace(kept: Kept) -> None:
    kept.put("config", b"settings")
    require_conditional_create(kept.store, "config", b"settings")
    assert kept.names() == {"config"}
    assert kept.get("config") == b"settings"


# -- the local store -------------------------------------------------------------------------------------------------------


def test_a_killed_write_leaves_nothing_that_counts(place: Place, tmp_path: Path) -> None:
    packs = next(path.parent for path in (place.repo / "packs").rglob("*") if path.is_file())
    for folder in (packs, place.repo / "snapshots", place.repo / "index", place.repo / "keys"):
        (folder / ".unfinished-0123456789abcdef").write_bytes(b"half a pa")
    assert not [one for prefix in ("packs/", "snapshots/", "index/", "keys/") for one in open_store(str(place.repo)).list(prefix)
                if "unfinished" in one.name]  # fmt: skip
    assert place.run("verify", "--quiet").done()
    assert place.run("backup", place.source).code == 0
    place.assert_whole(tmp_path, count=2)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(StrongroomError):
        store.create("keys/a", b"1")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_objects_are_their_owners_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "repo")
    store.create("keys/a", b"1")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "repo", *(tmp_path / "repo").rglob("*"))}
    assert modes == {"repo": 0o700, "keys": 0o700, "a": 0o600}


def test_a_path_and_its_file_url_are_one_place(tmp_path: Path) -> None:
    folder = tmp_path / "a b%"
    open_store(str(folder)).create("config", b"1")
    assert open_store(folder.as_uri()).read("config") == b"1"


# -- S3 --------------------------------------------------------------------------------------------------------------------


def test_a_whole_bucket_may_be_a_store(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    seaweed.make_bucket("whole")
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    store, raw = open_store("s3://whole"), seaweed.raw("whole")
    store.create("config", b"settings")
    store.create("packs/ab/x", b"1")
    assert bytes(obstore.get(raw, "config").bytes()) == b"settings"
    assert [one.name for one in store.list("packs/")] == ["packs/ab/x"]
    store.delete("config")
    assert {item["path"] for chunk in obstore.list(raw) for item in chunk} == {"packs/ab/x"}


def test_the_whole_job_on_s3(seaweed: SeaweedFS, tmp_path: Path) -> None:
    seaweed.make_bucket("job")
    env: dict[str, str | None] = {**seaweed.environment(), "STRONGROOM_REPOSITORY": "s3://job/backups/main"}
    index = build_index(tmp_path / "x.faiss")
    first = index.read_bytes()
    assert strongroom("init", "--json", env=env).done().json["url"] == "s3://job/backups/main"
    made = strongroom("backup", "--json", "--quiet", f"faiss:{index}", env=env).done().json
    raw = seaweed.raw("job")
    packs = [item["path"] for chunk in obstore.list(raw, prefix="backups/main/packs") for item in chunk]
    build_index(index, seed=7)
    assert strongroom("backup", f"faiss:{index}", "--tag", "state=second", env=env).code == 0

    names = {item["path"] for chunk in obstore.list(raw) for item in chunk}
    assert {name.split("/")[2] for name in names} == {"config", "keys", "packs", "index", "snapshots", "audit"}
    assert all(name.startswith("backups/main/") for name in names)
    assert not any(b"faiss" in bytes(obstore.get(raw, name).bytes()) for name in names)

    listed = strongroom("snapshots", "--json", env=env).done().json
    assert [one["tags"] for one in listed] == [{}, {"state": "second"}]
    for snapshot, content in ((made["id"], first), ("latest", index.read_bytes())):
        target = tmp_path / "out" / f"{snapshot[:6]}.faiss"
        assert strongroom("restore", snapshot, f"faiss:{target}", env=env).code == 0
        assert target.read_bytes() == content
    report = strongroom("verify", "--level", "answers", "--json", "--quiet", env=env).done().json
    assert report["passed"]
    assert report["looked_at"]["snapshots"] == 2
    assert report["looked_at"]["probes"] == 64
    strongroom("init", env=env).failed(1, "is a repository already")
    strongroom("snapshots", env={**env, "STRONGROOM_REPOSITORY": "s3://job/backups/other"}).failed(10)

    for pack in packs:  # those of the first snapshot
        obstore.put(raw, pack, bytes(obstore.get(raw, pack).bytes())[:100])
    short = strongroom("verify", env=env)
    assert (short.code, "truncated" in short.out) == (4, True), short
    strongroom("restore", made["id"], f"faiss:{tmp_path}/short/x.faiss", env=env).failed(4, "truncated", "strongroom verify")


def test_snapshots_on_s3_are_forgotten_pruned_and_repaired(seaweed: SeaweedFS, tmp_path: Path) -> None:
    """The last state is kept whole all the while, and comes back from another repository when its packs are damaged."""
    seaweed.make_bucket("thin")
    env: dict[str, str | None] = {**seaweed.environment(), "STRONGROOM_REPOSITORY": "s3://thin/main"}
    index = tmp_path / "x.faiss"
    strongroom("init", env=env).done()
    for seed in (1, 2, 3):
        build_index(index, seed=seed)
        strongroom("backup", "--quiet", f"faiss:{index}", env=env).done()
    raw, content = seaweed.raw("thin"), index.read_bytes()

    def packs() -> set[str]:
        return {item["path"] for chunk in obstore.list(raw, prefix="main/packs") for item in chunk}

    before = packs()
    told = strongroom("diff", "--json", env=env).done().json
    assert told["collections"]
    forgotten = strongroom("forget", "--keep-last", "1", "--json", env=env).done().json
    assert sum(not one["keep"] for one in forgotten["snapshots"]) == 2
    strongroom("prune", "--quiet", env=env).done()
    assert before <= packs()  # marked, and waiting
    assert strongroom("prune", "--grace", "0", "--json", "--quiet", env=env).done().json["deleted"]["packs"] > 0
    assert before - packs()
    assert strongroom("verify", "--json", "--quiet", env=env).done().json["passed"]

    replica = {**env, "STRONGROOM_REPOSITORY": str(tmp_path / "replica")}
    strongroom("init", env=replica).done()
    strongroom("backup", "--quiet", f"faiss:{index}", env=replica).done()
    for name in packs():
        obstore.put(raw, name, bytes(obstore.get(raw, name).bytes())[:-20])
    assert strongroom("verify", "--quiet", env=env).code == 4
    index.unlink()  # nothing is left of it but what the replica has
    strongroom("verify", "--repair", "--from", str(tmp_path / "replica"), "--quiet", env=env).done()
    strongroom("restore", "latest", f"faiss:{tmp_path}/back/x.faiss", "--quiet", env=env).done()
    assert (tmp_path / "back" / "x.faiss").read_bytes() == content


# -- a store that overwrites in silence ------------------------------------------------------------------------------------


class Overwriting(BaseHTTPRequestHandler):
    """As much of S3 as a repository needs, but If-None-Match is ignored, as by some look-alikes."""

    protocol_version = "HTTP/1.1"

    @property
    def objects(self) -> dict[str, bytes]:
        return self.server.objects  # type: ignore[attr-defined]

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/bucket").strip("/")

    def do_PUT(self) -> None:
        self.objects[self.key] = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.writes.append(self.key)  # type: ignore[attr-defined]
        self._answer(200, b"", ETag='"0"')

    def do_POST(self) -> None:
        """Delete several objects."""
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        names = [unescape(name) for name in re.findall("<Key>(.*?)</Key>", asked)]
        for name in names:
            self.objects.pop(name, None)
        gone = "".join(f"<Deleted><Key>{escape(name)}</Key></Deleted>" for name in names)
        self._answer(200, f"<DeleteResult>{gone}</DeleteResult>".encode())

    def do_GET(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        if "list-type" in asked:
            wanted = asked.get("prefix", [""])[0]
            names = [name for name in sorted(self.objects) if name.startswith(wanted)]
            items = "".join(
                f"<Contents><Key>{name}</Key><Size>{len(self.objects[name])}</Size><ETag>0</ETag>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                for name in names
            )
            self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode())
        elif self.key in self.objects:
            self._answer(200, self.objects[self.key], ETag='"0"', **{"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"})
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Keeping(Overwriting):
    """Lets nobody delete, and says so as S3 does: in an answer of status 200."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        error = "<Error><Key>keys/a</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self._answer(200, f"<DeleteResult>{error}</DeleteResult>".encode())


class Busy(Overwriting):
    """Has no time for anybody until it was asked often enough."""

    def do_PUT(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        if self.server.asked < self.server.patient:  # type: ignore[attr-defined]
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(503, b"<Error><Code>SlowDown</Code></Error>")
        else:
            super().do_PUT()


@contextmanager
def served(handler: type[Overwriting]) -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.objects, server.writes, server.asked, server.patient = {}, [], 0, 0  # type: ignore[attr-defined]
    server.env = {  # type: ignore[attr-defined]
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "x",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}",
        "STRONGROOM_RETRY_SECONDS": "1",
    }
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def overwriting() -> Iterator[Any]:
    with served(Overwriting) as server:
        yield server


def test_a_refused_delete_is_a_matter_of_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Keeping) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        server.objects["keys/a"] = b"1"
        with pytest.raises(StoreDenied, match="keys/a"):
            open_store("s3://bucket").delete("keys/a")
        assert server.objects == {"keys/a": b"1"}


def test_requests_are_repeated_for_as_long_as_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Busy) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        server.patient = math.inf
        with pytest.raises(Unreachable):
            open_store("s3://bucket").create("keys/a", b"1")
        assert server.objects == {}
        assert server.asked > 1
        server.asked, server.patient = 0, server.asked + 2
        monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "60")
        open_store("s3://bucket").create("keys/a", b"1")
        assert server.objects == {"keys/a": b"1"}


def test_a_store_that_overwrites_gets_no_repository(overwriting: Any, pristine: Place) -> None:
    env: dict[str, str | None] = {**overwriting.env, "STRONGROOM_REPOSITORY": "s3://bucket/repo"}
    strongroom("init", env=env).failed(1, "ignores conditional creates", "If-None-Match", "use a store that honours them")
    assert overwriting.objects == {}

    for path in pristine.repo.rglob("*"):  # a repository that was copied there
        if path.is_file():
            overwriting.objects[f"repo/{path.relative_to(pristine.repo)}"] = path.read_bytes()

    def untold(names: Any) -> list[str]:
        """All but entries of the audit log: they are written nevertheless, where nothing is."""
        return [name for name in names if not name.startswith("repo/audit/")]

    before = {name: overwriting.objects[name] for name in untold(overwriting.objects)}
    assert strongroom("snapshots", "--json", env=env).done().json[0]["rows"] == 2_000
    overwriting.writes.clear()
    strongroom("backup", pristine.source, env=env).failed(1, "ignores conditional creates")
    assert untold(overwriting.writes) == ["repo/config"]  # the very bytes that were there
    assert {name: overwriting.objects[name] for name in untold(overwriting.objects)} == before


class OverwritingStore:
    """The same as a wrapper, for any store."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    def create(self, name: str, data: bytes | memoryview) -> None:
        self._inner.delete(name)
        self._inner.create(name, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_the_proof_finds_out_every_store_that_overwrites(kept: Kept) -> None:
    kept.put("config", b"settings")
    with pytest.raises(UnsafeStore):
        require_conditional_create(OverwritingStore(kept.store), "config", b"settings")
    assert kept.get("config") == b"settings"


# -- addresses -------------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch, seaweed: SeaweedFS) -> None:
    for name, value in {**seaweed.environment(9), "STRONGROOM_RETRY_SECONDS": "0"}.items():
        monkeypatch.setenv(name, value)
    store = open_store("s3://bucket/403/412")
    for ask in (
        lambda: store.read("packs/404"),
        lambda: store.create("packs/412", b"x"),
        lambda: list(store.list("packs/")),
        lambda: store.delete("packs/403"),
    ):
        with pytest.raises(Unreachable):
            ask()


def test_memory_is_shared_by_name() -> None:
    room = init_repository("memory://shared", password=PASSWORD, cost=CHEAP)
    assert open_repository("memory://shared", password=PASSWORD).repository.config == room.repository.config
    with pytest.raises(WrongRequest):
        open_store("memory://")
