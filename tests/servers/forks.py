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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from strongroom.engines.waiting import readable

PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL
_MOST = 1 << 18


class Nursery:
    """It is started when somebody wants it, and ends with who that was. All whom that one starts later take their forks from it."""

    def __init__(self, program: str, *others: Nursery, env: Callable[[], Mapping[str, str]] = lambda: os.environ) -> None:
        """`program` is the file of one that calls `serve`, in whose forks those of `others` are wanted."""
        self._program, self._others, self._env = program, others, env
        self._variable = f"PYTEST_NURSERY_{Path(program).stem.upper()}"

    @cached_property
    def name(self) -> str:
        if self._variable not in os.environ:
            assert all(one.name for one in self._others)
            name = f"strongroom-tests-{os.getpid()}-{os.urandom(8).hex()}"
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
                listening.bind(f"\0{name}")
                listening.listen(128)
                command = [sys.executable, "-P", self._program, str(listening.fileno())]
                handed = (listening.fileno(),)
                self._process = subprocess.Popen(command, stdin=PIPE, stdout=DEVNULL, pass_fds=handed, env=self._env())
            os.environ[self._variable] = name
        return os.environ[self._variable]

    def ordered(self, order: Mapping[str, Any], descriptors: Sequence[int]) -> tuple[int, socket.socket]:
        """The pid of a new fork, 0 if there can't be such a one, and what holds it: a `Fork` has both."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(f"\0{self.name}")
        socket.send_fds(connection, [json.dumps(order).encode()], descriptors)
        return int(connection.recv(_MOST)), connection


class Fork:
    """A process, which dies with who ordered it, or when it isn't held any more."""

    def __init__(self, pid: int, connection: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._connection = connection

    def poll(self) -> int | None:
        if self.returncode is None and readable(self._connection, 0):
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not readable(self._connection, timeout):
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


class Process(Fork):
    """What tests want of a `subprocess.Popen` with text."""

    def __init__(self, nursery: Nursery, order: Mapping[str, Any], *, stdin: Any = None, stdout: Any = None, stderr: Any = None):
        with ExitStack() as stack:
            ends = [_end(wanted, number, stack) for number, wanted in enumerate((stdin or DEVNULL, stdout, stderr))]
            (self.stdin, _), (self.stdout, _), (self.stderr, _) = ends
            super().__init__(*nursery.ordered(order, [theirs for _, theirs in ends]))
        self._told: tuple[str, str] | None = None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it still writes to pipes, after the end of its input; once more the same."""
        if self._told is not None:
            return self._told
        if self.stdin:
            self.stdin.close()
        with ThreadPoolExecutor(2) as pool:
            reading = [pool.submit(one.read if one else str) for one in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
            out, err = [one.result() for one in reading]
        self._close()
        self._told = out, err
        return self._told

    def _close(self) -> None:
        for one in (self.stdin, self.stdout, self.stderr):
            if one is not None:
                one.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()
        self.wait()


Running = Process | subprocess.Popen[str]


def _end(wanted: Any, number: int, stack: ExitStack) -> tuple[IO[str] | None, int]:
    """Our end of what is to be the standard stream of that number, and theirs."""
    if wanted == PIPE:
        ours, theirs = os.pipe() if number else os.pipe()[::-1]
        stack.callback(os.close, theirs)
        return os.fdopen(ours, "r" if number else "w", newline=""), theirs
    if wanted == DEVNULL:
        nothing = os.open(os.devnull, os.O_RDWR)
        stack.callback(os.close, nothing)
        return None, nothing
    wanted = number if wanted is None else wanted
    return None, wanted if isinstance(wanted, int) else wanted.fileno()


def placed(env: Mapping[str, str], directory: str = "") -> dict[str, Any]:
    """What `stand` reads of an order; without a directory it is ours."""
    return {"directory": directory or str(Path.cwd()), "environment": dict(env)}


# -- the nursery's side ------------------------------------------------------------------------------------------------------

Become = Callable[[Any, list[int]], None]


def serve(become: Become, can: Callable[[Any], bool] = lambda _: True) -> None:
    """Fork on order, until nobody holds our standard input any more. A fork has the descriptors that came with its order, which it
    is to close, and does in `become` all that it does."""
    gc.freeze()  # pages that nobody writes to are shared with the forks
    gc.set_threshold(50_000)
    gc.enable()
    _Serving(socket.socket(fileno=int(sys.argv[1])), become, can).serve()


class _Serving:
    """Forks on order, tells how each fork ended, and kills those whose caller is gone."""

    def __init__(self, listening: socket.socket, become: Become, can: Callable[[Any], bool]) -> None:
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
                    for held in self._callers.values():
                        signal.pidfd_send_signal(held, signal.SIGKILL)
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


def stand(order: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """In a fork: the last standard streams are these, and all is where the caller would have started it."""
    for standard, one in enumerate(descriptors, 3 - len(descriptors)):
        os.dup2(one, standard)
        os.close(one)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - they were made for what stood there before
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environment"])
