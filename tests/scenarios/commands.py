"""How is the command run in a process of its own, and how is it judged what came of it?"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command_forks
import faiss
import numpy as np
from command_forks import COMMAND

from strongroom.library import Strongroom, open_repository
from strongroom.operations.restore.run import RestoreOptions, restore

PASSWORD = "correct horse"
ROWS, DIMENSION = 2_000, 32


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its whole standard output as one JSON value."""
        return json.loads(self.out)

    def done(self) -> Ended:
        """Assert that it did all that was asked, without a word on standard error."""
        assert (self.code, self.err) == (0, ""), self
        return self

    def failed(self, code: int, *words: str) -> Ended:
        """Assert that it ended with `code` and one line that holds `words` and says what to do next, and wrote no data."""
        assert self.code == code, self
        assert self.out == "", self
        lines = self.err.splitlines()
        assert len(lines) == 1, self
        assert lines[0].startswith("strongroom: "), self
        assert "Traceback" not in self.err, self
        assert "STRONGROOM_DEBUG" not in self.err, self
        assert " — " in lines[0], self
        for word in words:
            assert word.lower() in lines[0].lower(), (word, self)
        return self


def environment(**changes: str | None) -> dict[str, str]:
    """The surroundings of a command: nothing of the caller's own repositories or clouds. None takes a variable away."""
    foreign = ("STRONGROOM_", "AWS_", "COLUMNS", "FORCE_COLOR", "NO_COLOR")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    kept |= {"STRONGROOM_STATE_DIR": os.environ["STRONGROOM_STATE_DIR"], "STRONGROOM_PASSWORD": PASSWORD}
    for name, value in changes.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = value
    return kept


def strongroom(
    *arguments: str | bytes | Path,
    env: Mapping[str, str | None] | None = None,
    program: Sequence[str] = (COMMAND,),
    preexec: Callable[[], None] | None = None,
    stdout: Any = subprocess.PIPE,
) -> Ended:
    """Run the command to its end: a fork that has it loaded, or the installed one if anything of its process is to be different."""
    if program == (COMMAND,) and preexec is None and stdout == subprocess.PIPE:
        return forked(arguments, environment(**(env or {})))
    done = subprocess.run(
        [*program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment(**(env or {})),
        preexec_fn=preexec,
        timeout=300,
    )
    return Ended(done.returncode, (done.stdout or b"").decode(), done.stderr.decode())


def forked(arguments: Sequence[str | bytes | Path], variables: Mapping[str, str], directory: str = "") -> Ended:
    """The command in a fork of a process that has it loaded."""
    done = command_forks.run(arguments, variables, directory)
    return Ended(done.returncode, done.stdout, done.stderr)


def build_index(path: Path, rows: int = ROWS, seed: int = 1, dimension: int = DIMENSION) -> Path:
    """An HNSW index of random vectors, long at rest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(dimension, 8)
    index.add(np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32))
    faiss.write_index(index, str(path))
    os.utime(path, (1, 1))
    return path


@dataclass(frozen=True)
class Place:
    """A repository with one snapshot, and the source of that snapshot."""

    repo: Path
    index: Path

    @property
    def source(self) -> str:
        return f"faiss://{self.index}"

    @property
    def env(self) -> dict[str, str | None]:
        return {"STRONGROOM_REPOSITORY": str(self.repo)}

    def run(self, *arguments: str | bytes | Path, env: Mapping[str, str | None] | None = None, **options: Any) -> Ended:
        """Run the command on this repository."""
        return strongroom(*arguments, env={**self.env, **(env or {})}, **options)

    def open(self) -> Strongroom:
        return open_repository(str(self.repo), password=PASSWORD)

    def snapshots(self) -> list[str]:
        return [snapshot.id for snapshot in self.open().snapshots()]

    def assert_whole(self, folder: Path, count: int = 1) -> None:
        """There are `count` snapshots, and the first one still restores to the very bytes of its source."""
        room = self.open()
        snapshots = room.snapshots()
        assert len(snapshots) == count
        assert not room.damaged_snapshots()
        restore(room.repository, snapshots[0].id, f"faiss://{folder}/whole/x.faiss", RestoreOptions(replay=False))
        assert (folder / "whole/x.faiss").read_bytes() == self.index.read_bytes()
        shutil.rmtree(folder / "whole")
