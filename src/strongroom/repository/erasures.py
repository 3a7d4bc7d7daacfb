"""Which rows may never come back: erasures, each an object of its own.

    erasures/<id>   an erasure, the revocation of one that came too late for a hold, or word that a tenant's keys were destroyed for
                    one: signed, never edited, never deleted

Ids are kept as BLAKE3 hashes under a random key of the entry, so that who reads an entry must know an id to find it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

    @property
    def is_of_whole_tenant(self) -> bool:
        """Are all rows of a tenant meant, wherever they lie?"""
        return bool(self.tenant) and not (self.ids or self.where or self.collection or self.source)

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


@dataclass(frozen=True, slots=True)
class Destruction:
    """The keys (names of objects) of a tenant that are in the store at `place` no more: for which erasure, since when, and by which
    key slot they were destroyed."""

    erasure: str
    place: str
    keys: tuple[str, ...]
    destroyed: datetime
    by: str


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
            elif one.body["what"] != "destruction":
                found[one.id] = _erasure(one.id, one.body)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(FOLDER + one.id, "it is no erasure") from error
    return list(found.values())


def erased_tenants(found: Iterable[Erasure]) -> dict[str, Erasure]:
    """The tenants of whom nothing may come back, each with the erasure that says so first."""
    tenants: dict[str, Erasure] = {}
    for one in found:
        if one.what.is_of_whole_tenant:
            tenants.setdefault(one.what.tenant, one)
    return tenants


def destructions(repository: Repository, erasure: str) -> list[Destruction]:
    """Where the keys of the tenant that an erasure means were destroyed, oldest first. Raises Damaged."""
    found = []
    for one in declarations(repository.store, repository.keys, Kind.ERASURE, FOLDER):
        try:
            if one.body["what"] == "destruction" and one.body["erasure"] == erasure:
                at = datetime.fromisoformat(one.body["destroyed"]).astimezone(UTC)
                found.append(Destruction(erasure, str(one.body["place"]), tuple(one.body["keys"]), at, str(one.body["by"])))
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(FOLDER + one.id, "it says of no destruction") from error
    return sorted(found, key=lambda one: one.destroyed)


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


def destroyed(repository: Repository, erasure: str, place: str, keys: Iterable[str]) -> None:
    """Say durably that these keys are in the store at `place` no more."""
    now, by = repository.clock.now(), repository.identity.slot
    said = {"erasure": erasure, "place": place, "keys": sorted(keys), "destroyed": now.isoformat(), "by": by}
    _declare(repository, {"what": "destruction", **said})


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
