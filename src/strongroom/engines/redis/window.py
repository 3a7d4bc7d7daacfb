"""Where in a replication stream are we, and what of it is decoded but not yet certain?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from strongroom.engines.redis.changes import Timed
from strongroom.engines.redis.effects import Effect, Known, RowEffect, Unknown
from strongroom.engines.redis.names import raw_of
from strongroom.engines.redis.replica import Command


@dataclass
class Place:
    """Where in the stream we are: all before it is read, and `queue` is what of it is not decoded."""

    log: str
    offset: int
    database: int = -1
    queue: list[tuple[int, Command]] = field(default_factory=list)

    @property
    def mark(self) -> str:
        return f"{self.offset}:{self.log}:{self.database}"


@dataclass
class Window:
    """Effects in order, what is unknown of them, and from which of them on all is one transaction; `before` is the mark there."""

    before: str
    timed: list[Timed] = field(default_factory=list)
    unknown: dict[Unknown, None] = field(default_factory=dict)
    start: int | None = None

    def close(self, mark: str) -> None:
        """All is known at this mark: `END:LOG:DATABASE@BEGIN`, with the offset from which on it is one transaction."""
        if self.start is None:
            return
        begin = (self.timed[self.start - 1].mark if self.start else self.before).partition(":")[0]
        for one in self.timed[self.start :]:
            one.mark = f"{mark}@{begin}"

    def undo(self, place: Place) -> str:
        """Give up what isn't settled. Gives the mark up to which all is."""
        if self.start is None:
            return place.mark
        del self.timed[self.start :]
        return self.timed[-1].mark.partition("@")[0] if self.timed else self.before


def unit_of(effect: Effect, known: Known) -> Unknown | None:
    """Which key or element an effect on a row is about."""
    if not isinstance(effect, RowEffect):
        return None
    for one in known.indexes:
        if one.name == effect.collection:
            return Unknown(one.key_of(effect.row.id))
    for key in known.sets:
        if known.name_of_set(key) == effect.collection:
            return Unknown(key, raw_of(effect.row.id))
    return None


def is_open(commands: Sequence[tuple[int, Command]]) -> bool:
    """Does the last transaction lack its end?"""
    last = next((command[0].upper() for _, command in reversed(commands) if command[0].upper() in (b"MULTI", b"EXEC")), b"EXEC")
    return last == b"MULTI"


def transactions(commands: Sequence[tuple[int, Command]]) -> Iterator[tuple[int, list[Command]]]:
    """Each command, or all between MULTI and EXEC, with the offset after it."""
    inside: list[Command] | None = None
    for end, command in commands:
        word = command[0].upper()
        if word == b"MULTI":
            inside = []
        elif word == b"EXEC" and inside is not None:
            yield end, inside
            inside = None
        elif inside is not None:
            inside.append(command)
        else:
            yield end, [command]
