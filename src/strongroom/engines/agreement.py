"""How is a source that has no snapshots read at one moment? Again and again, until two readings in a row are the same: then it was
so when the first had ended and the second begun."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from strongroom.errors import SourceChanged

PATIENCE = 120.0
"""Seconds after which no reading begins any more, once there were three."""
_LEAST_READINGS = 3


class Reading(Protocol):
    """All that was read once."""

    def print(self) -> str:
        """The same for the same rows and catalog."""

    def forget(self) -> None:
        """It wasn't the moment: let go of its files."""


R = TypeVar("R", bound=Reading)


def read_until_same(read: Callable[[int], R], subject: str) -> R:
    """The second of two readings that are the same; `read` is given their number, from 1 on. Raises SourceChanged if there never
    were two."""
    until = time.monotonic() + PATIENCE
    before, number = read(1), 1
    while number < _LEAST_READINGS or time.monotonic() <= until:
        number += 1
        now = read(number)
        before.forget()
        if now.print() == before.print():
            return now
        before = now
    raise SourceChanged(
        f"{subject} was written to for as long as it was read, {number} times over",
        hint="stop or pause the writers and run the backup again",
    )
