"""How long work tells how far it is. The library reports; whoever shows it (the CLI's bars, a log) implements `Progress`."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the advance of one piece of work after another. Called from the thread that does the work."""

    def begin(self, stage: str, total: int | None, unit: str) -> None:
        """A new stage starts: its name, the amount of work (None if unknown) and the unit: 'bytes', 'rows' or 'objects'."""

    def advance(self, amount: int) -> None:
        """`amount` more units of the present stage are done."""


class Silent:
    """Shows nothing."""

    def begin(self, stage: str, total: int | None, unit: str) -> None:
        pass

    def advance(self, amount: int) -> None:
        pass


SILENT = Silent()
