"""What must a database have so that it can be followed, and how is it taken away again?

    slot and publication strongroom_<holder>       the log is kept from where the holder is; its tables, with whole old rows
    event triggers strongroom_told, strongroom_gone    that a table is made, changed or dropped is noted in the log, at its place
    strongroom.followers, strongroom.identities    who follows and knows what; how tables named their old rows before

A row that is changed is logged with all that it was (REPLICA IDENTITY FULL): values that lie out of line, as long vectors do, are
otherwise left out of the log where they stay the same.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import psycopg

from strongroom.engines.pgvector import tables_sql
from strongroom.engines.pgvector.address import OURS, Address
from strongroom.engines.pgvector.catalog import Table
from strongroom.engines.pgvector.moment import lsn_number, make_slot
from strongroom.engines.pgvector.server import Connection, connect, failing_as, quoted, said
from strongroom.errors import Gap, Refused, Unreachable, Unreadable
from strongroom.model import Json

PREFIX = "strongroom"
"""Of the messages in the log that are ours."""

_LET_GO_SECONDS = 20.0
_TABLES = """
CREATE SCHEMA IF NOT EXISTS strongroom;
CREATE TABLE IF NOT EXISTS strongroom.followers
  (holder text PRIMARY KEY, publication text NOT NULL, schema text NOT NULL, place int8, known jsonb,
   broken int8, reason text);
CREATE TABLE IF NOT EXISTS strongroom.identities (oid int8 PRIMARY KEY, was text NOT NULL)
"""
_HAS_VECTORS = """
CREATE OR REPLACE FUNCTION strongroom.has_vectors(oid) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = $1 AND relkind = 'r' AND relpersistence = 'p') AND (
    EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
            JOIN pg_catalog.pg_extension e ON e.extnamespace = t.typnamespace AND e.extname = 'vector'
            WHERE a.attrelid = $1 AND NOT a.attisdropped AND t.typname IN ('vector', 'halfvec', 'sparsevec'))
    OR EXISTS (SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
               JOIN pg_catalog.pg_am m ON m.oid = x.relam WHERE i.indrelid = $1 AND m.amname IN ('hnsw', 'ivfflat')))
$$
"""
_DESCRIBED = """
CREATE OR REPLACE FUNCTION strongroom.described(number oid) RETURNS json LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE answer json; its_schema text; its_extension text;
BEGIN
  SELECT nspname INTO its_schema FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = number;
  SELECT nspname INTO its_extension FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'vector';
  PERFORM set_config('search_path', quote_ident(its_schema) || ', ' || quote_ident(its_extension), true);
  answer := ({query});
  RETURN answer;
