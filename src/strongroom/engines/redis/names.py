"""What are keys and indexes called: as text, and while they are staged beside those that users see?"""

from __future__ import annotations

import base64
from dataclasses import dataclass

_CODED = "base64:"
OWN = "strongroom:"
"""How keys and names begin that are Strongroom's own."""


def text_of(raw: bytes) -> str:
    """Bytes as text, reversible: as they are if they are UTF-8, else 'base64:' and their code."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = _CODED
    if text.startswith((_CODED, OWN)):
        return _CODED + base64.b64encode(raw).decode()
    return text


def raw_of(text: str) -> bytes:
    """The inverse of `text_of`; text that it didn't make stands for itself."""
    if text.startswith(_CODED):
        try:
            return base64.b64decode(text.removeprefix(_CODED), validate=True)
        except ValueError:
            return text.encode()
    return text.encode()


@dataclass(frozen=True, slots=True)
class Names:
    """Keys and indexes whose names begin with `base`; without one, all but Strongroom's own."""

    base: bytes = b""

    @property
    def keys(self) -> bytes:
        return self.base + b"k:" if self.base else b""

    @property
    def indexes(self) -> bytes:
        return self.base + b"i:" if self.base else b""

    @property
    def expiry(self) -> bytes:
        """A hash of when keys expire that don't expire here."""
        return (self.base or OWN.encode()) + b"expires"

    @property
    def prefixes(self) -> bytes:
        """A hash of what the rows of an index leave out in front of its keys."""
        return (self.base or OWN.encode()) + b"prefixes"

    def is_key(self, key: bytes) -> bool:
        return key.startswith(self.keys) if self.base else not key.startswith(OWN.encode())

    def is_index(self, name: bytes) -> bool:
        return name.startswith(self.indexes) if self.base else not name.startswith(OWN.encode())


PLAIN = Names()
RECEIPT = b"strongroom:receipt"


def staged(token: str) -> Names:
    """The names under which the restore of `token` builds."""
    return Names(f"{OWN}{token}:".encode())
