"""How do the tests make a store fail? A wrapper that counts operations and does harm at one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from strongroom.errors import AlreadyExists, StoreDenied, StoreFull, Unreachable
from strongroom.repository import Store
from strongroom.repository.store import Listed

LATE = 6
_SLOW_SECONDS = 0.02


class SimulatedCrash(BaseException):
    """The process is dead: nothing that it does later reaches the store."""


@dataclass(frozen=True)
class Operation:
    """One call: which one, counted from 0, and of what."""

    number: int
    verb: str
    name: str


Trouble = Callable[[Operation], str | None]
"""What happens at an operation: None, or the name of a fault."""


class FaultyStore:
    """A store that fails where `trouble` says so.

    crash before, crash after     and from then on nothing works
    unreachable before, after     a lost request, a lost answer
    exists after                  the write lands, its answer is lost, and a retry says that the name is taken
    exists before                 a conflict with nobody: the name is free, and the store says that it is taken
    full, denied                  nothing happens but the error
    cut                           a read gives half of the bytes
    twice, late                   a write or delete is sent twice, the second time at once or when LATE operations more were made
    slow                          the answer takes a while

    `hidden` are the names that no listing tells of.
    """

    def __init__(self, inner: Store, trouble: Trouble = lambda _: None) -> None:
        self.inner = inner
        self.trouble = trouble
        self.operations: list[Operation] = []
        self.hidden: set[str] = set()
        self.conditional = True
        self._dead = False
        self._lock = threading.Lock()
        self._late: list[tuple[int, Callable[[], None]]] = []

    @property
    def url(self) -> str:
        return self.inner.url

    def create(self, name: str, data: bytes | memoryview) -> None:
        with self._operation("create", name) as fault:
            if not self.conditional:
                self.inner.delete(name)
            self.inner.create(name, data)
            content = bytes(data)
            self._repeat(fault, lambda: self.inner.create(name, content))

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._operation("read", name) as fault:
            content = self.inner.read(name, offset, length)
        return content[: len(content) // 2] if fault == "cut" else content

    def size(self, name: str) -> int:
        with self._operation("size", name):
            return self.inner.size(name)

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        with self._operation("list", prefix):
            return iter([listed for listed in self.inner.list(prefix, after) if listed.name not in self.hidden])

    def folders(self, prefix: str) -> Sequence[str]:
        with self._operation("list", prefix):
            return self.inner.folders(prefix)

    def delete(self, name: str) -> None:
        with self._operation("delete", name) as fault:
            self.inner.delete(name)
            if fault == "twice":
                self.inner.delete(name)

    def settle(self) -> None:
        """What was under way arrives."""
        self._arrive(len(self.operations) + LATE)

    def _repeat(self, fault: str | None, write: Callable[[], None]) -> None:
        with self._lock:
            self._late += [(len(self.operations) + LATE, write)] if fault == "late" else []
        if fault == "twice":
            with suppress(AlreadyExists):
                write()

    def _arrive(self, number: int) -> None:
        due = [write for when, write in self._late if when <= number]
        self._late = [one for one in self._late if one[0] > number]
        for write in due:
            with suppress(AlreadyExists):
                write()

    @contextmanager
    def _operation(self, verb: str, name: str) -> Iterator[str | None]:
        """A refusal is an answer too, and may be lost like any other."""
        fault = self._begin(verb, name)
        try:
            yield fault
        finally:
            self._end(fault)

    def _begin(self, verb: str, name: str) -> str | None:
        with self._lock:
            if self._dead:
                raise SimulatedCrash
            operation = Operation(len(self.operations), verb, name)
            self.operations.append(operation)
            self._arrive(operation.number)
            fault = self.trouble(operation)
            if fault == "crash before":
                self._dead = True
                raise SimulatedCrash
        if fault == "slow":
            time.sleep(_SLOW_SECONDS)
        if fault == "exists before" and verb == "create":
            raise AlreadyExists(f"{name}: somebody else is writing it")
        if fault == "unreachable before":
            raise Unreachable(f"{name}: no answer")
        if fault == "full":
            raise StoreFull(f"{name}: no room")
        if fault == "denied":
            raise StoreDenied(f"{name}: not for you")
        return fault

    def _end(self, fault: str | None) -> None:
        if fault == "crash after":
            self._dead = True
            raise SimulatedCrash
        if fault == "unreachable after":
            raise Unreachable("the answer was lost")
        if fault == "exists after":
            raise AlreadyExists("the answer was lost, and the retry found the name taken")


WRITES = ("create", "delete")
_FELT = {"crash after": WRITES, "cut": ("read",), "exists after": WRITES, "full": ("create",)}


def felt(fault: str, operations: Sequence[Operation]) -> list[int]:
    """The numbers of those at which the fault differs from all others: a crash after a read leaves what one before it leaves, what
    isn't read isn't cut, and no store is too full to be read."""
    return [one.number for one in operations if one.verb in _FELT.get(fault, (one.verb,))]


def at(number: int, fault: str) -> Trouble:
    """The fault at one operation."""
    return lambda operation: fault if operation.number == number else None


def first_create(prefix: str, fault: str) -> Trouble:
    """The fault at the first write below a folder, or of an object."""
    met: list[Operation] = []

    def trouble(operation: Operation) -> str | None:
        if operation.verb != "create" or not operation.name.startswith(prefix) or met:
            return None
        met.append(operation)
        return fault

    return trouble
