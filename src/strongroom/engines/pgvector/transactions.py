"""What does a committed transaction of the log mean for the tables that are followed?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pyarrow as pa

from strongroom.engines.changes import ACT, BATCH, MARK, TIME, Act, CatalogChange, Change, RowChanges, change_schema
from strongroom.engines.pgvector import describe
from strongroom.engines.pgvector.address import Layout
from strongroom.engines.pgvector.catalog import Table, table_of
from strongroom.engines.pgvector.columns import Shape, arrow_type, from_text, is_dense, shape_of
from strongroom.engines.pgvector.pgoutput import UNCHANGED, Begin, Cells, Message, Relation, Row, Truncate
from strongroom.engines.pgvector.slot import PREFIX
from strongroom.model import Json

Values = tuple[str | None, ...]


class Untold(Exception):
    """The log doesn't tell what this did to the rows: a new snapshot must."""


@dataclass(frozen=True, slots=True)
class State:
    """The tables at a place of the log, by number, and how the server described each."""

    tables: Mapping[int, Table] = field(default_factory=dict)
    bodies: Mapping[str, Json] = field(default_factory=dict)

    @classmethod
    def of(cls, bodies: Mapping[str, Json], layout: Layout) -> State:
        found = {int(number): table_of(body, layout) for number, body in bodies.items()}
        return cls({number: table for number, table in found.items() if table is not None}, bodies)

    def with_table(self, table: Table, body: Json) -> State:
        return State({**self.tables, table.oid: table}, {**self.bodies, str(table.oid): body})

    def without(self, oid: int) -> State:
        tables = {number: one for number, one in self.tables.items() if number != oid}
        return State(tables, {number: one for number, one in self.bodies.items() if number != str(oid)})


@dataclass(frozen=True, slots=True)
class RowOp:
    """A row of a table was put or taken away: then `values` are those of its key alone."""

    table: Table
    act: Act
    values: Values


@dataclass(frozen=True, slots=True)
class TableOp:
    present: tuple[Table, ...]
    gone: tuple[int, ...]


Op = RowOp | TableOp


class Transaction:
    """What is known of a transaction while its messages come; `state` is what the tables are after it."""

    def __init__(self, state: State, relations: dict[int, Relation], layout: Layout, begin: Begin, time: int) -> None:
        """All that was committed before it ends at or before `place`."""
        self.state = state
        self.place = begin.place
        self.time = time
        self.ops: list[Op] = []
        self.bytes = 0
        self.given = False
        self._relations = relations
        self._layout = layout

    def give(self) -> list[Committed]:
        """The operations since the last time. Their mark is the first place at which all of it is committed."""
        found = [Committed(one, self.time, self.place + 1) for one in self.ops]
        self.ops, self.given = [], True
        return found

    def take(self, message: Row | Truncate | Message) -> None:
        """Raises Untold."""
        if isinstance(message, Row):
            self._row(message)
        elif isinstance(message, Truncate):
            self._truncate(message)
        elif message.prefix == PREFIX:
            self._told(json.loads(message.content))

    def _row(self, message: Row) -> None:
        table = self._table(message.oid)
        places = [place for place, one in enumerate(table.stored) if one.name in table.key]
        new = None if message.new is None else _filled(table, message.new, message.old)
        old_key = _only(message.old, places)
        if new is None:
            assert old_key is not None  # noqa: S101 - one of both is there
            self.ops.append(RowOp(table, Act.DELETE, old_key))
            return
        if old_key is not None and old_key != _only(new, places):
            self.ops.append(RowOp(table, Act.DELETE, old_key))
        self.ops.append(RowOp(table, Act.PUT, new))
        self.bytes += sum(len(one) for one in new if one is not None) + 64

    def _table(self, oid: int) -> Table:
        relation, table = self._relations[oid], self.state.tables.get(oid)
        if table is None:
            raise Untold(f"table {relation.schema}.{relation.name} has changes, and nobody told of it")
        if list(relation.columns) != [one.name for one in table.stored]:
            raise Untold(f"table {table.collection} has other columns than was told")
        if reason := unfollowed(table):
            raise Untold(reason)
        return table

    def _truncate(self, message: Truncate) -> None:
        for oid in message.oids:
            if table := self.state.tables.get(oid):
                self.ops.append(TableOp((table,), (oid,)))

    def _told(self, body: Mapping[str, Any]) -> None:
        if "failed" in body:
            raise Untold("a table was changed, and it could not be noted how")
        for oid in (int(body[one]) for one in ("gone", "lost") if one in body):
            if oid in self.state.tables:
                if "lost" in body:
                    raise Untold(f"table {self.state.tables[oid].collection} has no vectors any more")
                self.state = self.state.without(oid)
                self.ops.append(TableOp((), (oid,)))
        if "table" in body:
            self._described(body["table"], str(body["how"]))

    def _described(self, body: Mapping[str, Any], how: str) -> None:
        oid, table = int(body["table"][0]), table_of(body, self._layout)
        before = self.state.tables.get(oid)
        if table is None:
            if before is not None:
                self.state = self.state.without(oid)
                self.ops.append(TableOp((), (oid,)))
            return
        if before is None and how != "made":
            raise Untold(f"table {table.collection} came with rows in it")
        if before is not None and (reason := rewritten(before, table)):
            raise Untold(f"table {table.collection} was altered: {reason}")
        self.state = self.state.with_table(table, body)
        if before is None or _lasting(before) != _lasting(table):
            self.ops.append(TableOp((table,), ()))