END $$
"""
_FOLLOW_TABLE = """
CREATE OR REPLACE FUNCTION strongroom.follow_table(number oid) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE one record; its_identity "char"; its_schema text;
BEGIN
  SELECT relreplident, nspname INTO its_identity, its_schema
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = number;
  IF its_identity <> 'f' THEN
    INSERT INTO strongroom.identities VALUES (number, coalesce(
      (SELECT 'USING INDEX ' || quote_ident(x.relname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
       WHERE i.indrelid = number AND i.indisreplident AND its_identity = 'i'),
      CASE its_identity WHEN 'n' THEN 'NOTHING' ELSE 'DEFAULT' END)) ON CONFLICT DO NOTHING;
    EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', number::regclass);
  END IF;
  FOR one IN SELECT * FROM strongroom.followers f WHERE f.schema IN ('', its_schema) AND NOT EXISTS (
      SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
      WHERE p.pubname = f.publication AND r.prrelid = number) LOOP
    EXECUTE format('ALTER PUBLICATION %I ADD TABLE ONLY %s', one.publication, number::regclass);
  END LOOP;
END $$
"""
_TELL = """
CREATE OR REPLACE FUNCTION strongroom.tell() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE one record; everything boolean := false; busy text := coalesce(current_setting('strongroom.busy', true), '');
BEGIN
  IF busy = '1' THEN RETURN; END IF;
  BEGIN
  PERFORM set_config('strongroom.busy', '1', true);
  IF TG_EVENT = 'sql_drop' THEN
    FOR one IN SELECT * FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary LOOP
      IF one.object_type = 'table' THEN
        PERFORM pg_logical_emit_message(true, 'strongroom', json_build_object('gone', one.objid::int8)::text);
      ELSIF one.original AND one.object_type IN ('index', 'table constraint', 'function', 'type', 'sequence') THEN
        everything := true;
      END IF;
    END LOOP;
  ELSE
    SELECT coalesce(bool_or(object_type IN ('schema', 'type', 'extension')), false) INTO everything
      FROM pg_event_trigger_ddl_commands() WHERE command_tag NOT IN ('CREATE SCHEMA', 'CREATE TYPE', 'COMMENT', 'GRANT', 'REVOKE');
    FOR one IN
      SELECT coalesce(i.indrelid, c.oid) AS number, bool_or(d.command_tag = 'CREATE TABLE') AS made,
             bool_or(d.command_tag IN ('CREATE TABLE AS', 'SELECT INTO')) AS filled
      FROM pg_event_trigger_ddl_commands() d JOIN pg_class c ON c.oid = d.objid LEFT JOIN pg_index i ON i.indexrelid = c.oid
      JOIN pg_class t ON t.oid = coalesce(i.indrelid, c.oid) JOIN pg_namespace n ON n.oid = t.relnamespace
      WHERE d.classid = 'pg_class'::regclass AND t.relkind = 'r' AND n.nspname NOT LIKE 'strongroom%'
      GROUP BY 1
    LOOP
      IF strongroom.has_vectors(one.number) THEN
        PERFORM strongroom.follow_table(one.number);
        PERFORM pg_logical_emit_message(true, 'strongroom', json_build_object('how',
          CASE WHEN one.filled THEN 'filled' WHEN one.made THEN 'made' ELSE 'changed' END,
          'table', strongroom.described(one.number))::text);
      ELSIF EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                    WHERE r.prrelid = one.number AND p.pubname LIKE 'strongroom\\_%') THEN
        PERFORM pg_logical_emit_message(true, 'strongroom', json_build_object('lost', one.number::int8)::text);
      END IF;
    END LOOP;
  END IF;
  IF everything THEN
    FOR one IN SELECT DISTINCT r.prrelid AS number FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
               WHERE p.pubname LIKE 'strongroom\\_%' LOOP
      PERFORM pg_logical_emit_message(true, 'strongroom', json_build_object('how', 'changed',
        'table', strongroom.described(one.number))::text);
    END LOOP;
  END IF;
  PERFORM set_config('strongroom.busy', busy, true);
  EXCEPTION WHEN OTHERS THEN  -- nobody's own work may fail for this
    PERFORM pg_logical_emit_message(true, 'strongroom', json_build_object('failed', SQLERRM)::text);
    RAISE WARNING 'strongroom could not note a change of a table: %', SQLERRM;
  END;
