"""A store that ignores conditions: is it noticed before anything is written, and what is safe there all the same?

`rclone serve s3` is the store. What lies in it is looked at as files.
"""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from commands import PASSWORD, Place, build_index, strongroom
from rclone import Rclone
from seaweed import SeaweedFS
from test_stores import Overwriting, served

from strongroom.errors import AlreadyExists, Damaged, StoreDenied, StrongroomError, Unreachable, UnsafeStore, WrongRequest
from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.repository import Argon2Cost, Repository, Secret, open_store
from strongroom.repository.config import Config
from strongroom.repository.reading_back import ReadingBack, as_written
from strongroom.repository.store import Store
from strongroom.repository.writer import create_once

CHEAP = Argon2Cost(1, 1, 64)
NUMBERS = itertools.count()
WITHOUT = "--without-conditional-creates"


class Bucket:
    """An empty one, and its files."""

    def __init__(self, server: Rclone, patch: pytest.MonkeyPatch) -> None:
        name = f"bucket{next(NUMBERS)}"
        self.folder, self.url = server.make_bucket(name), f"s3://{name}/repo"
        self.env: dict[str, str | None] = {**server.environment(), "STRONGROOM_REPOSITORY": self.url}
        for variable, value in server.environment().items():
            patch.setenv(variable, value)

    def files(self) -> dict[str, bytes]:
        """All but the audit log: it tells of what was refused, too."""
        files = {str(one.relative_to(self.folder)): one for one in self.folder.rglob("*") if one.is_file()}
        return {name: one.read_bytes() for name, one in files.items() if not name.startswith("repo/audit/")}

    def init(self) -> Strongroom:
        return init_repository(self.url, password=PASSWORD, cost=CHEAP, overwriting=True)

    def open(self) -> Strongroom:
        return open_repository(self.url, password=PASSWORD)


