"""How do the tests make a store fail? A wrapper that counts operations and does harm at one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
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
        fault = self._begin("create", name)
        if not self.conditional:
            self.inner.delete(name)
        self.inner.create(name, data)
        self._end(fault)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        fault = self._begin("read", name)
        content = self.inner.read(name, offset, length)
        self._end(fault)
        return content[: len(content) // 2] if fault == "cut" else content

    def size(self, name: str) -> int:
        fault = self._begin("size", name)
        found = self.inner.size(name)
        self._end(fault)
        return found

    def list(self, prefix: str) -> Iterator[Listed]:
        fault = self._begin("list", prefix)
        found = [listed for listed in self.inner.list(prefix) if listed.name not in self.hidden]
        self._end(fault)
        return iter(found)

    def delete(self, name: str) -> None:
        fault = self._begin("delete", name)
        self.inner.delete(name)
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
