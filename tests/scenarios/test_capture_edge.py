"""Is what is done to a captured shard of Qdrant Edge recorded, followed and restored, point by point, whoever is killed when?"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import textwrap
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as qdrant
from commands import PASSWORD
from forks import PIPE
from processes import program

from strongroom import capture, engines
from strongroom.engines.changes import ACT, BATCH, MARK, TIME, Act, RowChanges
from strongroom.engines.oplog.gate import pause
from strongroom.engines.qdrant.conversion import batch_of, point_id
from strongroom.engines.qdrant.edge.live import LiveShard
from strongroom.engines.qdrant.edge.logfolder import EdgeLogFolder
from strongroom.errors import Gap, Locked, NotFound, Refused, WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.operations.follow.run import FollowOptions
from strongroom.repository import Argon2Cost

ONCE = FollowOptions(once=True, probes=5)
UUIDS = [str(uuid.UUID(int=number << 64 | 7)) for number in range(1, 4)]


@pytest.fixture
def room(tmp_path: Path) -> Strongroom:
    return init_repository(str(tmp_path / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shard"


def made(path: Path) -> Any:
    """A new shard with a dense vector that is scaled, another, and a sparse one."""
    path.mkdir()
    vectors = {
        "": qdrant.EdgeVectorParams(size=3, distance=qdrant.Distance.Cosine),
        "image": qdrant.EdgeVectorParams(size=2, distance=qdrant.Distance.Euclid),
    }
    return qdrant.EdgeShard.create(
        str(path), qdrant.EdgeConfig(vectors=vectors, sparse_vectors={"words": qdrant.EdgeSparseVectorParams()})
    )


def captured(path: Path, **options: Any) -> Any:
    shard = qdrant.EdgeShard.load(str(path)) if path.exists() else made(path)
    return capture(shard, None, f"qdrant-edge://{path}", **options)


def rows(shard: Any) -> dict[str, Any]:
    """All points, as the shard tells them."""
    found, _ = shard.scroll(qdrant.ScrollRequest(limit=10_000, with_payload=True, with_vector=True))
    return {str(one.id): (one.payload, {name: repr(vector) for name, vector in sorted(named(one.vector).items())}) for one in found}


def named(vector: Any) -> dict[str, Any]:
    """The default vector of a point that has no other is told without its name."""
    return vector if isinstance(vector, dict) else {"": vector}


def rows_at(path: Path) -> dict[str, Any]:
    shard = qdrant.EdgeShard.load(str(path))
    try:
        return rows(shard)
    finally:
        shard.close()


def point(one: Any, seed: int = 0, **payload: Any) -> Any:
    vectors = {"": [1.0, seed + 2.0, 3.0], "image": [seed, 0.5], "words": qdrant.SparseVector([seed], [1.5])}
    return qdrant.Point(one, vectors, payload or {"n": seed})


def number(value: int) -> Any:
    return qdrant.Filter(must=[qdrant.FieldCondition(key="n", match=qdrant.MatchValue(value))])


CALLS: dict[str, Callable[[Any], Any]] = {
    "new points": lambda shard: shard.upsert_points([point(7, 7), point((1 << 64) - 1, 8), point(UUIDS[0], 9)]),
    "one point twice in a call": lambda shard: shard.upsert_points([point(7, 1), point(7, 2)]),
    "points replaced": lambda shard: shard.upsert_points([qdrant.Point(1, {"image": [5, 5]}, None)]),
    "only where a filter says": lambda shard: shard.upsert_points([point(1, 5), point(2, 5)], condition=number(2)),
    "only new ones": lambda shard: shard.upsert_points(points=[point(1, 5), point(9, 5)], update_mode=qdrant.UpdateMode.InsertOnly),
    "deleted": lambda shard: shard.delete_points([1, 2, 99]),
    "deleted by filter": lambda shard: shard.delete_points_by_filter(number(2)),
    "vectors updated": lambda shard: shard.update_vectors([qdrant.PointVectors(1, {"image": [7, 7]})]),
    "vectors deleted": lambda shard: shard.delete_vectors([1, 2], ["image"]),
    "vectors deleted by filter": lambda shard: shard.delete_vectors_by_filter(number(1), [""]),
    "payload set": lambda shard: shard.set_payload([1, 2], {"a": {"b": [1, None]}}),
    "payload set at a key": lambda shard: shard.set_payload(point_ids=[1], payload={"x": 1}, key="deep"),
    "payload set by filter": lambda shard: shard.set_payload_by_filter(number(1), {"n": 2, "document": "text"}),
    "payload overwritten": lambda shard: shard.overwrite_payload([1], {"only": "ü\0"}),
    "payload overwritten by filter": lambda shard: shard.overwrite_payload_by_filter(number(2), {}),
    "payload deleted": lambda shard: shard.delete_payload([1], ["n"]),
    "payload deleted by filter": lambda shard: shard.delete_payload_by_filter(number(1), ["n"]),
    "payload cleared": lambda shard: shard.clear_payload([1, 2]),
    "payload cleared by filter": lambda shard: shard.clear_payload_by_filter(number(1)),
    "indexes made": lambda shard: (
        shard.create_field_index("n", qdrant.PayloadSchemaType.Integer),
        shard.create_field_index("text", qdrant.TextIndexParams(tokenizer=qdrant.TokenizerType.Word)),
        shard.delete_field_index("text"),
    ),
    "known by another id": lambda shard: (
        shard.upsert_points([point(point_id(one), 4, strongroom_id=one) for one in ("one", "two", "three", "four")]),
        shard.delete_points([point_id("one")]),
        shard.overwrite_payload([point_id("two")], {"n": 1}),
        shard.set_payload([point_id("three")], {"n": 1}),
    ),
    "a text for an id": lambda shard: (
        shard.upsert_points([point("2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7d", 4, strongroom_id="not its own")]),
        shard.set_payload([1], {"strongroom_id": "nor this"}),
    ),
}


def told(live: LiveShard) -> dict[str, dict[str, Any]]:
    """The shard's points as rows."""
    found, _ = live.shard.scroll(qdrant.ScrollRequest(limit=10_000, with_payload=True, with_vector=True))
    return {row["id"]: row for row in batch_of(live.shape, found).to_pylist()}


