"""Which statements make a table again from its catalog? With a search path of its schema and the extension's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from blake3 import blake3

from strongroom.engines.pgvector.address import LONGEST_NAME, Layout
from strongroom.engines.pgvector.columns import ROW_ID, is_dense, load_type
from strongroom.engines.pgvector.server import literal, quoted
from strongroom.model import ROLE, Collection, Field, Json, Role

Catalog = Mapping[str, Any]

_OPERATORS = {"l2": "l2_ops", "ip": "ip_ops", "cosine": "cosine_ops"}
_LONGEST_INDEXED = {"vector": 2000, "halfvec": 4000}
_SEQUENCE = "AS {type} START WITH {start} INCREMENT BY {increment} MINVALUE {min} MAXVALUE {max} CACHE {cache}{cycle}"


def is_ours(collection: Collection) -> bool:
    """Was it backed up from a table?"""
    return collection.catalog.get("format") == "pgvector"


def catalog_for(collection: Collection, schema: pa.Schema | None) -> dict[str, Json]:
    """The catalog of a table for rows of another engine, of this Arrow schema."""
    fields = list(schema) if schema is not None else [pa.field("id", pa.utf8(), metadata={ROLE: Role.ID.encode()})]
    if schema is None:
        fields += [pa.field(one.name, pa.list_(pa.float32(), one.dimension)) for one in collection.fields]
    columns = [{"name": one.name, "type": column_type(one), "not_null": _role(one) is Role.ID} for one in fields]
    key = [one.name for one in fields if _role(one) is Role.ID]
    constraints = [{"name": f"{collection.name}_pkey", "kind": "p", "definition": f"PRIMARY KEY ({quoted(*key)})"}] if key else []
    kinds = {str(one["name"]): str(one["type"]).partition("(")[0] for one in columns}
    indexes = [
        _index(collection.name, one, kinds[one.name]) for one in collection.fields if indexed_as(one, kinds.get(one.name, ""))
    ]
    return {"table": collection.name, "columns": columns, "key": key, "constraints": constraints, "indexes": indexes}


def column_type(field: pa.Field) -> str:
    """The type of a column that takes such values."""
    kind = field.type
    if _role(field) is Role.VECTOR or is_dense(kind):
        length = kind.byte_width // 2 if pa.types.is_fixed_size_binary(kind) else kind.list_size
        return f"{'halfvec' if load_type(kind) == 'halfvec' else 'vector'}({length})"
    if _role(field) is Role.PAYLOAD:
        return "jsonb"
    if pa.types.is_fixed_size_binary(kind):
        return "bytea"
    if pa.types.is_uint64(kind):
        return "numeric"
    if pa.types.is_integer(kind):
        return {8: "int2", 16: "int2", 32: "int4"}.get(kind.bit_width, "int8") if not str(kind).startswith("u") else "int8"
    return load_type(kind)


def indexed_as(field: Field, kind: str) -> str | None:
    """The operator class of an HNSW index for such vectors; None if pgvector can't index them."""
    if field.metric not in _OPERATORS or field.dimension > _LONGEST_INDEXED.get(kind, 0):
        return None
    return f"{kind}_{_OPERATORS[field.metric]}"


def _index(table: str, field: Field, kind: str) -> dict[str, Json]:
    definition = f"hnsw ({quoted(field.name)} {indexed_as(field, kind)})"
    return {"name": f"{table}_{field.name}_idx", "unique": False, "definition": definition}


def _role(field: pa.Field) -> Role | None:
    stated = (field.metadata or {}).get(ROLE)
    return Role(stated.decode()) if stated else None


# -- statements ---------------------------------------------------------------------------------------------------------------


def search_path(layout: Layout, schema: str, extension: str) -> str:
    """What makes of names in a catalog what they were where it was read. The schema in which the table will be has the types and
    functions: it comes before the extension's, which may have others of the same names."""
    return ", ".join(map(quoted, (schema, schema.removeprefix(layout.staged), extension)))


def table(place: tuple[str, str], catalog: Catalog) -> Iterator[str]:
    """Make the table, and the sequences of its columns, without rows, keys or indexes."""
    schema, name = place
    own = {one["column"]: one for one in catalog.get("sequences", ())}
    identities = {one["name"] for one in catalog["columns"] if one.get("identity")}
    for column, one in own.items():
        if column not in identities:
            yield f"CREATE SEQUENCE {quoted(schema, renamed(one['name'], catalog, name))} {_sequence(one)}"
    columns = ", ".join(column_definition(one, own.get(one["name"]), catalog, place) for one in catalog["columns"])
    options = f" WITH ({', '.join(catalog['options'])})" if catalog.get("options") else ""
    yield f"CREATE {'UNLOGGED ' if catalog.get('unlogged') else ''}TABLE {quoted(schema, name)} ({columns}){options}"
    for column, one in own.items():
        if column not in identities:
            sequence = quoted(schema, renamed(one["name"], catalog, name))
            yield f"ALTER SEQUENCE {sequence} OWNED BY {quoted(schema, name, column)}"
    for one in catalog["columns"]:
        if one.get("storage"):
            yield f"ALTER TABLE {quoted(schema, name)} ALTER COLUMN {quoted(one['name'])} SET STORAGE {_STORAGES[one['storage']]}"


