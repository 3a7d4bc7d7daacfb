"""Is all in the log that is done through a captured client, under its own batch, whatever its source does? With a source of rows
that stands for any server's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from test_capture_calls import Row, Store, batch_of, replayed

from strongroom.engines.changes import BATCH, Change
from strongroom.engines.oplog import client as oplog_client
from strongroom.engines.oplog.calls import Outcome, beginning, end_of
from strongroom.engines.oplog.client import Capture, CapturedClientObject, Strayed
from strongroom.engines.oplog.feed import following
from strongroom.engines.oplog.folder import OplogFolder
from strongroom.engines.oplog.layout import Log
from strongroom.engines.oplog.rows import changes_of
from strongroom.model import Json


class Asked:
    """The adapter of a `Store`: see `oplog.client.Adapter`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.strayed = self.away = False

    def before(self, intent: Json) -> None:
        if self.strayed:
            self.strayed = False
            raise Strayed("others write past its capture")

    def read_back(self, intent: Json, outcome: Outcome) -> None:
        found: dict[int, Row | None] = {one: self.store.rows.get(one) for one in intent["ids"]}
        if found:
            outcome.rows("people", "p1", batch_of(found))

    def heard(self, error: Exception) -> bool:
        return False

    def known(self) -> Json:
        if self.away:
            raise ConnectionError
        return len(self.store.rows)

    def compare(self, known: Json) -> None: ...

    def close(self) -> None: ...


class Client:
    """The store's client: `late` is what the source does only once its caller is gone."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.late: Callable[[], None] = lambda: None

    def put(self, ids: list[int], text: str) -> None:
        self.store.rows |= dict.fromkeys(ids, ((1.0, 2.0), text))

    def put_interrupted(self, ids: list[int], text: str) -> None:
        self.late = lambda: self.put(ids, text)
        raise KeyboardInterrupt

    def delete(self, text: str) -> None:
        self.store.rows = {one: row for one, row in self.store.rows.items() if row[1] != text}


class Captured(CapturedClientObject):
    changing: ClassVar = {
        "put": lambda _, given: {"ids": given["ids"]},
        "put_interrupted": lambda _, given: {"ids": given["ids"]},
        "delete": lambda client, given: {"ids": [one for one, row in client.store.rows.items() if row[1] == given["text"]]},
    }


@pytest.fixture
def place(tmp_path: Path) -> OplogFolder:
    return OplogFolder(tmp_path / "x.oplog", "x")


@pytest.fixture
def adapter() -> Asked:
    return Asked(Store())


@pytest.fixture
def client(place: OplogFolder, adapter: Asked) -> Iterator[Captured]:
    captured = Captured(Client(adapter.store), Capture(place, b"test", adapter, every=0.0, anew=False))
    yield captured
    captured.close()


def told(place: OplogFolder) -> list[Change]:
    """All that the log says which is written now."""
    current = place.log_id()
    assert current is not None
    with following(place, "f", changes_of, lambda _: end_of(place, current).place) as feed:
        feed.resume({"": beginning(Log(current, b""))})
        return list(feed.read()[0])


def test_a_filter_is_asked_once_it_is_known_what_the_call_before_did(
    client: Captured, place: OplogFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, and the source goes on: rows that it takes in meanwhile are among those that the filter means."""
    client.put([1], "old")
    with pytest.raises(KeyboardInterrupt):
        client.put_interrupted([2], "old")
    monkeypatch.setattr(oplog_client.time, "sleep", lambda _: client._wrapped.late())
    client.delete("old")
    assert client.store.rows == {}
    assert replayed(told(place)) == {}


def test_a_batch_stays_the_same_in_another_log(client: Captured, adapter: Asked, place: OplogFolder) -> None:
    """Others have changed the source: the call that notices it begins another log, and belongs to the batch all the same."""
    client.put([1], "a")
    adapter.strayed = True
    with warnings.catch_warnings(action="ignore"), client.batch("nightly"):
        client.put([2, 3], "b")
        client.put([4], "c")
    client.put([5], "d")
    tags: list[Any] = [tag for change in told(place) for tag in change.batch[BATCH].to_pylist()]  # type: ignore[union-attr]
    assert tags == ["nightly"] * 3 + [None]


def test_a_call_has_not_failed_because_of_what_is_noted_after_it(
    client: Captured, adapter: Asked, place: OplogFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oplog_client, "_SETTLED_SECONDS", 0.0)
    adapter.away = True
    client.put([1], "a")
    adapter.away = False
    client.put([2], "b")
    assert replayed(told(place)) == client.store.rows
    assert place.read("known")["known"] == 2


def test_what_is_closed_while_the_source_is_away_can_be_captured_again(place: OplogFolder, adapter: Asked) -> None:
    client = Captured(Client(adapter.store), Capture(place, b"test", adapter, every=0.0, anew=False))
    client.put([1], "a")
    adapter.away = True
    with pytest.raises(ConnectionError):
        client.close()
    adapter.away = False
    again = Captured(Client(adapter.store), Capture(place, b"test", adapter, every=0.0, anew=False))
    again.put([2], "b")
    again.close()
    assert replayed(told(place)) == adapter.store.rows