def replayed(path: Path, marks: dict[str, str]) -> dict[str, dict[str, Any]]:
    """What the log says from marks on, as rows."""
    known: dict[str, dict[str, Any]] = {}
    with engines.source_of(f"qdrant-edge://{path}").feed("test", None) as feed:
        feed.resume(marks)
        more = True
        while more:
            changes, _, more = feed.read()
            for change in changes:
                if isinstance(change, RowChanges):
                    for row in change.batch.to_pylist():
                        act, *_ = (row.pop(name) for name in (ACT, TIME, MARK, BATCH))
                        known.pop(row["id"], None)
                        if act == Act.PUT:
                            known[row["id"]] = row
    return known


def begun(path: Path) -> dict[str, str]:
    with engines.source_of(f"qdrant-edge://{path}").feed("test", None) as feed:
        return dict(feed.begin())


def test_the_log_says_what_each_call_did(path: Path) -> None:
    shard = captured(path)
    marks = begun(path)
    for name, call in CALLS.items():
        shard.delete_points([7, 9])
        shard.upsert_points([point(1, 1), point(2, 2), point(3, 3)])
        before = told(shard._live)
        call(shard)
        after = told(shard._live)
        assert after != before or name == "indexes made", name
        assert replayed(path, marks) == after, name
    shard.close()


def test_moments_and_batches_are_restored(room: Strongroom, path: Path, tmp_path: Path) -> None:
    shard = captured(path)
    url = f"qdrant-edge://{path}"
    room.follow(url, ONCE)
    states = {}
    for name in CALLS:
        shard.upsert_points([point(1, 1), point(2, 2), point(3, 3)])
        states[name] = rows(shard)
        with shard.batch(name):
            CALLS[name](shard)
        shard.flush()
    states["end"] = rows(shard)
    room.follow(url, ONCE)
    shard.close()
    for name in ("points replaced", "payload set by filter", "a text for an id"):
        room.restore("latest", f"qdrant-edge://{tmp_path / name}", at=f"before:{name}")
        assert rows_at(tmp_path / name) == states[name], name
    status = room.journal_status(url)[0]
    assert (status.holes, status.problems) == ((), ())
    snapshot = room.backup(url).snapshot
    assert snapshot.manifest.position.kind == "oplog"
    assert snapshot.manifest.collections[0].catalog.catalog["payload_indexes"] == {"n": "integer"}
    room.restore(snapshot.id, f"qdrant-edge://{tmp_path / 'end'}")
    assert rows_at(tmp_path / "end") == states["end"]


