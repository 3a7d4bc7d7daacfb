"""What do the messages of a logical slot say? pgoutput, protocol version 1, values as text. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

EPOCH = 946_684_800_000_000
"""Microseconds from 1970 to 2000, from which PostgreSQL counts."""


class Unchanged:
    """The value of a column that the server doesn't repeat: it lies out of line and is as it was."""


UNCHANGED = Unchanged()
Cell = str | None | Unchanged
Cells = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction, whose commit happened at `time` (microseconds since 1970); its record begins at `place`."""

    place: int
    time: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Its commit record ends at `end`."""

    end: int


@dataclass(frozen=True, slots=True)
class Relation:
    """What a table looks like from here on: `columns` are names, in the order of the values; `full` if old rows are whole."""

    oid: int
    schema: str
    name: str
    full: bool
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row that was put (`new`), taken away (`old`), or both."""

    oid: int
    old: Cells | None
    new: Cells | None


@dataclass(frozen=True, slots=True)
class Truncate:
    oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody put into the log by pg_logical_emit_message."""

    prefix: str
    content: bytes


Said = Begin | Commit | Relation | Row | Truncate | Message | None


def parse(message: bytes) -> Said:
    """A message; None for those that mean nothing here. Raises ValueError or struct.error for one that isn't as it should be."""
    reader = _Reader(message)
    kind = reader.text(1)
    if kind not in _PARSERS:
        raise ValueError(f"unknown message {kind!r}")
    return _PARSERS[kind](reader)


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def number(self, code: str) -> int:
        form = struct.Struct(">" + code)
        (value,) = form.unpack_from(self._content, self._at)
        self._at += form.size
        return int(value)

    def raw(self, length: int) -> bytes:
        found = self._content[self._at : self._at + length]
        if len(found) != length:
            raise ValueError("the message is too short")
        self._at += length
        return found

    def text(self, length: int) -> str:
        return self.raw(length).decode()

    def name(self) -> str:
        end = self._content.index(b"\0", self._at)
        found = self._content[self._at : end].decode()
        self._at = end + 1
        return found

    def cells(self) -> Cells:
        return tuple(self._cell() for _ in range(self.number("H")))

    def _cell(self) -> Cell:
        kind = self.text(1)
        if kind == "n":
            return None
        if kind == "u":
            return UNCHANGED
        if kind != "t":
            raise ValueError(f"unknown form of a value {kind!r}")
        return self.text(self.number("I"))


def _begin(reader: _Reader) -> Begin:
    return Begin(reader.number("Q"), reader.number("q") + EPOCH)


def _commit(reader: _Reader) -> Commit:
    reader.number("B")
    reader.number("Q")
    return Commit(reader.number("Q"))


def _relation(reader: _Reader) -> Relation:
    oid, schema, name = reader.number("I"), reader.name(), reader.name()
    full = reader.text(1) == "f"
    columns = []
    for _ in range(reader.number("H")):
        reader.number("B")
        columns.append(reader.name())
        reader.number("I")
        reader.number("i")
    return Relation(oid, schema or "pg_catalog", name, full, tuple(columns))


def _insert(reader: _Reader) -> Row:
    oid = reader.number("I")
    reader.text(1)
    return Row(oid, None, reader.cells())


def _update(reader: _Reader) -> Row:
    oid, kind, old = reader.number("I"), reader.text(1), None
    if kind in "KO":
        old, kind = reader.cells(), reader.text(1)
    return Row(oid, old, reader.cells())


def _delete(reader: _Reader) -> Row:
    oid = reader.number("I")
    reader.text(1)
    return Row(oid, reader.cells(), None)


def _truncate(reader: _Reader) -> Truncate:
    count = reader.number("I")
    reader.number("B")
    return Truncate(tuple(reader.number("I") for _ in range(count)))


def _message(reader: _Reader) -> Message:
    reader.number("B")
    reader.number("Q")
    prefix = reader.name()
    return Message(prefix, reader.raw(reader.number("I")))


def _nothing(reader: _Reader) -> None:
    return None


_PARSERS: dict[str, Callable[[_Reader], Said]] = {
    "B": _begin,
    "C": _commit,
    "R": _relation,
    "I": _insert,
    "U": _update,
    "D": _delete,
    "T": _truncate,
    "M": _message,
    "Y": _nothing,
    "O": _nothing,
}
