"""Where snapshots are kept: packs of encrypted blobs, the blob index, signed manifests and key slots, in any object store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strongroom.repository.crypto import Argon2Cost
    from strongroom.repository.key_slots import KeySlot, Secret, new_key_file
    from strongroom.repository.pack_listing import INDEX
    from strongroom.repository.packs import Pack
    from strongroom.repository.repository import REPAIRS, Repository
    from strongroom.repository.store import Store, open_store
    from strongroom.repository.unlocking import PACKS, SNAPSHOTS, read_config
    from strongroom.repository.writer import BlobWriter

__all__ = [
    "INDEX",
    "PACKS",
    "REPAIRS",
    "SNAPSHOTS",
    "Argon2Cost",
    "BlobWriter",
    "KeySlot",
    "Pack",
    "Repository",
    "Secret",
    "Store",
    "new_key_file",
    "open_store",
    "read_config",
]

_HOMES = {
    "INDEX": "pack_listing",
    "PACKS": "unlocking",
    "REPAIRS": "repository",
    "SNAPSHOTS": "unlocking",
    "Argon2Cost": "crypto",
    "BlobWriter": "writer",
    "KeySlot": "key_slots",
    "Pack": "packs",
    "Repository": "repository",
    "Secret": "key_slots",
    "Store": "store",
    "new_key_file": "key_slots",
    "open_store": "store",
    "read_config": "unlocking",
}


def __getattr__(name: str) -> Any:
    """Loaded when first used: a password becomes a key while what works with blobs is loaded."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'strongroom.repository' has no attribute {name!r}")
    return getattr(importlib.import_module(f"strongroom.repository.{_HOMES[name]}"), name)
