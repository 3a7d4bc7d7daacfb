"""Do a log of calls and a source that keeps its state itself know the same, wherever between intent and done somebody is killed?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.engines.changes import ACT, BATCH, MARK, Act, CatalogChange, Change, RowChanges
from strongroom.engines.oplog import calls as oplog_calls
from strongroom.engines.oplog import rows as oplog_rows
from strongroom.engines.oplog import writer as oplog_writer
from strongroom.engines.oplog.calls import CallRecorder, Outcome, end_of, open_calls
from strongroom.engines.oplog.feed import following
from strongroom.engines.oplog.folder import OplogFolder
from strongroom.engines.oplog.layout import Kind
from strongroom.engines.oplog.rows import changes_of
from strongroom.errors import Gap, Locked, NotFound, Refused
from strongroom.model import ROLE, Collection, Field, Role

ROWS = pa.schema(
    [
        pa.field(ACT, pa.int8(), nullable=False),
        pa.field("id", pa.uint64(), metadata={ROLE: Role.ID.encode()}),
        pa.field("image", pa.list_(pa.float32(), 2), metadata={ROLE: Role.VECTOR.encode()}),
        pa.field("payload", pa.utf8(), metadata={ROLE: Role.PAYLOAD.encode()}),
    ]
)
STEPS = ("before", "intended", "half", "called", "recorded half", "recorded", "done")
Row = tuple[tuple[float, float], str]


class Killed(BaseException):
    """The process dies here: nothing of it runs any more."""


@dataclass
class Store:
    """What keeps its state itself, row by row."""

    rows: dict[int, Row] = field(default_factory=dict)
    away: bool = False

    def put(self, one: int, row: Row) -> None:
        if self.away:
            raise ConnectionError
        self.rows[one] = row


def batch_of(found: dict[int, Row | None]) -> pa.RecordBatch:
    """Rows as they are, or gone."""
    columns = [
        [Act.DELETE if row is None else Act.PUT for row in found.values()],
        list(found),
        [None if row is None else row[0] for row in found.values()],
        [None if row is None else row[1] for row in found.values()],
    ]
    return pa.record_batch([pa.array(one, kind.type) for one, kind in zip(columns, ROWS, strict=True)], schema=ROWS)


def read_back(store: Store) -> Callable[[Any, Outcome], None]:
    def ask(intent: Any, outcome: Outcome) -> None:
        if store.away:
            raise ConnectionError
        outcome.rows("people", "p1", batch_of({one: store.rows.get(one) for one in intent["ids"]}))

    return ask


@contextmanager
def folder() -> Iterator[OplogFolder]:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(oplog_writer, "SEGMENT_BYTES", 5_000)
        patch.setattr(oplog_rows, "MOST_BYTES", 60)
        yield OplogFolder(Path(place) / "x.oplog", "x")


def opened(place: OplogFolder, store: Store, *, anew: bool = False, every: float = 0.0) -> CallRecorder:
    return open_calls(place, b"test", read_back(store), every=every, anew=anew)


def put(recorder: CallRecorder, store: Store, rows: dict[int, Row], dies: str = "") -> None:
    """One call, of which half of the rows may be applied when somebody is killed at step `dies`."""

    def step(name: str) -> None:
        if name == dies:
            raise Killed

    step("before")
    with recorder.call({"ids": list(rows)}) as outcome:
        step("intended")
        for number, (one, row) in enumerate(rows.items()):
            if number == len(rows) // 2:
                step("half")
            store.put(one, row)
        step("called")
        half = len(rows) // 2
        outcome.rows("people", "p1", batch_of(dict(list(rows.items())[:half])))
        step("recorded half")
        outcome.rows("people", "p1", batch_of(dict(list(rows.items())[half:])))
        step("recorded")
    step("done")


def kill(recorder: CallRecorder) -> None:
    """What the kernel does with the descriptors of a process that was killed."""
    os.close(recorder._lock_file)
    recorder._lock_file = -1
    recorder._gate.close()
    writer = recorder._writer
    if writer._descriptor >= 0:
        writer._view.release()
        writer._map.close()
        os.close(writer._descriptor)
        writer._descriptor = -1


def followed(place: OplogFolder, marks: dict[str, str] | None = None) -> list[Change]:
    with following(place, "f", changes_of, lambda log: end_of(place, log).place) as feed:
        if marks is None:
            feed.begin()
            return []
        feed.resume(marks)
        found, more = [], True
        while more:
            changes, _, more = feed.read()
            found += changes
        return found


def replayed(changes: list[Change]) -> dict[int, Row]:
    rows: dict[int, Row] = {}
    for change in changes:
        assert isinstance(change, RowChanges)
        for said in change.batch.to_pylist():
            if said[ACT] == Act.DELETE:
                rows.pop(said["id"], None)
            else:
                rows[said["id"]] = (tuple(said["image"]), said["payload"])
    return rows


ids = st.integers(0, 9).map(lambda one: (1 << 64) - 1 - one)
numbers = st.floats(-9, 9, width=32)
some_rows = st.dictionaries(ids, st.tuples(st.tuples(numbers, numbers), st.text(max_size=9)), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(some_rows, st.sampled_from(["", "", *STEPS]), st.booleans()), min_size=1, max_size=9))
def test_log_and_source_know_the_same_after_any_kill(history: list[tuple[dict[int, Row], str, bool]]) -> None:
    with folder() as place:
        store = Store()
        recorder = opened(place, store)
        start = {"": recorder.place}
        followed(place)
        for rows, dies, settles in history:
            if dies:
                with suppress(Killed):
                    put(recorder, store, rows, dies)
                kill(recorder)
                recorder = opened(place, store)
            else:
                put(recorder, store, rows)
            if settles:
                with recorder:
                    recorder.settled()
            assert end_of(place, place.log_id()).place == recorder.place
            assert end_of(place, place.log_id()).intent == []
        assert replayed(followed(place, start)) == store.rows
        recorder.close()


@settings(max_examples=20, deadline=None)
@given(st.lists(some_rows, min_size=1, max_size=6))
def test_operations_are_read_from_each_mark_on(history: list[dict[int, Row]]) -> None:
    with folder() as place:
        store = Store()
        recorder = opened(place, store)
        start = {"": recorder.place}
        places = [start]
        followed(place)
        for number, rows in enumerate(history):
            with recorder.batch(f"b{number}"):
                put(recorder, store, rows)
            places.append({"": recorder.place})
        recorder.close()
        changes = [one for one in followed(place, start) if isinstance(one, RowChanges)]
        marks = [mark for one in changes for mark in one.batch[MARK].to_pylist()]
        tags = [tag for one in changes for tag in one.batch[BATCH].to_pylist()]
        assert tags == [f"b{number}" for number, rows in enumerate(history) for _ in rows]
        for number, mark in enumerate(marks):
            rest = [one for change in followed(place, {"": mark}) for one in change.batch[MARK].to_pylist()]
            assert rest == marks[number + 1 :]
        for number, its in enumerate(places):
            assert sum(map(len, followed(place, its))) == sum(map(len, history[number:]))


def test_a_call_that_fails_is_told_as_what_it_left(tmp_path: Path) -> None:
    store, place = Store(), OplogFolder(tmp_path / "x.oplog", "x")
    recorder = opened(place, store)
    start = {"": recorder.place}
    followed(place)
    with pytest.raises(ZeroDivisionError), recorder.call({"ids": [1, 2]}):
        store.put(1, ((1, 2), "a"))
        raise ZeroDivisionError
    assert replayed(followed(place, start)) == store.rows == {1: ((1, 2), "a")}
    recorder.close()


def test_nothing_is_called_while_it_is_not_known_what_the_last_call_did(tmp_path: Path) -> None:
    """The source answered no more: perhaps the call was made. It is asked before the next one, or when the log is opened again."""
    store, place = Store(), OplogFolder(tmp_path / "x.oplog", "x")
    recorder = opened(place, store)
    start = {"": recorder.place}
    followed(place)
    with pytest.raises(ConnectionError), recorder.batch("import"), recorder.call({"ids": [1]}):
        store.put(1, ((1, 2), "late"))
        store.away = True
        raise ConnectionError
    with pytest.raises(ConnectionError):
        put(recorder, store, {2: ((3, 4), "next")})
    assert replayed(followed(place, start)) == {}
    store.away = False
    put(recorder, store, {2: ((3, 4), "next")})
    found = followed(place, start)
    assert replayed(found) == store.rows
    assert [tag for one in found for tag in one.batch[BATCH].to_pylist()] == ["import", None]
    with pytest.raises(ConnectionError), recorder.call({"ids": [1]}):
        store.away = True
        raise ConnectionError
    kill(recorder)
    with pytest.raises(ConnectionError):
        opened(place, store)
    store.away = False
    again = opened(place, store)
    with pytest.raises(Locked):
        opened(place, store)
    again.close()
    assert replayed(followed(place, start)) == store.rows


def test_a_call_that_was_told_in_part_is_asked_for_also_after_a_save(tmp_path: Path) -> None:
    """What the source made durable meanwhile is no reason to forget it."""
    store, place = Store(), OplogFolder(tmp_path / "x.oplog", "x")
    recorder = opened(place, store)
    start = {"": recorder.place}
    followed(place)
    with pytest.raises(ConnectionError), recorder.call({"ids": [1, 2]}) as outcome:
        store.rows |= {1: ((1, 2), "told"), 2: ((3, 4), "untold")}
        outcome.rows("people", "p1", batch_of({1: store.rows[1]}))
        store.away = True
        raise ConnectionError
    with recorder:
        recorder.settled()
    kill(recorder)
    store.away = False
    opened(place, store).close()
    assert replayed(followed(place, start)) == store.rows


@pytest.mark.parametrize("step", ["settled", "set_log"])
def test_killed_while_another_log_begins_it_goes_on_with_one_of_both(step: str, tmp_path: Path) -> None:
    store, place = Store(), OplogFolder(tmp_path / "x.oplog", "x")
    recorder = opened(place, store)
    for number in range(3):
        put(recorder, store, {number: ((1, 2), "a")})
        with recorder:
            recorder.settled()
    recorder.close()

    def dies(*_: object, **__: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(OplogFolder, step, dies)
        opened(place, store, anew=True)
    recorder = opened(place, store)
    start = {"": recorder.place}
    followed(place)
    put(recorder, store, {9: ((3, 4), "b")})
    recorder.close()
    assert replayed(followed(place, start)) == {9: ((3, 4), "b")}


def test_ctrl_c_in_a_call_leaves_it_to_be_settled(tmp_path: Path) -> None:
    store, place = Store(), OplogFolder(tmp_path / "x.oplog", "x")
    recorder = opened(place, store)
    start = {"": recorder.place}
    followed(place)
    with pytest.raises(KeyboardInterrupt), recorder.call({"ids": [1]}):
        store.put(1, ((1, 2), "a"))
        raise KeyboardInterrupt
    put(recorder, store, {2: ((3, 4), "b")})
    assert replayed(followed(place, start)) == store.rows
    assert len(store.rows) == 2
    recorder.close()


def test_an_intent_is_durable_before_the_call_and_the_rest_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, place = Store(), OplogFolder(tmp_path / "x.oplog", "x")
    recorder = opened(place, store)
    durable: list[int] = []
    monkeypatch.setattr(
        oplog_writer, "make_durable", lambda file: durable.append(recorder._writer.end.number) or os.fdatasync(file)
    )
    with recorder.call({"ids": [1]}) as outcome:
        assert durable == [1]
        outcome.rows("people", "p1", batch_of({1: ((1, 2), "a")}))
    assert durable == [1, 3]
    recorder.close()


def test_what_a_loss_of_power_took_from_the_source_is_told_to_it(tmp_path: Path) -> None:
    store, place = Store(), OplogFolder(tmp_path / "x.oplog", "x")
    recorder = opened(place, store)
    put(recorder, store, {1: ((1, 2), "durable")})
    with recorder:
        recorder.settled()
    durable = dict(store.rows)
    put(recorder, store, {2: ((3, 4), "b"), 1: ((5, 6), "c")})
    kill(recorder)
    told: list[Change] = []
    lost = Store(durable)
    again = open_calls(place, b"test", read_back(lost), every=0, anew=False, catch_up=lambda changes, _: told.extend(changes))
    assert replayed(told) == store.rows
    again.close()


def test_changes_of_collections_and_long_rows_come_back(tmp_path: Path) -> None:
    store, place = Store(), OplogFolder(tmp_path / "x.oplog", "x")
    recorder = opened(place, store)
    start = {"": recorder.place}
    followed(place)
    people = Collection("people", 0, (Field("image", "float32", 2, "l2", {"m": 16}),), {"a": 1})
    long = {1: ((1.0, 2.0), "ü" * (9 << 20))}
    with recorder.call({"ids": []}) as outcome:
        outcome.catalog({"p1": people}, ["p0"], whole=True)
    put(recorder, store, long)
    catalog, *rows = followed(place, start)
    assert isinstance(catalog, CatalogChange)
    assert (catalog.present, catalog.gone, catalog.whole) == ({"p1": people}, ("p0",), True)
    assert replayed(rows) == long
    recorder.close()


def test_a_log_of_something_else_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    store, place = Store(), OplogFolder(tmp_path / "x.oplog", "x")
    with pytest.raises(NotFound):
        followed(place)
    recorder = opened(place, store)
    for number in range(9):
        put(recorder, store, {number: ((1, 2), "a")})
    followed(place)
    recorder.close()
    with pytest.raises(Refused, match="something else"):
        open_calls(place, b"other", read_back(store), every=0, anew=False)
    (segment,) = place.segments()
    content = bytearray(segment.path.read_bytes())
    content[len(content) // 2] ^= 1
    segment.path.write_bytes(content)
    with pytest.raises(Refused, match="damaged"):
        opened(place, store)
    fresh = opened(place, store, anew=True)
    assert fresh.place.startswith("0:")
    fresh.close()


def test_a_log_that_is_read_to_its_last_operation_has_ended_once_there_is_another(tmp_path: Path) -> None:
    """What stands behind it, that the call was done, is no reason to wait for more."""
    store, place = Store(), OplogFolder(tmp_path / "x.oplog", "x")
    recorder = opened(place, store)
    followed(place)
    put(recorder, store, {1: ((1, 2), "a")})
    last = {"": recorder.place}
    recorder.close()
    assert followed(place, last) == []
    opened(place, store, anew=True).close()
    with pytest.raises(Gap):
        followed(place, last)


def test_each_step_of_a_call_is_a_record(tmp_path: Path) -> None:
    """What the tests above kill between: an intent, two records of changes, and the word that it is done."""
    store, place = Store(), OplogFolder(tmp_path / "x.oplog", "x")
    recorder = opened(place, store)
    put(recorder, store, {1: ((1, 2), "a"), 2: ((1, 2), "a")})
    recorder.close()
    with oplog_calls.OplogReader(place, place.log_id()) as reader:
        oplog_calls.from_settled(place, reader)
        kinds = [one.kind for one in reader.all()]
    assert kinds == [Kind.INTENT, Kind.CHANGES, Kind.CHANGES, Kind.DONE]