_STORAGES = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}


def column_definition(one: Catalog, sequence: Catalog | None, catalog: Catalog, place: tuple[str, str]) -> str:
    words = [quoted(one["name"]), one["type"]]
    if one.get("collation"):
        words.append(f"COLLATE {quoted(one['collation'])}")
    if one.get("generated"):
        words.append(f"GENERATED ALWAYS AS ({one['default']}) {'STORED' if one['generated'] == 's' else 'VIRTUAL'}")
    elif one.get("identity"):
        kind = "ALWAYS" if one["identity"] == "a" else "BY DEFAULT"
        options = ""
        if sequence is not None:
            name = quoted(place[0], renamed(sequence["name"], catalog, place[1]))
            options = f" (SEQUENCE NAME {name} {_sequence(sequence).partition(' ')[2].partition(' ')[2]})"
        words.append(f"GENERATED {kind} AS IDENTITY{options}")
    elif sequence is not None and str(one.get("default", "")).startswith("nextval("):
        name = quoted(place[0], renamed(sequence["name"], catalog, place[1]))
        words.append(f"DEFAULT nextval({literal(name)}::regclass)")
    elif one.get("default") is not None:
        words.append(f"DEFAULT {one['default']}")
    if one.get("not_null"):
        words.append("NOT NULL")
    return " ".join(words)


def keys_and_indexes(place: tuple[str, str], catalog: Catalog) -> Iterator[str]:
    """Once the rows are there. Foreign keys point at tables that may not be there: they are left to whoever has them."""
    schema, name = place
    for one in catalog["constraints"]:
        if one["kind"] != "f":
            constraint = quoted(renamed(one["name"], catalog, name))
            yield f"ALTER TABLE {quoted(schema, name)} ADD CONSTRAINT {constraint} {one['definition']}"
    for one in catalog["indexes"]:
        yield index(place, one, catalog)


def index(place: tuple[str, str], one: Catalog, catalog: Catalog) -> str:
    name = quoted(renamed(one["name"], catalog, place[1]))
    return f"CREATE {'UNIQUE ' if one['unique'] else ''}INDEX {name} ON {quoted(*place)} USING {one['definition']}"


def sequence_values(place: tuple[str, str], catalog: Catalog) -> Iterator[str]:
    """Where the sequences of the columns go on."""
    for one in catalog.get("sequences", ()):
        name = quoted(place[0], renamed(one["name"], catalog, place[1]))
        if one["last_value"] is None:
            yield beyond_rows(place, one, name)
            continue
        called = "true" if one["is_called"] else "false"
        yield f"SELECT pg_catalog.setval({literal(name)}, {int(one['last_value'])}, {called})"


def beyond_rows(place: tuple[str, str], sequence: Catalog, name: str) -> str:
    """A sequence, called `name`, goes on after the highest number that a row has, if it isn't there yet."""
    end, after = ("max", ">") if sequence["increment"] > 0 else ("min", "<")
    rows = f"SELECT {end}({quoted(sequence['column'])}) AS m FROM ONLY {quoted(*place)}"
    further = f"m {after} s.last_value OR (m = s.last_value AND NOT s.is_called)"
    return f"SELECT pg_catalog.setval({literal(name)}, m) FROM ({rows}) AS x, {name} AS s WHERE {further}"


def renamed(name: str, catalog: Catalog, table: str) -> str:
    """What an index, constraint or sequence is called beside a table of another name: two can't have one in the same schema."""
    old = catalog["table"]
    if old == table:
        return name
    fresh = name.replace(old, table, 1) if old in name else f"{table}_{name}"
    if len(fresh.encode()) <= LONGEST_NAME:
        return fresh
    mark = "_" + blake3(fresh.encode()).hexdigest(4)  # several may begin alike
    return fresh.encode()[: LONGEST_NAME - len(mark)].decode(errors="ignore") + mark


def loaded_columns(schema: pa.Schema, catalog: Catalog) -> Sequence[tuple[str, str]]:
    """Names and types of the table's columns that rows of an Arrow schema go into."""
    types = {one["name"]: one["type"] for one in catalog["columns"]}
    return [(one.name, types[one.name]) for one in schema if not (one.name == ROW_ID and ROW_ID not in types)]


def _sequence(one: Catalog) -> str:
    return _SEQUENCE.format(**{**one, "cycle": " CYCLE" if one["cycle"] else ""})
