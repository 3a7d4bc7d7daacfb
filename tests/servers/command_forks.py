"""How does `strongroom` start in milliseconds, in a process of its own? As a fork of a nursery that has it loaded: what it opens,
writes and leaves in memory is its own, and a signal finds it as it finds the installed command. What concerns the start itself is
not to be seen in it: what is imported and when, the command line that others see, what a parent did before it became the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))

import engine_forks
import forks
from forks import DEVNULL, PIPE

from strongroom.cli import command
from strongroom.repository.crypto import Argon2Cost

COMMAND = str(Path(sys.executable).with_name("strongroom"))
COMMANDS = forks.Nursery(__file__, engine_forks.CHILDREN)
Argument = str | bytes | Path


def start(
    arguments: Sequence[Argument], env: Mapping[str, str], directory: str = "", *, stdout: Any = PIPE, stderr: Any = PIPE
) -> forks.Running:
    """`strongroom` at work, its output text. Off Linux it is the installed one."""
    if sys.platform != "linux":
        where = directory or None
        return subprocess.Popen([COMMAND, *arguments], env=env, cwd=where, stdin=DEVNULL, stdout=stdout, stderr=stderr, text=True)
    order = {**forks.placed(env, directory), "arguments": [os.fsdecode(one) for one in arguments]}
    return forks.Process(COMMANDS, order, stdout=stdout, stderr=stderr)


def run(arguments: Sequence[Argument], env: Mapping[str, str], directory: str = "") -> subprocess.CompletedProcess[str]:
    """`strongroom` to its end."""
    running = start(arguments, env, directory)
    out, err = running.communicate(timeout=300)
    return subprocess.CompletedProcess(arguments, running.wait(), out, err)


def _become(order: Any, descriptors: list[int]) -> None:
    forks.stand(order, descriptors)
    sys.argv[:] = [COMMAND, *order["arguments"]]
    try:
        command()
    except Exception:  # noqa: BLE001 - as the interpreter would
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    from loaded_command import load

    Argon2Cost.__init__.__defaults__ = (1, 1, 64)  # as in conftest.py
    engine_forks.fork_children()
    assert engine_forks.CHILDREN.name
    load()
    forks.serve(_become)
