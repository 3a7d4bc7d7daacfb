"""What does a Milvus server say about itself: databases, collections, indexes, aliases, users? And what can't it say?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from strongroom.engines.milvus.connection import NotOffered, Server
from strongroom.engines.milvus.place import DEFAULT, SCRATCH, is_own
from strongroom.engines.milvus.shape import DTYPES, Shape, fields_of, parameters, shape_of
from strongroom.errors import NotFound, Refused
from strongroom.model import INDEX_FILES, Collection, Json, LedgerItem, Status

_LOADED = 3


@dataclass(frozen=True, slots=True)
class Listed:
    """A collection of the server, and what it is called in a snapshot; `said` is its catalog."""

    name: str
    own: str
    database: str
    said: Mapping[str, Json]

    @property
    def id(self) -> int:
        return int(self.said["id"])

    @property
    def partitions(self) -> Sequence[str]:
        """Those that users put rows into; empty if there is only the one that there always is, or a key says where rows go."""
        found = self.said["partitions"]
        keyed = any(one.get("is_partition_key") for one in self.said["schema"]["fields"])
        return found if len(found) > 1 and not keyed else ()

    @property
    def shape(self) -> Shape:
        return shape_of(self.said["schema"], partitioned=bool(self.partitions))

    def collection(self, count: int) -> Collection:
        return Collection(self.name, count, fields_of(self.said["schema"], self.said["indexes"]), dict(self.said))


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what; None if this user may not see it, or there is no such thing."""

    users: Sequence[str] | None = None
    roles: Mapping[str, Json] = field(default_factory=dict)
    offered: bool = True


def message_of(said: Any) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    found: dict[str, Any] = MessageToDict(said, preserving_proto_field_name=True)
    return found


def databases(server: Server) -> list[str]:
    """Those that the place takes in, sorted. Raises NotFound if the one that it names isn't there."""
    try:
        found = sorted(str(one) for one in server.ask("ListDatabases").db_names)
    except NotOffered:
        found = [DEFAULT]
    if not server.place.database:
        return [one for one in found if not one.startswith(SCRATCH)]
    if server.place.database not in found:
        raise NotFound(f"{server.place.shown}: there is no such database", hint=f"there are: {', '.join(found)}")
    return [server.place.database]


def properties(server: Server, database: str) -> dict[str, str]:
    """Those of a database."""
    try:
        return parameters(message_of(server.ask("DescribeDatabase", database=database)).get("properties", ()))
    except NotOffered:
        return {}


def names(server: Server, database: str) -> list[str]:
    """The collections of a database, Strongroom's own too."""
    return sorted(str(one) for one in server.ask("ShowCollections", database=database).collection_names)


def collections(server: Server) -> list[Listed]:
    """All of them but those that a restore builds or has set aside, by name. Raises NotFound if one is dropped just then."""
    there = [(database, name) for database in databases(server) for name in names(server, database) if not is_own(name)]
    found = [describe(server, database, name, server.place.named(database, name)) for database, name in there]
    return sorted(found, key=lambda one: one.name)


def left_by_restores(server: Server) -> list[str]:
    return sorted(name for database in databases(server) for name in names(server, database) if is_own(name))


def identity(server: Server, database: str, name: str) -> int | None:
    """The server's number of a collection (of an alias that of its collection), None if there is none."""
    try:
        return int(server.ask("DescribeCollection", database=database, collection_name=name).collectionID)
    except NotFound:
        return None


def describe(server: Server, database: str, own: str, name: str) -> Listed:
    """Raises NotFound."""
    said = server.ask("DescribeCollection", database=database, collection_name=own)
    where = {"database": database, "collection_name": own}
    schema = message_of(said.schema)
    schema["fields"] = [{key: value for key, value in one.items() if key != "fieldID"} for one in schema["fields"]]
    catalog = {
        "milvus": "schema",
        "id": int(said.collectionID),
        "schema": schema,
        "consistency": int(said.consistency_level),
        "shards": int(said.shards_num),
        "properties": parameters(message_of(said).get("properties", ())),
        "database_properties": properties(server, database),
        "partitions": sorted(str(one) for one in server.ask("ShowPartitions", **where).partition_names),
        "aliases": aliases(server, database, own),
        "indexes": indexes(server, database, own),
        "loaded": int(server.ask("GetLoadState", **where).state) == _LOADED,
    }
    return Listed(name, own, database, catalog)


