"""Where is a Redis to be had for a restore that is only looked at? A private server, which ends when we do."""

from __future__ import annotations

import atexit
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from strongroom.errors import EngineFailed, NotFound

COMMAND = "STRONGROOM_REDIS_SERVER"
_PATIENCE = 20.0
_SET_PARENT_DEATH_SIGNAL = 1
_running: list[tuple[Path, subprocess.Popen[bytes]]] = []


def start(directory: Path) -> str:
    """The URL of a new server whose socket lies in the directory. Those whose directories are gone are stopped. Raises NotFound if
    there is no server to start, EngineFailed if it doesn't."""
    _stop(gone=True)
    words = shlex.split(os.environ.get(COMMAND) or "redis-server")
    if shutil.which(words[0]) is None:
        raise NotFound(
            "there is no redis-server to restore into", hint=f"set {COMMAND} to its path, with --loadmodule as yours has"
        )
    socket = directory / "s"
    server = subprocess.Popen(
        [*words, "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--save", "", "--appendonly", "no",
         "--dir", str(directory), "--repl-diskless-sync-delay", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_end_with_us if sys.platform == "linux" else None,
    )  # fmt: skip
    _running.append((directory, server))
    until = time.monotonic() + _PATIENCE
    while not socket.exists():
        if server.poll() is not None or time.monotonic() > until:
            raise EngineFailed(f"{words[0]} doesn't start", hint=f"check {COMMAND}")
        time.sleep(0.02)
    return f"redis://{socket}?expiry=noted"


def _end_with_us() -> None:
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _stop(*, gone: bool) -> None:
    for directory, server in list(_running):
        if not gone or not directory.exists():
            with suppress(OSError):
                server.kill()
            server.wait()
            _running.remove((directory, server))


atexit.register(_stop, gone=False)
