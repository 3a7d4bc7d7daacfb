"""Which run of the machine is this? What was written without waiting for the disk is there for sure only as long as it lasts."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def boot() -> str | None:
    """Which run it is; None if it can't be told."""
    with suppress(OSError):
        return _BOOT.read_text().strip()
    return None
