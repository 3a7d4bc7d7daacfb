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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from strongroom.engines.redis.server import Address, client_of, speaking
from strongroom.errors import EngineFailed, NotFound

COMMAND = "STRONGROOM_REDIS_SERVER"
_PATIENCE = 20.0
_LOADING = 3600.0
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
    _run(words, directory)
    return f"redis://{socket}?expiry=noted"


def restart(address: Address) -> None:
    """Have a server that `start` started write its file and end, and start one again that reads it. Raises EngineFailed."""
    directory = Path(address.path).parent
    server = next((one for place, one in _running if place == directory), None)
    if server is None:
        raise EngineFailed(f"there is no server of ours at {address.path}")
    client = client_of(address)
    try:
        with speaking(address, EngineFailed):
            client.save()
    finally:
        client.close()
    server.kill()
    server.wait()
    _running.remove((directory, server))
    Path(address.path).unlink(missing_ok=True)
    words = shlex.split(os.environ.get(COMMAND) or "redis-server")
    _run(words, directory)
    _wait_until_loaded(address)


def _wait_until_loaded(address: Address) -> None:
    """The socket is there before the file is read."""
    until = time.monotonic() + _LOADING
    while True:
        client = client_of(address)
        try:
            with speaking(address, EngineFailed):
                if not client.info("persistence")["loading"]:
                    return
        finally:
            client.close()
        if time.monotonic() > until:
            raise EngineFailed("redis-server doesn't read its file to the end")
        time.sleep(0.05)


def _run(words: Sequence[str], directory: Path) -> None:
    """Start a server whose socket and file lie in the directory. Raises EngineFailed."""
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