# -- somebody dies ---------------------------------------------------------------------------------------------------------


KILLED = {
    "before the intent": "CallRecorder.call = dies",
    "before the call": "LiveShard.tell = tell; CapturedShard._call = no_call",
    "after the call": "LiveShard.tell = dies",
    "half told": "LiveShard.tell = half",
    "before done": "CallRecorder._done = dies",
}
CHILD = """
    import os, signal, sys
    from pathlib import Path
    sys.path[:0] = [{here!r}, {servers!r}]
    from test_capture_edge import captured, point, qdrant
    from strongroom.engines.oplog.calls import CallRecorder
    from strongroom.engines.qdrant.edge.live import CapturedShard, LiveShard

    tell = LiveShard.tell
    def dies(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    def no_call(self, intent, operation):
        with self._recorder.call(intent):
            dies()
    def half(self, intent, outcome):
        tell(self, {{**intent, "points": intent["points"][:1]}}, outcome)
        dies()

    shard = captured(Path({path!r}))
    shard.upsert_points([point(1, 1), point(2, 2)])
    {patch}
    shard.upsert_points([point(2, 5), point(3, 5)])
    raise SystemExit("it lives")
"""


def killed(path: Path, patch: str) -> None:
    code = textwrap.dedent(CHILD).format(
        here=str(Path(__file__).parent), servers=str(Path(__file__).parents[1] / "servers"), path=str(path), patch=patch
    )
    run = program("-c", code, stderr=PIPE)
    _, said = run.communicate()
    assert run.returncode == -signal.SIGKILL, said


@pytest.mark.parametrize("step", KILLED)
def test_a_killed_writer_leaves_shard_and_log_knowing_the_same(step: str, path: Path) -> None:
    first = captured(path)
    marks = begun(path)
    first.close()
    killed(path, KILLED[step])
    again = captured(path)
    found = told(again._live)
    assert replayed(path, marks) == found
    happened = step not in ("before the intent", "before the call")
    assert found.keys() == ({"1", "2", "3"} if happened else {"1", "2"})
    assert json.loads(found["2"]["payload"]) == {"n": 5 if happened else 2}
    again.upsert_points([point(4, 4)])
    assert replayed(path, marks) == told(again._live)
    again.close()


IN_VAIN = """
for _ in range(2):
    try:
        shard.set_payload([9], {"n": 9})
    except Exception as error:
        assert "No point with id" in str(error)
    shard.delete_points([8])
"""


def test_calls_that_changed_nothing_before_a_flush_are_no_change_past_the_capture(path: Path) -> None:
    """Each takes one of the shard's numbers, which its segments don't show until the next one does."""
    captured(path).close()
    killed(path, f"{IN_VAIN}shard.flush()\nshard.upsert_points([point(4, 4)])\ndies()")
    again = captured(path)
    assert told(again._live).keys() == {"1", "2", "4"}
    again.close()


def test_the_last_number_of_a_shard_is_known_again_once_a_call_shows_it(path: Path) -> None:
    """Also if more were reckoned with: calls that somebody who was killed may have made."""
    shard = captured(path)
    shard.upsert_points([point(1, 1)])
    exec(IN_VAIN, {"shard": shard})  # noqa: S102 - the lines of the child
    shard.flush()
    known = shard._folder.known()
    assert (known.number - known.version, known.fits(known.number + 1, 0)) == (4, False)
    shard._numbers._last += 7
    shard.upsert_points([point(2, 2)])
    shard.delete_points([8])
    shard.flush()
    known = shard._folder.known()
    assert known.number - known.version == 1
    shard.close()


def test_what_a_loss_of_power_took_from_the_shard_is_put_back(path: Path, tmp_path: Path) -> None:
    """The log is durable before each call returns, the shard's own files need not be."""
    shard = captured(path)
    shard.upsert_points([point(1, 1), point(2, 2)])
    shard.flush()
    shutil.copytree(path, tmp_path / "on the disk")
    shard.upsert_points([point(2, 5), point(3, 5)])
    shard.delete_points([1])
    expected = rows(shard)
    os.close(shard._recorder._lock_file)  # as if the process were gone
    shard._recorder._lock_file = -1
    shard._live.shard.close()
    shutil.rmtree(path)
    shutil.copytree(tmp_path / "on the disk", path)
    again = captured(path)
    assert rows(again) == expected
    again.close()


