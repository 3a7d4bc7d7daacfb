"""Where does this machine keep what it remembers of repositories, and how does one process at a time change it?"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def state_directory() -> Path:
    """$STRONGROOM_STATE_DIR, else $XDG_STATE_HOME/strongroom or ~/.local/state/strongroom. It may not be there, nor be makeable."""
    named = os.environ.get("STRONGROOM_STATE_DIR")
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "strongroom"
    except RuntimeError:  # a user without a home: below this, every attempt is an OSError
        return Path(os.devnull) / "strongroom"


@contextmanager
def alone_at(path: Path, *, wait: bool = True) -> Iterator[None]:
    """While no other process or thread that asks for the same is; the directory is made if need be. Raises OSError, at once if
    it isn't to wait."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
