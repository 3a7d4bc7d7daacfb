"""How do processes start in milliseconds that take seconds to load what they need? Each is a fork of one that has all of it loaded
and has opened nothing, the nursery: a process of its own, with nothing in it of the one before."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_MOST = 1 << 18


def opened(program: str, *arguments: str, env: Mapping[str, str]) -> tuple[str, subprocess.Popen[bytes]]:
    """A new nursery: the name by which forks are ordered of it, and its process, which ends when nobody holds its standard input.
    `program` is the file of one that calls `serve`."""
    name = f"strongroom-tests-{os.getpid()}-{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(f"\0{name}")
        listening.listen(128)
        command = [sys.executable, "-P", program, str(listening.fileno()), *arguments]
        return name, subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=(listening.fileno(),), env=env
        )


def ordered(name: str, order: Mapping[str, Any], descriptors: Sequence[int]) -> tuple[int, socket.socket]:
    """The pid of a new fork, 0 if the nursery can't make such a one, and what holds it: a `Fork` has both."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(f"\0{name}")
    socket.send_fds(connection, [json.dumps(order).encode()], descriptors)
    return int(connection.recv(_MOST)), connection


class Fork:
    """What tests and `isolation` want of a `subprocess.Popen`. The process dies with its caller, or when it isn't held any more."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection = connection

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired("a fork", timeout)
            self.returncode = int(self._connection.recv(_MOST) or -signal.SIGKILL)
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        if self.returncode is None:
            self._connection.shutdown(socket.SHUT_WR)


# -- the nursery's side ------------------------------------------------------------------------------------------------------


def serve(become: Callable[[Any, list[int]], None], can: Callable[[Any], bool] = lambda _: True) -> None:
    """Fork on order, until nobody holds our standard input any more. A fork has the descriptors that came with its order, which it
    is to close, and does in `become` all that it does."""
    gc.freeze()  # pages that nobody writes to are shared with the forks
    gc.set_threshold(50_000)
    gc.enable()
    _Nursery(socket.socket(fileno=int(sys.argv[1])), become, can).serve()


class _Nursery:
    """Forks on order, tells how each fork ended, and kills those whose caller is gone."""

    def __init__(self, listening: socket.socket, become: Callable[[Any, list[int]], None], can: Callable[[Any], bool]) -> None:
        self._listening = listening
        self._poll = select.poll()
        self._become, self._can = become, can
        self._children: dict[int, tuple[int, socket.socket]] = {}
        """By their pidfd: their number, and who ordered them."""
        self._callers: dict[int, int] = {}
        """The pidfd by the descriptor of the connection."""
        for one in (0, listening.fileno()):
            self._poll.register(one, select.POLLIN)

    def serve(self) -> None:
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
        said, descriptors, _, _ = socket.recv_fds(caller, _MOST, 3)
        if not said:
            caller.close()
            return
        order = json.loads(said)
        can = self._can(order)
        child = os.fork() if can else 0
        if can and not child:
            self._be(caller, order, descriptors)
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

    def _be(self, caller: socket.socket, order: Any, descriptors: list[int]) -> None:
        """The child: nothing of ours is open in it."""
        try:
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
            for open_one in (caller, self._listening, *(each for _, each in self._children.values())):
                open_one.close()
            for held in self._children:
                os.close(held)
            self._become(order, descriptors)
        finally:
            os._exit(99)


def stand(order: Mapping[str, Any], outputs: Sequence[int]) -> None:
    """In a fork: where and how the caller would have started it."""
    for one, standard in zip(outputs, (1, 2), strict=True):
        os.dup2(one, standard)
        os.close(one)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - they were made for what stood there before
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environment"])


def placed(env: Mapping[str, str], directory: str = "") -> dict[str, Any]:
    """What `stand` reads of an order; without a directory it is ours."""
    return {"directory": directory or str(Path.cwd()), "environment": dict(env)}
