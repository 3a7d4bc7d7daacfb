"""Does any secret, or any byte of the data in the clear, get where somebody else could read it?"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import command_forks
import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forks import PIPE, Running

from strongroom.library import open_repository

PASSWORD, SECOND, WRONG = "Pa55word-zebra-quartz", "Second-0sprey-marble", "Wr0ng-walrus-copper"
SENTENCE = "nobody but the owner may read this sentence"
ROWS, DIMENSION = 600, 24
COMMAND = """
from strongroom.repository.crypto import Argon2Cost
Argon2Cost.__init__.__defaults__ = (1, 1, 64)
from strongroom.cli import command
command()
"""
"""The command as installed, but its passwords are as quick to try as those of conftest.py."""


@dataclass
class Seen:
    """Everything that commands showed to others: output, command lines, files in the temporary directory."""

    shown: list[tuple[str, bytes]] = field(default_factory=list)

    def require_none(self, secrets: dict[str, bytes]) -> None:
        found = [(what, where) for where, content in self.shown for what, secret in secrets.items() if secret in content]
        assert found == []


@contextmanager
def watched(process: Running, temporary: Path, seen: Seen) -> Iterator[None]:
    """Look at the command lines of a process and of its children, and at the temporary files, for as long as it runs."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            for pid in family(process.pid):
                seen.shown.append((f"command line of {pid}", read(Path(f"/proc/{pid}/cmdline"))))
            with suppress(FileNotFoundError):  # a directory that goes meanwhile
                seen.shown.extend((str(path), read(path)) for path in temporary.rglob("*") if path.is_file())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def family(pid: int) -> list[int]:
    """It and all its descendants; a child is listed with the thread that started it."""
    try:
        threads = [each.name for each in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:  # it has ended
        threads = []
    children = [child for thread in threads for child in read(Path(f"/proc/{pid}/task/{thread}/children")).split()]
    return [pid, *(each for child in children for each in family(int(child)))]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@dataclass(frozen=True)
class Stage:
    """Where the commands work."""

    place: Path
    seen: Seen

    @property
    def repository(self) -> Path:
        return self.place / "repository"

    def run(self, *arguments: str, code: int | None = 0, alone: bool = False, **variables: str) -> None:
        """`alone` says that it starts no other process: a fork shows all that such a command shows."""
        temporary = self.place / "temporary"
        temporary.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STRONGROOM_")}
        environment |= {
            "STRONGROOM_REPOSITORY": str(self.repository),
            "STRONGROOM_STATE_DIR": str(self.place / "state"),
            "STRONGROOM_PASSWORD": PASSWORD,
            "TMPDIR": str(temporary),
            **variables,
        }
        command = [sys.executable, "-c", COMMAND, *arguments]
        process: Running
        if alone:
            process = command_forks.start(arguments, environment)
        else:
            process = subprocess.Popen(command, env=environment, stdout=PIPE, stderr=PIPE, text=True)
        with watched(process, temporary, self.seen):
            printed = process.communicate()
        out, err = (one.encode() for one in printed)
        self.seen.shown += [(f"output of {arguments}", out), (f"error output of {arguments}", err)]
        assert code is None or process.returncode == code, err

    def files(self, *places: Path) -> list[tuple[str, bytes]]:
        return [(str(path), path.read_bytes()) for place in places for path in place.rglob("*") if path.is_file()]


def make_source(folder: Path) -> tuple[str, np.ndarray, list[str]]:
    """A FAISS index whose documents all hold one sentence."""
    folder.mkdir()
    vectors = np.random.default_rng(5).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    index = faiss.IndexHNSWFlat(DIMENSION, 8)
    index.add(vectors)
    faiss.write_index(index, str(folder / "private.faiss"))
    documents = [f"{SENTENCE} {number:07}" for number in range(ROWS)]
    pq.write_table(pa.table({"confidential": documents}), folder / "private.parquet", compression="none", use_dictionary=False)
    return f"faiss://{folder}/private.faiss", vectors, documents


@dataclass(frozen=True)
class Played:
    """All commands have run."""

    stage: Stage
    secrets: dict[str, bytes]
    vectors: np.ndarray
    documents: list[str]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    place = tmp_path_factory.mktemp("secrets")
    stage = Stage(place, Seen())
    key_file = place / "key"
    source, vectors, documents = make_source(place / "source")
    file = {"STRONGROOM_KEY_FILE": str(key_file)}
    debug = {"STRONGROOM_DEBUG": "1"}

    stage.run("init", "--json")
    stage.run("key", "add", "--new-key-file", str(key_file), "--label", "file", "--json")
    stage.run("key", "add", "--label", "second", STRONGROOM_NEW_PASSWORD=SECOND)
    stage.run("backup", source, "--json", STRONGROOM_PASSWORD=SECOND, **debug)
    stage.run("restore", "latest", f"faiss://{place}/target/copy.faiss", **file)
    stage.run("restore", "latest", f"faiss://{place}/target/again.faiss", "--rung", "rebuild", "--json", **debug)
    stage.run("verify", "--level", "answers", "--json", **file)
    stage.run("key", "list", "--json", alone=True, **file)
    stage.run("key", "passwd", STRONGROOM_PASSWORD=SECOND, STRONGROOM_NEW_PASSWORD=SECOND[::-1])
    stage.run("snapshots", code=12, STRONGROOM_PASSWORD=WRONG)
    stage.run("snapshots", "--json", code=12, alone=True, STRONGROOM_PASSWORD=WRONG)
    stage.run("snapshots", code=1, alone=True, STRONGROOM_PASSWORD=WRONG, **debug)
    stage.run("key", "passwd", code=1, alone=True, STRONGROOM_PASSWORD=WRONG, STRONGROOM_NEW_PASSWORD=SECOND, **debug)
    stage.run("restore", "nothing", f"faiss://{place}/target/none.faiss", code=1, **file, **debug)
    stage.run("snapshots", code=None, STRONGROOM_PASSWORD="", STRONGROOM_PASSWORD_COMMAND=f"echo {WRONG}", **debug)
    broken = place / "broken-key"
    broken.write_bytes(key_file.read_bytes()[:-4])
    stage.run("snapshots", code=1, alone=True, STRONGROOM_KEY_FILE=str(broken), **debug)

    master = open_repository(str(stage.repository), password=PASSWORD).repository.keys.master
    raw = base64.b64decode(key_file.read_bytes().partition(b":")[2])
    secrets = {
        **{text: text.encode() for text in (PASSWORD, SECOND, SECOND[::-1], WRONG)},
        **forms("key file", raw),
        **forms("master key", master),
    }
    return Played(stage, secrets, vectors, documents)


def forms(name: str, secret: bytes) -> dict[str, bytes]:
    """A secret raw, as hex, as base64 (all but the ends, so that a damaged one is found too) and as Python shows it."""
    return {
        name: secret,
        f"{name}, hex": secret.hex()[:40].encode(),
        f"{name}, base64": base64.b64encode(secret)[:32],
        f"{name}, repr": repr(secret)[2:40].encode(),
    }


def test_the_search_would_find_them(played: Played) -> None:
    """Each secret in a file is found by the same search."""
    with pytest.raises(AssertionError):
        Seen([("here", b"... " + played.secrets["master key, hex"] + b" ...")]).require_none(played.secrets)
    shown = played.stage.seen.shown
    assert any(b"isolation" in content for where, content in shown if where.startswith("command line")), "children were seen"
    assert any(b"Traceback" in content for where, content in shown if where.startswith("error output")), "tracebacks were seen"


def test_nothing_that_is_shown_holds_a_secret(played: Played) -> None:
    """Output, errors, tracebacks, command lines of the processes and their children, temporary files."""
    played.stage.seen.require_none(played.secrets)


def test_no_file_holds_a_secret(played: Played) -> None:
    place = played.stage.place
    files = played.stage.files(played.stage.repository, place / "target", place / "state", place / "temporary")
    assert len(files) > 10
    Seen(files).require_none(played.secrets)


def test_the_repository_holds_nothing_in_the_clear(played: Played) -> None:
    """Neither documents nor vectors, nor the names of columns, files and hosts, nor the master key's ids of their bytes."""
    plain = {
        **{f"row {row}": played.vectors[row].tobytes() for row in range(0, ROWS, 7)},
        **{f"document {row}": played.documents[row].encode() for row in range(0, ROWS, 7)},
        "sentence": SENTENCE[:16].encode(),
        "column": b"confidential",
        "file": b"private",
        "parquet": b"PAR1",
        "index": b"IHNf",
        "arrow": b"ARROW",
    }
    Seen(played.stage.files(played.stage.repository)).require_none(plain)
    with pytest.raises(AssertionError):
        Seen(played.stage.files(played.stage.place / "target")).require_none(plain)


def test_nothing_is_left_behind_and_nobody_else_may_read(played: Played) -> None:
    place = played.stage.place
    assert list((place / "temporary").iterdir()) == []
    assert (place / "key").stat().st_mode & 0o077 == 0
    for path in played.stage.repository.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
