"""How to run an engine's own code so that its crash is a finding, not our end: in a child process.

Damaged links make hnswlib, Chroma and usearch fault; a fault must name the snapshot, not kill the backup.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import io
import math
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, cast

from strongroom.engines import stopwatch
from strongroom.errors import EngineFailed, StrongroomError

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl(2)
_LENGTH = struct.Struct("<Q")
_MOST_DESCRIPTORS = 8


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An open file of ours as an argument of `call`: the function gets the number under which the child has it."""

    number: int


def call(function: str, *arguments: Any) -> Any:
    """Call `function` ('module:name') with picklable arguments in a child process and return its picklable result.

    Raises whatever StrongroomError the function raised, and EngineFailed for any other exception or a crash.
    """
    child = _waiting.pop(_module(function), None) or _Child()
    return child.ask(function, arguments, last=True)


def ask(function: str, *arguments: Any) -> Any:
    """As `call`, of a function that leaves nothing behind that the next one could mind: while `prepared` is open, the same child
    answers the next one too, unless it crashed or holds much memory by then."""
    module = _module(function)
    child = _waiting.pop(module, None) or _Child()
    kept = module in _open
    answer = child.ask(function, arguments, last=not kept)
    if kept and child.resident() < _KEPT_BYTES and _waiting.setdefault(module, child) is child:
        return answer
    child.end()
    return answer


@contextmanager
def prepared(function: str) -> Iterator[None]:
    """While this is open, a child that has called `function` ('module:name'), which loads what the module needs, waits for the
    first `call` into that module, or for each `ask`: it starts while we do something else. It ends here."""
    module = _module(function)
    if module in _open:  # whoever opened it ends it
        yield
        return
    _open.add(module)
    _waiting[module] = _Child(function)
    try:
        yield
    finally:
        _open.discard(module)
        if child := _waiting.pop(module, None):
            child.end()


class _Child:
    """A process that serves one call after another, and ends after the last one."""

    def __init__(self, loading: str = "") -> None:
        self._requests, theirs = socket.socketpair()
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        with theirs:
            command = [
                *(sys.executable, "-P", "-m", "strongroom.engines.isolation"),  # -P: nothing is imported from where we stand
                *(str(theirs.fileno()), str(os.getpid()), loading),
            ]
            self._process = _started(command, theirs.fileno(), self._complaints)

    def ask(self, function: str, arguments: Sequence[Any], *, last: bool) -> Any:
        """The result of the function, or what it raised. It must have ended if it is asked no more."""
        request, descriptors = _packed((function, stopwatch.is_timing(), *arguments))
        with suppress(BrokenPipeError, ConnectionResetError):  # it died, and its exit code says how
            socket.send_fds(self._requests, [_LENGTH.pack(len(request))], descriptors)
            self._requests.sendall(request)
        if last:
            self._requests.close()
        answer = self._answer()
        if last or not answer:
            self._ended(function)
        if not answer:
            raise EngineFailed(f"{function}: the engine's process ended without an answer")
        done, result, laps = pickle.loads(answer)
        stopwatch.note(laps)
        if not done:
            self.end()
            raise result
        return result

    def _answer(self) -> bytes:
        """Empty if it ended before."""
        answers = cast("IO[bytes]", self._process.stdout)
        head = answers.read(_LENGTH.size)
        return answers.read(*_LENGTH.unpack(head)) if len(head) == _LENGTH.size else b""

    def _ended(self, function: str) -> None:
        """Wait for its end. Raises EngineFailed if that was no good one."""
        self._requests.close()
        cast("IO[bytes]", self._process.stdout).close()
        code = self._process.wait()
        self._complaints.seek(0)
        complaints = self._complaints.read().decode(errors="replace").strip().splitlines()
        self._complaints.close()
        if code < 0:
            raise EngineFailed(f"{function}: the engine crashed ({signal.Signals(-code).name})")
        if code > 0:
            raise EngineFailed(f"{function}: the engine's process ended with {code}: {(complaints or ['no message'])[-1]}")

    def resident(self) -> float:
        """Bytes that it holds in memory; infinite where that isn't told."""
        try:
            return int(Path(f"/proc/{self._process.pid}/statm").read_bytes().split()[1]) * resource.getpagesize()
        except (OSError, IndexError):
            return math.inf

    def end(self) -> None:
        """It is asked nothing any more."""
        if self._process.returncode is None:
            self._requests.close()
            self._process.kill()
            self._process.communicate()
            self._complaints.close()


