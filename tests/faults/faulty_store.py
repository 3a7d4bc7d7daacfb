"""How do the tests make a store fail? A wrapper that counts operations and does harm at one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from strongroom.errors import AlreadyExists, StoreDenied, StoreFull, Unreachable
from strongroom.repository import Store
from strongroom.repository.store import Listed


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
    full, denied                  nothing happens but the error
    cut                           a read gives half of the bytes
    """

    def __init__(self, inner: Store, trouble: Trouble = lambda _: None) -> None:
        self.inner = inner
        self.trouble = trouble
        self.operations: list[Operation] = []
        self.hidden: set[str] = set()
        self.conditional = True
        self._dead = False
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self.inner.url

    def create(self, name: str, data: bytes | memoryview) -> None:
        with self._operation("create", name):
            if not self.conditional:
                self.inner.delete(name)
            self.inner.create(name, data)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._operation("read", name) as fault:
            content = self.inner.read(name, offset, length)
        return content[: len(content) // 2] if fault == "cut" else content

    def size(self, name: str) -> int:
        with self._operation("size", name):
            return self.inner.size(name)

    def list(self, prefix: str) -> Iterator[Listed]:
        with self._operation("list", prefix):
            return iter([listed for listed in self.inner.list(prefix) if listed.name not in self.hidden])

    def delete(self, name: str) -> None:
        with self._operation("delete", name):
            self.inner.delete(name)

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
            fault = self.trouble(operation)
            if fault == "crash before":
                self._dead = True
                raise SimulatedCrash
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
