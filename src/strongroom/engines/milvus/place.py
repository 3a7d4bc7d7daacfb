"""Which part of which server does a URL name, and what are its collections called?

milvus://host:19530               all databases: `docs` lies in `default`, `other/docs` in another one
milvus://user@host:19530/other    one database: `docs`; milvus+https:// is the same by TLS
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlsplit

from strongroom.errors import WrongRequest

SCHEME, SECURE = "milvus", "milvus+https"
TOKENS = ("STRONGROOM_MILVUS_TOKEN", "STRONGROOM_MILVUS_TOKEN_FILE")
DEFAULT = "default"
STAGED = "strongroom_"
"""How the names begin of collections that are being restored, or replaced by such."""
SCRATCH = "strongroom_scratch_"
"""How the names of databases begin in which a restore is only looked at."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
ALLOWED = "up to 255 letters, digits and '_', no digit first"
_SLASH = "_0x2f_"
"""What stands for the '/' of `other/docs` in the one database of a restore that is only looked at."""
_OWN = re.compile(STAGED + r"(replaced_)?[0-9a-f]{16}_\d+")
_FORM = f"write {SCHEME}://host:19530/database, or {SECURE}://..."


def is_own(name: str) -> bool:
    """Is it the name of a collection that a restore builds, or has set aside?"""
    return _OWN.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Place:
    """A server; one of its databases if `database` is not ''."""

    host: str
    secure: bool = False
    user: str = ""
    database: str = ""
    shown: str = field(default="", compare=False)

    @classmethod
    def parse(cls, url: str) -> Place:
        """Raises WrongRequest if the URL is of another form, or has a password in it."""
        try:
            parts = urlsplit(url)
            port = parts.port or 19530
        except ValueError as error:
            raise WrongRequest(f"{url!r} names no Milvus server: {error}", hint=_FORM) from error
        if parts.password is not None:
            raise WrongRequest(
                "a password doesn't belong into a URL: others can see it there",
                hint=f"set {TOKENS[0]}, or {TOKENS[1]} to a file that holds it",
            )
        database = unquote(parts.path).removeprefix("/").removesuffix("/")
        known = parts.scheme in (SCHEME, SECURE) and bool(parts.hostname) and not parts.query and not parts.fragment
        if not known or (database and not NAME.fullmatch(database)):
            raise WrongRequest(f"{url!r} names no Milvus server", hint=_FORM)
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
        shown = f"{parts.scheme}://{host}:{port}" + (f"/{database}" if database else "")
        return cls(f"{host}:{port}", parts.scheme == SECURE, unquote(parts.username or ""), database, shown)

    def of_database(self, database: str) -> Place:
        return replace(self, database=database)

    def named(self, database: str, name: str) -> str:
        """What a collection is called in a snapshot of this place."""
        if self.database.startswith(SCRATCH):
            return name.replace(_SLASH, "/")
        return name if self.database or database == DEFAULT else f"{database}/{name}"

    def address(self, name: str) -> tuple[str, str]:
        """The reverse: the database and the collection's own name. Raises WrongRequest if such a collection can't lie here."""
        if self.database.startswith(SCRATCH):
            return self.database, name.replace("/", _SLASH)
        database, _, own = name.rpartition("/")
        if (database and (self.database or not NAME.fullmatch(database))) or not NAME.fullmatch(own):
            raise WrongRequest(f"{name!r} can't be the name of a collection of Milvus", hint=f"rename it with --rename: {ALLOWED}")
        return database or self.database or DEFAULT, own
