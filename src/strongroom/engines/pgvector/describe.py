"""What is said of a table in a snapshot: its vector fields, its catalog, and what of the database is in the snapshot or isn't."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from strongroom.engines.pgvector.catalog import Found, Index
from strongroom.engines.pgvector.columns import Shape, is_dense
from strongroom.engines.pgvector.search import index_of, metric_of
from strongroom.model import INDEX_FILES, Collection, Field, Json, LedgerItem, Status

_DTYPES = {"float": "float32", "halffloat": "float16"}
_SHOWN = 5


def collection(shape: Shape, count: int) -> Collection:
    """A table as a collection."""
    return Collection(shape.table.collection, count, tuple(_fields(shape)), shape.table.described())


def _fields(shape: Shape) -> Iterator[Field]:
    for one, column in shape.fields:
        if is_dense(one.type):
            index = index_of(shape, column)
            dtype = _DTYPES[str(one.type.value_type)]
            yield Field(one.name, dtype, one.type.list_size, metric_of(index), _parameters(index))


def _parameters(index: Index | None) -> dict[str, Json]:
    if index is None:
        return {}
    stated = dict(one.partition("=")[::2] for one in index.options)
    numbers = {name: int(value) if value.isdigit() else value for name, value in stated.items()}
    return {"kind": index.method, "name": index.name, "operators": index.operators, **numbers}


def ledger(found: Found, shapes: Sequence[Shape], unplaced: str) -> Iterator[LedgerItem]:
    """One moment of the tables with vectors; the rest of a database is another tool's."""
    held, missing, none = Status.CAPTURED, Status.NOT_CAPTURED, Status.NOT_OFFERED
    yield LedgerItem("rows", held, "all columns but those that are computed from others")
    yield LedgerItem("columns, keys, unique and check constraints, index definitions, sequences of columns", held)
    yield LedgerItem(INDEX_FILES, none, "a server gives no files out: indexes are built again from their definitions")
    if unplaced:
        yield LedgerItem("position in the server's log", none, f"no journal can go on from this snapshot: {unplaced}")
    plain = [name for kind, name in found.others if kind == "table"]
    if plain:
        yield LedgerItem("tables without vectors", missing, _listed(plain))
    for kind, name in found.others:
        if kind != "table":
            yield LedgerItem(f"{kind} {name}", missing)
    yield LedgerItem(
        "roles, owners, grants, enum and domain types",
        held,
        "noted ('show --json'), without passwords; a restore makes none of them",
    )
    yield LedgerItem("policies, functions, triggers, views, comments, other types", missing, "pg_dump --schema-only keeps them")
    for shape in shapes:
        yield from _of_table(shape)


def _of_table(shape: Shape) -> Iterator[LedgerItem]:
    table, missing, none = shape.table, Status.NOT_CAPTURED, Status.NOT_OFFERED
    foreign = [name for name, kind, _ in table.constraints if kind == "f"]
    if foreign:
        yield LedgerItem(
            f"{table.collection}: foreign keys", missing, f"{_listed(foreign)}: noted, and not made again by a restore"
        )
    if not table.key:
        yield LedgerItem(
            f"{table.collection}: names of rows",
            none,
            "it has no primary key of stored columns: a row's id is a hash of it; it can't be followed",
        )
    hidden = [str(one["name"]) for one in table.sequences if one["last_value"] is None]
    if hidden:
        note = f"{_listed(hidden)}: this user may not read it (GRANT SELECT ON SEQUENCE); it will go on after the highest row"
        yield LedgerItem(f"{table.collection}: where its sequences are", missing, note)
    owned = {str(one["column"]) for one in table.sequences}
    lent = [one.name for one in table.columns if str(one.default or "").startswith("nextval(") and one.name not in owned]
    if lent:
        note = f"that of {_listed(lent)} is no column's, or another table's: make it before a restore, and set where it goes on"
        yield LedgerItem(f"{table.collection}: sequences of others", missing, note)
    if table.inherits:
        note = "it comes back as a table of its own, and what was asked of the table above it doesn't find its rows any more"
        yield LedgerItem(f"{table.collection}: its place as a partition or heir", missing, note)
    broken = [one.name for one in table.indexes if not one.valid]
    if broken:
        yield LedgerItem(f"{table.collection}: invalid indexes", missing, _listed(broken))
    for field, column in shape.fields:
        index = index_of(shape, column)
        if is_dense(field.type) and index is not None and index.operators.endswith("_l1_ops"):
            yield LedgerItem(
                f"{table.collection}: answers of {index.name}", missing, "probes don't know its metric, l1: they measure by l2"
            )
        if column.vector and not is_dense(field.type):
            yield LedgerItem(
                f"{table.collection}: answers of {column.name}",
                missing,
                f"probes need vectors of one length: it is of type {column.type}",
            )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