def _started(command: Sequence[str], channel: int, complaints: IO[bytes]) -> subprocess.Popen[bytes]:
    """By a thread that lives as long as we do: Linux tells a child of the death of the thread that started it."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            pass_fds=(channel,),
            env=_environment(),
        )

    return _starting().submit(start).result()


@cache
def _starting() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "children")


os.register_at_fork(after_in_child=_starting.cache_clear)  # a fork has none of our threads
_waiting: dict[str, _Child] = {}
_open: set[str] = set()
"""The modules of which a child is kept: `prepared` is open."""
_KEPT_BYTES = 512 << 20


def _module(function: str) -> str:
    return function.partition(":")[0]


def _environment() -> dict[str, str]:
    """Ours, but engines get all cores for BLAS, whose threads don't spin for 2^26 ticks after they start, and glibc keeps less of
    what they free."""
    kept = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    return {"MALLOC_ARENA_MAX": "2", "OPENBLAS_THREAD_TIMEOUT": "16", **kept}


def _packed(request: Sequence[Any]) -> tuple[bytes, list[int]]:
    """The request's bytes, and the open files that go with them."""
    descriptors: list[int] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, one: Any) -> int | None:
            if not isinstance(one, Descriptor):
                return None
            descriptors.append(one.number)
            return len(descriptors) - 1

    content = io.BytesIO()
    Pickler(content, protocol=5).dump(request)
    return content.getvalue(), descriptors


def _unpacked(content: bytes, descriptors: Sequence[int]) -> tuple[str, bool, Sequence[Any]]:
    class Unpickler(pickle.Unpickler):
        def persistent_load(self, place: int) -> int:
            return descriptors[place]

    function, timed, *arguments = Unpickler(io.BytesIO(content)).load()
    return function, timed, arguments


# -- the child's side --------------------------------------------------------------------------------------------------------


def _die_with(parent: int) -> None:
    """A child that outlived its killed parent would go on writing into a stage that the next restore has taken over."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    threading.Thread(target=watch, daemon=True).start()


def _serve(channel: int, loading: str) -> None:
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever the engine prints, from Python or below, must not mix with the answer
    if loading:
        with suppress(Exception):  # what can't be loaded is reported by the call that needs it
            _found(loading)()
    with socket.socket(fileno=channel) as requests:
        while (request := _received(requests)) is not None:
            content = pickle.dumps(_outcome(*request), protocol=5)
            answer.write(_LENGTH.pack(len(content)) + content)
            answer.flush()
    os._exit(0)  # taking a large library apart again takes as long as loading it


def _received(requests: socket.socket) -> tuple[str, bool, Sequence[Any]] | None:
    """The next request, None if nobody asks any more."""
    head, descriptors, _, _ = socket.recv_fds(requests, _LENGTH.size, _MOST_DESCRIPTORS)
    if not head:
        return None
    with requests.makefile("rb") as stream:
        (length,) = _LENGTH.unpack(head + stream.read(_LENGTH.size - len(head)))
        return _unpacked(stream.read(length), descriptors)


def _outcome(function: str, timed: bool, arguments: Sequence[Any]) -> tuple[bool, Any, Sequence[float]]:
    """Whether it was done, what it gave or raised, and how long its queries took if they are timed."""
    try:
        with stopwatch.timing() if timed else nullcontext(()) as laps:
            return True, _found(function)(*arguments), laps
    except StrongroomError as error:
        return False, error, ()
    except Exception as error:  # noqa: BLE001 - the process boundary: every failure is reported to the parent
        return False, EngineFailed(f"{type(error).__name__}: {error}".splitlines()[0]), ()


def _found(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


if __name__ == "__main__":
    gc.set_threshold(50_000)  # loading a library makes garbage enough for a hundred rounds of the default
    _die_with(int(sys.argv[2]))
    _serve(int(sys.argv[1]), sys.argv[3])