def aliases(server: Server, database: str, own: str) -> list[str]:
    return sorted(str(one) for one in server.ask("ListAliases", database=database, collection_name=own).aliases)


def indexes(server: Server, database: str, own: str) -> list[dict[str, Json]]:
    """Field, name and parameters of each."""
    try:
        found = message_of(server.ask("DescribeIndex", database=database, collection_name=own)).get("index_descriptions", ())
    except NotFound:
        return []
    said = [{"field": one["field_name"], "name": one["index_name"], "params": parameters(one["params"])} for one in found]
    return sorted(said, key=lambda one: (one["field"], one["name"]))


def access(server: Server) -> Access:
    """Users, and roles with who has them and what they grant."""
    milvus, _, _ = server.messages
    try:
        users = sorted(str(one) for one in server.ask("ListCredUsers").usernames)
        roles: dict[str, Json] = {}
        for one in server.ask("SelectRole", include_user_info=True).results:
            role = one.role.name
            entity = milvus.GrantEntity(role=milvus.RoleEntity(name=role))
            granted = [message_of(its) for its in server.ask("SelectGrant", entity=entity).entities]
            roles[role] = {"users": sorted(its.name for its in one.users), "grants": granted}
    except NotOffered:
        return Access(offered=False)
    except Refused:
        return Access()
    return Access(users, dict(sorted(roles.items())))


def version_of(server: Server) -> str:
    return str(server.ask("GetVersion").version).removeprefix("v")


def ledger(
    found: Sequence[tuple[Listed, int]], moment: str, left: Sequence[str], access: Access, *, files: bool
) -> Iterator[LedgerItem]:
    """What of the source a snapshot has, with or without its files; `found` are collections with the number of entities that no
    query shows."""
    held, missing, nothing = Status.CAPTURED, Status.NOT_CAPTURED, Status.NOT_OFFERED
    yield LedgerItem("rows", held, "all fields, dynamic ones too, and the partition of each")
    yield LedgerItem("one moment", held, moment)
    yield LedgerItem("schemas, partitions, aliases, functions, properties", held, "of empty collections too")
    yield LedgerItem("indexes and their parameters", held)
    if files:
        yield LedgerItem("Parquet, index and log files", held, "byte for byte")
    else:
        yield LedgerItem(INDEX_FILES, nothing, "a server gives no files out: indexes are built again from their parameters")
    if not access.offered:
        yield LedgerItem("users, roles", nothing)
    elif access.users is None:
        yield LedgerItem("users, roles, grants", missing, "this user may not see them")
    else:
        note = f"users ({len(access.users)}), roles ({len(access.roles)}), what they may do: a restore doesn't make them again"
        yield LedgerItem("users, roles, grants", held, note)
        yield LedgerItem("passwords", nothing)
        yield LedgerItem("replicas, resource groups, quotas", missing, "they are those of the cluster")
    if left:
        yield LedgerItem("collections of restores under way or broken off", missing, listed(left))
    for one, hidden in found:
        yield from _of_collection(one, hidden)


def _of_collection(one: Listed, hidden: int) -> Iterator[LedgerItem]:
    missing, nothing = Status.NOT_CAPTURED, Status.NOT_OFFERED
    shape = one.shape
    if hidden:
        yield LedgerItem(
            f"{one.name}: {hidden} more entities", nothing, "no query shows them: ids that were inserted twice, or 2^63 - 1"
        )
    if shape.left_out:
        yield LedgerItem(f"{one.name}: {listed(shape.left_out)}", missing, "fields of a type that Strongroom doesn't know")
    unprobed = [its.name for its in shape.columns if its.kind in ("BinaryVector", "SparseFloatVector")]
    if unprobed:
        yield LedgerItem(f"{one.name}: answers of {listed(unprobed)}", missing, "probes are of dense vectors; the vectors are kept")
    if any(its.get("type") == "BM25" for its in one.said["schema"].get("functions", ())):
        yield LedgerItem(f"{one.name}: what BM25 makes of texts", nothing, "it is made again from the texts")
    if not one.said["indexes"] and any(its.kind in DTYPES for its in shape.columns):
        yield LedgerItem(f"{one.name}: metric", nothing, "it has no index yet: probes measure by l2")


def listed(names: Sequence[str]) -> str:
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")
