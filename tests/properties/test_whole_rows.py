"""Are rows of which operations say all known again by fingerprints alone, whatever else could be mistaken for them?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from any_changes import SCHEMA, row_changes
from any_rows import FINGERPRINTER

from strongroom.engines.changes import Act, Change, RowChanges, change_schema
from strongroom.journal import outcome as outcomes
from strongroom.journal.outcome import Outcome
from strongroom.journal.whole_rows import WholeRows, Wrong
from strongroom.model import Fidelity

Row = tuple[str, list[float] | None, str | None]


def puts(*rows: Row) -> RowChanges:
    told = [(Act.DELETE if one is None else Act.PUT, name, one, True, text, None, None) for name, one, text in rows]
    return row_changes("first", told, [0] * len(rows), [""] * len(rows))


def batch_of(*rows: Row) -> pa.RecordBatch:
    return puts(*rows).batch.select(SCHEMA.names)


def settled(folder: Path, changes: list[Change], fidelity: Fidelity = Fidelity.KEPT) -> Outcome:
    outcome = Outcome(folder / "outcome", FINGERPRINTER, lambda: changes, fidelity)
    outcome.touch()
    outcome.settle()
    return outcome


def test_a_row_that_is_twice_in_one_batch_is_named(tmp_path: Path) -> None:
    outcome = settled(tmp_path, [puts(("a", [1, 2, 3], None), ("b", [1, 2, 3], "text"))])
    twice = batch_of(("b", [1, 2, 3], "text"), ("a", [1, 2, 3], None), ("b", [1, 2, 3], "text"))
    assert outcome.odd("first", twice) == "row 'b' is there twice"


def test_the_one_that_is_lost_is_named(tmp_path: Path) -> None:
    outcome = settled(tmp_path, [puts(("a", [1, 2, 3], None), ("b", [1, 2, 3], None)), puts(("a", None, None))])
    assert outcome.lost("first") == "b"
    assert outcome.odd("first", batch_of(("b", [1, 2, 3], None))) is None
    assert outcome.lost("first") is None


def test_a_row_that_was_put_before_its_columns_were_altered_is_compared_as_they_are_now(tmp_path: Path) -> None:
    """Text that was told as bytes once: the same row, by another fingerprint."""
    place = SCHEMA.get_field_index("id")
    numbers = SCHEMA.set(place, SCHEMA.field(place).with_type(pa.int64()))
    told = puts(("7", [1, 2, 3], None)).batch
    as_number = told.set_column(told.schema.get_field_index("id"), change_schema(numbers).field("id"), pa.array([7], pa.int64()))
    before = RowChanges("first", "first", as_number)
    outcome = settled(tmp_path, [before, puts(("8", [1, 2, 3], None))])
    assert outcome.odd("first", batch_of(("7", [1, 2, 3], None), ("8", [1, 2, 3], None))) is None
    assert outcome.lost("first") is None


@pytest.mark.parametrize(("fidelity", "alike"), [(Fidelity.KEPT, False), (Fidelity.NORMALIZED, True), (Fidelity.CODED, True)])
def test_an_engine_that_keeps_the_direction_alone_gives_another_length(fidelity: Fidelity, alike: bool, tmp_path: Path) -> None:
    outcome = settled(tmp_path, [puts(("a", [1, 2, 2], None))], fidelity)
    assert (outcome.odd("first", batch_of(("a", [2, 4, 4], None))) is None) == alike


def test_a_direction_that_is_another_is_noticed(tmp_path: Path) -> None:
    outcome = settled(tmp_path, [puts(("a", [1, 2, 2], None))], Fidelity.NORMALIZED)
    assert outcome.odd("first", batch_of(("a", [2, 2, 1], None))) == "row 'a' is not what the operations made of it"


def test_no_more_fingerprints_are_held_than_a_setting_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "MOST_WHOLE", 2)
    rows: list[Row] = [(one, [1, 2, 3], None) for one in "abc"]
    few = settled(tmp_path, [puts(*rows[:2]), puts(*rows[:2])])
    assert [len(one) for one in few._whole.values()] == [2]
    (tmp_path / "outcome").unlink()
    many = settled(tmp_path, [puts(*rows[:2]), puts(*rows[1:])])
    assert not many._whole
    assert many.odd("first", batch_of(*rows)) is None
    assert many.lost("first") is None


def test_keys_whose_first_halves_are_the_same_are_told_apart() -> None:
    """So rare that no test would meet it."""
    keys = np.array([[5, 9], [5, 1], [5, 4], [2, 4], [7, 4], [5, 4]], np.uint64)
    rows = WholeRows()
    rows.note(keys)
    assert len(rows) == 5
    rows.settle(keys, np.array([True, False, True, True, True, True]), keys)
    places, there = rows.find(np.array([[5, 4], [5, 5], [5, 9], [5, 10], [7, 4], [9, 9], [0, 0]], np.uint64))
    assert there.tolist() == [True, False, True, False, True, False, False]
    assert len({*places[there].tolist()}) == 3
    assert rows.tick(keys[1:2], keys[1:2]) == (0, Wrong.GHOST)
    assert rows.tick(keys[2:4], keys[[2, 2]]) == (1, Wrong.OTHER)
    assert rows.tick(keys[[2, 4]], keys[[2, 4]]) is None
    assert rows.lost().tolist() == [[2, 4], [5, 9]]
