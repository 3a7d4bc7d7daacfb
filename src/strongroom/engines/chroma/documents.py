"""Which document, uri and metadata belong to a row? Read from sqlite's metadata segment, a block of rows at a time."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.engines.chroma.catalog import scalar
from strongroom.engines.chroma.replay import Document

DOCUMENT_KEY, URI_KEY = "chroma:document", "chroma:uri"

Columns = tuple[list[str | None], list[str | None], list[str | None]]
"""Documents, uris and payloads (one canonical JSON object each), one a row, None where there is none."""


def canonical(value: object) -> str:
    """The one way to write a JSON value: sorted keys, no spaces, no escapes but those that JSON demands."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _real(value: float) -> str:
    """As `canonical` writes it; that costs four times as much."""
    return float.__repr__(value) if math.isfinite(value) else canonical(value)


def split(document: Document) -> tuple[str | None, str | None, str | None]:
    """The document, the uri and the payload in Chroma's metadata of one row."""
    rest = {key: value for key, value in document.items() if key not in (DOCUMENT_KEY, URI_KEY)}
    return document.get(DOCUMENT_KEY), document.get(URI_KEY), canonical(rest) if rest else None


class Documents:
    """Reads the metadata tables of a private copy. Rows are named by `embeddings.id`, an integer unique in the database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        lists = "SELECT count(*) FROM sqlite_master WHERE name = 'embedding_metadata_array'"
        self._has_lists = bool(connection.execute(lists).fetchone()[0]) and bool(
            connection.execute("SELECT EXISTS (SELECT 1 FROM embedding_metadata_array)").fetchone()[0]
        )

    def one(self, segment: str, identity: str) -> Document | None:
        """Everything about one id, None if the segment doesn't have it."""
        found = self._connection.execute(
            "SELECT id FROM embeddings WHERE segment_id = ? AND embedding_id = ?", (segment, identity)
        ).fetchone()
        if found is None:
            return None
        rows = np.array(found, np.int64)
        document: Document = {key: scalar(*values) for _, key, *values in self._scalars(rows)}
        for _, key, *values in self._list_items(rows):
            document.setdefault(key, []).append(scalar(*values))
        return {key: value for key, value in document.items() if value is not None}

    def columns(self, rowids: npt.NDArray[np.int64]) -> Columns:
        """Documents, uris and payloads of these rows, in this order. Negative numbers stand for no row."""
        slot_of = {rowid: slot for slot, rowid in enumerate(rowids.tolist()) if rowid >= 0}
        documents: list[str | None] = [None] * len(rowids)
        uris: list[str | None] = [None] * len(rowids)
        members: list[list[str] | None] = [None] * len(rowids)
        present = np.sort(rowids[rowids >= 0])
        names: dict[str, str] = {}
        for rowid, key, text, integer, real, truth in self._scalars(present):  # sorted by row and key
            slot = slot_of.get(rowid)
            if slot is None:
                continue
            if key == DOCUMENT_KEY:
                documents[slot] = text
                continue
            if key == URI_KEY:
                uris[slot] = text
                continue
            if text is not None:
                value = encode_basestring(text)
            elif integer is not None:
                value = int.__repr__(integer)
            elif real is not None:
                value = _real(real)
            elif truth is not None:
                value = "true" if truth else "false"
            else:
                continue
            name = names.get(key) or names.setdefault(key, encode_basestring(key) + ":")
            member = members[slot]
            if member is None:
                members[slot] = [name + value]
            else:
                member.append(name + value)
        payloads = ["{" + ",".join(member) + "}" if member else None for member in members]
        for slot, payload in self._with_lists(present, slot_of, payloads):
            payloads[slot] = payload
        return documents, uris, payloads

    def _with_lists(
        self, rowids: npt.NDArray[np.int64], slot_of: dict[int, int], payloads: Sequence[str | None]
    ) -> Iterable[tuple[int, str]]:
        lists: dict[int, dict[str, list[Any]]] = {}
        for rowid, key, *values in self._list_items(rowids):
            if rowid in slot_of:
                lists.setdefault(slot_of[rowid], {}).setdefault(key, []).append(scalar(*values))
        for slot, found in lists.items():
            yield slot, canonical({**json.loads(payloads[slot] or "{}"), **found})

    def _scalars(self, rowids: npt.NDArray[np.int64]) -> Iterator[tuple[Any, ...]]:
        return self._rows("embedding_metadata", "id, key", rowids)

    def _list_items(self, rowids: npt.NDArray[np.int64]) -> Iterator[tuple[Any, ...]]:
        return self._rows("embedding_metadata_array", "id, key, rowid", rowids) if self._has_lists else iter(())

    def _rows(self, table: str, order: str, rowids: npt.NDArray[np.int64]) -> Iterator[tuple[Any, ...]]:
        """A range where the rows lie close together (one walk along the index), else row by row inside of one query."""
        if not len(rowids):
            return iter(())
        low, high = int(rowids[0]), int(rowids[-1])
        close = high - low < 2 * len(rowids)
        where = "id BETWEEN ? AND ?" if close else "id IN (SELECT value FROM json_each(?))"
        columns = "id, key, string_value, int_value, float_value, bool_value"
        query = f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {order}"  # noqa: S608 - constants
        return self._connection.execute(query, (low, high) if close else (json.dumps(rowids.tolist()),))
