"""What shape do rows of one engine get for another one? What belongs to a row stands in columns or in one object, its payload.

Where the target has columns, a key of the payload becomes one if all its values are of one plain type (bool, int64, finite float64,
text that has UTF-8) and none is null; whatever else there is stays in the payload. Where the source has no document, or no uri, the
column or key of texts that is called so becomes it. So rows that went from columns into payloads get their columns back.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from strongroom.engines.payloads import exact, has_halves, written
from strongroom.model import ROLE, Json, Role
from strongroom.snapshots.fingerprints import role_of

DOCUMENTS = ("document", "text", "content")
"""What documents are called, the first choice first."""
_CALLED: Mapping[Role, Sequence[str]] = {Role.DOCUMENT: DOCUMENTS, Role.URI: ("uri",)}
PAYLOAD = "payload"
MOST_COLUMNS = 500
"""So many keys become columns; of a payload with more than that none does."""
_NAME = re.compile(r"[^\W_][\w -]*")
_NAME_BYTES = 63
_RESERVED = ("id", "uri", PAYLOAD, "vector", "ctid", "xmin", "xmax", "cmin", "cmax", "tableoid")
"""Names that mean something else to an engine with columns: they stay in the payload, as those do that are no plain words."""
_INT64 = range(-(1 << 63), 1 << 63)
_TYPES: Mapping[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.utf8()}


@dataclass(frozen=True, slots=True)
class Reshaping:
    """Of rows of one schema into rows of `schema`. `source` is the column with the payload, '' if there is none."""

    source: str
    keys: Mapping[str, pa.DataType]
    schema: pa.Schema

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        payloads = [exact(text) if text else None for text in batch.column(self.source).to_pylist()] if self.source else []
        taken = {key: pa.array([one.pop(key, None) if one else None for one in payloads], kind) for key, kind in self.keys.items()}
        columns = []
        for one in self.schema:
            if one.name in taken:
                columns.append(taken[one.name])
            elif one.name == self.source:
                columns.append(pa.array([written(payload) if payload else None for payload in payloads], one.type))
            else:
                columns.append(batch.column(one.name))
        return pa.record_batch(columns, schema=self.schema)


@dataclass
class _Payloads:
    """What the payloads of all rows have in common."""

    objects: bool = True
    kinds: dict[str, type | None] = field(default_factory=dict)

    def add(self, texts: Iterable[str | None]) -> None:
        for text in texts:
            if text and self.objects:
                found = _object(text)
                self.objects = found is not None
                for key, value in (found or {}).items():
                    kind = _kind(value)
                    if len(self.kinds) <= MOST_COLUMNS or key in self.kinds:
                        self.kinds[key] = kind if self.kinds.get(key, kind) is kind else None

    def columns(self, taken: Sequence[str]) -> dict[str, pa.DataType]:
        """Keys that may be columns beside those of the names `taken`, whose names differ by more than their case."""
        if not self.objects or len(self.kinds) > MOST_COLUMNS:
            return {}
        alike = Counter(name.casefold() for name in (*taken, *_RESERVED, *self.kinds))
        found = {key: _TYPES[kind] for key, kind in sorted(self.kinds.items()) if kind is not None and _is_name(key)}
        return {key: kind for key, kind in found.items() if alike[key.casefold()] == 1}

    def meant(self, roles: Iterable[Role], taken: Sequence[str]) -> dict[str, Role]:
        """Keys of texts that are, by their names, what `roles` say."""
        if not self.objects or len(self.kinds) > MOST_COLUMNS:
            return {}
        alike = Counter(name.casefold() for name in (*taken, *self.kinds))
        found = dict[str, Role]()
        for role in roles:
            texts = [name for name in _CALLED[role] if self.kinds.get(name) is str and alike[name] == 1]
            found |= dict.fromkeys(texts[:1], role)
        return found


def reshaping(schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, columnar: bool) -> Reshaping | None:
    """How rows of `schema` become those of a target that has columns, or hasn't; None if they stay as they are. `batches` are all
    rows: payloads are read once to see what they hold."""
    roles = {one.name: role_of(one) or Role.COLUMN for one in schema}
    said = _meant(schema)
    lacking = [role for role in _CALLED if role not in (*roles.values(), *said.values())]
    source = next((name for name, role in roles.items() if role is Role.PAYLOAD), "")
    candidate = source or presumed_payload(schema)
    payloads = _Payloads()
    if candidate and (columnar or not source or lacking):
        for batch in batches:
            payloads.add(batch.column(candidate).to_pylist())
    if not payloads.objects or not payloads.kinds:
        return _of_roles(schema, said)
    meant = payloads.meant(lacking, schema.names)
    keys = (payloads.columns(schema.names) if columnar else {}) | dict.fromkeys(meant, pa.utf8())
    left = payloads.kinds.keys() - keys.keys()
    kept = [_with_role(one, (said | {candidate: Role.PAYLOAD}).get(one.name)) for one in schema if one.name != candidate or left]
    new = [_with_role(pa.field(key, kind), meant.get(key, Role.COLUMN)) for key, kind in sorted(keys.items())]
    shaped = pa.schema([*kept, *new])
    return None if shaped.equals(pa.schema(list(schema)), check_metadata=True) else Reshaping(candidate, keys, shaped)


def presumed(schema: pa.Schema) -> pa.Schema:
    """What the columns mean to a target of another engine, before any row is read: so it is if the texts of `presumed_payload` are
    objects."""
    found = presumed_payload(schema)
    roles = {**_meant(schema), **({found: Role.PAYLOAD} if found else {})}
    return pa.schema([_with_role(one, roles.get(one.name)) for one in schema])


def presumed_payload(schema: pa.Schema) -> str:
    """The column of texts that is the payload if all of them are JSON objects; '' if there is none, or the source says which is."""
    stated = any(role_of(one) is Role.PAYLOAD for one in schema)
    fits = _is_text(schema, PAYLOAD) and (role_of(schema.field(PAYLOAD)) or Role.COLUMN) is Role.COLUMN
    return PAYLOAD if fits and not stated else ""


def _meant(schema: pa.Schema) -> dict[str, Role]:
    """The columns that are document and uri, if the source says of none."""
    roles = {one.name: role_of(one) or Role.COLUMN for one in schema}
    found = dict[str, Role]()
    for role, names in _CALLED.items():
        if role not in roles.values():
            texts = [name for name in names if _is_text(schema, name) and roles[name] is Role.COLUMN]
            found |= dict.fromkeys(texts[:1], role)
    return found


def _of_roles(schema: pa.Schema, said: Mapping[str, Role]) -> Reshaping | None:
    return Reshaping("", {}, pa.schema([_with_role(one, said.get(one.name)) for one in schema])) if said else None


def _with_role(column: pa.Field, role: Role | None) -> pa.Field:
    return column.with_metadata({**(column.metadata or {}), ROLE: role.encode()}) if role else column


def _is_text(schema: pa.Schema, name: str) -> bool:
    return name in schema.names and schema.field(name).type in (pa.string(), pa.large_string())


def _is_name(key: str) -> bool:
    return _NAME.fullmatch(key) is not None and len(key.encode()) <= _NAME_BYTES and not key.startswith("strongroom")


def _object(text: str) -> dict[str, Json] | None:
    try:
        found = exact(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _kind(value: Any) -> type | None:
    if (type(value) is int and value not in _INT64) or (type(value) is float and not math.isfinite(value)):
        return None
    if type(value) is str and has_halves(value):
        return None
    return type(value) if type(value) in _TYPES else None
