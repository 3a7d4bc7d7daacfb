"""What of a restore is done already, so that a killed one goes on instead of starting again."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from strongroom.engines.staging import write_durably

_NOTE_SECONDS = 0.2
_NOTE_SHARE = 20
"""So many times as long as the last note took passes before the next one: of 10,000 collections each is a megabyte."""


class RestoreState:
    """state.json and receipt.json in the stage's directory. Each is written after the work that it names, so that it never says
    too much; what a crash tore all the same is found when the files are read back."""

    def __init__(self, directory: Path) -> None:
        self._due = 0.0
        self._path = directory / "state.json"
        self._receipt = directory / "receipt.json"
        known = json.loads(self._path.read_bytes()) if self._path.exists() else {}
        self.installed: set[str] = set(known.get("installed", ()))
        self.loaded: dict[str, dict[str, Any]] = known.get("loaded", {})
        self.adopted: bool = known.get("adopted", False)
        self.replaying: bool = known.get("replaying", False)

    def add_installed(self, path: str) -> None:
        """The artifact is written. That is noted a few times a second: what wasn't noted is written once more."""
        self.installed.add(path)
        self._write_if_due()

    def add_loaded(self, name: str, roots: dict[str, Any]) -> None:
        """The collection is loaded; `roots` are those of the rows that were sent. Noted as often: what wasn't is loaded again."""
        self.loaded[name] = roots
        self._write_if_due()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """While collections are loaded. Which ones are is noted at the end, also if that is a failure."""
        try:
            yield
        except BaseException:
            with suppress(OSError):  # what failed is told, and not this
                self._write()
            raise
        self._write()

    def _write_if_due(self) -> None:
        began = time.monotonic()
        if began >= self._due:
            self._write()
            ended = time.monotonic()
            self._due = ended + max(_NOTE_SECONDS, _NOTE_SHARE * (ended - began))

    def set_adopted(self) -> None:
        """All artifacts were found whole; from here on the engine may change them."""
        self.adopted = True
        self._write()

    def set_replaying(self) -> None:
        """Operations of the journal are being applied: who finds this state begins anew."""
        self.replaying = True
        self._write()

    def set_replayed(self) -> None:
        self.replaying = False
        self._write()

    def set_receipt(self, content: bytes) -> None:
        write_durably(self._receipt, content)

    def receipt(self) -> bytes:
        return self._receipt.read_bytes()

    def _write(self) -> None:
        content = {"installed": sorted(self.installed), "loaded": self.loaded, "adopted": self.adopted, "replaying": self.replaying}
        write_durably(self._path, json.dumps(content).encode())
