"""Which part of which server does a URL name, and what are its collections called?

chroma+http://host:port                        all databases of the default tenant; `docs`, or `tenant/database/docs`
chroma+http://host:port/tenant                 all databases of that tenant
chroma+http://host:port/tenant/database        one database: `docs`; with ?log=/folder that is where its capture keeps its log
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from strongroom.engines.chroma.catalog import DEFAULT_DATABASE, DEFAULT_TENANT, Address
from strongroom.errors import WrongRequest

_FORM = "write chroma+http://host:8000/tenant/database, or chroma+https://..."
_PORTS = {"http": 8000, "https": 443}
TOKENS = ("STRONGROOM_CHROMA_TOKEN", "STRONGROOM_CHROMA_TOKEN_FILE")
STAGED = "strongroom-"
"""How the names begin of collections that are being restored, or replaced by such."""
_OWN = re.compile(STAGED + r"(replaced-)?[0-9a-f]{16}-\d+")


def is_own(name: str) -> bool:
    """Is it the name of a collection that a restore builds, or has set aside?"""
    return _OWN.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Place:
    """A tenant of a server; one of its databases if `database` is not ''."""

    url: str
    base: str
    user: str = ""
    tenant: str = DEFAULT_TENANT
    database: str = ""
    log: str = ""

    @classmethod
    def parse(cls, url: str) -> Place:
        """Raises WrongRequest if the URL is of another form, or has a password in it."""
        try:
            parts = urlsplit(url)
            scheme, port = parts.scheme.removeprefix("chroma+"), parts.port
            options = parse_qs(parts.query, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise WrongRequest(f"{url!r} names no Chroma server: {error}", hint=_FORM) from error
        if parts.password is not None:
            raise WrongRequest(
                "a password doesn't belong into a URL: others can see it there",
                hint=f"set {TOKENS[0]}, or {TOKENS[1]} to a file that holds it",
            )
        names = [unquote(one) for one in parts.path.removesuffix("/").split("/")[1:]]
        log = options.pop("log", [""])[-1]
        known = scheme in _PORTS and bool(parts.hostname) and not parts.fragment and not options
        if log and (len(names) != 2 or not log.startswith("/")):
            raise WrongRequest(f"{url!r}: a log is that of one database, in a folder from / on", hint=_FORM)
        if not known or len(names) > 2 or not all(one and "/" not in one for one in names):
            raise WrongRequest(f"{url!r} names no Chroma server", hint=_FORM)
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        base = f"{scheme}://{host}:{port or _PORTS[scheme]}"
        tenant, database = [*names, "", ""][:2]
        return cls(url, base, unquote(parts.username or ""), tenant or DEFAULT_TENANT, database, log)

    @property
    def shown(self) -> str:
        return "/".join(one for one in (self.base, self.tenant, self.database) if one)

    @property
    def home(self) -> str:
        """The database of names that don't say one."""
        return self.database or DEFAULT_DATABASE

    def named(self, address: Address) -> str:
        """What a collection is called in a snapshot of this place."""
        return address.name if self.database else address.public

    def address(self, name: str) -> Address:
        """The reverse. Raises WrongRequest if such a collection can't lie here."""
        if self.database:
            if "/" in name:
                raise WrongRequest(f"{name!r} is no collection of one database", hint="rename it with --rename, or name the tenant")
            return Address(self.tenant, self.database, name)
        address = Address.parse(name)
        if address.tenant != self.tenant:
            raise WrongRequest(
                f"{name!r} lies in tenant {address.tenant}, and the URL names {self.tenant}",
                hint="name its tenant and database in the URL, or rename it with --rename",
            )
        return address
