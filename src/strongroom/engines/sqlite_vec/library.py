"""What sqlite-vec itself is asked, in a child process: exact answers, tables made of rows, tables dropped and renamed."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines import stopwatch
from strongroom.engines.sqlite_vec.definition import Column, Kind, Table, parsed, quoted, statement, table_of
from strongroom.errors import EngineFailed, WrongRequest

_INSERTED = 1000
_ELEMENTS = {"float32": "<f4", "int8": "i1", "bit": "u1"}
_MADE = {"float32": "?", "int8": "vec_int8(?)", "bit": "vec_bit(?)"}


def load() -> None:
    import sqlite_vec  # noqa: F401 - so that it is there when it is needed


def extensible() -> Any:
    """A module like sqlite3 whose connections load extensions: many builds of Python leave that out. Raises WrongRequest."""
    if hasattr(sqlite3.Connection, "enable_load_extension"):
        return sqlite3
    try:
        import pysqlite3
    except ImportError as error:
        hint = "pip install pysqlite3-binary, or use a Python that was built with --enable-loadable-sqlite-extensions"
        raise WrongRequest("the sqlite3 module of this Python can't load extensions, so not sqlite-vec", hint=hint) from error
    return pysqlite3


def connected(address: str) -> Any:
    """A connection that knows vec0."""
    import sqlite_vec

    connection = extensible().connect(address, uri=True, isolation_level=None)
    connection.enable_load_extension(True)
    sqlite_vec.load(connection)
    connection.enable_load_extension(False)
    return connection


def search(
    path: str, table: str, key: str, field: str, kind: str, queries: npt.NDArray[np.float32], k: int
) -> tuple[list[list[int | str]], list[npt.NDArray[np.float64]]]:
    """The keys of the k nearest rows to each query, and their distances. Queries of integers are rounded."""
    low, high = {"float32": (-np.inf, np.inf), "int8": (-128, 127), "bit": (0, 255)}[kind]
    asked = queries if kind == "float32" else np.clip(np.rint(queries), low, high)
    ids, distances = [], []
    with closing(connected(f"file:{_escaped(path)}?mode=ro&immutable=1")) as connection:
        query = f"SELECT {quoted(key)}, distance FROM {quoted(table)} WHERE {quoted(field)} MATCH {_MADE[kind]} AND k = ?"  # noqa: S608
        for one in stopwatch.each(asked.astype(_ELEMENTS[kind])):
            found = connection.execute(query, (one.tobytes(), k)).fetchall()
            ids.append([name for name, _ in found])
            distances.append(np.array([np.nan if distance is None else distance for _, distance in found], np.float64))
    return ids, distances


# -- building ------------------------------------------------------------------------------------------------------------------


def make(path: str, name: str, arguments: str, spool: str) -> int:
    """Make a vec0 table, whatever was there of that name, with the rows of an Arrow stream if there is one. All or nothing. Gives
    how many rows it has."""
    table = table_of(name, arguments)
    if table is None:
        raise EngineFailed(f"the definition of {name} isn't understood: {arguments}")
    with closing(connected(f"file:{_escaped(path)}")) as connection:
        connection.execute("BEGIN IMMEDIATE")
        _make_room(connection, name)
        connection.execute(statement(name, arguments))
        if spool:
            with pa.ipc.open_stream(spool) as stream:
                for batch in stream:
                    _insert(connection, table, batch)
        count = connection.execute(f"SELECT count(*) FROM {quoted(name + '_rowids')}").fetchone()[0]  # noqa: S608
        connection.execute("COMMIT")
        return int(count)


def _make_room(connection: Any, name: str) -> None:
    """Drop the table that an interrupted load left. Raises WrongRequest if another one has the name."""
    query = "SELECT name, rootpage FROM sqlite_master WHERE type = 'table' AND name = ? COLLATE NOCASE"
    for found, page in connection.execute(query, (name,)).fetchall():
        if found != name or page:
            hint = "rename one of the collections with --rename"
            raise WrongRequest(f"{name!r} can't be a table of its own beside {found!r}", hint=hint)
        connection.execute(f"DROP TABLE {quoted(name)}")


def empty(path: str) -> None:
    """A database without any table, if there is none."""
    with closing(extensible().connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 0")
        connection.execute("VACUUM")


def _insert(connection: Any, table: Table, batch: pa.RecordBatch) -> None:
    """Rows whose columns are called as those of the table."""
    columns = [table.key, *(one for one in table.columns if one.kind is not Kind.KEY and one.name in batch.schema.names)]
    marks = ", ".join(_MADE[one.type] if one.kind is Kind.VECTOR else "?" for one in columns)
    names = ", ".join(quoted(one.name) for one in columns)
    query = f"INSERT INTO {quoted(table.name)} ({names}) VALUES ({marks})"  # noqa: S608
    for start in range(0, batch.num_rows, _INSERTED):
        part = batch.slice(start, _INSERTED)
        values = [_values(one, part.column(one.name)) for one in columns]
        connection.executemany(query, list(zip(*values, strict=True)))


def _values(one: Column, column: pa.Array) -> Sequence[Any]:
    if one.kind is not Kind.VECTOR:
        return list(column.to_pylist())
    content = np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), _ELEMENTS[one.type]).tobytes()
    return [content[at : at + one.width] for at in range(0, len(content), one.width)]


# -- a part of a database, under other names -----------------------------------------------------------------------------------


def keep(path: str, wanted: Mapping[str, str], selected: bool) -> None:
    """Give vec0 tables their new names; if some were `selected`, drop all other tables and views without a trace in the file."""
    with closing(connected(f"file:{_escaped(path)}")) as connection:
        connection.execute("PRAGMA foreign_keys = 0")
        connection.execute("BEGIN IMMEDIATE")
        tables = {name: table for name in wanted if (table := _table(connection, name)) is not None}
        if selected:
            _drop(connection, {part for table in tables.values() for part in (table.name, *table.shadows())})
        moved = {name: table for name, table in tables.items() if wanted[name] != name}
        for name, table in moved.items():  # aside first, so that two can be exchanged
            _rename(connection, table, f"strongroom moving {name}")
        for name, table in moved.items():
            _rename(connection, _called(table, f"strongroom moving {name}"), wanted[name])
        connection.execute("COMMIT")
        if selected:
            connection.execute("VACUUM")


def _table(connection: Any, name: str) -> Table | None:
    found = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone()
    return parsed(name, found[0]) if found else None


def _called(table: Table, name: str) -> Table:
    return Table(name, table.arguments, table.columns)


def _drop(connection: Any, kept: set[str]) -> None:
    """All tables and views but these: triggers and indexes go with their tables, and shadow tables with the virtual ones."""
    for where in ("rootpage = 0", "rootpage <> 0"):
        query = f"SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view') AND {where} ORDER BY type DESC"  # noqa: S608
        for kind, name in connection.execute(query).fetchall():
            if name in kept or name.startswith("sqlite_"):
                continue
            try:
                connection.execute(f"DROP {kind} {quoted(name)}")
            except extensible().OperationalError as error:
                hint = "restore the whole database, without --collection"
                raise WrongRequest(f"{kind} {name} can't be dropped here: {error}", hint=hint) from error


def _rename(connection: Any, table: Table, name: str) -> None:
    """vec0 doesn't rename its own tables: ALTER TABLE on it alone would lose them."""
    for old, new in zip(table.shadows(), _called(table, name).shadows(), strict=True):
        connection.execute(f"ALTER TABLE {quoted(old)} RENAME TO {quoted(new)}")
    connection.execute(f"ALTER TABLE {quoted(table.name)} RENAME TO {quoted(name)}")


def _escaped(path: str) -> str:
    """A path in an address of sqlite's."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
