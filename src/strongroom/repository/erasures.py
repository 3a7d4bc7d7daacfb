"""Which rows may never come back: erasures, each an object of its own.

    erasures/<id>   an erasure, or the revocation of one that came too late for a hold: signed, never edited, never deleted

Ids are kept as BLAKE3 hashes under a random key of the entry, so that who reads an entry must know an id to find it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from blake3 import blake3

from strongroom.errors import Damaged
from strongroom.repository.crypto import KEY_BYTES, random_bytes
from strongroom.repository.declarations import declarations, declare
from strongroom.repository.framing import Kind
from strongroom.repository.repository import Repository

FOLDER = "erasures/"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Erased:
    """Rows of these ids (hashes under `key`), or those that `where` is true of, or all; of a collection, a source and a tenant, if
    they are given."""

    ids: frozenset[str] = frozenset()
    key: bytes = b""
    where: str = ""
    tenant: str = ""
    collection: str = ""
    source: str = ""

    def has_id(self, row: str) -> bool:
        return hashed(self.key, row) in self.ids


@dataclass(frozen=True, slots=True)
class Erasure:
    """What, why, when and by which key slot; and in which snapshots how many such rows lay then."""

    id: str
    what: Erased
    reason: str
    erased: datetime
    by: str
    found: Mapping[str, int]


def hashed(key: bytes, row: str) -> str:
    """How an entry knows a row's id: 64 hex digits."""
    return blake3(row.encode(), key=key).hexdigest()


def new_key() -> bytes:
    return random_bytes(KEY_BYTES)


def erasures(repository: Repository) -> list[Erasure]:
    """All that weren't revoked, oldest first. Raises Damaged: then nobody knows what may come back."""
    found: dict[str, Erasure] = {}
    for one in declarations(repository.store, repository.keys, Kind.ERASURE, FOLDER):
        try:
            if one.body["strongroom_erasure"] != FORMAT:
                raise Damaged(FOLDER + one.id, "a newer Strongroom wrote this erasure", hint="use a newer Strongroom")
            if one.body["what"] == "revocation":
                found.pop(str(one.body["erasure"]), None)
            else:
                found[one.id] = _erasure(one.id, one.body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(FOLDER + one.id, "it is no erasure") from error
    return list(found.values())


def add(repository: Repository, what: Erased, reason: str, found: Mapping[str, int]) -> Erasure:
    """Store an erasure, durably: from now on no restore gives these rows."""
    now, by = repository.clock.now(), repository.identity.slot
    rows = {"ids": sorted(what.ids), "key": what.key.hex(), "where": what.where}
    scope = {"tenant": what.tenant, "collection": what.collection, "source": what.source}
    told = {"reason": reason, "erased": now.isoformat(), "by": by, "found": dict(found)}
    return Erasure(_declare(repository, {"what": "erasure", **rows, **scope, **told}), what, reason, now, by, found)


def revoke(repository: Repository, erasure: str, reason: str) -> None:
    """An erasure counts no more."""
    now, by = repository.clock.now(), repository.identity.slot
    _declare(repository, {"what": "revocation", "erasure": erasure, "reason": reason, "revoked": now.isoformat(), "by": by})


def _declare(repository: Repository, body: Mapping[str, Any]) -> str:
    repository.require_safe_store()
    seen = declarations(repository.store, repository.keys, Kind.ERASURE, FOLDER)
    return declare(repository.store, repository.keys, Kind.ERASURE, FOLDER, {"strongroom_erasure": FORMAT, **body}, seen)


def _erasure(object_id: str, body: Any) -> Erasure:
    what = Erased(
        frozenset(body["ids"]), bytes.fromhex(body["key"]), body["where"], body["tenant"], body["collection"], body["source"]
    )
    erased = datetime.fromisoformat(body["erased"]).astimezone(UTC)
    return Erasure(object_id, what, str(body["reason"]), erased, str(body["by"]), dict(body["found"]))
