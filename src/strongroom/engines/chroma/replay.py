"""What does Chroma's log hold that its segments have not taken in yet, and what will they hold once they have?

The rules are those of chromadb 1.5: `add` of a known id and `update` of an unknown one do nothing, `upsert` adds or updates,
a null in metadata removes its key, an update without a vector keeps the old one. The vector segment and the metadata segment
each have their own position, and either may lag behind.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from strongroom.engines.chroma.catalog import METADATA_SCOPE, VECTOR_SCOPE, Entry
from strongroom.engines.chroma.log import Log, entries_of
from strongroom.errors import Unreadable
from strongroom.model import Json

ADD, UPDATE, UPSERT, DELETE = range(4)
Document = dict[str, Json]
"""Metadata by key, with the document and the uri under Chroma's own keys `chroma:document` and `chroma:uri`."""


def metadata_of(text: str | None) -> Document:
    """The metadata of an entry, as the segments will have them: sqlite knows no zero below zero."""
    found: Document = json.loads(text, parse_float=lambda number: float(number) or 0.0) if text else {}
    return found


@dataclass(slots=True)
class Tail:
    """Ids that the log changes. `vectors`: the sequence number of the entry that holds the vector, None if the id is gone.
    `documents`: the metadata that the id ends up with, None if the id is gone."""

    vectors: dict[str, int | None] = field(default_factory=dict)
    documents: dict[str, Document | None] = field(default_factory=dict)


def replay(
    connection: sqlite3.Connection,
    log: Log,
    entry: Entry,
    has_vector: Callable[[str], bool],
    document: Callable[[str], Document | None],
) -> Tail:
    """Go through the log past each segment's position. `has_vector` and `document` tell what the segments hold of an id."""
    tail = Tail()
    vector_position, metadata_position = entry.position(VECTOR_SCOPE), entry.position(METADATA_SCOPE)
    for sequence, operation, identity, with_vector, metadata in _entries(
        connection, log, entry, min(vector_position, metadata_position)
    ):
        if sequence > vector_position:
            known = tail.vectors[identity] is not None if identity in tail.vectors else has_vector(identity)
            _apply_vector(tail, sequence, operation, identity, with_vector, known)
        if sequence > metadata_position:
            before = tail.documents[identity] if identity in tail.documents else document(identity)
            _apply_metadata(tail, operation, identity, metadata_of(metadata), before)
    return tail


def _entries(
    connection: sqlite3.Connection, log: Log, entry: Entry, after: int
) -> Iterator[tuple[int, int, str, bool, str | None]]:
    columns = "seq_id, operation, id, vector IS NOT NULL, encoding, metadata"
    rows = entries_of(connection, columns, log.numbers(entry.identity, after))
    for sequence, operation, identity, with_vector, encoding, metadata in rows:
        if (with_vector and encoding != "FLOAT32") or operation not in (ADD, UPDATE, UPSERT, DELETE):
            raise Unreadable(
                f"log entry {sequence} of collection {entry.address.public!r} is of an unknown kind ({operation}, {encoding})",
                hint="upgrade Strongroom",
            )
        yield sequence, operation, identity, bool(with_vector), metadata


def _apply_vector(tail: Tail, sequence: int, operation: int, identity: str, with_vector: bool, known: bool) -> None:
    if operation == DELETE:
        if known or identity in tail.vectors:
            tail.vectors[identity] = None
    elif with_vector and (operation == UPSERT or known == (operation == UPDATE)):
        tail.vectors[identity] = sequence


def _apply_metadata(tail: Tail, operation: int, identity: str, changes: Document, before: Document | None) -> None:
    if operation == DELETE:
        tail.documents[identity] = None
    elif operation == UPSERT or (before is not None) == (operation == UPDATE):
        merged = {**(before or {}), **changes}
        tail.documents[identity] = {key: value for key, value in merged.items() if value is not None}
