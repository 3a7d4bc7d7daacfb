"""Which server does a URL name, and what are its collections called?

qdrant://host:6333            a server, all of its collections; qdrants:// by TLS
  ?snapshots=yes              with the server's own snapshots of them, for an exact restore
  &node=host:6333             another node of the same cluster, which has snapshots of its own; any number of times
qdrant-local:///folder        a folder of the local mode of Qdrant's client
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from strongroom.errors import WrongRequest

_FORM = "write qdrant://host:6333, qdrants://host:6333 or qdrant-local:///folder"
KEYS = ("STRONGROOM_QDRANT_API_KEY", "STRONGROOM_QDRANT_API_KEY_FILE")
_MARK = ".strongroom-"
_OWN = re.compile(r"(.+)" + re.escape(_MARK) + r"([0-9a-f]{16})-[0-9a-f]{8}", re.DOTALL)
LONGEST_NAME = 255 - len(_MARK) - 25
"""Of a collection that is restored: what is built is called by a longer one."""


def own_name(public: str, token: str) -> str:
    """A new name for a collection that a restore builds, and users will call `public`."""
    return f"{public}{_MARK}{token}-{secrets.token_hex(4)}"


def public_name(actual: str) -> tuple[str, str] | None:
    """What a collection that a restore built is to be called, and the token of that restore; None for one that users made."""
    found = _OWN.fullmatch(actual)
    return (found[1], found[2]) if found else None


@dataclass(frozen=True, slots=True)
class Place:
    """A server (`nodes` are the addresses of all of its nodes, that of the URL first), or a folder of the local mode."""

    url: str
    nodes: tuple[str, ...] = ()
    folder: str = ""
    snapshots: bool = False

    @classmethod
    def parse(cls, url: str) -> Place:
        """Raises WrongRequest if the URL is of another form, or has a secret in it."""
        parts = urlsplit(url)
        if parts.username is not None or parts.password is not None:
            raise WrongRequest(
                "a secret doesn't belong into a URL: others can see it there",
                hint=f"set {KEYS[0]}, or {KEYS[1]} to a file that holds it",
            )
        try:
            options = parse_qs(parts.query, strict_parsing=bool(parts.query))
            if parts.scheme == "qdrant-local":
                return cls._folder(url, unquote(parts.path), bool(parts.netloc or options or parts.fragment))
            scheme = {"qdrant": "http", "qdrants": "https"}[parts.scheme]
            snapshots = options.pop("snapshots", ["no"]) == ["yes"]
            nodes = [_address(scheme, one) for one in (parts.netloc, *options.pop("node", []))]
        except (KeyError, ValueError) as error:
            raise WrongRequest(f"{url!r} names no Qdrant server", hint=_FORM) from error
        if options or parts.fragment or parts.path.strip("/") or (len(nodes) > 1 and not snapshots):
            raise WrongRequest(f"{url!r} names no Qdrant server", hint=f"{_FORM}; nodes go with ?snapshots=yes")
        return cls(url, tuple(nodes), "", snapshots)

    @classmethod
    def _folder(cls, url: str, path: str, odd: bool) -> Place:
        if odd or not path.startswith("/") or path.strip("/") in ("", "..") or "\0" in path:
            raise WrongRequest(f"{url!r} names no folder", hint=_FORM)
        return cls(url, (), path.rstrip("/"))

    @property
    def shown(self) -> str:
        return self.folder or self.nodes[0]


def _address(scheme: str, netloc: str) -> str:
    """Raises ValueError."""
    parts = urlsplit(f"//{netloc}")
    if not parts.hostname or parts.username is not None or parts.path or parts.query:
        raise ValueError(netloc)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{host}:{parts.port or 6333}"
