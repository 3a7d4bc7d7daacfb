"""How is a PostgreSQL database written to and read in the proof of the journal? Transactions overlap, and some are rolled back."""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any

import psycopg

DIMENSION, IDS = 8, 2_000
TABLES = ("notes", "people")
_OTHERS = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'proof %'
  AND application_name <> current_setting('application_name')"""


class Pgvector:
    """`place` is user@host:port/database. Each thread has a connection of its own."""

    def __init__(self, place: str) -> None:
        self._url = f"postgresql://{place}"
        self._own = threading.local()

    @property
    def connection(self) -> psycopg.Connection:
        if not hasattr(self._own, "connection"):
            self._own.connection = psycopg.connect(self._url, autocommit=True, application_name=f"proof {os.getpid()}")
        found: psycopg.Connection = self._own.connection
        return found

    def act(self, draw: random.Random, thread: int) -> int:
        """A transaction of up to three statements. One that another one's locks would hold up for ever is given up."""
        done = 0
        try:
            with self.connection.transaction() as transaction:
                for _ in range(draw.choice((1, 1, 3))):
                    done += self._act_once(draw)
                if draw.random() < 0.05:
                    raise psycopg.Rollback(transaction)
        except psycopg.errors.DeadlockDetected:
            return 0
        return done

    def _act_once(self, draw: random.Random) -> int:
        table, kind = draw.choice(TABLES), draw.random()
        ids = sorted(draw.sample(range(IDS), draw.choice((1, 1, 3, 10, 40))))
        if kind < 0.65:
            rows = [(one, _vector(draw), f"text {draw.getrandbits(30)}", draw.choice(("red", "blue", None))) for one in ids]
            statement = (
                f"INSERT INTO {table} VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (id) DO UPDATE SET v = excluded.v, body = excluded.body, colour = excluded.colour"
            )
            self.connection.cursor().executemany(statement, rows)
        elif kind < 0.85:
            self.connection.execute(f"UPDATE {table} SET colour = %s WHERE id = ANY(%s)", (f"c{draw.getrandbits(20)}", ids))
        else:
            self.connection.execute(f"DELETE FROM {table} WHERE id = ANY(%s)", (ids,))
        return len(ids)

    def change_catalog(self, draw: random.Random) -> int:
        extras = [name for name in self._tables() if name not in TABLES]
        if len(extras) > 3:
            self.connection.execute(f"DROP TABLE {draw.choice(extras)}")
            return 1
        name = f"extra_{draw.getrandbits(40)}"
        with self.connection.transaction():
            self.connection.execute(f"CREATE TABLE {name} (id int PRIMARY KEY, v vector(3), t text)")
            self.connection.execute(f"INSERT INTO {name} VALUES (1, '[1,2,3]', 'x'), (2, '[0,1,0]', NULL)")
        if extras and draw.random() < 0.5:
            self.connection.execute(f"ALTER TABLE {extras[0]} RENAME TO renamed_{draw.getrandbits(40)}")
        return 3

    def read(self) -> dict[str, dict[str, Any]]:
        while self.connection.execute(_OTHERS).fetchone() != (0,):  # what a killed writer asked for last may still go on
            time.sleep(0.01)
        with self.connection.transaction():
            self.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            return {
                name: {str(row[0]): row[1] for row in self.connection.execute(f"SELECT id, t::text FROM {name} t")}
                for name in self._tables()
            }

    def prepare(self) -> None:
        for name in TABLES:
            self.connection.execute(
                f"CREATE TABLE IF NOT EXISTS {name} (id int PRIMARY KEY, v vector({DIMENSION}), body text, colour text)"
            )
            self.connection.execute(f"CREATE INDEX IF NOT EXISTS {name}_v ON {name} USING hnsw (v vector_l2_ops)")

    def _tables(self) -> list[str]:
        found = self.connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return sorted(row[0] for row in found)


def _vector(draw: random.Random) -> str:
    return str([round(draw.uniform(-1, 1), 6) for _ in range(DIMENSION)])


def open_database(place: str) -> Pgvector:
    return Pgvector(place)
