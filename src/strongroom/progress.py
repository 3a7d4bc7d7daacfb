"""How work tells how far it is, and how it is held back. The library reports; who shows it implements `Progress`."""

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


class Pace(Protocol):
    """Holds back who reads a source and writes to a repository: each call may take its time."""

    def read(self, amount: int) -> None:
        """So many bytes were read of the source. From the thread that reads."""

    def written(self, amount: int) -> None:
        """So many bytes are about to be written to the store. From any thread."""


class Unhurried:
    """Holds nothing back."""

    def read(self, amount: int) -> None:
        pass

    def written(self, amount: int) -> None:
        pass


UNHURRIED = Unhurried()
