"""Which version of something did this machine see, and was it the only one that was published then?

A store can be rolled back by whoever controls it; what this machine remembers shows that. Losing it costs only that knowledge.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from strongroom.errors import Damaged, Overtaken, StrongroomError
from strongroom.repository.crypto import content_hash
from strongroom.repository.repository import Repository
from strongroom.repository.state import alone_at, state_directory


@dataclass(frozen=True, slots=True)
class VersionMemory:
    """The greatest version that this machine saw of one thing in one store: replicas have the same id and may be behind."""

    path: Path

    @classmethod
    def of(cls, repository: Repository, what: str) -> VersionMemory:
        return cls.at(repository.config.repository_id, repository.store.url, what)

    @classmethod
    def at(cls, repository_id: bytes, url: str, what: str) -> VersionMemory:
        store = content_hash(url.encode()).hex()[:16]
        return cls(state_directory() / f"{repository_id.hex()}-{what}-{store}.json")

    @property
    def version(self) -> int:
        """0 if it never saw one."""
        try:
            version = json.loads(self.path.read_bytes())["version"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return version if type(version) is int else 0

    def require(self, folder: str, newest: int) -> None:
        """Remember the newest one that is there. Raises Damaged if a newer one was."""
        seen = self.version
        if newest < seen:
            hint = "find out who took it away, then say it anew: that makes it the newest"
            raise Damaged(folder, f"version {seen} was here, and the newest now is {newest}: rolled back", hint=hint)
        self.saw(newest)

    def saw(self, version: int) -> None:
        """Best effort: a machine that can't remember can still work."""
        with suppress(OSError):
            if version > self.version:
                with alone_at(self.path):
                    fresh = self.path.with_suffix(".fresh")
                    fresh.write_text(json.dumps({"version": max(version, self.version)}))
                    fresh.replace(self.path)


def withdraw_if_met(repository: Repository, name: str, others: Iterable[str]) -> None:
    """Take an object that was just stored back if another of its version is there. Each stores its own before it looks, so that of
    two at once one sees the other at least: nothing is lost in silence. Raises Overtaken."""
    if any(other != name.rpartition("/")[2] for other in others):
        with suppress(StrongroomError):
            repository.store.delete(name)
        what = f"{name.partition('/')[0]}/: another version was published at the same moment"
        raise Overtaken(what, hint="look at what is published now, then publish again")
