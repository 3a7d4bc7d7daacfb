"""What does a server say of a collection, and how is one made that is like it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strongroom.engines.qdrant.server.connection import Server
from strongroom.engines.qdrant.server.place import public_name
from strongroom.engines.qdrant.shape import Shape, config_for, fields_of, shape_of
from strongroom.errors import NotFound
from strongroom.model import Collection, Json

Config = Mapping[str, Json]
SAID = "qdrant"
"""The key of a collection's catalog under which stands what the server said of it."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A collection: what users call it and what the server does, its other aliases, configuration and payload indexes. `narrow` is
    False in the local mode: there vectors are float32, of the length that they were given, whatever the configuration says."""

    name: str
    actual: str
    aliases: tuple[str, ...]
    config: Config
    indexes: Mapping[str, Json]
    narrow: bool

    @property
    def points(self) -> dict[str, Json]:
        """What `shape` reads."""
        return points_config(self.config, narrow=self.narrow)

    @property
    def shape(self) -> Shape:
        return shape_of(self.points)

    def collection(self, count: int) -> Collection:
        said = {"name": self.name, "aliases": list(self.aliases), "config": dict(self.config)}
        catalog: dict[str, Json] = {"edge_config": self.points, "payload_indexes": dict(self.indexes), SAID: said}
        if not self.narrow:
            catalog["as_given"] = True
        return Collection(self.name, count, fields_of(self.points, self.shape), catalog)


@dataclass(frozen=True, slots=True)
class Listing:
    """All collections that users see, and what restores left that isn't one of them."""

    found: tuple[Listed, ...]
    left: tuple[str, ...]


def aliases_of(server: Server) -> dict[str, str]:
    """Of each alias the collection."""
    return {one.alias_name: one.collection_name for one in server.ask("get_aliases").aliases}


def names_of(server: Server) -> list[str]:
    return sorted(one.name for one in server.ask("get_collections").collections)


def listing(server: Server, *, narrow: bool) -> Listing:
    """By name. One that was dropped meanwhile is left out."""
    aliases, found, left = aliases_of(server), [], []
    for actual in names_of(server):
        own = public_name(actual)
        if own is not None and aliases.get(own[0]) != actual:
            left.append(actual)
            continue
        name = own[0] if own else actual
        others = tuple(sorted(alias for alias, one in aliases.items() if one == actual and alias != name))
        try:
            found.append(described(server, name, actual, others, narrow=narrow))
        except NotFound:
            continue
    return Listing(tuple(sorted(found, key=lambda one: one.name)), tuple(left))


def described(server: Server, name: str, actual: str, aliases: Sequence[str], *, narrow: bool) -> Listed:
    """Raises NotFound."""
    info = server.ask("get_collection", actual)
    config = info.config.model_dump(mode="json", exclude_none=True)
    indexes = {key: _index(one.model_dump(mode="json", exclude_none=True)) for key, one in sorted(info.payload_schema.items())}
    return Listed(name, actual, tuple(aliases), config, indexes, narrow)


def _index(said: Mapping[str, Json]) -> Json:
    return said.get("params") or said["data_type"]


def points_config(config: Config, *, narrow: bool = True) -> dict[str, Json]:
    """The part of a configuration that tells of vectors, the one without a name under ''."""
    params = config["params"]
    vectors = params.get("vectors") or {}
    named = {"": vectors} if isinstance(vectors.get("size"), int) else vectors
    if not narrow:
        named = {name: {key: value for key, value in said.items() if key != "datatype"} for name, said in named.items()}
    others = {key: config[key] for key in ("hnsw_config", "quantization_config") if config.get(key)}
    return {"vectors": dict(named), "sparse_vectors": dict(params.get("sparse_vectors") or {}), **others}


# -- making one --------------------------------------------------------------------------------------------------------------


def make(server: Server, actual: str, collection: Collection) -> None:
    """An empty collection of that name with its payload indexes. Raises what the server says against it."""
    from qdrant_client import models

    wanted = models.CreateCollection(**creation_of(collection))
    given = {name: getattr(wanted, name) for name in wanted.model_fields_set if name not in ("vectors", "sparse_vectors")}
    vectors = {"vectors_config": wanted.vectors, "sparse_vectors_config": wanted.sparse_vectors}
    server.tell("create_collection", actual, **vectors, **given, timeout=60)
    for key, said in collection.catalog.get("payload_indexes", {}).items():
        schema = models.CreateFieldIndex(field_name=key, field_schema=said).field_schema
        server.ask("create_payload_index", actual, key, schema, wait=True)


def settle(server: Server, actual: str, collection: Collection) -> None:
    """Limits on requests are set once the rows are there."""
    from qdrant_client import models

    said = (collection.catalog.get(SAID) or {}).get("config", {}).get("strict_mode_config")
    if said and said.get("enabled"):
        limits = models.StrictModeConfig(**_known(models.StrictModeConfig, said))
        server.ask("update_collection", actual, strict_mode_config=limits)


def creation_of(collection: Collection) -> dict[str, Json]:
    """The body of the request that makes a collection like this one, of any engine. Shards that points are sent to by a key are not
    made: rows don't say which."""
    from qdrant_client import models

    points = config_for(collection)
    body: dict[str, Json] = {"vectors": _vectors(points["vectors"]), "sparse_vectors": points.get("sparse_vectors") or None}
    body |= {key: points[key] for key in ("hnsw_config", "quantization_config") if points.get(key)}
    config = (collection.catalog.get(SAID) or {}).get("config")
    if config:
        body["vectors"] = config["params"].get("vectors") or {}
        names = {"optimizer_config": "optimizers_config", "wal_config": "wal_config", "metadata": "metadata"}
        body |= {wanted: config[name] for name, wanted in names.items() if config.get(name)}
        kept = ["on_disk_payload", "payload", "id_tracker", "replication_factor", "write_consistency_factor"]
        kept += [] if sharded_by_key(collection) else ["shard_number"]
        body |= {name: config["params"][name] for name in kept if config["params"].get(name) is not None}
    known = {"hnsw_config": models.HnswConfigDiff, "optimizers_config": models.OptimizersConfigDiff}
    known["wal_config"] = models.WalConfigDiff
    return {name: _known(known[name], value) if name in known else value for name, value in body.items()}


def sharded_by_key(collection: Collection) -> bool:
    params = (collection.catalog.get(SAID) or {}).get("config", {}).get("params", {})
    return bool(params.get("sharding_method") == "custom")


def _vectors(points: Mapping[str, Json]) -> Json:
    return points[""] if set(points) == {""} else dict(points)


def _known(kind: Any, said: Mapping[str, Json]) -> dict[str, Json]:
    """What this client can ask for of what a server says."""
    return {name: value for name, value in said.items() if name in kind.model_fields}