def unfollowed(table: Table) -> str | None:
    """Why the rows of a table can't be followed, None if they can."""
    if not table.key:
        return f"table {table.collection} has no primary key: nobody can say which row changed"
    for one in table.stored:
        if one.vector and one.base in ("vector", "halfvec") and not is_dense(arrow_type(one, {})):
            return f"column {one.name} of table {table.collection} is a {one.base} of no stated length"
    return None


def rewritten(before: Table, after: Table) -> str | None:
    """What of an ALTER TABLE changed rows without the log telling it; None if rows are what they were."""
    old = {one.name: (one.type, one.collation) for one in before.stored}
    new = {one.name: (one.type, one.collation) for one in after.stored}
    if gone := [name for name in old if name not in new]:
        return f"column {gone[0]} is gone or has another name"
    if other := [name for name in old if old[name] != new[name]]:
        return f"column {other[0]} has another type"
    added = [one for one in after.stored if one.name not in old]
    if filled := [one.name for one in added if one.default is not None or one.not_null or one.identity]:
        return f"column {filled[0]} was added with values"
    if before.key and before.key != after.key:
        return "its primary key is another one"
    return None


def _lasting(table: Table) -> Json:
    """What is said of a table but for the numbers that its sequences have come to."""
    passing = ("last_value", "is_called")
    sequences = [{name: value for name, value in one.items() if name not in passing} for one in table.sequences]
    return [table.collection, {**table.described(), "sequences": sequences}, [one.options for one in table.indexes]]


def _filled(table: Table, new: Cells, old: Cells | None) -> Values:
    """The row with those values that lie out of line and stayed."""
    if UNCHANGED not in new:
        return new  # type: ignore[return-value]
    if old is None or len(old) != len(new) or UNCHANGED in old:
        raise Untold(f"table {table.collection} doesn't log its old rows any more (REPLICA IDENTITY FULL was taken away)")
    return tuple(was if one is UNCHANGED else one for one, was in zip(new, old, strict=True))  # type: ignore[misc]


def _only(cells: Cells | Values | None, places: Sequence[int]) -> Values | None:
    """The values at these places, null elsewhere."""
    if cells is None:
        return None
    return tuple(cell if place in places else None for place, cell in enumerate(cells))  # type: ignore[misc]


# -- as changes ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Committed:
    """An operation of a transaction that was committed at `time`; `mark` is just after where its commit record begins."""

    op: Op
    time: int
    mark: int

    @property
    def bytes(self) -> int:
        return sum(len(one) for one in self.op.values if one is not None) + 64 if isinstance(self.op, RowOp) else 64


def changes(committed: Sequence[Committed], batch_key: str | None) -> Iterator[Change]:
    """Operations as they travel: those of neighbours on one table together."""
    shapes: dict[int, Shape] = {}

    def table(one: Committed) -> int | None:
        return id(one.op.table) if isinstance(one.op, RowOp) else None

    for number, run in groupby(_side_by_side(committed), table):
        if number is None:
            for one in run:
                assert isinstance(one.op, TableOp)  # noqa: S101 - by its key
                yield table_change(one.op, one.time, one.mark)
        else:
            rows = list(run)
            if number not in shapes:
                shapes[number] = shape_of(rows[0].op.table, {})  # type: ignore[union-attr]
            yield _row_changes(shapes[number], rows, batch_key)


def _side_by_side(committed: Sequence[Committed]) -> Iterator[Committed]:
    """Within a transaction rows of one table together, first those of the table before: so that fewer, longer runs travel."""
    last = 0
    for (_, plain), run in groupby(committed, lambda one: (one.mark, isinstance(one.op, RowOp))):
        if not plain:
            yield from run
            continue
        by_table: dict[int, list[Committed]] = {}
        for one in run:
            by_table.setdefault(id(one.op.table), []).append(one)  # type: ignore[union-attr]
        for number in sorted(by_table, key=lambda one: one != last):
            yield from by_table[number]
            last = number


def table_change(op: TableOp, time: int, mark: int, *, whole: bool = False) -> CatalogChange:
    present = {str(one.oid): describe.collection(shape_of(one, {}), 0) for one in op.present}
    return CatalogChange(present, tuple(map(str, op.gone)), time, str(mark), whole)


def _row_changes(shape: Shape, rows: Sequence[Committed], batch_key: str | None) -> RowChanges:
    ops = [one.op for one in rows if isinstance(one.op, RowOp)]
    batch = from_text(shape, [one.values for one in ops])
    own = [
        pa.array([int(one.act) for one in ops], pa.int8()),
        pa.array([one.time for one in rows], pa.int64()),
        pa.array([str(one.mark) for one in rows], pa.utf8()),
        pa.array([_tag(one, batch_key) for one in ops], pa.utf8()),
    ]
    schema = change_schema(batch.schema)
    assert schema.names[:4] == [ACT, TIME, MARK, BATCH]  # noqa: S101 - the order of `own`
    return RowChanges(shape.table.collection, str(shape.table.oid), pa.record_batch([*own, *batch.columns], schema=schema))


def _tag(op: RowOp, key: str | None) -> str | None:
    """The value of a column of that name, or of a key of a column of JSON."""
    if not key or op.act is not Act.PUT:
        return None
    for one, value in zip(op.table.stored, op.values, strict=True):
        if one.name == key:
            return value
        if value is not None and one.builtin and one.base in ("jsonb", "json") and key in value:
            found = json.loads(value)
            if isinstance(found, dict) and isinstance(found.get(key), str | int):
                return str(found[key])
    return None
