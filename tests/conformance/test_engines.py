"""Does every engine keep the same promises? One suite, run unchanged over each of them, judged by the engine's own client."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from processes import apart
from raw_engines import RAW as EMBEDDED
from raw_engines import ROWS
from raw_servers import RUNNING, SERVERS, scratches

import strongroom
from strongroom import engines
from strongroom.engines.lancedb import target as lancedb_target
from strongroom.errors import NotFound, Refused, StrongroomError, Unreachable, VerificationFailed, WrongRequest
from strongroom.model import Status
from strongroom.progress import SILENT
from strongroom.repository import Argon2Cost

CHEAP = Argon2Cost(1, 1, 64)
RAW = {**EMBEDDED, **SERVERS}
NAMES = tuple(RAW)
SLOW = ("qdrant-local",)
"""It waits for the disk at each point: for make soak."""
QUICK = tuple(one for one in NAMES if one not in SLOW)
OTHERS = [pytest.param(one, other, id=f"{one}-{other}", marks=pytest.mark.soak) for one in NAMES for other in NAMES if one != other]
"""Whole snapshots of each engine in each other one and back: for make soak. test_conversions.py looks at every value, in a ring."""


@dataclasses.dataclass(frozen=True)
class Backed:
    """A repository with two snapshots of one source, and what the engine's client saw at each."""

    room: strongroom.Strongroom
    raw: object
    url: str
    first: str
    second: str
    rows: tuple
    answers: tuple


@pytest.fixture(scope="module", autouse=True)
def _servers_end():
    yield
    RUNNING.stop()


@pytest.fixture(scope="module", params=[*QUICK, *(pytest.param(one, marks=pytest.mark.soak) for one in SLOW)])
def backed(request, tmp_path_factory):
    return _backed(request.param, tmp_path_factory)


_MADE = {}


def _backed(name, tmp_path_factory):
    if name in _MADE:
        return _MADE[name]
    raw, place = RAW[name], tmp_path_factory.mktemp(name)
    source = place / "source"
    source.mkdir()
    room = strongroom.init(str(place / "repository"), password="x", cost=CHEAP)
    snapshots, rows, answers = [], [], []
    for start, count in ((0, ROWS), (ROWS, 100)):
        apart(raw.make, raw.path(source), start, count)
        snapshots.append(room.backup(raw.url(source), model="encoder@2", tags={"turn": str(start)}).snapshot)
        rows.append(apart(raw.read, raw.path(source)))
        answers.append(apart(raw.ask, raw.path(source)))
    url = raw.url(source)
    raw.remove(source)
    made = Backed(room, raw, url, snapshots[0].id, snapshots[1].id, tuple(rows), tuple(answers))
    _MADE[name] = made
    return made


def test_both_moments_come_back(backed, tmp_path):
    """Exactly, or by rebuilding where a server gives no index out; then exactly is refused."""
    raw = backed.raw
    for place, snapshot, rows, answers in (
        (tmp_path / "one", backed.first, backed.rows[0], backed.answers[0]),
        (tmp_path / "two", backed.second, backed.rows[1], backed.answers[1]),
    ):
        place.mkdir()
        if not raw.exact:
            with pytest.raises(Refused):
                backed.room.restore(snapshot, raw.url(place), require_exact=True)
        report = backed.room.restore(snapshot, raw.url(place), require_exact=raw.exact)
        assert report.plan.rung is (strongroom.Rung.EXACT if raw.exact else strongroom.Rung.REBUILD)
        assert any("bit for bit" in check for check in report.checks) or not raw.repeats
        assert apart(raw.read, raw.path(place)) == rows
        assert len(rows) in (ROWS, ROWS + 100)
        assert apart(raw.ask, raw.path(place)) == answers or not raw.repeats
        assert not list(place.glob(".strongroom*")), "the stage is gone"


