"""What does the definition of a vec0 table say, and which columns do its rows have? Pure.

CREATE VIRTUAL TABLE "notes" USING vec0(id text primary key, embedding float[384] distance_metric=cosine, n integer, +body text)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from strongroom.model import ROLE, Collection, Field, Role

PAYLOAD = "strongroom_payload"
"""The auxiliary column that a restore makes for what has no column of its own: one JSON object."""
LARGEST = 8192
"""Numbers (or bits) of the longest vector."""
MOST_COLUMNS = 16
"""Auxiliary columns at most, and vectors at most."""
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
TAKEN = ("rowid", "distance", "k")
"""What every vec0 table has already."""
DOCUMENTS = ("document", "text", "content")

_GAP = r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
_IDENTIFIER = r"""(?:"(?:[^"]|"")*"|\[[^\]]*\]|`(?:[^`]|``)*`|'(?:[^']|'')*'|[^\s"'`\[(.]+)"""
_STATEMENT = re.compile(
    rf"CREATE\s+VIRTUAL\s+TABLE\s+(?:IF{_GAP}NOT{_GAP}EXISTS{_GAP})?{_IDENTIFIER}{_GAP}USING{_GAP}[\"'`\[]?vec0[\"'`\]]?{_GAP}"
    r"\((?P<arguments>.*)\)\s*",
    re.IGNORECASE | re.DOTALL,
)
_VECTOR = re.compile(
    r"(\w+)\s+(float|f32|int8|i8|bit)\w*\s*\[\s*(\d+)\s*\]\s*(?:distance_metric\s*=\s*(l2|l1|cosine))?", re.I | re.A
)
_KEY = re.compile(r"(\w+)\s+(text|integer|int\w*)\s+primary\s+key", re.I | re.A)
_PARTITION = re.compile(r"(\w+)\s+(text|int\w*)\s+partition\s+key", re.I | re.A)
_AUXILIARY = re.compile(r"\+\s*(\w+)\s+(\w+)", re.A)
_METADATA = re.compile(r"(\w+)\s+(\w+)", re.A)
_OPTION = re.compile(r"chunk_size\s*=\s*\d+", re.I | re.A)
_WORDS = {"boolean": "boolean", "int64": "integer", "integer": "integer", "float": "float", "double": "float", "f64": "float"}
_WORDS |= {"text": "text", "blob": "blob"}
_ELEMENTS = {"float": "float32", "f32": "float32", "int8": "int8", "i8": "int8", "bit": "bit"}
ARROW: Mapping[str, pa.DataType] = {
    "text": pa.utf8(),
    "integer": pa.int64(),
    "float": pa.float64(),
    "boolean": pa.bool_(),
    "blob": pa.binary(),
}


class Kind(StrEnum):
    """What a column of a vec0 table is, and so where its values lie."""

    KEY = "primary key"
    VECTOR = "vector"
    PARTITION = "partition key"
    METADATA = "metadata"
    AUXILIARY = "auxiliary"


@dataclass(frozen=True, slots=True)
class Column:
    """`type` is float32, int8 or bit of a vector, else text, integer, float, boolean or blob; `place` is its number among the
    columns of its kind."""

    name: str
    kind: Kind
    type: str
    place: int
    dimension: int = 0
    metric: str = ""

    @property
    def width(self) -> int:
        """Bytes of a vector."""
        return self.dimension * 4 if self.type == "float32" else self.dimension if self.type == "int8" else self.dimension // 8

    @property
    def arrow(self) -> pa.DataType:
        if self.kind is not Kind.VECTOR:
            return ARROW[self.type]
        element = {"float32": pa.float32(), "int8": pa.int8(), "bit": pa.uint8()}[self.type]
        return pa.list_(element, self.width if self.type == "bit" else self.dimension)

    @property
    def field(self) -> Field:
        """A bit vector is one of uint8, of eight bits each."""
        dimension, dtype = (self.width, "uint8") if self.type == "bit" else (self.dimension, self.type)
        return Field(self.name, dtype, dimension, self.metric, {"kind": "flat"})


