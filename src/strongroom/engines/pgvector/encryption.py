"""Is a connection to PostgreSQL encrypted? libpq would go on without TLS where a server has none; to another machine we don't."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg

from strongroom.errors import Refused
from strongroom.repository import transport

_SAFE = ("require", "verify-ca", "verify-full")
_DEFAULT = "prefer"
_WITHOUT = "does not support SSL"
_HINT = "set PGSSLMODE=verify-full and PGSSLROOTCERT (or require, which proves no identity)"


def with_encryption(options: Mapping[str, Any]) -> dict[str, Any]:
    """Connection options that let nothing cross a network in the clear: `sslmode` is `require` at least, by libpq's variables and
    service file or by us. To this machine itself, and where it is allowed, they stay as they are. Raises Refused if PGSSLMODE wants
    less."""
    said = {one.keyword.decode(): one.val.decode() for one in psycopg.pq.Conninfo.get_defaults() if one.val}
    said |= {name: str(value) for name, value in options.items()}
    remote = [host for host in (said.get("hostaddr") or said.get("host", "")).split(",") if not transport.is_local(host)]
    if not remote or said.get("sslmode") in _SAFE:
        return dict(options)
    if said.get("sslmode") == _DEFAULT and not all(transport.is_allowed(host) for host in remote):
        return {**options, "sslmode": "require"}
    for host in remote:
        transport.require_encrypted(f"PostgreSQL at {host}", host, _HINT)
    return dict(options)


def refused_for_want_of_it(shown: str, error: psycopg.Error) -> Refused | None:
    """What the error means if the server has no TLS, None if it means something else."""
    if _WITHOUT not in str(error):
        return None
    hint = f"let the server have TLS (ssl = on); or allow it with --allow-plaintext or {transport.VARIABLE}"
    return Refused(f"{shown}: the server has no TLS, and no password or row is sent without", hint=hint)
