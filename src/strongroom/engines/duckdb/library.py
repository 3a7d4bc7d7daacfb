"""What DuckDB itself is asked, in a child process: what there is, rows, answers, tables made of rows."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines import stopwatch
from strongroom.engines.duckdb.definition import quoted
from strongroom.errors import EngineFailed
from strongroom.model import Json

_DISTANCES = {"l2": "array_distance", "cosine": "array_cosine_distance", "ip": "array_negative_inner_product"}
_SETTINGS = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
_LISTED = {
    "tables": "SELECT schema_name, table_name, sql FROM duckdb_tables() WHERE NOT internal AND NOT temporary",
    "columns": """SELECT schema_name, table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal
                  ORDER BY table_oid, column_index""",
    "constraints": """SELECT schema_name, table_name, constraint_type, constraint_column_names FROM duckdb_constraints()
                      ORDER BY table_oid, constraint_index""",
    "indexes": "SELECT schema_name, table_name, index_name, is_unique, sql FROM duckdb_indexes()",
    "sequences": """SELECT schema_name, sequence_name, start_value, min_value, max_value, increment_by, cycle, last_value
                    FROM duckdb_sequences()""",
    "views": "SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal",
    "macros": """SELECT schema_name, function_name FROM duckdb_functions()
                 WHERE NOT internal AND function_type IN ('macro', 'table_macro')""",
    "types": "SELECT schema_name, type_name FROM duckdb_types() WHERE NOT internal",
}
_HNSW = "SELECT schema_name, table_name, index_name, metric, levels_stats FROM pragma_hnsw_index_info()"


def load() -> None:
    import duckdb  # noqa: F401 - so that it is there when it is needed


@contextmanager
def connected(path: str, *, writing: bool = False) -> Iterator[Any]:
    """A connection, with vss if that is there. Raises EngineFailed."""
    import duckdb

    try:
        with closing(duckdb.connect(path, read_only=not writing, config=_SETTINGS)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            if _vss(connection) and writing:
                connection.execute("SET hnsw_enable_experimental_persistence = true")
            yield connection
    except duckdb.Error as error:
        raise EngineFailed(str(error).splitlines()[0]) from error


def _vss(connection: Any) -> bool:
    """Load the extension: that of the package, or one that DuckDB was told to install."""
    import duckdb

    spec = importlib.util.find_spec("duckdb_extension_vss")
    places = [Path(one) for one in (spec.submodule_search_locations or ())] if spec else []
    files = [str(one) for place in places for one in place.glob(f"extensions/v{duckdb.__version__}/vss.duckdb_extension")]
    for one in [*files, "vss"]:
        try:
            connection.execute(f"LOAD '{one.replace(chr(39), 2 * chr(39))}'")
        except duckdb.Error:
            continue
        return True
    return False


def has_vss() -> bool:
    """Can indexes be built here?"""
    with connected(":memory:", writing=True) as connection:
        return _vss(connection)


def listed(path: str) -> dict[str, Any]:
    """What a database's catalog says; 'hnsw' is None without vss."""
    with connected(path) as connection:
        found: dict[str, Any] = {name: connection.execute(query).fetchall() for name, query in _LISTED.items()}
        found["hnsw"] = connection.execute(_HNSW).fetchall() if _vss(connection) else None
        return found


Asked = tuple[tuple[str, str], Sequence[str], Sequence[str]]
"""A table's place, columns that may be as good as a key, and columns that count."""


def looked_into(path: str, tables: Mapping[str, Asked]) -> dict[str, tuple[int, str | None, int | None]]:
    """Of each table, by name: how many rows it has, the first column that is never null and unique, and the highest number."""
    found = {}
    with connected(path) as connection:
        for name, (place, candidates, counting) in tables.items():
            source = quoted(*place)
            (count,) = connection.execute(f"SELECT count(*) FROM {source}").fetchone()  # noqa: S608
            unique = next((one for one in candidates if _identifies(connection, source, one)), None)
            highest = [connection.execute(f"SELECT max({quoted(one)}) FROM {source}").fetchone()[0] for one in counting]  # noqa: S608
            found[name] = int(count), unique, max((one for one in highest if one is not None), default=None)
    return found


