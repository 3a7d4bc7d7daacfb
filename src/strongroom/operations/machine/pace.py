"""How fast does this machine apply operations of a journal? Remembered by engine, so that a plan can say how long it will take."""

from __future__ import annotations

import json
from contextlib import suppress

from strongroom.engines.staging import write_durably
from strongroom.repository.state import alone_at, state_directory

_FILE = "replay-pace.json"
_FEWEST = 500
"""Fewer operations tell nothing: starting the engine takes longer than they do."""


def seconds_for(engine: str, operations: int) -> float | None:
    """About how long that many operations take; None if this machine has never done it."""
    pace = _known().get(engine)
    return operations / pace if pace else None


def remember(engine: str, operations: int, seconds: float) -> None:
    """How long it took. Best effort: a machine that can't keep it doesn't."""
    if operations < _FEWEST or seconds <= 0:
        return
    path = state_directory() / _FILE
    with suppress(OSError), alone_at(path, wait=False):
        write_durably(path, json.dumps({**_known(), engine: operations / seconds}).encode())


def _known() -> dict[str, float]:
    try:
        found = json.loads((state_directory() / _FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): float(pace) for name, pace in found.items() if isinstance(pace, int | float) and pace > 0}
