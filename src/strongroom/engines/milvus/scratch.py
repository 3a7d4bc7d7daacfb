"""Where is a restore built that is only looked at? In a database of its own, on a server that the user names for that."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress

from strongroom.engines.milvus import listing
from strongroom.engines.milvus.connection import NotOffered, Server
from strongroom.engines.milvus.place import SCRATCH, Place
from strongroom.errors import StrongroomError, WrongRequest


def new_database(url: str, collections: Sequence[str]) -> str:
    """The URL of a database that isn't there yet."""
    if not url:
        raise WrongRequest(
            "there is no server for a restore that is only looked at",
            hint="set STRONGROOM_MILVUS_SCRATCH=milvus://host:19530, best another server",
        )
    if Place.parse(url).database:
        raise WrongRequest("STRONGROOM_MILVUS_SCRATCH names a database", hint="name the server: a database is made on it")
    return f"{url.removesuffix('/')}/{SCRATCH}{secrets.token_hex(6)}"


def drop_database(url: str) -> None:
    """Drop the database that `new_database` named, with all that is in it."""
    place = Place.parse(url)
    if not place.database.startswith(SCRATCH):
        return
    with suppress(StrongroomError, NotOffered), Server(place) as server:
        for name in listing.names(server, place.database):
            for alias in listing.aliases(server, place.database, name):
                server.ask("DropAlias", database=place.database, alias=alias)
            server.ask("DropCollection", database=place.database, collection_name=name)
        server.ask("DropDatabase", database=place.database)
