"""What does the journal of a real Chroma database give back, and when does it say that it can't?"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import command_forks
import pytest
from commands import PASSWORD, Ended, environment, strongroom
from forks import PIPE, Running
from processes import program
from test_journal_proof import differences, told_by

from strongroom.engines.changes import TIME, RowChanges
from strongroom.engines.chroma import feed as feeds
from strongroom.engines.chroma import purging
from strongroom.errors import NotFound, Refused
from strongroom.library import Strongroom, init_repository
from strongroom.repository import Argon2Cost

HERE = Path(__file__).parent


@dataclass
class World:
    """A database that one process writes to, and a repository that keeps its journal."""

    folder: Path
    truth: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    """By its name: a moment, and all rows that there were."""

    def __post_init__(self) -> None:
        self.room: Strongroom = init_repository(str(self.folder / "repo"), password=PASSWORD, cost=Argon2Cost(1, 1, 64))
        self._child: Running | None = None

    @property
    def source(self) -> str:
        return f"chroma://{self.folder / 'db'}"

    def do(self, statements: str) -> Any:
        """In the process that has the database open."""
        if self._child is None:
            self._child = program(HERE / "chroma_child.py", str(self.folder / "db"), stdin=PIPE, stdout=PIPE)
        assert self._child.stdin
        assert self._child.stdout
        self._child.stdin.write(json.dumps({"run": statements}) + "\n")
        self._child.stdin.flush()
        return json.loads(self._child.stdout.readline())["value"]

    def close(self) -> None:
        if self._child is not None:
            self._child.communicate()
            self._child = None

    def run(self, *arguments: str) -> Ended:
        return strongroom(*arguments, env={"STRONGROOM_REPOSITORY": str(self.folder / "repo")})

    def follow(self, *arguments: str) -> Any:
        """Until all that there is was sealed."""
        done = self.run("journal", "follow", self.source, "--once", "--batch-key", "batch", "--json", *arguments)
        assert done.code == 0, done
        return json.loads(done.out)

    def mark(self, name: str) -> None:
        """Remember what there is now. Chroma's log has whole seconds."""
        next_second()
        self.truth[name] = datetime.now(UTC).isoformat(), self.do("answer = rows()")

    def sql(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.folder / "db" / "chroma.sqlite3")) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    def ask(self, query: str) -> Any:
        with closing(sqlite3.connect(self.folder / "db" / "chroma.sqlite3")) as connection:
            return connection.execute(query).fetchone()[0]

    def restored(self, at: str) -> dict[str, Any]:
        target = self.folder / "back"
        shutil.rmtree(target, ignore_errors=True)
        self.room.restore("latest", f"chroma://{target}", at=at)
        return told_by("chroma", target)


def next_second() -> None:
    time.sleep(1.02 - time.time() % 1)


