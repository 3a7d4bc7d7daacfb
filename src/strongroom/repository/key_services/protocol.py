"""What does a key service promise, and how long is it asked?"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from strongroom.errors import NotAdmitted, Unreachable, WrongKey
from strongroom.repository.patience import retry_seconds

T = TypeVar("T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
SECONDS_TO_CONNECT, SECONDS_TO_ANSWER = 5.0, 30.0


class NotOurs(Exception):
    """The service says that these bytes were not wrapped by this key, or not in this context."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a wrapped key is bound to: the repository (32 hex digits) and the slot (its salt, 32 hex digits)."""

    repository: str
    slot: str

    def pairs(self) -> dict[str, str]:
        return {"strongroom-repository": self.repository, "strongroom-slot": self.slot}

    def encoded(self) -> bytes:
        """As JSON, sorted and without spaces, in ASCII."""
        return json.dumps(self.pairs(), sort_keys=True, separators=(",", ":")).encode()


class KeyService(Protocol):
    """One key of a service. Its secrets come from the service's own variables and files, never from the URL."""

    @property
    def kind(self) -> str:
        """What slots of it are called."""

    @property
    def url(self) -> str:
        """What the slot keeps to show to people: no secret, and nothing that only this machine knows."""

    def wrap(self, key: bytes, context: Context) -> bytes:
        """Encrypt 32 bytes by the newest version of the service's key. Raises Unreachable, WrongKey."""

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        """The reverse. Raises NotOurs, Unreachable, NotAdmitted if the service doesn't know who asks, or WrongKey
        if it refuses or the key is disabled or gone."""


def patiently(ask: Callable[[], T]) -> T:
    """Ask, and ask again with growing pauses while the service is unreachable, for as long as STRONGROOM_RETRY_SECONDS says."""
    until, pause = time.monotonic() + retry_seconds(), _FIRST_PAUSE
    while True:
        try:
            return ask()
        except Unreachable as error:
            wait = max(pause * random.uniform(0.5, 1.0), error.after or 0.0)  # noqa: S311 - not a secret
            if time.monotonic() + wait > until:
                raise
        time.sleep(wait)
        pause = min(pause * 2, _LONGEST_PAUSE)


def unreachable(url: str, problem: str) -> Unreachable:
    hint = "check the network and the service; another key slot (a password, recovery shares) opens without it"
    return Unreachable(f"{url} did not answer ({problem})", hint=hint)


def denied(url: str, problem: str, hint: str) -> WrongKey:
    return WrongKey(f"{url}: {problem}", hint=f"{hint}; another key slot (a password, recovery shares) opens without it")


def not_admitted(url: str, problem: str, hint: str) -> NotAdmitted:
    return NotAdmitted(f"{url}: {problem}", hint=f"{hint}; another key slot (a password, recovery shares) opens without it")