@pytest.fixture
def bucket(rclone: Rclone, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    return Bucket(rclone, monkeypatch)


def test_it_is_noticed_before_anything_is_written(bucket: Bucket) -> None:
    strongroom("init", env=bucket.env).failed(1, "ignores conditional creates", "use a store that honours them", WITHOUT)
    assert bucket.files() == {}


def test_a_repository_that_was_copied_there_is_only_read(bucket: Bucket, pristine: Place, tmp_path: Path) -> None:
    shutil.copytree(pristine.repo, bucket.folder / "repo")
    before = bucket.files()
    env = bucket.env
    strongroom("backup", pristine.source, env=env).failed(1, "ignores conditional creates")
    strongroom("journal", "follow", "--scan", "--once", pristine.source, env=env).failed(1, "ignores conditional creates")
    strongroom("verify", "--repair", "--quiet", env=env).failed(1, "ignores conditional creates")
    assert bucket.files() == before
    strongroom("restore", "latest", f"faiss:{tmp_path}/x.faiss", "--quiet", env=env).done()
    assert (tmp_path / "x.faiss").read_bytes() == pristine.index.read_bytes()


def test_what_is_offered_there(bucket: Bucket, tmp_path: Path) -> None:
    """All but journals."""
    env, index = bucket.env, build_index(tmp_path / "x.faiss")
    strongroom("init", WITHOUT, env=env).done()
    assert json.loads((bucket.folder / "repo" / "config").read_bytes())["overwriting"] is True
    strongroom("init", WITHOUT, env=env).failed(1, "is a repository already")
    for seed in (1, 2):
        build_index(index, seed=seed)
        strongroom("backup", "--quiet", f"faiss:{index}", env=env).done()
    before = bucket.files()
    strongroom("journal", "follow", "--scan", "--once", f"faiss:{index}", env=env).failed(1, "can't keep a journal")
    assert bucket.files() == before
    strongroom("forget", "--keep-last", "1", env=env).done()
    strongroom("prune", "--grace", "0", "--quiet", env=env).done()
    assert not before.keys() <= bucket.files().keys()
    assert strongroom("verify", "--json", "--quiet", env=env).done().json["passed"]
    strongroom("key", "add", "--new-key-file", str(tmp_path / "key"), env=env).done()
    strongroom("restore", "latest", f"faiss:{tmp_path}/out/x.faiss", "--quiet", env=env).done()
    assert (tmp_path / "out" / "x.faiss").read_bytes() == index.read_bytes()


def test_a_lost_config_comes_back_as_it_was(bucket: Bucket, tmp_path: Path) -> None:
    bucket.init().backup(f"faiss:{build_index(tmp_path / 'x.faiss')}")
    config = bucket.folder / "repo" / "config"
    said = {**json.loads(config.read_bytes()), "created": None, "check": None}
    open_store(bucket.url).delete("config")
    strongroom("verify", "--repair", "--quiet", "--json", env=bucket.env)
    assert {**json.loads(config.read_bytes()), "created": None, "check": None} == said
    assert bucket.open().verify().passed
    assert not any(name.startswith("repo/probe") for name in bucket.files())


class Unconditional:
    """A store in memory that overwrites whatever it is told; rclone itself hangs when writes and deletes meet."""

    def __init__(self) -> None:
        self._inner: Any = open_store(f"memory://overwriting-{next(NUMBERS)}")

    def create(self, name: str, data: bytes | memoryview) -> None:
        self._inner.overwrite(name, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_of_two_that_init_at_once_no_two_win() -> None:
    """Whoever wins has a repository that opens; whoever doesn't has said so, and left no key."""
    for _ in range(20):
        store: Any = Unconditional()
        start = threading.Barrier(3)

        def make(password: str, store: Any = store, start: threading.Barrier = start) -> Secret | None:
            secret = Secret.passphrase(password)
            start.wait()
            try:
                Repository.create(store, secret, cost=CHEAP, overwriting=True)
            except AlreadyExists:
                return None
            return secret

        with ThreadPoolExecutor(3) as pool:
            won = [one for one in pool.map(make, ("a", "b", "c")) if one]
        assert len(won) <= 1
        assert len(list(store.list("keys/"))) == len(won)
        for secret in won:
            assert Repository.open(store, secret).manifests() == {}
    Repository.create(store := Unconditional(), Secret.passphrase("d"), cost=CHEAP, overwriting=True)  # type: ignore[arg-type]
    assert Repository.open(store, Secret.passphrase("d")).config.overwriting  # type: ignore[arg-type]


class Meeting(Unconditional):
    """Each of two waits for the other once it has looked for keys, has stored its own, and has looked for `config`, if both do."""

    def __init__(self) -> None:
        super().__init__()
        self._barrier, self._met = threading.Barrier(2), threading.local()

    def list(self, prefix: str, after: str = "") -> Any:
        listed = list(self._inner.list(prefix, after))
        if prefix == "keys/":
            self._meet("looked")
        return iter(listed)

    def overwrite(self, name: str, data: bytes | memoryview) -> None:
        self._inner.overwrite(name, data)
        if name.startswith("keys/"):
            self._meet("stored")

    def size(self, name: str) -> int:
        try:
            return int(self._inner.size(name))
        finally:
            if name == "config":
                self._meet("asked")

    def _meet(self, where: str) -> None:
        if not hasattr(self._met, where):
            setattr(self._met, where, True)
            with suppress(threading.BrokenBarrierError):
                self._barrier.wait(1 if where == "asked" else 30)


def test_of_two_that_look_before_either_stores_one_sees_the_other() -> None:
    store: Any = Meeting()

    def make(password: str) -> bool:
        try:
            Repository.create(store, Secret.passphrase(password), cost=CHEAP, overwriting=True)
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        won = sum(pool.map(make, ("a", "b")))
    assert won <= 1
    assert len(list(store._inner.list("keys/"))) == won


def test_two_that_back_up_at_once_do_no_harm(tmp_path: Path) -> None:
    store: Any = Unconditional()
    secret = Secret.passphrase(PASSWORD)
    Repository.create(store, secret, cost=CHEAP, overwriting=True)
    sources = [f"faiss:{build_index(tmp_path / f'{seed}.faiss', seed=seed)}" for seed in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda source: Strongroom(Repository.open(store, secret)).backup(source), sources))
    room = Strongroom(Repository.open(store, secret))
    assert {one.manifest.source for one in room.snapshots()} == set(sources)
    assert room.verify().passed


class Refusing(Overwriting):
    """Says that it has no conditions, as Backblaze B2 does."""

    def do_PUT(self) -> None:  # noqa: N802
        if self.headers["If-None-Match"]:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(501, b"<Error><Code>NotImplemented</Code></Error>")
        else:
            super().do_PUT()


def test_a_store_that_refuses_conditions(tmp_path: Path) -> None:
    with served(Refusing) as server:
        env: dict[str, str | None] = {**server.env, "STRONGROOM_REPOSITORY": "s3://bucket/repo"}
        strongroom("init", env=env).failed(1, "doesn't offer what is needed (NotImplemented)", WITHOUT)
        looked = strongroom("doctor", "--json", env=env)
        assert (looked.code, len(looked.err.splitlines())) == (1, 1)
        told = {one["name"]: one for one in looked.json["store"]["probes"]}
        assert told["create and read back"]["result"] == "yes"
        assert "it refuses the condition" in told["conditional create"]["follows"]
        assert server.objects == {}
        strongroom("init", WITHOUT, env=env).done()
        index = build_index(tmp_path / "x.faiss")
        strongroom("backup", "--quiet", f"faiss:{index}", env=env).done()
        strongroom("restore", "latest", f"faiss:{tmp_path}/out/x.faiss", "--quiet", env=env).done()
        assert (tmp_path / "out" / "x.faiss").read_bytes() == index.read_bytes()


class Undeletable(Unconditional):
    def create(self, name: str, data: bytes | memoryview) -> None:
        self._inner.create(name, data)

    def delete(self, name: str) -> None:
        raise StoreDenied("no right to delete")


def test_init_needs_no_right_to_delete() -> None:
    store: Any = Undeletable()
    Repository.create(store, Secret.passphrase(PASSWORD), cost=CHEAP)
    assert {one.name.partition("/")[0] for one in (*store.list("keys/"), *store.list("probe/"))} == {"keys", "probe"}
    assert Repository.open(store, Secret.passphrase(PASSWORD)).manifests() == {}


def test_nobody_who_has_conditions_does_without(seaweed: SeaweedFS, tmp_path: Path) -> None:
    seaweed.make_bucket("with-conditions")
    on_s3: dict[str, str | None] = {**seaweed.environment(), "STRONGROOM_REPOSITORY": "s3://with-conditions/repo"}
    for env in (on_s3, {"STRONGROOM_REPOSITORY": str(tmp_path / "repo")}):
        strongroom("init", WITHOUT, env=env).failed(2, "honours conditional creates")
        strongroom("init", env=env).done()


class Forgetful:
    """Keeps something else than it is given."""

    def __init__(self, inner: Any, spoil: Callable[[bytes], bytes | None]) -> None:
        self._inner, self._spoil = inner, spoil

    def overwrite(self, name: str, data: bytes | memoryview) -> None:
        kept = self._spoil(bytes(data))
        if kept is not None:
            self._inner.overwrite(name, kept)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: b"x" * len(data), lambda _: None])
