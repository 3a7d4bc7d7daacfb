"""When does Chroma purge its log? In each call, and it goes over all that we hold back each time, in vain. So while much is held it
is told not to, by its own switch, and told to again once what was held may go.

What the switch was is kept in a table of ours. If whoever follows doesn't come back, a trigger sets the switch as it was: with the
first call after the lease has ended, or once too much is held.
"""

from __future__ import annotations

import sqlite3

_TABLE = "CREATE TABLE IF NOT EXISTS strongroom_purging (id INTEGER PRIMARY KEY, was TEXT)"
_AS_IT_WAS = """
UPDATE embeddings_queue_config SET config_json_str = (SELECT was FROM strongroom_purging p WHERE p.id = embeddings_queue_config.id)
WHERE id IN (SELECT id FROM strongroom_purging)
"""
_FORGET = "DELETE FROM strongroom_purging"
_KEEP = """
INSERT OR IGNORE INTO strongroom_purging
SELECT id, config_json_str FROM embeddings_queue_config WHERE json_extract(config_json_str, '$.automatically_purge')
"""
_OFF = """
UPDATE embeddings_queue_config SET config_json_str = json_set(config_json_str, '$.automatically_purge', json('false'))
WHERE json_extract(config_json_str, '$.automatically_purge')
"""
_TRIGGERS = {"strongroom_purging_first": "INSERT", "strongroom_purging_next": "UPDATE"}
"""By name, what Chroma does to `max_seq_id` in each call: it notes how far its segments are."""
_WATCH = """
CREATE TRIGGER IF NOT EXISTS {name} AFTER {event} ON max_seq_id
WHEN EXISTS (SELECT 1 FROM strongroom_purging) AND (
  NOT EXISTS (SELECT 1 FROM strongroom_slots WHERE until > CAST(strftime('%s', 'now') AS INTEGER))
  OR (SELECT max(seq_id) FROM embeddings_queue) - (SELECT min(seq_id) FROM embeddings_queue) > {most})
BEGIN {as_it_was}; {forget}; END
"""
_PLAIN = "SELECT config_json_str FROM embeddings_queue_config ORDER BY id"
_OWN = """
SELECT coalesce(was, config_json_str) FROM embeddings_queue_config c LEFT JOIN strongroom_purging p ON p.id = c.id ORDER BY c.id
"""


def install(connection: sqlite3.Connection, most: int) -> None:
    """Watch over the lease, and that no more than `most` entries are held. In a transaction of the caller's."""
    connection.execute(_TABLE)
    for name, event in _TRIGGERS.items():
        connection.execute(_WATCH.format(name=name, event=event, most=most, as_it_was=_AS_IT_WAS, forget=_FORGET))


def remove(connection: sqlite3.Connection) -> None:
    """Leave no trace. In a transaction of the caller's."""
    if not _installed(connection):
        return
    resume(connection)
    for name in _TRIGGERS:
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("DROP TABLE strongroom_purging")


def pause(connection: sqlite3.Connection) -> None:
    """Chroma purges nothing for now. In a transaction of the caller's."""
    connection.execute(_KEEP)
    connection.execute(_OFF)


def resume(connection: sqlite3.Connection) -> None:
    """Chroma purges as it did. In a transaction of the caller's."""
    connection.execute(_AS_IT_WAS)
    connection.execute(_FORGET)


def settings(connection: sqlite3.Connection) -> list[str]:
    """The settings of Chroma's log, as their owner made them."""
    return [row[0] for row in connection.execute(_OWN if _installed(connection) else _PLAIN)]


def _installed(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'strongroom_purging'").fetchone() is not None
