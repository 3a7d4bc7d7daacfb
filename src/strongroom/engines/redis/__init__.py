"""Redis: search indexes over hashes and JSON documents, vector sets, and all other keys of a database.

redis://host:port/db     rediss://host:port/db     redis:///path/to/socket?db=N
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from strongroom.engines.redis.frozen import RedisSource
from strongroom.engines.redis.server import address_of, library
from strongroom.engines.redis.target import RedisTarget


def load() -> None:
    """There is nothing to be loaded: the server answers."""


class Redis:
    """See `protocol.Engine`."""

    name = "redis"
    loading = "strongroom.engines.redis:load"
    encrypted_scheme = "rediss"

    def version(self) -> str:
        return f"redis-py {library().__version__}"

    def compatible(self, written_by: str) -> bool:
        """Only the server can tell: RESTORE refuses values of a later version."""
        return True

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        from strongroom.engines.redis.scratch import start

        return start(directory)

    def restart_scratch(self, url: str) -> None:
        """By an RDB file, as a server that is shut down in order leaves one."""
        from strongroom.engines.redis.scratch import restart

        restart(address_of(url))

    def source(self, url: str) -> RedisSource:
        return RedisSource(address_of(url))

    def target(self, url: str) -> RedisTarget:
        return RedisTarget(address_of(url))


class SecureRedis(Redis):
    """The same by TLS: only the URL's scheme is another."""

    encrypted_scheme = ""
