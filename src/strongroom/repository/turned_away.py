"""Who tried to open a repository and couldn't? Noted on this machine: whoever has no key can't write into the audit log."""

from __future__ import annotations

import getpass
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from strongroom.clock import Clock
from strongroom.repository.state import alone_at, state_directory

_MOST_BYTES = 1 << 20
"""A file of this size is put aside, once: somebody who tries all day doesn't fill the disk."""


def note(repository_id: bytes, url: str, kind: str, clock: Clock) -> None:
    """Remember one attempt: when, by which user of this host, with what kind of secret. Best effort."""
    said = {"at": clock.now().isoformat(), "user": user(), "host": socket.gethostname(), "store": url, "secret": kind}
    path = _path(repository_id)
    with suppress(OSError), alone_at(path):
        if path.exists() and path.stat().st_size > _MOST_BYTES:
            path.replace(path.with_suffix(".old"))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps(said) + "\n")


def noted(repository_id: bytes) -> list[dict[str, Any]]:
    """The attempts that this machine remembers, oldest first."""
    found: list[dict[str, Any]] = []
    path = _path(repository_id)
    for one in (path.with_suffix(".old"), path):
        with suppress(OSError, ValueError):
            found += [json.loads(line) for line in one.read_text().splitlines()]
    return found


def user() -> str:
    """The operating system's name of who runs this, else the number."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return str(os.getuid())


def _path(repository_id: bytes) -> Path:
    return state_directory() / f"{repository_id.hex()}-turned-away.jsonl"
