"""What this machine remembers of a repository: which snapshots were the newest, and when each pack was last proven.

Object storage can be rolled back as a whole by whoever controls it: the last snapshots taken away leave no gap that the others
could show. A witness outside of the repository shows it. Losing this file costs only that; it holds no secret.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from strongroom.repository import Repository


class Witness:
    """The notes about one repository, in $STRONGROOM_STATE_DIR, else $XDG_STATE_HOME/strongroom or ~/.local/state/strongroom."""

    def __init__(self, repository: Repository) -> None:
        self._path = state_directory() / f"{repository.config.repository_id.hex()}.json"
        self._notes = self._read()

    @property
    def newest(self) -> tuple[str, ...]:
        """The ids of the snapshots that were the newest when this machine last saw the repository."""
        return tuple(self._notes.get("newest", ()))

    @property
    def proven(self) -> Mapping[str, float]:
        """Pack id to the time (seconds since 1970) at which all of it was last read and found right."""
        return dict(self._notes.get("proven", {}))

    def saw(self, newest: Sequence[str], present: Collection[str]) -> None:
        """These are the newest ones now. A remembered one that isn't present stays remembered: it was taken away."""
        missing = [snapshot for snapshot in self.newest if snapshot not in present]
        self._notes["newest"] = [*newest, *missing]
        self._write()

    def proved(self, packs: Iterable[str], at: float) -> None:
        self._notes.setdefault("proven", {}).update(dict.fromkeys(packs, at))
        self._write()

    def _read(self) -> dict[str, Any]:
        try:
            notes = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) else {}

    def _write(self) -> None:
        """Best effort: a machine that can't remember can still back up."""
        fresh = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh.write_text(json.dumps(self._notes))
            fresh.replace(self._path)
        except OSError:
            return


def state_directory() -> Path:
    named = os.environ.get("STRONGROOM_STATE_DIR")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "strongroom"
