"""How is something declared for good: a hold, its release, an erasure? Signed, sealed, never altered, missed if it is taken away.

    magic..salt as in `framing` | AES-256-GCM of (signature 64 | zstd(JSON))

Each declaration names the newest ones that its writer saw (`after`), so that one that is taken away is missed by the next. The
newest ones nobody names: this machine remembers how many it saw in this store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import zstandard

from strongroom.errors import Damaged, NotFound
from strongroom.repository.crypto import SIGNATURE_BYTES, NotAuthentic
from strongroom.repository.framing import Kind, seal, unseal
from strongroom.repository.keys import Keys
from strongroom.repository.store import Store
from strongroom.repository.versions import VersionMemory
from strongroom.repository.writer import create_once

_LONGEST = 1 << 28
_READERS = 8
_HINT = (
    "bring it back with 'strongroom verify --repair --from REPLICA': until then nothing is forgotten, pruned, erased or restored"
)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One that was read: its id (64 hex digits), what it says, and when the store says that it was stored (None: it doesn't)."""

    id: str
    body: Mapping[str, Any]
    stored: datetime | None


def declare(store: Store, keys: Keys, kind: Kind, folder: str, body: Mapping[str, Any], seen: Iterable[Declaration]) -> str:
    """Store a declaration, durably, after those that were `seen`; gives its id. Raises what `create_once` raises."""
    known = list(seen)
    named = {one for declaration in known for one in declaration.body["after"]}
    newest = sorted(one.id for one in known if one.id not in named)
    plain = zstandard.compress(json.dumps({**body, "after": newest}, sort_keys=True, separators=(",", ":")).encode())
    object_id, content = seal(keys, kind, keys.sign(plain) + plain)
    create_once(store, folder + object_id, content)
    _memory(store, keys, kind).saw(len(known) + 1)
    return object_id


def declarations(store: Store, keys: Keys, kind: Kind, folder: str) -> list[Declaration]:
    """All of a folder, oldest first by what their writers saw. Raises Damaged if one can't be read, or one that another names or
    this machine saw is gone: nobody can tell then what was declared."""
    listed = list(store.list(folder))
    with ThreadPoolExecutor(_READERS) as pool:
        bodies = list(pool.map(lambda one: read_declaration(store, keys, kind, one.name), listed))
    found = {
        one.name.removeprefix(folder): Declaration(one.name.removeprefix(folder), body, _time(one.modified))
        for one, body in zip(listed, bodies, strict=True)
    }
    for one in found.values():
        for earlier in one.body["after"]:
            if earlier not in found:
                raise Damaged(folder + earlier, f"missing: {folder}{one.id[:12]} was declared after it", hint=_HINT)
    _require_no_fewer(_memory(store, keys, kind), folder, len(found))
    return _in_order(found)


def _memory(store: Store, keys: Keys, kind: Kind) -> VersionMemory:
    return VersionMemory.at(keys.repository_id, store.url, kind.purpose)


def _require_no_fewer(memory: VersionMemory, folder: str, count: int) -> None:
    """Nobody ever deletes one."""
    if count < memory.version:
        hint = f"{_HINT}; if it was you, remove {memory.path.name} in the state directory"
        raise Damaged(
            folder, f"this machine saw {memory.version} here, and {count} are left: the newest were taken away", hint=hint
        )
    memory.saw(count)


def _in_order(found: Mapping[str, Declaration]) -> list[Declaration]:
    """Each after all that it names. They name hashes, so that there is no circle."""
    done: dict[str, Declaration] = {}
    waiting = [found[one] for one in sorted(found, reverse=True)]
    while waiting:
        one = waiting[-1]
        if missing := [earlier for earlier in one.body["after"] if earlier not in done]:
            waiting += [found[earlier] for earlier in missing]
        else:
            done.setdefault(waiting.pop().id, one)
    return list(done.values())


def read_declaration(store: Store, keys: Keys, kind: Kind, name: str) -> Mapping[str, Any]:
    """What one says. Raises Damaged."""
    try:
        plain = unseal(keys, kind, name, store.read(name))
        keys.verify(plain[:SIGNATURE_BYTES], plain[SIGNATURE_BYTES:])
        if not 0 <= zstandard.frame_content_size(plain[SIGNATURE_BYTES:]) <= _LONGEST:
            raise Damaged(name, "it claims to be longer than any declaration")
        body = json.loads(zstandard.decompress(plain[SIGNATURE_BYTES:]))
        if not isinstance(body, dict) or not all(isinstance(one, str) for one in body["after"]):
            raise ValueError("it names nothing that can be")
        return body
    except NotAuthentic as error:
        raise Damaged(name, "its signature isn't this repository's", hint=_HINT) from error
    except NotFound as error:
        raise Damaged(name, "it was listed and is not there", hint=_HINT) from error
    except Damaged as error:
        raise Damaged(error.subject, error.problem, hint=_HINT) from error
    except (ValueError, KeyError, TypeError, RecursionError, zstandard.ZstdError) as error:
        raise Damaged(name, f"it is not of the kind {kind.purpose}", hint=_HINT) from error


def _time(modified: float | None) -> datetime | None:
    return None if modified is None else datetime.fromtimestamp(modified, UTC)