def _identifies(connection: Any, source: str, column: str) -> bool:
    query = f"SELECT count({quoted(column)}) = count(*) AND count(DISTINCT {quoted(column)}) = count(*) FROM {source}"  # noqa: S608
    return bool(connection.execute(query).fetchone()[0])


def rows(pipe: int, path: str, place: tuple[str, str], expressions: Sequence[str], names: Sequence[str], batch: int) -> int:
    """Write the rows of a table as they lie, as an Arrow stream of batches of at most `batch` rows. Gives how many they were."""
    count = 0
    listed = ", ".join(f"{one} AS {quoted(name)}" for one, name in zip(expressions, names, strict=True))
    with os.fdopen(pipe, "wb") as file, connected(path) as connection:
        connection.execute("SET threads = 1")  # then they come in their order, and few are held
        reader = connection.execute(f"SELECT {listed} FROM {quoted(*place)}").to_arrow_reader(batch)  # noqa: S608
        with pa.ipc.new_stream(file, reader.schema) as stream:
            for one in reader:
                stream.write_batch(one)
                count += one.num_rows
    return count


def search(
    path: str, place: tuple[str, str], key: str, field: str, metric: str, indexed: bool, queries: npt.NDArray[np.float32], k: int
) -> tuple[list[list[int | str]], list[npt.NDArray[np.float64]]]:
    """The ids of the k nearest rows to each query, and their distances. Raises EngineFailed if there is an index and no vss."""
    ids, distances = [], []
    with connected(path) as connection:
        if indexed and not _vss(connection):
            raise EngineFailed("the index needs the extension vss: pip install duckdb-extension-vss")
        connection.execute("SET threads = 1")  # equals come in one order
        measured = f"{_DISTANCES[metric]}({quoted(field)}, ?::FLOAT[{queries.shape[1]}])"
        query = f"SELECT {key}, {measured} FROM {quoted(*place)} ORDER BY {measured} LIMIT {k}"  # noqa: S608
        for one in stopwatch.each(queries):
            asked = one.tolist()
            found = [(name, far) for name, far in connection.execute(query, [asked, asked]).fetchall() if far is not None]
            ids.append([name for name, _ in found])
            distances.append(np.array([far for _, far in found], np.float64))
    return ids, distances


def make(path: str, place: tuple[str, str], recipe: Mapping[str, Json], spool: str) -> int:
    """Make a table, whatever was there of that name, with the rows of an Arrow stream, and then its indexes. `recipe`: 'before' and
    'after' are statements, 'table' makes it; without that it is made like the stream, with the column 'key' as its key; columns in
    'left' are left out. Gives how many rows it has."""
    target = quoted(*place)
    with connected(path, writing=True) as connection, pa.ipc.open_stream(spool) as stream:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(place[0])}")
        connection.execute(f"DROP TABLE IF EXISTS {target}")
        for statement in recipe["before"]:
            connection.execute(statement)
        if "table" in recipe:
            connection.execute(recipe["table"])
        else:
            connection.register("like_incoming", stream.schema.empty_table())
            connection.execute(f"CREATE TABLE {target} AS SELECT * FROM like_incoming")  # noqa: S608
            connection.execute(f"ALTER TABLE {target} ADD PRIMARY KEY ({quoted(recipe['key'])})")
            connection.unregister("like_incoming")
        connection.register("incoming", stream)
        columns = ", ".join(quoted(name) for name in stream.schema.names if name not in recipe["left"])
        connection.execute(f"INSERT INTO {target} ({columns}) SELECT {columns} FROM incoming")  # noqa: S608
        for statement in recipe["after"]:
            connection.execute(statement)
        (count,) = connection.execute(f"SELECT count(*) FROM {target}").fetchone()  # noqa: S608
        connection.execute("FORCE CHECKPOINT")
        return int(count)


def empty(path: str) -> None:
    """A database without any table, if there is none."""
    with connected(path, writing=True):
        pass
