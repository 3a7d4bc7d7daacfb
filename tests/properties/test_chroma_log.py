"""Are the entries of Chroma's log that are of a collection those that sqlite finds by looking at each of them?"""

from __future__ import annotations

import sqlite3
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.engines.chroma import log

COLLECTIONS = ("a-1", "b-1", "1")
ENTRIES = st.dictionaries(st.integers(1, 60), st.sampled_from(COLLECTIONS), max_size=40)


@settings(deadline=None)
@given(ENTRIES, st.sampled_from((*COLLECTIONS, "none")), st.integers(0, 61), st.integers(1, 8))
def test_they_are(entries: dict[int, str], wanted: str, after: int, together: int) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE embeddings_queue (seq_id INTEGER PRIMARY KEY, topic TEXT, id TEXT)")
    rows = [(number, f"persistent://tenant/database/{one}", f"row {number % 7}") for number, one in entries.items()]
    connection.executemany("INSERT INTO embeddings_queue VALUES (?, ?, ?)", rows)
    query = "SELECT seq_id, id FROM embeddings_queue WHERE topic LIKE '%/' || ? AND seq_id > ? ORDER BY seq_id"
    expected = connection.execute(query, (wanted, after)).fetchall()
    numbers = log.Log(connection).numbers(wanted, after)
    assert list(numbers) == [number for number, _ in expected]
    with mock.patch.object(log, "_AT_ONCE", together):
        assert list(log.entries_of(connection, "seq_id, id", numbers)) == expected
