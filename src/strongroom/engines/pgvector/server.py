"""How is a server spoken to, and what do its errors mean to who asked?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql

from strongroom.engines.pgvector.address import Address
from strongroom.engines.pgvector.encryption import refused_for_want_of_it, with_encryption
from strongroom.engines.retrying import Retrying
from strongroom.errors import NotFound, StrongroomError, Unreachable, Unreadable

Connection = psycopg.Connection[tuple[Any, ...]]

SECONDS_TO_CONNECT = 20
SILENCE = 600.0
"""So many seconds a server may take for a part of what is read."""
_ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
"""A server whose machine or network is gone is noticed after a minute."""
_STARTING = ("starting up", "shutting down", "not yet accepting", "in recovery mode")
SETTINGS = (
    "SET search_path = ''",
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO, MDY'",
    "SET IntervalStyle = 'postgres'",
    "SET bytea_output = 'hex'",
    "SET extra_float_digits = 1",
    "SET row_security = off",
    "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET client_encoding = 'UTF8'",
    "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings"
    " WHERE name IN ('transaction_timeout', 'idle_session_timeout')",
)
"""Values have one text form, whatever the server's or user's defaults; rows that a policy would hide are an error, not left out.
A moment lasts for as long as it is read: of the limits some are of later servers."""


class Impatient(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which a server may not be silent for longer than SILENCE: one that reads, and makes no index."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Raises OperationalError."""
        try:
            return super().wait(gen, interval, SILENCE if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:
            self.pgconn.finish()
            raise psycopg.OperationalError("the server fell silent") from error


def connect(
    address: Address, *, replication: bool = False, kind: type[psycopg.Connection[tuple[Any, ...]]] = psycopg.Connection
) -> Connection:
    """A connection on which each statement is a transaction of its own; a server that starts up is waited for. Raises NotFound,
    Unreadable or Unreachable."""
    return Retrying().call(lambda: _connect(address, replication, kind))


def _connect(address: Address, replication: bool, kind: type[psycopg.Connection[tuple[Any, ...]]]) -> Connection:
    options: dict[str, Any] = {"dbname": address.database, "application_name": "strongroom", **_ALIVE}
    options["connect_timeout"] = SECONDS_TO_CONNECT
    options |= {name: value for name, value in (("host", address.host), ("port", address.port), ("user", address.user)) if value}
    if replication:
        options["replication"] = "database"
    try:
        connection = kind.connect(**with_encryption(options), autocommit=True)
    except psycopg.OperationalError as error:
        raise refused_for_want_of_it(address.shown, error) or _no_connection(address, error) from error
    with failing_as(Unreadable, address.shown):
        for setting in SETTINGS:
            connection.execute(setting.encode())
    return connection


@contextmanager
def failing_as(kind: type[StrongroomError], subject: str) -> Iterator[None]:
    """What the server complains about is raised as `kind`, in one line without any row's values; Unreachable if it is gone."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise Unreadable(f"{subject}: {said(error)}", hint="grant it to this user, or connect as another") from error
    except psycopg.OperationalError as error:
        if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
            raise Unreachable(
                f"{subject}: {said(error)}", hint="check that the server runs, then run the same command again"
            ) from error
        raise kind(f"{subject}: {said(error)}") from error
    except psycopg.Error as error:
        raise kind(f"{subject}: {said(error)}") from error


def said(error: psycopg.Error) -> str:
    """The server's own line: details and statements may hold what was stored."""
    return error.diag.message_primary or (str(error).strip().splitlines() or [type(error).__name__])[0]


def quoted(*names: str) -> str:
    """A name, or a qualified one, as SQL has it."""
    return sql.Identifier(*names).as_string(None)


def literal(text: str) -> str:
    return sql.Literal(text).as_string(None)


def extension(connection: Connection) -> tuple[str, str]:
    """The version of pgvector and the schema where it is. Raises Unreadable if the database doesn't have it."""
    row = connection.execute(
        "SELECT e.extversion, n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
        " WHERE e.extname = 'vector'"
    ).fetchone()
    if row is None:
        raise Unreadable(
            "the database doesn't have the extension pgvector", hint="CREATE EXTENSION vector, or name another database"
        )
    return row[0], row[1]


def server_version(connection: Connection) -> str:
    """As '18.6'."""
    return str(connection.execute("SHOW server_version").fetchall()[0][0]).split()[0]


def _no_connection(address: Address, error: psycopg.OperationalError) -> StrongroomError:
    text = (str(error).strip().splitlines() or ["no answer"])[-1]
    if f'database "{address.database}" does not exist' in str(error):
        return NotFound(f"there is no {address.shown}")
    if "password" in text or "authentication" in text or "pg_hba" in text:
        return Unreadable(f"{address.shown}: {text}", hint="give the password in PGPASSWORD, PGPASSFILE or by PGSERVICE")
    busy = any(one in text for one in _STARTING)
    return Unreachable(f"{address.shown}: {text}", busy=busy, hint="check host and port, and that the server runs")