def test_the_manifest_says_what_there_is(backed):
    for name, count in ((backed.first, ROWS), (backed.second, ROWS + 100)):
        record = backed.room.snapshot(name).manifest
        assert record.engine == backed.raw.name
        assert [(one.name, one.count) for one in record.collections] == [("things", count)]
        field = record.collections[0].catalog.fields[0]
        assert (field.dimension, field.dtype, field.metric, field.index["kind"] != "") == (24, "float32", "l2", True)
        assert record.collections[0].catalog.lineage.model == "encoder"
        assert record.collections[0].catalog.lineage.version == "2"
        assert {item.status for item in record.ledger} >= {Status.CAPTURED, Status.NOT_OFFERED} or record.ledger
        probe = record.collections[0].probes[0]
        assert probe.count == 32
        assert probe.live
        assert probe.recall > 0.5
        assert bool(record.artifacts) is backed.raw.exact
        assert record.position.value
    assert backed.room.snapshot(backed.second).manifest.parents == (backed.first,)
    roots = {backed.room.snapshot(name).manifest.root for name in (backed.first, backed.second)}
    assert len(roots) == 2


def test_all_levels_pass(backed, tmp_path, monkeypatch):
    if backed.raw.name in SERVERS:
        for name, value in scratches(tmp_path / "scratch").items():
            monkeypatch.setenv(name, value)
    report = backed.room.verify(level=strongroom.Level.ANSWERS, scratch=tmp_path)
    assert report.findings == ()
    assert report.looked_at["rows"] == 2 * ROWS + 100
    assert report.looked_at["probes"] == 64
    assert not list(tmp_path.iterdir())


def test_a_rebuild_has_the_same_rows(backed, tmp_path):
    report = backed.room.restore(backed.second, backed.raw.url(tmp_path), rung=strongroom.Rung.REBUILD)
    assert apart(backed.raw.read, backed.raw.path(tmp_path)) == backed.rows[1]
    assert min(report.recall.values()) > 0.5
    assert report.plan.rung is strongroom.Rung.REBUILD or report.plan.conversions


@pytest.mark.parametrize(("origin", "target"), OTHERS)
def test_rows_go_into_another_engine_and_back(origin, target, tmp_path, tmp_path_factory):
    made = _backed(origin, tmp_path_factory)
    raw = RAW[target]
    plan = made.room.plan_restore(made.second, raw.url(tmp_path))
    assert plan.rung is strongroom.Rung.CONVERT
    assert plan.reasons
    with pytest.raises(Refused):
        made.room.restore(made.second, raw.url(tmp_path), require_exact=True)
    assert not list(tmp_path.iterdir()), "a refused restore leaves nothing"
    report = made.room.restore(made.second, raw.url(tmp_path))
    assert report.plan.losses == plan.losses
    assert apart(raw.read, raw.path(tmp_path)) == made.rows[1]
    assert min(report.recall.values()) > 0.5
    there = strongroom.init(str(tmp_path / "repository"), password="x", cost=CHEAP)
    there.backup(raw.url(tmp_path))
    home = tmp_path / "home"
    home.mkdir()
    there.restore("latest", made.raw.url(home))
    assert apart(made.raw.read, made.raw.path(home)) == made.rows[1]


def test_an_engine_that_alters_documents_is_found_out(tmp_path, tmp_path_factory, monkeypatch):
    """Ids and vectors are those that it was given."""
    made = _backed("lancedb", tmp_path_factory)
    load = lancedb_target.LanceStage.load

    def altered(batch: pa.RecordBatch) -> pa.RecordBatch:
        place = batch.schema.get_field_index("document")
        shouted = pc.utf8_upper(batch.column(place))
        return batch.set_column(place, batch.schema.field(place), shouted)

    monkeypatch.setattr(
        lancedb_target.LanceStage, "load", lambda stage, collection, batches: load(stage, collection, map(altered, batches))
    )
    with pytest.raises(VerificationFailed, match="not the ones that it was given"):
        made.room.restore(made.second, made.raw.url(tmp_path), rung=strongroom.Rung.REBUILD)
    assert not list(Path(made.raw.path(tmp_path)).glob("*.lance"))


