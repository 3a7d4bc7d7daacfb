"""How does `strongroom` start in milliseconds, in a process of its own? As a fork of a nursery that has it loaded: what it opens,
writes and leaves in memory is its own, and a signal finds it as it finds the installed command. What concerns the start itself is
not to be seen in it: what is imported and when, the command line that others see, what a parent did before it became the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))

import engine_forks
import forks

from strongroom.cli import command
from strongroom.repository.crypto import Argon2Cost

COMMAND = str(Path(sys.executable).with_name("strongroom"))
PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL


@cache
def _own() -> tuple[str, subprocess.Popen[bytes]]:
    return forks.opened(__file__, engine_forks.nursery(), env=os.environ)


def use(name: str) -> None:
    """Take forks from the nursery of that name."""
    global _name
    _name = name


_name = ""


def nursery() -> str:
    """The name of the one that we use. Our own is started when it is wanted, and ends when we do."""
    return _name or _own()[0]


Argument = str | bytes | Path


def start(
    arguments: Sequence[Argument], env: Mapping[str, str], directory: str = "", *, stdout: Any = PIPE, stderr: Any = PIPE
) -> Running:
    """`strongroom` at work, its output text. Off Linux it is the installed one."""
    if sys.platform == "linux":
        return Command(arguments, env, directory, stdout, stderr)
    where = directory or None
    return subprocess.Popen([COMMAND, *arguments], env=env, cwd=where, stdin=DEVNULL, stdout=stdout, stderr=stderr, text=True)


def run(arguments: Sequence[Argument], env: Mapping[str, str], directory: str = "") -> subprocess.CompletedProcess[str]:
    """`strongroom` to its end."""
    running = start(arguments, env, directory)
    out, err = running.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, running.wait(), out, err)


class Command(forks.Fork):
    """What tests want of a `subprocess.Popen`. The command dies with its caller."""

    def __init__(self, arguments: Sequence[Argument], env: Mapping[str, str], directory: str, stdout: Any, stderr: Any) -> None:
        order = {**forks.placed(env, directory), "arguments": [os.fsdecode(one) for one in arguments]}
        with ExitStack() as stack:
            self.stdout, out = _output(stdout, stack)
            self.stderr, err = _output(stderr, stack)
            super().__init__(*forks.ordered(nursery(), order, [out, err]))

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it still writes to pipes."""
        with ThreadPoolExecutor(2) as pool:
            reading = [pool.submit(one.read if one else str) for one in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            out, err = [one.result() for one in reading]
        self._close()
        return out, err

    def _close(self) -> None:
        for one in (self.stdout, self.stderr):
            if one is not None:
                one.close()

    def __enter__(self) -> Command:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()
        self.wait()


Running = Command | subprocess.Popen[str]


def _output(wanted: Any, stack: ExitStack) -> tuple[IO[str] | None, int]:
    """Our end, and the descriptor that the command gets."""
    if wanted == PIPE:
        reading, writing = os.pipe()
        stack.callback(os.close, writing)
        return os.fdopen(reading, newline=""), writing
    if wanted == DEVNULL:
        nothing = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nothing)
        return None, nothing
    return None, wanted if isinstance(wanted, int) else wanted.fileno()


# -- the nursery's side ------------------------------------------------------------------------------------------------------


def _become(order: Any, outputs: list[int]) -> None:
    forks.stand(order, outputs)
    sys.argv[:] = [COMMAND, *order["arguments"]]
    command()


if __name__ == "__main__":
    from loaded_command import load

    Argon2Cost.__init__.__defaults__ = (1, 1, 64)  # as in conftest.py
    engine_forks.fork_children(sys.argv[2])
    load()
    forks.serve(_become)
