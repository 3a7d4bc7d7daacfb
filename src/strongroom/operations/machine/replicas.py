"""Which replicas does this machine know of? Remembered outside of the repository, since the primary may be gone when it matters."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress

from strongroom.repository.state import alone_at, state_directory

_FILE = "replicas.json"


def known(primary: str) -> list[str]:
    """The URLs of the replicas of a repository at a URL: those of STRONGROOM_REPLICAS (blanks between them), then those that this
    machine copied to."""
    named = os.environ.get("STRONGROOM_REPLICAS", "").split()
    return list(dict.fromkeys([*named, *_read().get(primary, {})]))


def remember(primary: str, replica: str, synced: float | None = None) -> None:
    """`synced`: seconds since 1970, until when all is at the replica. Best effort."""
    path = state_directory() / _FILE
    with suppress(OSError), alone_at(path):
        notes = _read()
        of_primary = notes.setdefault(primary, {})
        of_primary[replica] = of_primary.get(replica, 0.0) if synced is None else synced
        fresh = path.with_suffix(".fresh")
        fresh.write_text(json.dumps(notes))
        fresh.replace(path)


def synced(primary: str, replica: str) -> float:
    """Until when all was at the replica, when this machine last completed it; 0 if it never did."""
    return _read().get(primary, {}).get(replica, 0.0)


def _read() -> dict[str, dict[str, float]]:
    try:
        notes = json.loads((state_directory() / _FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(notes, dict):
        return {}
    return {str(one): _numbers(replicas.items()) for one, replicas in notes.items() if isinstance(replicas, dict)}


def _numbers(pairs: Iterable[tuple[object, object]]) -> dict[str, float]:
    return {str(name): float(value) for name, value in pairs if isinstance(value, int | float)}
