"""Where are reports of drills kept? Sealed and signed, one object each; nothing takes them away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import zstandard

from strongroom.errors import Damaged, NotFound
from strongroom.repository.crypto import SIGNATURE_BYTES, NotAuthentic
from strongroom.repository.framing import Kind, seal, unseal
from strongroom.repository.keys import Keys
from strongroom.repository.store import Store
from strongroom.repository.writer import create_once

FOLDER = "drills/"
_LONGEST = 1 << 26
_READERS = 8


def write(store: Store, keys: Keys, document: bytes) -> str:
    """Store a report, durably; gives its id. Raises what `create_once` raises."""
    plain = zstandard.compress(document, 9)
    object_id, content = seal(keys, Kind.DRILL, keys.sign(plain) + plain)
    create_once(store, FOLDER + object_id, content)
    return object_id


def read_all(store: Store, keys: Keys) -> tuple[dict[str, bytes], list[Damaged]]:
    """All reports by their ids, and those that can't be believed."""
    names = [listed.name for listed in store.list(FOLDER)]
    with ThreadPoolExecutor(_READERS) as pool:
        read = list(pool.map(lambda name: _read(store, keys, name), names))
    pairs = list(zip(names, read, strict=True))
    found = {name.removeprefix(FOLDER): one for name, one in pairs if isinstance(one, bytes)}
    return found, [one for one in read if isinstance(one, Damaged)]


def _read(store: Store, keys: Keys, name: str) -> bytes | Damaged:
    try:
        plain = unseal(keys, Kind.DRILL, name, store.read(name))
        keys.verify(plain[:SIGNATURE_BYTES], plain[SIGNATURE_BYTES:])
        if zstandard.frame_content_size(plain[SIGNATURE_BYTES:]) > _LONGEST:
            return Damaged(name, "it claims to be longer than any report")
        return zstandard.decompress(plain[SIGNATURE_BYTES:])
    except NotFound:
        return Damaged(name, "it was listed and is not there")
    except NotAuthentic:
        return Damaged(name, "its signature isn't this repository's")
    except zstandard.ZstdError:
        return Damaged(name, "it is not a report")
    except Damaged as error:
        return error
