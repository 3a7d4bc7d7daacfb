"""How to run an engine's own code so that its crash is a finding, not our end: in a child process.

Damaged links make hnswlib, Chroma and usearch fault; a fault must name the snapshot, not kill the backup.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from strongroom.errors import EngineFailed, StrongroomError

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl(2)


def call(function: str, *arguments: Any, pass_fds: tuple[int, ...] = ()) -> Any:
    """Call `function` ('module:name') with picklable arguments in a child process and return its picklable result.

    Raises whatever StrongroomError the function raised, and EngineFailed for any other exception or a crash.
    """
    child = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "strongroom.engines.isolation",
            function,
            str(os.getpid()),
        ],  # -P: nothing is imported from where we stand
        input=pickle.dumps(arguments, protocol=5),
        capture_output=True,
        pass_fds=pass_fds,
        env=_environment(),
    )
    if child.returncode < 0:
        raise EngineFailed(f"{function}: the engine crashed ({signal.Signals(-child.returncode).name})")
    if child.returncode > 0:
        last = child.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise EngineFailed(f"{function}: the engine's process ended with {child.returncode}: {last[0]}")
    done, result = pickle.loads(child.stdout)
    if not done:
        raise result
    return result


def _environment() -> dict[str, str]:
    """Ours, but engines get all cores for BLAS, and glibc keeps less of what they free."""
    kept = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    return {"MALLOC_ARENA_MAX": "2", **kept}


def _die_with(parent: int) -> None:
    """A child that outlived its killed parent would go on writing into a stage that the next restore has taken over."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()


def _serve(function: str) -> None:
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the engine prints, from Python or below, must not mix with the answer
    module, _, name = function.partition(":")
    arguments = pickle.load(sys.stdin.buffer)
    outcome: tuple[bool, Any]
    try:
        outcome = (True, getattr(importlib.import_module(module), name)(*arguments))
    except StrongroomError as error:
        outcome = (False, error)
    except Exception as error:  # noqa: BLE001 - the process boundary: every failure is reported to the parent
        outcome = (False, EngineFailed(f"{type(error).__name__}: {error}".splitlines()[0]))
    answer.write(pickle.dumps(outcome, protocol=5))
    answer.close()


if __name__ == "__main__":
    _die_with(int(sys.argv[2]))
    _serve(sys.argv[1])
