"""At which step does a command die? Reads orders, a JSON line each, and carries each out in a process of its own (a fork of this
one, which has everything imported): {"arguments": [...], "last": n, "folder": path}.

The process kills itself with SIGKILL just before its nth step that changes files, reads the repository or asks an engine (0 is
never). `folder` gets its `out`, its `err` and its `steps`, one a line; the answer is how it ended, as os.waitpid says it.
"""

from __future__ import annotations

import json
import os
import shutil  # noqa: F401 - it looks at the real functions when it is imported
import signal
import sys
import threading
from pathlib import Path

from strongroom import cli
from strongroom.engines import isolation
from strongroom.repository import Repository

sys.path.append(str(Path(__file__).parents[1] / "servers"))
from engine_forks import fork_children
from loaded_command import load

STEPS = (
    *((os, name) for name in ("rename", "replace", "fsync", "mkdir", "unlink", "rmdir")),
    (Repository, "read_blob"),
    (isolation, "call"),
    (isolation, "ask"),
)


def carry_out(order: dict) -> int:
    """How the command ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    folder = Path(order["folder"])
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
    count_steps(order["last"], os.open(folder / "steps", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    sys.argv[:] = ["strongroom", *order["arguments"]]
    try:
        cli.main()
    except SystemExit as ended:
        sys.stdout.flush()
        os._exit(int(ended.code or 0))
    os._exit(99)


def count_steps(last: int, log: int) -> None:
    """Put a counter before every function of STEPS, by whatever name modules have it."""
    taken: list[str] = []
    turn = threading.Lock()

    def step(name: str) -> None:
        with turn:
            taken.append(name)
            if len(taken) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(log, f"{name}\n".encode())

    for owner, name in STEPS:
        real = getattr(owner, name)
        ours = [module for where, module in sys.modules.items() if where.startswith("strongroom.")]
        for one in (owner, *(module for module in ours if vars(module).get(name) is real)):
            setattr(one, name, _counted(real, name, step))


def _counted(function, name, step):
    def counted(*arguments, **options):
        step(name)
        return function(*arguments, **options)

    return counted


if __name__ == "__main__":
    fork_children()
    load()
    for line in sys.stdin:
        print(carry_out(json.loads(line)), flush=True)
