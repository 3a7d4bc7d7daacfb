"""A process that has the command imported and carries out orders, each in a fork of its own: a JSON line
{"arguments": [...], "environment": {...}, "directory": path, "out": path, "err": path} each, answered by how it ended, as
os.waitpid says it. Nothing that a command leaves in memory is there for the next one."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from strongroom.cli import command
from strongroom.repository.crypto import Argon2Cost

sys.path.append(str(Path(__file__).parents[1] / "servers"))
from engine_forks import fork_children
from loaded_command import load

Argon2Cost.__init__.__defaults__ = (1, 1, 64)  # as in conftest.py


def carry_out(order: dict[str, Any]) -> int:
    """How the command ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
        os.chdir(order["directory"])
        os.environ.clear()
        os.environ.update(order["environment"])
        sys.argv[:] = ["strongroom", *order["arguments"]]
        command()
    finally:
        os._exit(99)


if __name__ == "__main__":
    fork_children(sys.argv[1])
    load()
    for line in sys.stdin:
        print(carry_out(json.loads(line)), flush=True)
