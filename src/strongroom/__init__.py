"""Backup and restore for vector databases: rows, index, catalog and lineage as one versioned artifact.

import strongroom

room = strongroom.init("/backups/main", password="...")
room.backup("chroma:///srv/chroma", model="all-MiniLM-L6-v2@1", tags={"env": "prod"})
room.restore("latest", "chroma:///srv/chroma-restored")
assert room.verify("latest", level=strongroom.Level.ANSWERS).passed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strongroom.library import Strongroom
    from strongroom.library import capture_index as capture
    from strongroom.library import init_repository as init
    from strongroom.library import open_repository as open
    from strongroom.library import repair_repository as repair
    from strongroom.operations.restore.plan import Rung
    from strongroom.operations.verify import Level

__all__ = ["Level", "Rung", "Strongroom", "capture", "init", "open", "repair"]

_HOMES = {
    "Level": ("strongroom.operations.verify", "Level"),
    "Rung": ("strongroom.operations.restore.plan", "Rung"),
    "Strongroom": ("strongroom.library", "Strongroom"),
    "capture": ("strongroom.library", "capture_index"),
    "init": ("strongroom.library", "init_repository"),
    "open": ("strongroom.library", "open_repository"),
    "repair": ("strongroom.library", "repair_repository"),
}


def __getattr__(name: str) -> Any:
    """Loaded when first used: an engine's child process needs none of it."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'strongroom' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)