def ids(*bounds: int) -> list[str]:
    return [f"n{number}" for number in range(*bounds)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A history with everything in it, followed by a process that comes and goes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        world = World(tmp_path_factory.mktemp("told"))
        world.do(f"write('notes', {ids(50)}, 'first'); client.create_collection('groups', embedding_function=None)")
        world.follow()
        world.mark("before the bad batch")
        world.do(f"write('notes', {ids(40, 70)}, 'bad', 1)")
        world.mark("after the bad batch")
        world.do("client.get_collection('groups', embedding_function=None).modify(name='clubs', metadata={'who': 'we'})")
        world.mark("renamed")
        world.follow()
        world.do(f"client.create_collection('empty', embedding_function=None); write('clubs', {ids(7)}, 'members')")
        world.mark("an empty collection")
        world.do("client.delete_collection('empty')")
        world.mark("gone again")
        world.do(f"client.delete_collection('clubs'); write('notes', {ids(1000, 6000)}, 'large', 2)")
        world.mark("five thousand at once")
        world.follow("--size", "65536")
        world.close()
        yield world


@pytest.mark.parametrize(
    "name",
    ["before the bad batch", "after the bad batch", "renamed", "an empty collection", "gone again", "five thousand at once"],
)
def test_each_moment_is_what_it_was(told: World, name: str) -> None:
    at, expected = told.truth[name]
    assert differences(expected, told.restored(at)) == []


def test_just_before_a_batch(told: World) -> None:
    assert differences(told.truth["before the bad batch"][1], told.restored("before:bad")) == []
    with pytest.raises(NotFound, match="no operation in the journal belongs to batch 'good'"):
        told.restored("before:good")


@pytest.mark.parametrize("names", [["clubs"], ["empty"], ["notes", "clubs"]])
def test_a_collection_that_came_after_the_snapshot(told: World, names: list[str]) -> None:
    """Made then, or called so only then."""
    at, expected = told.truth["an empty collection"]
    target = told.folder / "came"
    shutil.rmtree(target, ignore_errors=True)
    report = told.room.restore("latest", f"chroma://{target}", at=at, collections=names)
    assert "has no collection" in report.plan.reasons[0]
    found = told_by("chroma", target)  # which makes those that it misses
    assert {name: rows for name, rows in found.items() if rows or name in names} == {name: expected[name] for name in names}
    with pytest.raises(NotFound, match="no collection 'nothing' at that moment"):
        told.room.restore("latest", f"chroma://{target}", at=at, collections=["nothing"], overwrite=True)


def test_a_position(told: World) -> None:
    """The entries of Chroma's log are numbered from 1: 50, then 30."""
    assert differences(told.truth["after the bad batch"][1], told.restored("80")) == []
    half = told.restored("60")["notes"]
    assert {name: row[1].split()[0] for name, row in half.items()} == {
        name: "bad" if number >= 40 else "first" for number, name in enumerate(ids(50))
    }


def test_one_call_spans_segments_and_comes_back_whole_or_not_at_all(told: World) -> None:
    status = told.room.journal_status(told.source, ask=False)[0]
    assert status.segments == 5
    before, after = told.truth["gone again"][1]["notes"], told.truth["five thousand at once"][1]["notes"]
    since = datetime.fromisoformat(told.truth["gone again"][0]).timestamp()
    until = datetime.fromisoformat(told.truth["five thousand at once"][0]).timestamp()
    counts = set()
    for share in (0.05, 0.3, 0.6):
        at = datetime.fromtimestamp(since + share * (until - since), UTC).isoformat()
        counts.add(len(told.restored(at)["notes"]))
    assert counts <= {len(before), len(after)}


def test_what_is_not_in_the_journal_is_refused(told: World) -> None:
    for at, words in (("2020-01-01T00:00:00Z", "begins at"), ("2999-01-01T00:00:00Z", "ends at")):
        with pytest.raises(Refused, match=words):
            told.restored(at)
    with pytest.raises(NotFound, match="no time and no position"):
        told.restored("99999")


def test_the_plan_says_how_many_operations(told: World) -> None:
    target = f"chroma://{told.folder / 'plan'}"
    done = told.run("restore", "--at", told.truth["after the bad batch"][0], target, "--dry-run", "--json")
    moment = json.loads(done.done().out)["moment"]
    assert (moment["operations"], moment["source"]) == (31, told.source)  # with the first look at the catalog
    assert not (told.folder / "plan").exists()
    told.run("restore", "latest", target, "--source", told.source).failed(2, "--source is for --at")
    told.run("restore", "--at", "yesterday", target).failed(1, "no time and no position")


def test_a_part_of_a_moment_under_another_name(told: World) -> None:
    at, expected = told.truth["after the bad batch"]
    target = told.folder / "part"
    told.room.restore("latest", f"chroma://{target}", at=at, collections=["notes"], renames={"notes": "letters"})
    assert differences({"letters": expected["notes"]}, {"letters": told_by("chroma", target)["letters"]}) == []


# -- gaps ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.do(f"write('notes', {ids(30)}, 'first')")
    made.follow()
    made.do(f"write('notes', {ids(30, 60)}, 'kept')")
    made.mark("kept")
    made.follow()
    yield made
    made.close()


def test_numbers_that_the_log_holds_otherwise_than_the_rows(world: World) -> None:
    """NaN and infinity are null there, and zero may be below zero."""
    world.follow()
    vectors, odd = "[[1.0] * 16] * 2", "{'a': -0.0, 'b': float('nan'), 'c': 2}"
    world.do(f"notes = client.get_collection('notes'); notes.add(['o1', 'o2'], {vectors}, [{odd}, {{'b': float('-inf')}}])")
    world.do(f"notes.upsert(['o3', 'n1'], {vectors}, [{odd}, {{'batch': float('nan'), 'l': [-0.0, 1.5]}}])")
    world.do("notes.update(['n2'], metadatas=[{'a': -0.0, 'batch': float('inf')}])")
    world.follow()
    assert differences(world.do("answer = rows()"), world.restored("latest")) == []


def hole_is_shown_and_refused(world: World, reported: Any, inside: str, reason: str) -> None:
    """And moments before and after it are there."""
    assert any(reason in gap for gap in reported["gaps"]), reported
    assert len(reported["snapshots"]) == 1
    assert reason in world.run("snapshots").done().out.replace("\n", " ")
    status = json.loads(world.run("journal", "status", "--json").done().out)[0]
    assert any(reason in hole["reason"] for hole in status["holes"])
    with pytest.raises(Refused, match="has a hole"):
        world.restored(inside)
    assert differences(world.truth["kept"][1], world.restored(world.truth["kept"][0])) == []
    world.do(f"write('notes', {ids(60, 90)}, 'after')")
    world.mark("after")
    assert world.follow()["gaps"] == []
    assert differences(world.truth["after"][1], world.restored(world.truth["after"][0])) == []


@pytest.mark.soak
def test_who_stays_away_too_long_finds_a_hole(world: World) -> None:
    """The lease ends, and Chroma purges what it has taken in."""
    world.sql("UPDATE strongroom_slots SET until = 1")
    world.do(f"write('notes', {ids(100, 2000)}, 'lost'); write('notes', {ids(100, 2000)}, 'lost')")
    next_second()
    inside = datetime.now(UTC).isoformat()
    next_second()
    hole_is_shown_and_refused(world, world.follow(), inside, "was purged")


def test_an_older_copy_in_its_place_is_a_hole(world: World, tmp_path: Path) -> None:
    world.close()
    shutil.copytree(tmp_path / "db", tmp_path / "older")
    world.do(f"write('notes', {ids(200, 230)}, 'other past')")
    world.follow()
    world.close()
    shutil.rmtree(tmp_path / "db")
    shutil.move(tmp_path / "older", tmp_path / "db")
    world.do(f"write('notes', {ids(300, 340)}, 'went on otherwise')")
    next_second()
    inside = datetime.now(UTC).isoformat()
    next_second()
    hole_is_shown_and_refused(world, world.follow(), inside, "is another one now, or of an older copy")


@pytest.mark.soak
def test_a_database_made_anew_is_a_hole(world: World, tmp_path: Path) -> None:
    world.close()
    shutil.rmtree(tmp_path / "db")
    world.do(f"write('notes', {ids(300, 400)}, 'anew')")
    next_second()
    inside = datetime.now(UTC).isoformat()
    next_second()
    hole_is_shown_and_refused(world, world.follow(), inside, "were not noted")


# -- what is kept, and for how long ----------------------------------------------------------------------------------------------


def test_a_lost_base_is_made_anew_and_prune_keeps_what_a_moment_needs(world: World) -> None:
    """The first snapshot is forgotten: what came before the next one can't be replayed any more, and goes."""
    world.do(f"write('notes', {ids(60, 90)}, 'more')")
    world.mark("more")
    world.follow()
    base = world.room.snapshots()[0].id
    world.room.backup(world.source)
    world.do(f"write('notes', {ids(90, 120)}, 'last')")
    world.mark("last")
    world.follow()
    plan = world.room.plan_restore("latest", f"chroma://{world.folder / 'back'}", at=world.truth["last"][0])
    assert plan.snapshot == world.room.snapshots()[-1].id, "the nearest one before it"
    world.run("prune", "--grace", "0").done()
    assert differences(world.truth["kept"][1], world.restored(world.truth["kept"][0])) == []
    world.run("forget", base).done()
    for _ in range(2):
        world.run("prune", "--grace", "0").done()
    with pytest.raises(Refused):
        world.restored(world.truth["kept"][0])
    assert differences(world.truth["last"][1], world.restored(world.truth["last"][0])) == []
    status = json.loads(world.run("journal", "status", "--json").done().out)[0]
    assert status["problems"] == []
    world.run("verify", "--quiet").done()
    for snapshot in world.room.snapshots():
        world.run("forget", snapshot.id).done()
    assert len(world.follow()["snapshots"]) == 1


def test_a_damaged_segment_is_found_put_back_or_becomes_a_hole(world: World, tmp_path: Path) -> None:
    world.do(f"write('notes', {ids(60, 90)}, 'more')")
    world.follow()
    world.do(f"write('notes', {ids(90, 120)}, 'last')")
    world.mark("last")
    world.follow()
    shutil.copytree(tmp_path / "repo", tmp_path / "copy")
    segments = sorted(one for one in (tmp_path / "repo" / "journal").glob("*/*") if one.is_file())
    whole = segments[2].read_bytes()
    segments[2].chmod(0o600)
    segments[2].write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    found = world.run("verify", "--quiet")
    assert found.code == 4
    assert segments[2].name in found.out + found.err
    with pytest.raises(Exception, match="not the ones that its head was signed for"):
        world.restored(world.truth["last"][0])
    world.run("verify", "--quiet", "--repair", "--from", str(tmp_path / "copy")).done()
    assert segments[2].read_bytes() == whole
    assert differences(world.truth["last"][1], world.restored(world.truth["last"][0])) == []
    segments[2].unlink()
    assert world.run("journal", "status").code == 4
    with pytest.raises(Refused):
        world.restored(world.truth["last"][0])
    world.run("verify", "--quiet", "--repair", "--from", str(tmp_path / "copy")).done()
    assert differences(world.truth["last"][1], world.restored(world.truth["last"][0])) == []


def following(world: World, every: int) -> Running:
    command = ["journal", "follow", world.source, "--every", str(every), "--json", "--quiet"]
    return command_forks.start(command, environment(STRONGROOM_REPOSITORY=str(world.folder / "repo")))


PURGES = "SELECT json_extract(config_json_str, '$.automatically_purge') FROM embeddings_queue_config"
HELD = "SELECT count(*) FROM embeddings_queue"


def held_back(world: World) -> Running:
    """A follower that has told Chroma not to purge for now, since it holds so much."""
    follower = following(world, every=600)
    wrote = 0
    while world.ask(PURGES):  # what it finds when it starts is kept at once
        assert (wrote := wrote + 1) < 40
        world.do(f"write('notes', {ids(100, 1600)}, 'much')")
        time.sleep(0.5)
    world.do(f"write('notes', {ids(3100, 4200)}, 'more')")
    assert world.ask(HELD) >= 2600
    return follower


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_entries_that_were_there_are_not_dated_by_when_their_turn_came(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many at once are read in pieces: a moment in between, at which all of them were there, would lack some."""
    monkeypatch.setattr(feeds, "_READ_ROWS", 4)
    world.do(f"write('notes', {ids(4)}, 'first')")
    with closing(sqlite3.connect(world.folder / "db" / "chroma.sqlite3", isolation_level=None)) as connection:
        feed = feeds.ChromaFeed(connection, "me", None)
        last = feed.begin()[""].partition(":")[0]
        world.do(f"write('notes', {ids(10, 20)}, 'many')")
        world.sql(f"UPDATE embeddings_queue SET created_at = datetime('now', '+1 hour') WHERE seq_id > {last}")
        first, _, more = feed.read()
        assert more
        seen = time.time_ns() // 1000
        rest = [*feed.read()[0], *feed.read()[0]]
    rows = [one.batch for one in (*first, *rest) if isinstance(one, RowChanges)]
    times = [moment for batch in rows for moment in batch.column(TIME).to_pylist()]
    assert len(times) == 10
    assert max(times) <= seen


@pytest.mark.soak
def test_released_it_holds_nothing_back(world: World) -> None:
    names = "SELECT count(*) FROM sqlite_master WHERE name LIKE 'strongroom%'"
    follower = held_back(world)
    follower.kill()
    follower.wait(60)
    assert world.ask(names) > 5
    assert json.loads(world.run("journal", "release", world.source, "--json").done().out) == {"released": True}
    assert world.ask(names) == 0
    assert world.ask(PURGES)
    assert json.loads(world.run("journal", "release", world.source, "--json").done().out) == {"released": False}
    world.do(f"write('notes', {ids(500, 540)}, 'on')")
    assert len(world.follow()["gaps"]) == 1


def test_chroma_purges_again_once_all_is_kept(world: World) -> None:
    follower = held_back(world)
    snapshot = world.room.backup(world.source).snapshot
    assert '"automatically_purge":true' in json.dumps(snapshot.manifest.catalog).replace("\\", "")
    follower.terminate()
    assert follower.wait(60) == 0
    assert world.ask(PURGES)
    world.do(f"write('notes', {ids(100, 1200)}, 'again')")
    wait_until(lambda: bool(world.ask(HELD) < 1200))
    assert world.follow()["gaps"] == []


@pytest.mark.soak
def test_chroma_purges_again_though_nobody_came_back(world: World) -> None:
    follower = held_back(world)
    follower.kill()
    follower.wait(60)
    world.do(f"write('notes', {ids(100, 1200)}, 'while it holds')")
    assert not world.ask(PURGES)
    world.sql("UPDATE strongroom_slots SET until = 1")
    world.do(f"write('notes', {ids(100, 1200)}, 'after it has ended')")
    wait_until(lambda: bool(world.ask(HELD) < 1200))
    assert world.ask(PURGES)


def test_a_switch_that_was_off_stays_off(world: World) -> None:
    off = json.dumps({"automatically_purge": False, "_type": "EmbeddingsQueueConfigurationInternal"})
    world.sql(f"UPDATE embeddings_queue_config SET config_json_str = '{off}'")
    with closing(sqlite3.connect(world.folder / "db" / "chroma.sqlite3")) as connection, connection:
        purging.pause(connection)
        assert purging.settings(connection) == [off]
        purging.resume(connection)
    assert world.ask("SELECT config_json_str FROM embeddings_queue_config") == off


def test_a_second_follower_takes_over(world: World) -> None:
    """The first one stops and says why, though it seals far more often; nothing is kept twice."""

    def kept() -> int:
        return world.room.journal_status(world.source, ask=False)[0].operations

    before = kept()
    first, second = following(world, every=1), None
    try:
        world.do(f"write('notes', {ids(60, 90)}, 'one')")
        wait_until(lambda: kept() == before + 30)
        second = following(world, every=600)
        for number in range(500):
            world.do(f"write('notes', {ids(100 + number, 130 + number)}, 'both')")
            if first.poll() is not None:
                break
            time.sleep(0.2)
        out, err = first.communicate(timeout=60)
        assert first.returncode == 1, (out, err)
        assert "another follower" in err
        world.mark("both")
        second.terminate()
        assert second.wait(60) == 0
    finally:
        for one in (first, second):
            if one is not None:
                one.kill()
                one.communicate()
    assert differences(world.truth["both"][1], world.restored(world.truth["both"][0])) == []
    status = json.loads(world.run("journal", "status", "--json").done().out)[0]
    assert (status["holes"], status["problems"]) == ([], [])
