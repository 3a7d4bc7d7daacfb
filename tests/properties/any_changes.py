"""What does a test of the journal need? Changes of any kind, a naive idea of what they do, and a place to seal them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from strongroom.clock import Clock
from strongroom.engines.changes import ACT, BATCH, MARK, TIME, Act, CatalogChange, Change, RowChanges, change_schema
from strongroom.journal.sealing import Sealer, Writer
from strongroom.journal.segments import Front
from strongroom.journal.stream import Chain, read_chain, read_changes, stream_of
from strongroom.library import Strongroom, init_repository
from strongroom.model import ROLE, Collection, Field, Role
from strongroom.repository import Argon2Cost

DIMENSION = 3
SOURCE = "chroma:///srv/things"
SCHEMA = pa.schema(
    [
        pa.field("id", pa.utf8(), nullable=False, metadata={ROLE: Role.ID}),
        pa.field("embedding", pa.list_(pa.float32(), DIMENSION), metadata={ROLE: Role.VECTOR}),
        pa.field("document", pa.utf8(), metadata={ROLE: Role.DOCUMENT}),
        pa.field("uri", pa.utf8(), metadata={ROLE: Role.URI}),
        pa.field("payload", pa.utf8(), metadata={ROLE: Role.PAYLOAD}),
    ]
)
IDS = [f"row {number}" for number in range(6)]
IDENTITIES = ("first", "second")
BATCHES = (None, "monday", "tuesday")

names = st.sampled_from(IDS)
vectors = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=DIMENSION, max_size=DIMENSION)
texts = st.none() | st.text(max_size=6)
values = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4)
payloads = st.none() | st.dictionaries(st.sampled_from("abc"), values, min_size=1).map(lambda one: json.dumps(one, sort_keys=True))
acts = st.sampled_from([Act.INSERT, Act.UPDATE, Act.UPSERT, Act.DELETE])
operations = st.tuples(acts, names, vectors, st.booleans(), texts, texts, payloads)
whole_acts = st.sampled_from([Act.PUT, Act.PUT, Act.DELETE])
whole_operations = st.tuples(whole_acts, names, vectors, st.booleans(), texts, texts, payloads)


def row_changes(
    identity: str, rows: Sequence[tuple[Any, ...]], times: Sequence[int], marks: Sequence[str], batch: Any = None
) -> RowChanges:
    """One change of these operations. A delete says nothing, an update gives a vector if its flag says so, others always do."""
    given = [None if act is Act.DELETE or (act is Act.UPDATE and not flag) else vector for act, _, vector, flag, *_ in rows]
    kept = [(None, None, None) if act is Act.DELETE else tuple(rest) for act, _, _, _, *rest in rows]
    columns = {
        ACT: pa.array([int(row[0]) for row in rows], pa.int8()),
        TIME: pa.array(times, pa.int64()),
        MARK: pa.array(marks, pa.utf8()),
        BATCH: pa.array([batch] * len(rows), pa.utf8()),
        "id": pa.array([row[1] for row in rows], pa.utf8()),
        "embedding": pa.array(given, SCHEMA.field("embedding").type),
        **{name: pa.array([one[place] for one in kept], pa.utf8()) for place, name in enumerate(("document", "uri", "payload"))},
    }
    schema = change_schema(SCHEMA)
    return RowChanges(identity, identity, pa.record_batch([columns[field.name] for field in schema], schema=schema))


def collection(name: str) -> Collection:
    return Collection(name, 0, (Field("embedding", "float32", DIMENSION, "l2", {}),), {"id": name})


Row = tuple[bytes, str | None, str | None, str | None]


class Naive:
    """What operations do, in the plainest words: rows by id, by collection."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Row]] = {}

    def do(self, change: Change) -> None:
        if isinstance(change, CatalogChange):
            for identity in [one for one in self.rows if one in change.gone or (change.whole and one not in change.present)]:
                del self.rows[identity]
            for identity in change.present:
                self.rows.setdefault(identity, {})
            return
        rows = self.rows.setdefault(change.identity, {})
        for row in change.batch.to_pylist():
            self._do_one(rows, Act(row[ACT]), row)

    def _do_one(self, rows: dict[str, Row], act: Act, row: dict[str, Any]) -> None:
        name, there = row["id"], row["id"] in rows
        if act is Act.DELETE:
            rows.pop(name, None)
        elif act is Act.PUT:
            rows[name] = (np.array(row["embedding"], np.float32).tobytes(), row["document"], row["uri"], row["payload"])
        elif (act is Act.INSERT and not there) or (act is Act.UPDATE and there) or act is Act.UPSERT:
            vector, document, uri, payload = rows.get(name, (b"", None, None, None))
            if row["embedding"] is not None:
                vector = np.array(row["embedding"], np.float32).tobytes()
            document = document if row["document"] is None else row["document"]
            uri = uri if row["uri"] is None else row["uri"]
            if row["payload"] is not None:
                merged = {**json.loads(payload or "{}"), **json.loads(row["payload"])}
                merged = {key: value for key, value in merged.items() if value is not None}
                payload = json.dumps(merged, sort_keys=True, separators=(",", ":"), ensure_ascii=False) if merged else None
            rows[name] = (vector, document, uri, payload)


_numbers = count()


class Ticking(Clock):
    """Stands where it is put."""

    def __init__(self) -> None:
        super().__init__(lambda: self.seconds)
        self.seconds = 1_700_000_000.0


def new_room(clock: Clock | None = None) -> Strongroom:
    """A repository of its own, in memory."""
    room = init_repository(f"memory://journal-{next(_numbers)}", password="x", cost=Argon2Cost(1, 1, 64))
    if clock is not None:
        room.repository.clock = clock
    return room


def new_sealer(room: Strongroom, tail: Front | None = None, begins: str = "0", hole: str = "", epoch: int = 1) -> Sealer:
    stream = stream_of(room.repository, SOURCE)
    writer = Writer(stream, SOURCE, "chroma", "here", epoch, "sequence")
    return Sealer(room.repository, writer, tail, {"": begins}, hole)


def chain_of(room: Strongroom) -> Chain:
    return read_chain(room.repository, stream_of(room.repository, SOURCE))


def all_changes(room: Strongroom) -> list[Change]:
    return [change for front in chain_of(room).fronts for change in read_changes(room.repository, front)]


def told(changes: Iterable[Change]) -> list[Any]:
    """Operations as plain values, whatever the changes in which they travelled."""
    found: list[Any] = []
    for change in changes:
        if isinstance(change, CatalogChange):
            found.append(change)
        else:
            found += [(change.identity, tuple((key, str(value)) for key, value in row.items())) for row in change.batch.to_pylist()]
    return found
