"""For how long is a request repeated that isn't answered, and how long may one take?"""

from __future__ import annotations

import os
from dataclasses import dataclass

from strongroom.errors import WrongRequest


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: `request` that one request to an object store may take with all its bytes, `retries` until it isn't begun anew any
    more."""

    request: float
    retries: float

    @classmethod
    def asked_for(cls) -> Patience:
        """By STRONGROOM_REQUEST_SECONDS and STRONGROOM_RETRY_SECONDS. Raises WrongRequest."""
        return cls(_seconds("STRONGROOM_REQUEST_SECONDS", default=60.0, least=0.1), retry_seconds())


def retry_seconds() -> float:
    """STRONGROOM_RETRY_SECONDS, else 120. Raises WrongRequest if that is no number of seconds."""
    return _seconds("STRONGROOM_RETRY_SECONDS", default=120.0, least=0.0)


def _seconds(name: str, *, default: float, least: float) -> float:
    text = os.environ.get(name, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not least <= seconds <= 86_400:
        raise WrongRequest(f"{name} is {text!r}", hint=f"set it to a number of seconds from {least:g} to 86400")
    return seconds
