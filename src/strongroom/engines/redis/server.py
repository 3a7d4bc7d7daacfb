"""How is a Redis server reached? URLs, secrets, connections, and what its errors mean.

redis://[user@]host[:port][/db]     rediss://... by TLS     redis:///path/to/socket[?db=N]
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from strongroom.errors import Refused, StrongroomError, Unreachable, Unreadable, WrongRequest

_FORM = "write redis://host:port/db, rediss://host:port/db, or redis:///path/to/socket?db=N"
_PASSWORDS = ("STRONGROOM_REDIS_PASSWORD", "REDISCLI_AUTH")
_SECONDS, _RETRIES = 30.0, 5
"""What is asked or written may be done twice: keys are replaced. A transaction that watches keys isn't tried again."""


@dataclass(frozen=True, slots=True)
class Address:
    """One database of a server. `keeps_expiry`: what expires is noted beside the keys, and none of them goes."""

    url: str
    host: str = ""
    port: int = 6379
    path: str = ""
    database: int = 0
    user: str | None = None
    encrypted: bool = False
    keeps_expiry: bool = False


def address_of(url: str) -> Address:
    """Raises WrongRequest if the URL is of another form, or has a password in it."""
    parts = urlsplit(url)
    if parts.password is not None:
        raise WrongRequest(
            "a password doesn't belong into a URL: others can see it there",
            hint=f"set {_PASSWORDS[0]} (or {_PASSWORDS[1]}) and write redis://user@host",
        )
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    keeps = options.pop("expiry", "") == "noted"
    try:
        host, port = parts.hostname or "", parts.port or 6379
        if host:
            database = int(parts.path.strip("/") or 0)
            path = ""
        else:
            database, path = int(options.pop("db", 0)), unquote(parts.path)
    except ValueError as error:
        raise WrongRequest(f"{url!r} names no Redis server", hint=_FORM) from error
    if options or parts.fragment or database < 0 or (not host and not path.startswith("/")) or (path and parts.scheme != "redis"):
        raise WrongRequest(f"{url!r} names no Redis server", hint=_FORM)
    return Address(url, host, port, path, database, parts.username, parts.scheme == "rediss", keeps)


def library() -> Any:
    """redis-py. Raises WrongRequest if it isn't there."""
    try:
        import redis
    except ImportError as error:
        raise WrongRequest("redis is not installed", hint="pip install 'strongroom[redis]'") from error
    return redis


def client_of(address: Address) -> Any:
    """A client that answers in bytes. Nothing is sent yet."""
    redis = library()
    from redis.backoff import EqualJitterBackoff

    password = next((os.environ[name] for name in _PASSWORDS if os.environ.get(name)), None)
    shared = {
        "db": address.database,
        "username": address.user,
        "password": password,
        "protocol": 2,
        "socket_timeout": _SECONDS,
        "socket_connect_timeout": _SECONDS,
        "retry": redis.retry.Retry(EqualJitterBackoff(cap=2, base=0.1), _RETRIES),
    }
    if address.path:
        return redis.Redis(unix_socket_path=address.path, **shared)
    return redis.Redis(host=address.host, port=address.port, ssl=address.encrypted, **shared)


def require_server(address: Address) -> None:
    """Raises Unreachable, Refused."""
    client = client_of(address)
    try:
        with speaking(address):
            client.ping()
    finally:
        client.close()


@contextmanager
def speaking(address: Address, failing: type[StrongroomError] = Unreadable) -> Iterator[None]:
    """Errors of redis-py within mean ours: Unreachable, Refused, or `failing`. None of them shows what was sent."""
    redis = library()
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise Refused(f"{address.url}: {error}", hint=f"set {_PASSWORDS[0]}, and allow that user what it needs") from error
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise Unreachable(f"{address.url}: {type(error).__name__}", hint="check that the server runs, and its address") from error
    except redis.ResponseError as error:
        raise failing(f"{address.url}: {error}") from error


def offset_of(client: Any, log: str) -> int:
    """Up to where the server's replication stream goes. Raises Unreachable if it isn't that of `log` any more: the server was
    started anew since, or another one answers in its place."""
    said = client.info("replication")
    return offset_in(said, log)


def offset_in(said: Mapping[str, Any], log: str) -> int:
    """The same of what INFO says."""
    if said["master_replid"] != log:
        raise Unreachable("the server's replication log is another one now", hint="run the same command again")
    return int(said["master_repl_offset"])
