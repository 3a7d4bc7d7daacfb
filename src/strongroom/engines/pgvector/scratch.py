"""Where is a restore built that is only looked at? In a schema of its own, in a database that the user names for that."""

from __future__ import annotations

import secrets
from contextlib import suppress

from strongroom.engines.pgvector.address import OURS, Address
from strongroom.engines.pgvector.server import connect, quoted
from strongroom.errors import StrongroomError, WrongRequest

_BEGINNING = f"{OURS}_scratch_"


def new_schema(url: str) -> str:
    """The URL of a schema that isn't there yet."""
    if not url:
        raise WrongRequest(
            "there is no database for a restore that is only looked at",
            hint="set STRONGROOM_PGVECTOR_SCRATCH=pgvector://user@host/database, best on another server",
        )
    address = Address.parse(url)
    if address.schema:
        raise WrongRequest("STRONGROOM_PGVECTOR_SCRATCH names a schema", hint="name the database: a schema is made in it")
    return f"{url}?schema={_BEGINNING}{secrets.token_hex(6)}"


def drop_schema(url: str) -> None:
    """Drop the schema that `new_schema` named, and the note of what was restored there."""
    address = Address.parse(url)
    if not address.schema.startswith(_BEGINNING):
        return
    with suppress(StrongroomError), connect(address) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {quoted(address.schema)} CASCADE".encode())
        if connection.execute("SELECT to_regclass('strongroom.receipts')").fetchall()[0][0]:
            connection.execute("DELETE FROM strongroom.receipts WHERE place = %s", (address.schema,))
