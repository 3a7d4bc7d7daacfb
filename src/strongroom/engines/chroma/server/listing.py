"""What does a Chroma server say about itself: databases, collections, configuration? And what can't it say?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from strongroom.engines.chroma.catalog import Address, Entry
from strongroom.engines.chroma.server.connection import Server
from strongroom.engines.chroma.server.place import is_own
from strongroom.errors import NotFound, Unreadable
from strongroom.model import INDEX_FILES, Collection, Json, LedgerItem, Status

Raw = Mapping[str, Json]
"""A collection as the server describes it."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A collection of the server, and what it is called."""

    name: str
    raw: Raw

    @property
    def id(self) -> str:
        return str(self.raw["id"])

    @property
    def database(self) -> str:
        return str(self.raw["database"])

    @property
    def dimension(self) -> int:
        return int(self.raw.get("dimension") or 0)

    def collection(self, count: int) -> Collection:
        """As a snapshot describes it; `configuration` is of older servers, which have no schema."""
        address = Address(str(self.raw["tenant"]), self.database, self.name.rpartition("/")[2])
        schema = self.raw.get("schema")
        configured = dict(self.raw.get("configuration_json") or {})
        text = json.dumps(schema, sort_keys=True) if schema else None
        metadata = dict(sorted((self.raw.get("metadata") or {}).items()))
        config = None if text else json.dumps(configured, sort_keys=True)
        entry = Entry(address, self.id, self.dimension, metadata, config, text, {}, {})
        catalog = {**entry.catalog(), "config_json_str": None, "configuration": configured}
        return Collection(self.name, count, (entry.field(),), catalog, entry.lineage())


def databases(server: Server) -> list[str]:
    """Those that the place takes in, sorted. Raises NotFound if the tenant or the database isn't there."""
    place = server.place
    server.ask("GET", "tenants", place.tenant)
    if place.database:
        server.ask("GET", "tenants", place.tenant, "databases", place.database)
        return [place.database]
    return sorted(str(one["name"]) for one in server.ask("GET", "tenants", place.tenant, "databases"))


def collections(server: Server) -> list[Listed]:
    """All of them but those that a restore builds or has set aside, by name."""
    found = [Listed(server.place.named(_address(one)), one) for one in every(server) if not is_own(str(one["name"]))]
    return sorted(found, key=lambda one: one.name)


def left_by_restores(server: Server) -> list[str]:
    """Those that a restore builds or has set aside."""
    return sorted(str(one["name"]) for one in every(server) if is_own(str(one["name"])))


def every(server: Server) -> list[Raw]:
    """All collections, Strongroom's own too."""
    return [one for database in databases(server) for one in _every_of(server, database)]


def _every_of(server: Server, database: str) -> list[Raw]:
    """Those of a database, however few a server lists at a time. Raises Unreadable if it counts more than it lists."""
    where = server.collections(database)
    found: dict[str, Raw] = {str(one["id"]): one for one in server.ask("GET", *where)}
    while len(found) < (counted := int(server.ask("GET", *where[:-1], "collections_count"))):
        before = len(found)
        found.update({str(one["id"]): one for one in server.ask("GET", *where, offset=before)})
        if len(found) == before:
            raise Unreadable(f"{server.place.shown} has {counted:,} collections in {database}, and lists {before:,} of them")
    return list(found.values())


def find(server: Server, database: str, name: str) -> Raw | None:
    """The collection of that name, None if there is none."""
    try:
        found: Raw = server.ask("GET", *server.collections(database, name))
    except NotFound:
        return None
    return found


def version_of(server: Server) -> str:
    """As '1.0.0': that of the server's API."""
    return str(server.ask("GET", "version"))


def ledger(found: Iterable[Collection], passes: int, left: Sequence[str], *, logged: bool) -> Iterator[LedgerItem]:
    """What of the server a snapshot over HTTP has."""
    held, missing, nothing = Status.CAPTURED, Status.NOT_CAPTURED, Status.NOT_OFFERED
    yield LedgerItem("ids, vectors, documents, uris, metadata", held)
    twice = f"all rows were read {passes} times, and were the same twice running"
    once = "all rows were read once; what changed meanwhile comes from the log of the capture"
    yield LedgerItem("one moment", held, once if logged else twice)
    yield LedgerItem("databases, collections", held, "with those that are empty")
    yield LedgerItem("configuration, schema, embedding function", held, "secrets are not part of it")
    yield LedgerItem(INDEX_FILES, nothing, "a server gives no files out: the index is built again from the rows")
    yield LedgerItem("other tenants", missing, "a server doesn't list them: back each one up by its own URL")
    yield LedgerItem("users, roles, authentication", nothing, "they are those of the server's configuration")
    yield LedgerItem("media behind uris", missing, "Chroma keeps the uri only")
    if left:
        yield LedgerItem("collections of restores under way or broken off", missing, _listed(left))
    cosine = [one.name for one in found if any(field.metric == "cosine" for field in one.fields)]
    if cosine:
        note = f"with cosine, the server gives unit vectors ({_listed(cosine)}); all others are bit for bit those that it was given"
        yield LedgerItem("original lengths of vectors in cosine collections", nothing, note)


def _address(raw: Raw) -> Address:
    return Address(str(raw["tenant"]), str(raw["database"]), str(raw["name"]))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")