def test_a_shard_that_is_not_what_the_capture_left_is_refused(room: Strongroom, path: Path, tmp_path: Path) -> None:
    url = f"qdrant-edge://{path}"
    shard = captured(path)
    shard.upsert_points([point(1, 1)])
    room.follow(url, ONCE)
    shard.close()
    shutil.copytree(path, tmp_path / "older")
    assert room.backup(url).snapshot.manifest.position.kind == "oplog"

    changed = qdrant.EdgeShard.load(str(path))
    changed.update(qdrant.UpdateOperation.upsert_points([point(2, 2)]))
    changed.flush()
    changed.close()
    assert room.backup(url).snapshot.manifest.position.kind == "files"
    with pytest.raises(Refused, match="past its capture"):
        captured(path)
    gc.collect()
    shard = captured(path, anew=True)
    shard.upsert_points([point(3, 3)])
    shard.close()
    with pytest.raises(Gap):
        replayed(path, {"": "1:0000000000000000"})
    report = room.follow(url, ONCE)
    assert report.gaps, "the log is another one"

    shutil.rmtree(path)
    shutil.copytree(tmp_path / "older", path)
    with pytest.raises(Refused, match="older copy"):
        captured(path)


def test_a_backup_waits_for_a_call_and_calls_wait_for_a_pause(path: Path) -> None:
    shard = captured(path)
    folder = EdgeLogFolder(path)
    done = threading.Event()

    def write() -> None:
        shard.upsert_points([point(1, 1)])
        done.set()

    with pause(folder.path, "x", 10):
        writer = threading.Thread(target=write)
        writer.start()
        assert not done.wait(0.3)
        assert rows(shard) == {}
    writer.join(30)
    assert done.is_set()
    with shard._recorder, pytest.raises(Locked), pause(folder.path, "x", 0.2):
        pass
    shard.close()


def test_it_is_shipped_and_backed_up_from_the_very_process(room: Strongroom, path: Path, tmp_path: Path) -> None:
    url = f"qdrant-edge://{path}"
    shard = capture(made(path), room, url, ship=True, options=FollowOptions(every=1.0, probes=5))
    for turn in range(20):
        shard.upsert_points([point(turn, turn)])
    before = rows(shard)
    assert room.backup(url).snapshot.manifest.position.kind == "oplog"
    with shard.batch("bad"):
        shard.set_payload_by_filter(qdrant.Filter(), {"n": 0})
        shard.delete_points_by_filter(qdrant.Filter())
    shard.upsert_points([point(99, 9)])
    shard.close()
    room.restore("latest", f"qdrant-edge://{tmp_path / 'before'}", at="before:bad")
    assert rows_at(tmp_path / "before") == before
    room.restore("latest", f"qdrant-edge://{tmp_path / 'without'}", undo="bad")
    assert rows_at(tmp_path / "without").keys() == {*before, "99"}


def test_what_cannot_be_captured_is_said_so(path: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongRequest):
        capture(object(), None, f"qdrant-edge://{path}")
    shard = made(path)
    other = made(tmp_path / "other")
    other.close()
    with pytest.raises(Refused, match="isn't open"):
        capture(shard, None, f"qdrant-edge://{tmp_path / 'other'}")
    with pytest.raises(NotFound):
        capture(shard, None, f"qdrant-edge://{tmp_path / 'nothing'}")
    wrapped = capture(shard, None, f"qdrant-edge://{path}")
    with pytest.raises(Refused, match="update"):
        wrapped.update(qdrant.UpdateOperation.delete_points([1]))
    with pytest.raises(Refused):
        wrapped.create_dense_vector("more", 3, qdrant.Distance.Dot)
    marks = begun(path)
    with pytest.raises(Exception, match="expected dim"):
        wrapped.upsert_points([point(1, 1), qdrant.Point(2, {"image": [1, 2, 3]}, None)])
    with pytest.raises(Exception, match="No point"):
        wrapped.set_payload([1, 77], {"n": 5})
    assert replayed(path, marks) == told(wrapped._live)
    wrapped.close()
    with pytest.raises(Refused, match="closed"):
        wrapped.delete_points([1])