@dataclass(frozen=True, slots=True)
class Table:
    """A vec0 table. `key` is its primary key; one that has none is known by its rowid."""

    name: str
    arguments: str
    columns: tuple[Column, ...]

    def of(self, kind: Kind) -> tuple[Column, ...]:
        return tuple(one for one in self.columns if one.kind is kind)

    @property
    def key(self) -> Column:
        return next(iter(self.of(Kind.KEY)), Column("rowid", Kind.KEY, "integer", 0))

    @property
    def schema(self) -> pa.Schema:
        """That of its rows: the key, then the other columns as they were declared."""
        others = [one for one in self.columns if one.kind is not Kind.KEY]
        document = next((name for name in DOCUMENTS for one in others if one.name == name and one.type == "text"), None)

        def column(one: Column) -> pa.Field:
            role = Role.ID if one.kind is Kind.KEY else Role.VECTOR if one.kind is Kind.VECTOR else Role.COLUMN
            if role is Role.COLUMN and one.type == "text":
                role = {document: Role.DOCUMENT, "uri": Role.URI, PAYLOAD: Role.PAYLOAD}.get(one.name, role)
            return pa.field(one.name, one.arrow, nullable=one.kind is not Kind.KEY, metadata={ROLE: role.encode()})

        return pa.schema([column(one) for one in (self.key, *others)])

    @property
    def row_bytes(self) -> int:
        """Of a row's vectors."""
        return sum(one.width for one in self.of(Kind.VECTOR))

    def shadows(self) -> Iterator[str]:
        """The tables in which it keeps what it holds."""
        yield from (f"{self.name}_{part}" for part in ("info", "chunks", "rowids"))
        yield from (f"{self.name}_vector_chunks{one.place:02}" for one in self.of(Kind.VECTOR))
        yield from (f"{self.name}_metadatachunks{one.place:02}" for one in self.of(Kind.METADATA))
        yield from (f"{self.name}_metadatatext{one.place:02}" for one in self.of(Kind.METADATA) if one.type == "text")
        if self.of(Kind.AUXILIARY):
            yield f"{self.name}_auxiliary"

    def collection(self, count: int) -> Collection:
        return Collection(self.name, count, tuple(one.field for one in self.of(Kind.VECTOR)), {"vec0": self.arguments})


def parsed(name: str, statement: str) -> Table | None:
    """The table of a CREATE statement; None if that isn't understood."""
    found = _STATEMENT.fullmatch(statement)
    return None if found is None else table_of(name, found["arguments"])


def table_of(name: str, arguments: str) -> Table | None:
    """The table of this name that `vec0(arguments)` makes; None if they aren't understood."""
    columns: list[Column] = []
    for argument in re.split(r",(?![^\[]*\])", arguments):
        if _OPTION.fullmatch(argument.strip()):
            continue
        one = _column(argument.strip(), {kind: sum(other.kind is kind for other in columns) for kind in Kind})
        if one is None:
            return None
        columns.append(one)
    return Table(name, arguments, tuple(columns))


def _column(argument: str, places: Mapping[Kind, int]) -> Column | None:
    if found := _VECTOR.fullmatch(argument):
        element = _ELEMENTS[found[2].lower()]
        metric = "hamming" if element == "bit" else (found[4] or "l2").lower()
        return Column(found[1], Kind.VECTOR, element, places[Kind.VECTOR], int(found[3]), metric)
    for pattern, kind in (
        (_KEY, Kind.KEY),
        (_PARTITION, Kind.PARTITION),
        (_AUXILIARY, Kind.AUXILIARY),
        (_METADATA, Kind.METADATA),
    ):
        if found := pattern.fullmatch(argument):
            word = found[2].lower()  # vec0 compares no more letters than the word has
            said = next((_WORDS[full] for full in _WORDS if full.startswith(word)), None)
            return Column(found[1], kind, said, places[kind]) if said else None
    return None


def quoted(name: str) -> str:
    """As an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def statement(name: str, arguments: str) -> str:
    return f"CREATE VIRTUAL TABLE {quoted(name)} USING vec0({arguments})"
