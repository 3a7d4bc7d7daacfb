"""Where snapshots are kept: packs of encrypted blobs, the blob index, signed manifests and key slots, in any object store."""

from strongroom.repository.crypto import Argon2Cost
from strongroom.repository.key_slots import KeySlot, Secret, new_key_file
from strongroom.repository.packs import Pack
from strongroom.repository.repository import INDEX, PACKS, REPAIRS, SNAPSHOTS, Repository, read_config
from strongroom.repository.store import Store, open_store
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
