"""What does a URL name: a server whose cluster is copied, or the directory that such a copy is or becomes?

pgvector+physical://user@host:port      a server, spoken to by its replication protocol. With ?keep=/srv/base the last base backup
                                        stays in that folder, and only blocks that changed since are read and sent (17 and later)
pgvector+physical:///srv/pgdata         a data directory. With ?only=DATABASE/TABLE, as often as wanted, no other tables are shown
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from strongroom.errors import WrongRequest

SCHEME = "pgvector+physical"
_FORM = f"write {SCHEME}://user@host:5432 for a server, {SCHEME}:///srv/pgdata for a directory"


@dataclass(frozen=True, slots=True)
class Server:
    """An empty host or user is libpq's own choice; passwords come from its variables and files. `keep` is where the last base
    backup stays."""

    host: str
    port: int | None
    user: str
    keep: Path | None = None

    @property
    def shown(self) -> str:
        return f"the server at {self.host or 'the local socket'}" + (f":{self.port}" if self.port else "")


@dataclass(frozen=True, slots=True)
class Directory:
    """A data directory; `only` are the collections that are shown of it, all if there are none."""

    path: Path
    only: tuple[str, ...] = ()


def parse(url: str) -> Server | Directory:
    """Raises WrongRequest."""
    try:
        parts = urlsplit(url)
        port, options = parts.port, parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise WrongRequest(f"{url!r} is no URL of a cluster: {error}", hint=_FORM) from error
    if parts.password is not None:
        raise WrongRequest(
            "a password doesn't belong into a URL, where others can see it",
            hint="give it in PGPASSWORD, in the file that PGPASSFILE names, or by PGSERVICE",
        )
    known = {"keep"} if parts.netloc else {"only"}
    if parts.fragment or options.keys() - known or len(options.get("keep", ())) > 1:
        raise WrongRequest(f"{url!r} says more than a cluster's URL can", hint=_FORM)
    path = unquote(parts.path)
    if parts.netloc and path in ("", "/"):
        keep = Path(options["keep"][0]).absolute() if "keep" in options else None
        return Server(unquote(parts.hostname or ""), port, unquote(parts.username or ""), keep)
    if not parts.netloc and path not in ("", "/"):
        return Directory(Path(path).absolute(), tuple(options.get("only", ())))
    raise WrongRequest(
        f"{url!r} names neither a server nor a directory: a cluster is copied whole, and not a database of it", hint=_FORM
    )


def directory_url(path: Path, only: tuple[str, ...]) -> str:
    """The inverse, of a directory."""
    shown = "&".join(f"only={quote(one, safe='')}" for one in only)
    return f"{SCHEME}://{quote(str(path))}" + (f"?{shown}" if shown else "")