END $$
"""
_TRIGGERS = {"strongroom_told": "ddl_command_end", "strongroom_gone": "sql_drop"}


class Slot:
    """What the server holds for one holder. `connection` has each statement as a transaction of its own."""

    def __init__(self, address: Address, connection: Connection, holder: str) -> None:
        self._address = address
        self._connection = connection
        self._holder = holder
        self.name = f"{OURS}_{holder}"

    def over(self, connection: Connection) -> Slot:
        """The same by another connection."""
        return Slot(self._address, connection, self._holder)

    def prepare(self, tables: Sequence[Table]) -> None:
        """All but the slot itself, in one transaction, that waits for who writes just then. Raises Refused."""
        self.require_decoding()
        for one in tables:
            if not one.key:
                raise Refused(
                    f"table {one.collection} can't be followed: it has no primary key of stored columns, so that nobody can say"
                    " which row changed",
                    hint="give it a primary key, or follow another schema with ?schema=",
                )
            if one.persistence != "p":
                raise Refused(f"table {one.collection} can't be followed: it is unlogged", hint="ALTER TABLE ... SET LOGGED")
        connection = self._connection
        try:
            with connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '5s'")  # who waits for a table holds up all who come after
                described = _DESCRIBED.format(query=tables_sql.description("number"))
                for statement in (_TABLES, _HAS_VECTORS, described, _FOLLOW_TABLE, _TELL):
                    connection.execute(statement.encode())
                connection.execute(
                    "INSERT INTO strongroom.followers (holder, publication, schema) VALUES (%s, %s, %s) ON CONFLICT (holder)"
                    " DO UPDATE SET publication = EXCLUDED.publication, schema = EXCLUDED.schema, place = NULL, known = NULL,"
                    " broken = NULL",
                    (self._holder, self.name, self._address.schema),
                )
                connection.execute(f"DROP PUBLICATION IF EXISTS {quoted(self.name)}".encode())
                connection.execute(f"CREATE PUBLICATION {quoted(self.name)}".encode())
                connection.execute("SELECT set_config('strongroom.busy', '1', true)")
                for one in tables:
                    connection.execute("SELECT strongroom.follow_table(%s)", (one.oid,))
                for trigger, event in _TRIGGERS.items():
                    connection.execute(f"DROP EVENT TRIGGER IF EXISTS {trigger}".encode())
                    connection.execute(f"CREATE EVENT TRIGGER {trigger} ON {event} EXECUTE FUNCTION strongroom.tell()".encode())
                    connection.execute(f"ALTER EVENT TRIGGER {trigger} ENABLE ALWAYS".encode())
        except psycopg.errors.LockNotAvailable as error:
            raise Unreachable("a table is in use for too long", hint="run the same command again when it is quieter") from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise Refused(
                f"{self._address.shown} can't be followed: {said(error)}",
                hint="who follows must be a superuser: publications and event triggers are made for it",
            ) from error

    def require_decoding(self) -> None:
        """Raises Refused if the server doesn't write what logical decoding needs."""
        (level,) = self._connection.execute("SHOW wal_level").fetchall()[0]
        if level != "logical":
            raise Refused(
                f"{self._address.shown} can't be followed: its wal_level is {level}",
                hint="set wal_level = logical and restart the server; until then make snapshots more often",
            )

    def check(self, place: int) -> int:
        """The log still goes back to `place`. Gives the place, at or before it, of which the tables are noted. Raises Gap."""
        row = self._connection.execute(
            "SELECT confirmed_flush_lsn::text, wal_status, database = current_database(), plugin"
            " FROM pg_catalog.pg_replication_slots WHERE slot_name = %s",
            (self.name,),
        ).fetchone()
        if row is None:
            raise Gap(f"the replication slot {self.name} is not there any more: the server didn't keep its log")
        if row[1] == "lost" or row[0] is None:
            raise Gap(f"the server gave up the replication slot {self.name}: it kept more log than max_slot_wal_keep_size allows")
        if not row[2] or row[3] != "pgoutput":
            raise Gap(f"the replication slot {self.name} is another one now")
        (now,) = self._connection.execute("SELECT pg_catalog.pg_current_wal_insert_lsn()::text").fetchall()[0]
        if lsn_number(row[0]) > place or lsn_number(now) < place:
            raise Gap(f"the log doesn't go on from where it was: the replication slot {self.name} is at {row[0]}")
        triggers = "SELECT count(*) FROM pg_catalog.pg_event_trigger WHERE evtname = ANY(%s) AND evtenabled = 'A'"
        if self._connection.execute(triggers, (list(_TRIGGERS),)).fetchall()[0][0] != len(_TRIGGERS):
            raise Gap("the event triggers that tell of changed tables are not there any more")
        known = self.known()
        if known is None or known[0] > place:
            raise Gap("what the tables looked like is not noted any more")
        return known[0]

    def known(self) -> tuple[int, dict[str, Json]] | None:
        """What the holder noted of the tables, and at which place of the log. None if nothing."""
        if self._connection.execute("SELECT to_regclass('strongroom.followers')").fetchall()[0][0] is None:
            return None
        row = self._connection.execute(
            "SELECT place, known FROM strongroom.followers WHERE holder = %s AND place IS NOT NULL", (self._holder,)
        ).fetchone()
        return (row[0], row[1]) if row else None

    def note(self, place: int, known: dict[str, Json] | None) -> None:
        """Note what the tables look like at a place; None: as noted before."""
        if known is None:
            self._connection.execute("UPDATE strongroom.followers SET place = %s WHERE holder = %s", (place, self._holder))
        else:
            statement = "UPDATE strongroom.followers SET place = %s, known = %s WHERE holder = %s"
            self._connection.execute(statement, (place, json.dumps(known), self._holder))

    def note_broken(self, place: int, reason: str) -> None:
        """The log doesn't tell what the transaction did whose commit record begins there."""
        statement = "UPDATE strongroom.followers SET broken = %s, reason = %s WHERE holder = %s"
        self._connection.execute(statement, (place, reason, self._holder))

    def broken(self) -> tuple[int, str] | None:
        """What `note_broken` noted last."""
        query = "SELECT broken, reason FROM strongroom.followers WHERE holder = %s AND broken IS NOT NULL"
        row = self._connection.execute(query, (self._holder,)).fetchone()
        return (row[0], row[1]) if row else None

    def make(self, replication: Connection) -> tuple[int, str]:
        """A new slot in the place of the old one. Gives where it begins, and the snapshot of that moment. Raises Unreachable if a
        transaction stays open."""
        self.drop()
        try:
            return make_slot(replication, quoted(self.name))
        except psycopg.errors.QueryCanceled as error:
            raise Unreachable(
                "a transaction that writes has been open for too long: a log can only be followed from where none is",
                hint="end it (see pg_stat_activity), then run the same command again",
            ) from error

    def drop(self) -> bool:
        """Gives whether there was one."""
        there = self.free()
        if there:
            self._connection.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", (self.name,))
        return there

    def free(self) -> bool:
        """End whoever reads from the slot: a follower that is dead or that we replace. Gives whether there is a slot. Raises
        Unreachable if it doesn't let go."""
        began = time.monotonic()
        while time.monotonic() - began < _LET_GO_SECONDS:
            row = self._connection.execute(
                "SELECT active_pid FROM pg_catalog.pg_replication_slots WHERE slot_name = %s", (self.name,)
            ).fetchone()
            if row is None or row[0] is None:
                return row is not None
            self._connection.execute("SELECT pg_catalog.pg_terminate_backend(%s)", (row[0],))
            time.sleep(0.1)
        raise Unreachable(f"the replication slot {self.name} is in use", hint="stop the other follower")

    def forget(self) -> bool:
        """Take away all that was made for the holder; with the last one all that is ours. Gives whether there was anything."""
        connection, there = self._connection, self.drop()
        if connection.execute("SELECT to_regclass('strongroom.followers')").fetchall()[0][0] is None:
            return there
        with connection.transaction():
            connection.execute("SELECT set_config('strongroom.busy', '1', true)")
            connection.execute(f"DROP PUBLICATION IF EXISTS {quoted(self.name)}".encode())
            there |= connection.execute("DELETE FROM strongroom.followers WHERE holder = %s", (self._holder,)).rowcount > 0
            if connection.execute("SELECT 1 FROM strongroom.followers LIMIT 1").fetchone() is None:
                self._take_down()
        return there

    def _take_down(self) -> None:
        connection = self._connection
        for trigger in _TRIGGERS:
            connection.execute(f"DROP EVENT TRIGGER IF EXISTS {trigger}".encode())
        query = "SELECT i.oid::regclass::text, was FROM strongroom.identities i JOIN pg_catalog.pg_class c ON c.oid = i.oid"
        for table, was in connection.execute(query).fetchall():
            connection.execute(f"ALTER TABLE {table} REPLICA IDENTITY {was}".encode())
        for function in ("tell()", "described(oid)", "follow_table(oid)", "has_vectors(oid)"):
            connection.execute(f"DROP FUNCTION IF EXISTS strongroom.{function}".encode())
        connection.execute(b"DROP TABLE strongroom.followers, strongroom.identities")


def release(address: Address, holder: str) -> bool:
    """Let the server forget its log as it likes. Gives whether it held anything for `holder`. Raises NotFound or Unreachable."""
    with connect(address) as connection, failing_as(Unreadable, address.shown):
        return Slot(address, connection, holder).forget()
