"""How do the children that engines run in (see `strongroom.engines.isolation`) start in milliseconds? Each is a fork of a process
that has the engines' libraries imported and has opened nothing: a process of its own, with nothing in it of the one before.

`fork_children` has the calling process and its forks use that process, the nursery. A child whose surroundings (a variable that
libraries read, a limit) differ from the nursery's is started as it is without us, and so are all off Linux.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from strongroom import engines
from strongroom.engines import isolation
from strongroom.errors import StrongroomError

MORE = ("pyarrow.parquet", "pysqlite3", "strongroom.operations.drill.restarted")
"""What children import besides the library that their engine loads."""
_NOT_READ = ("STRONGROOM_", "PYTEST_", "AWS_", "AZURE_", "GOOGLE_", "VAULT_", "LANCE_", "TMPDIR", "COLUMNS", "LINES", "HOME", "PWD")
"""Variables that no library reads while it is imported, but Lance those that `load` sets."""
_LIMITS = (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_AS)
_MOST = 1 << 18
START = isolation._started
"""How a child starts anywhere else."""


def fork_children(name: str = "") -> None:
    """From here on children are forks of the nursery of that name; without one, of our own. Off Linux nothing is changed."""
    global _name
    _name = name
    isolation._started = _started if sys.platform == "linux" else START


_name = ""
_turn = threading.Lock()


def nursery() -> str:
    """The name by which others find the nursery that we use. It is started when it is wanted, and ends when we do."""
    if _name or sys.platform != "linux":
        return _name
    with _turn:
        return _own()[0]


@cache
def _own() -> tuple[str, subprocess.Popen[bytes]]:
    name = f"strongroom-tests-{os.getpid()}-{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(f"\0{name}")
        listening.listen(128)
        command = [sys.executable, "-P", __file__, str(listening.fileno())]
        handed = (listening.fileno(),)
        return name, subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=handed, env=isolation._environment())


def _started(command: Sequence[str], channel: int, complaints: IO[bytes]) -> Any:
    order = json.dumps([command[-1], str(Path.cwd()), isolation._environment(), _limits()]).encode()
    reading, writing = os.pipe()
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(f"\0{nursery()}")
        socket.send_fds(connection, [order], [channel, writing, complaints.fileno()])
        number = int(connection.recv(_MOST))
    finally:
        os.close(writing)
    if number:
        return Fork(number, reading, connection)
    os.close(reading)
    connection.close()
    return START(command, channel, complaints)


def _limits() -> list[list[int]]:
    return [list(resource.getrlimit(one)) for one in _LIMITS]


class Fork:
    """What `isolation` wants of a `subprocess.Popen`. The process dies with its caller, or when it isn't held any more."""

    def __init__(self, pid: int, reading: int, connection: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout = os.fdopen(reading, "rb")
        self._connection = connection

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._connection.recv(_MOST) or -signal.SIGKILL)
            self._connection.close()
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            self._connection.shutdown(socket.SHUT_WR)

    def communicate(self) -> None:
        self.stdout.close()
        self.wait()


# -- the nursery's side ------------------------------------------------------------------------------------------------------


class Nursery:
    """Forks on order, tells how each fork ended, and kills those whose caller is gone."""

    def __init__(self, listening: socket.socket, variables: dict[str, str]) -> None:
        self._listening = listening
        self._poll = select.poll()
        self._variables = _read(variables)
        self._children: dict[int, tuple[int, socket.socket]] = {}
        """By their pidfd: their number, and who ordered them."""
        self._callers: dict[int, int] = {}
        """The pidfd by the descriptor of the connection."""
        for one in (0, listening.fileno()):
            self._poll.register(one, select.POLLIN)

    def serve(self) -> None:
        """Until nobody holds our standard input any more."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == 0:
                    return
                if descriptor == self._listening.fileno():
                    self._take(self._listening.accept()[0])
                elif descriptor in self._children:
                    self._bury(descriptor)
                elif descriptor in self._callers:
                    self._poll.unregister(descriptor)
                    signal.pidfd_send_signal(self._callers.pop(descriptor), signal.SIGKILL)

    def _take(self, caller: socket.socket) -> None:
        order, descriptors, _, _ = socket.recv_fds(caller, _MOST, 3)
        if not order:
            caller.close()
            return
        loading, directory, variables, limits = json.loads(order)
        same = limits == _limits() and _read(variables) == self._variables
        child = os.fork() if same else 0
        if same and not child:
            self._become(caller, descriptors, loading, directory, variables)
        with suppress(BrokenPipeError):
            caller.send(str(child).encode())
        for one in descriptors:
            os.close(one)
        if not child:
            caller.close()
            return
        held = os.pidfd_open(child)
        self._children[held], self._callers[caller.fileno()] = (child, caller), held
        for one in (held, caller.fileno()):
            self._poll.register(one, select.POLLIN)

    def _bury(self, held: int) -> None:
        child, caller = self._children.pop(held)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if self._callers.pop(caller.fileno(), None) is not None:
            self._poll.unregister(caller.fileno())
        self._poll.unregister(held)
        os.close(held)
        with suppress(BrokenPipeError), caller:
            caller.send(str(code).encode())

    def _become(
        self, caller: socket.socket, descriptors: Sequence[int], loading: str, directory: str, variables: dict[str, str]
    ) -> None:
        """The child: nothing of ours is open in it."""
        try:
            channel, out, err = descriptors
            for one, standard in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
                os.dup2(one, standard)
                os.close(one)
            for open_one in (caller, self._listening, *(each for _, each in self._children.values())):
                open_one.close()
            for held in self._children:
                os.close(held)
            os.chdir(directory)
            os.environ.clear()
            os.environ.update(variables)
            isolation._die_with(os.getppid())
            isolation._serve(channel, loading)
        finally:
            os._exit(99)


def _read(variables: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if not name.startswith(_NOT_READ)}


def main() -> None:
    variables = dict(os.environ)
    warnings.filterwarnings("ignore", ".*fork")  # nothing of a library runs here
    gc.disable()
    for scheme in engines.known():
        with suppress(ImportError, StrongroomError):  # what can't be loaded is reported by the call that needs it
            isolation._found(engines.find(scheme).loading)()
    for one in MORE:
        with suppress(ImportError):
            importlib.import_module(one)
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()
    Nursery(socket.socket(fileno=int(sys.argv[1])), variables).serve()


if __name__ == "__main__":
    main()