def test_what_doesnt_read_back_is_not_stored(bucket: Bucket, tmp_path: Path, spoil: Callable[[bytes], bytes | None]) -> None:
    room = bucket.init()
    sick: Store = ReadingBack(Forgetful(open_store(bucket.url), spoil))  # type: ignore[arg-type]
    with pytest.raises(Damaged):
        sick.create("packs/ab/x", b"0123456789")
    room.repository.store = sick
    with pytest.raises(StrongroomError):
        room.backup(f"faiss:{build_index(tmp_path / 'x.faiss')}")
    assert bucket.open().snapshots() == []


@pytest.mark.parametrize("kept", [b"0123456789", b"9876543210", None])
def test_a_lost_answer_is_settled_by_reading(kept: bytes | None) -> None:
    """Not by the length alone, as where names can't be taken twice."""

    class Lost(Unconditional):
        def overwrite(self, name: str, data: bytes | memoryview) -> None:
            if kept is not None:
                self._inner.overwrite(name, kept)
            raise Unreachable("the answer was lost")

    store: Any = ReadingBack(Lost())  # type: ignore[arg-type]
    if kept == b"0123456789":
        create_once(store, "packs/ab/x", b"0123456789")
    else:
        with pytest.raises(Unreachable if kept is None else Damaged):
            create_once(store, "packs/ab/x", b"0123456789")


def test_nothing_is_overwritten_and_no_journal_written(bucket: Bucket) -> None:
    store = as_written(open_store(bucket.url), Config(bytes(16), "", overwriting=True))
    store.create("keys/a", b"first")
    with pytest.raises(AlreadyExists):
        store.create("keys/a", b"second")
    assert bucket.files() == {"repo/keys/a": b"first"}
    with pytest.raises(UnsafeStore, match="journal"):
        store.create("journal/a/b", b"1")
    with pytest.raises(UnsafeStore, match="journal"):
        store.create("journal/a/epochs/1", b"1")
    assert bucket.files() == {"repo/keys/a": b"first"}


def test_parts_of_objects_are_read_where_none_are_answered(bucket: Bucket) -> None:
    store = open_store(bucket.url)
    store.create("packs/ab/x", b"0123456789")
    for offset, length in ((0, 10), (2, 3), (8, 100), (3, None), (10, 1), (20, None)):
        assert store.read("packs/ab/x", offset, length) == b"0123456789"[offset : None if length is None else offset + length]


def test_an_unwritable_wish_is_a_wrong_request(tmp_path: Path) -> None:
    with pytest.raises(WrongRequest):
        init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=CHEAP, overwriting=True)
    assert not [one for one in tmp_path.rglob("*") if one.is_file()]
