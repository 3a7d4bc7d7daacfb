"""Which database does a URL name, and what are its tables called as collections?

pgvector://user@host:port/database                 all schemas: `items` is public.items, `app.items` is app.items
pgvector://user@host:port/database?schema=app      one schema: `items` is app.items
pgvector://user@host:port/database?tables=all      tables without vectors too
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from strongroom.errors import WrongRequest

SCHEME = "pgvector:"
OURS = "strongroom"
"""How schemas begin that are Strongroom's own."""

LONGEST_NAME = 63
_PUBLIC = "public"
_PART = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')
_FORM = "write it as pgvector://user@host:5432/database"


@dataclass(frozen=True, slots=True)
class Layout:
    """Which schemas belong to a source and how its tables are called: all schemas, or `only` one. `staged` is the beginning of the
    names of the schemas where they are built; there they are called as they will be. If `plain`, tables without vectors
    belong to it."""

    only: str = ""
    staged: str = ""
    plain: bool = False

    def collection(self, schema: str, table: str) -> str | None:
        """What a table is called, None if it doesn't belong to the source."""
        if self.staged:
            if not schema.startswith(self.staged):
                return None
            schema = schema.removeprefix(self.staged)
        elif not self.only and (schema.startswith((OURS, "pg_")) or schema == "information_schema"):
            return None
        if self.only:
            return table if schema == self.only else None
        return _quoted(table) if schema == _PUBLIC else f"{_quoted(schema)}.{_quoted(table)}"

    def place(self, collection: str) -> tuple[str, str]:
        """Schema and table of a collection of that name. Raises WrongRequest if it can be none's."""
        schema, table = self.final(collection)
        return self.staged + schema, table

    def final(self, collection: str) -> tuple[str, str]:
        """Where it is once it isn't staged any more."""
        if self.only:
            return self.only, collection
        parts = [quoted.replace('""', '"') or plain for quoted, plain in _PART.findall(collection)]
        if len(parts) not in (1, 2) or ".".join(map(_quoted, parts)) != collection:
            raise WrongRequest(
                f"{collection!r} can't be the name of a table", hint="rename it with --rename: TABLE or SCHEMA.TABLE"
            )
        return (_PUBLIC, parts[0]) if len(parts) == 1 else (parts[0], parts[1])


@dataclass(frozen=True, slots=True)
class Address:
    """What a URL says. An empty host or user is libpq's own choice; passwords come from its variables and files."""

    host: str
    port: int | None
    user: str
    database: str
    schema: str = ""
    plain: bool = False

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises WrongRequest."""
        try:
            parts = urlsplit(url)
            port, options = parts.port, parse_qs(parts.query, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise WrongRequest(f"{url!r} is no URL of a database: {error}", hint=_FORM) from error
        if parts.password is not None:
            raise WrongRequest(
                "a password doesn't belong into a URL, where others can see it",
                hint="give it in PGPASSWORD, in the file that PGPASSFILE names, or by PGSERVICE",
            )
        database = unquote(parts.path.removeprefix("/"))
        if f"{parts.scheme}:" != SCHEME or not url.startswith(f"{SCHEME}//") or not database or "/" in database or parts.fragment:
            raise WrongRequest(f"{url!r} names no database", hint=_FORM)
        odd = options.keys() - {"schema", "tables"}
        if odd or any(len(one) > 1 for one in options.values()) or options.get("tables", ["all"]) != ["all"]:
            named = ", ".join(sorted(odd)) or ", ".join(options)
            raise WrongRequest(
                f"{url!r}: unknown option {named}",
                hint="only ?schema=NAME and ?tables=all; for others see libpq's variables (PGSSLMODE ...)",
            )
        return cls(
            unquote(parts.hostname or ""),
            port,
            unquote(parts.username or ""),
            database,
            options.get("schema", [""])[0],
            "tables" in options,
        )

    @property
    def layout(self) -> Layout:
        return Layout(self.schema, plain=self.plain)

    def staging(self, token: str) -> Layout:
        return Layout(self.schema, f"{OURS}_{token[:8]}_", plain=True)

    @property
    def shown(self) -> str:
        return f"database {self.database!r} at {self.host or 'the local server'}"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if re.search(r'[."]', name) else name