def test_a_plan_touches_nothing(backed, tmp_path):
    rung = strongroom.Rung.EXACT if backed.raw.exact else strongroom.Rung.REBUILD
    plan = backed.room.plan_restore(backed.first, backed.raw.url(tmp_path / "new"))
    assert (plan.rows, plan.rung, plan.occupied) == (ROWS, rung, ())
    assert plan.bytes > 0
    assert plan.cost
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_unless_asked(backed, tmp_path):
    url, path = backed.raw.url(tmp_path), backed.raw.path(tmp_path)
    backed.room.restore(backed.first, url)
    with pytest.raises(Refused):
        backed.room.restore(backed.second, url)
    assert apart(backed.raw.read, path) == backed.rows[0]
    backed.room.restore(backed.second, url, overwrite=True)
    assert apart(backed.raw.read, path) == backed.rows[1]
    assert apart(backed.raw.ask, path) == backed.answers[1] or not backed.raw.repeats
    assert not list(tmp_path.glob(".strongroom*"))


def test_doing_it_twice_is_doing_it_once(backed, tmp_path):
    url = backed.raw.url(tmp_path)
    assert not backed.room.restore(backed.first, url).already_there
    assert backed.room.restore(backed.first, url).already_there
    assert apart(backed.raw.read, backed.raw.path(tmp_path)) == backed.rows[0]


def test_a_changed_target_is_not_taken_for_the_restored_one(backed, tmp_path):
    backed.room.restore(backed.first, backed.raw.url(tmp_path))
    apart(backed.raw.make, backed.raw.path(tmp_path), 5000, 7)
    with pytest.raises(Refused):
        backed.room.restore(backed.first, backed.raw.url(tmp_path))
    assert len(apart(backed.raw.read, backed.raw.path(tmp_path))) == ROWS + 7


def test_a_collection_may_be_chosen_and_renamed(backed, tmp_path):
    if backed.raw.one_collection:
        other = backed.raw.renamed(tmp_path)
        backed.room.restore(backed.first, f"{backed.raw.name}://{other}", collections=["things"])
        assert apart(backed.raw.read, str(other)) == backed.rows[0]
        return
    backed.room.restore(backed.first, backed.raw.url(tmp_path), collections=["things"], renames={"things": "copies"})
    path = backed.raw.path(tmp_path)
    assert apart(backed.raw.read, path, "copies") == backed.rows[0]
    assert apart(backed.raw.ask, path, "copies") == backed.answers[0] or not backed.raw.repeats


def test_what_isnt_there_is_said(backed, tmp_path):
    engine = engines.find(backed.raw.name)
    with pytest.raises((NotFound, Unreachable)), engine.source(backed.url).freeze(SILENT):
        pass
    with pytest.raises(NotFound, match="nothing-of-that-name"):
        backed.room.restore(backed.first, backed.raw.url(tmp_path), collections=["nothing-of-that-name"])
    with pytest.raises(WrongRequest):
        engines.source_of(f"{backed.raw.name}:")
    with pytest.raises(StrongroomError):
        backed.room.backup(backed.raw.nowhere(tmp_path))
    assert len(backed.room.snapshots()) == 2


def test_a_second_backup_of_the_same_state_stores_next_to_nothing(backed, tmp_path):
    backed.room.restore(backed.second, backed.raw.url(tmp_path))
    again = strongroom.init(str(tmp_path / "repository"), password="x", cost=CHEAP)
    first = again.backup(backed.raw.url(tmp_path)).snapshot.manifest
    second = again.backup(backed.raw.url(tmp_path)).snapshot.manifest
    assert second.root == first.root
    assert second.stored_bytes < first.stored_bytes / 4
