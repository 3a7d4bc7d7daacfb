"""Does a crash or a failing store, at whatever operation, lose anything that was stored or leave anything half done?"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faulty_store import FaultyStore, SimulatedCrash, at, felt, first_create
from sampling import part_of
from towns import empty_store, files_in, stored_copy
from worlds import CHEAP, PASSWORD, Sources, World, build_source, files_of, restored

from strongroom.errors import AlreadyExists, StrongroomError, UnsafeStore, WrongKey
from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.operations.verify import Level, VerifyOptions, VerifyReport, verify
from strongroom.repository import Repository, Secret, Store, open_store

OLD, NEW = Secret.passphrase(PASSWORD), Secret.passphrase("battery staple")
FOLDERS = ("keys/", "index/", "packs/", "snapshots/")
_NAMES = itertools.count()


def everything(store: Store) -> dict[str, bytes]:
    names = [listed.name for folder in FOLDERS for listed in store.list(folder)]
    try:
        config = {"config": store.read("config")}
    except StrongroomError:
        config = {}
    return config | {name: store.read(name) for name in names}


def back_up(store: Store, source: Path, secret: Secret = OLD) -> str:
    """As a process of its own would: the repository is opened anew. Probes would cost a child process and no operation more."""
    return backup(Repository.open(store, secret), f"faiss://{source}", BackupOptions(probes=0)).snapshot.id


def create(store: Store, secret: Secret = OLD) -> Repository:
    return Repository.create(store, secret, cost=CHEAP)


def change_password(store: Store) -> None:
    Repository.open(store, OLD).change_passphrase(OLD, NEW, cost=CHEAP)


def places_of(fault: str, store: Store, work: Callable[[Store], object]) -> list[int]:
    """At which operations of the work the fault is felt."""
    counting = FaultyStore(store)
    work(counting)
    assert len(counting.operations) > 3
    return felt(fault, counting.operations)


def verified(store: Store, secret: Secret, folder: Path) -> VerifyReport:
    """By a machine that has never seen the repository: the copies of one repository are no rollbacks of each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", str(folder / f"state-{next(_NAMES)}"))
        return verify(Repository.open(store, secret), None, VerifyOptions(Level.DATA))


@dataclass(frozen=True)
class Oracle:
    """Knows what must be there, whatever happened."""

    world: World
    sources: Sources
    folder: Path

    def everything_is_whole(self, store: Store, secret: Secret = OLD, *others: tuple[str, tuple[bytes, bytes]]) -> None:
        """Verify passes, and all earlier snapshots (and `others`) have exactly their files; one of
        them, each time another, is really restored, and so is the last of the others."""
        report = verified(store, secret, self.folder)
        assert report.findings == ()
        assert {*self.world.order, *(name for name, _ in others)} <= set(report.healthy)
        repository = Repository.open(store, secret)
        for snapshot, content in (*self.world.expected.items(), *others):
            assert files_in(repository, snapshot) == content
        turn = list(self.world.expected.items())[next(_NAMES) % len(self.world.expected)]
        for snapshot, content in (turn, *others[-1:]):
            assert restored(repository, snapshot, self.folder / f"{next(_NAMES)}") == content


@pytest.fixture
def oracle(pristine: World, sources: Sources, tmp_path: Path) -> Oracle:
    return Oracle(pristine, sources, tmp_path)


@pytest.fixture
def fresh_source(tmp_path: Path) -> Path:
    """One of which nothing is stored yet, so that a backup writes a pack, an index object and a manifest."""
    return build_source(tmp_path / "fresh", "fresh", seed=9, rows=500)


MOMENTS = ["crash before", "crash after"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_backup_crashes_at_every_operation(
    moment: str, oracle: Oracle, fresh_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packs, then the blob index, then the manifest: whatever is missing, nothing refers to it. Each time by a machine that has
    never seen the repository, and so has all to read; what it remembers after the crash must serve the next backup."""

    def another_machine() -> None:
        monkeypatch.setenv("STRONGROOM_STATE_DIR", str(oracle.folder / f"state-{next(_NAMES)}"))

    another_machine()
    for number in places_of(moment, stored_copy(oracle.world), lambda store: back_up(store, fresh_source)):
        another_machine()
        store = stored_copy(oracle.world)
        before = everything(store)
        with pytest.raises(SimulatedCrash):
            back_up(FaultyStore(store, at(number, moment)), fresh_source)
        after = everything(store)
        assert before.items() <= after.items()
        oracle.everything_is_whole(store)
        made = back_up(store, fresh_source)
        oracle.everything_is_whole(store, OLD, (made, files_of(fresh_source)))


def test_backup_writes_packs_then_index_then_manifest(oracle: Oracle, fresh_source: Path) -> None:
    store = FaultyStore(stored_copy(oracle.world))
    back_up(store, fresh_source)
    created = [one.name.split("/")[0] for one in store.operations if one.verb == "create"]
    assert created == ["config", "packs", "index", "snapshots"]
    assert not [one for one in store.operations if one.verb == "delete"]


@pytest.mark.parametrize(
    "fault",
    part_of(
        ["crash after", "unreachable after"],
        [*MOMENTS, "unreachable before", "unreachable after", "full", "denied"],
    ),
)
def test_init_meets_a_fault_at_every_operation(fault: str, oracle: Oracle, fresh_source: Path) -> None:
    """A second init succeeds, or there is a repository already; either way it works, and nothing of the first is left over."""
    for number in places_of(fault, empty_store(), create):
        store = empty_store()
        faulty = FaultyStore(store, at(number, fault))
        try:
            create(faulty)
            met = faulty.operations[number]  # what shows how the store behaves may be left: not all credentials can delete
            assert fault == "unreachable after" or (fault, met.verb, met.name[:6]) == ("denied", "delete", "probe/")
        except (SimulatedCrash, StrongroomError):
            pass
        try:
            create(store)
        except AlreadyExists:
            assert number > 0
        assert len(Repository.open(store, OLD).key_slots()[0]) == 1
        made = back_up(store, fresh_source)
        report = verified(store, OLD, oracle.folder)
        assert (report.findings, report.healthy) == ((), (made,))
        assert files_in(Repository.open(store, OLD), made) == files_of(fresh_source)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_password_change_crashes_at_every_operation(moment: str, oracle: Oracle) -> None:
    """The old password opens it, or the new one, or both; and in the end only the new one."""
    for number in places_of(moment, stored_copy(oracle.world), change_password):
        store = stored_copy(oracle.world)
        with pytest.raises(SimulatedCrash):
            change_password(FaultyStore(store, at(number, moment)))
        opening = [secret for secret in (OLD, NEW) if opens(store, secret)]
        assert opening
        oracle.everything_is_whole(store, opening[0])
        if OLD in opening:
            change_password(store)
        assert not opens(store, OLD)
        assert opens(store, NEW)


def opens(store: Store, secret: Secret) -> bool:
    try:
        Repository.open(store, secret)
    except WrongKey:
        return False
    return True


@pytest.mark.parametrize(
    "fault", part_of(["unreachable after", "full", "cut"], ["unreachable before", "unreachable after", "full", "denied", "cut"])
)
def test_backup_meets_a_fault_at_every_operation(fault: str, oracle: Oracle, fresh_source: Path) -> None:
    """It fails with one of our errors or succeeds for good; run again it succeeds."""
    for number in places_of(fault, stored_copy(oracle.world), lambda store: back_up(store, fresh_source)):
        store = stored_copy(oracle.world)
        faulty = FaultyStore(store, at(number, fault))
        made = None
        try:
            made = back_up(faulty, fresh_source)
        except StrongroomError as error:
            assert str(error)
        if made is None:
            made = back_up(faulty, fresh_source)
        oracle.everything_is_whole(store, OLD, (made, files_of(fresh_source)))


@pytest.mark.parametrize("fault", ["unreachable after", "exists after"])
@pytest.mark.parametrize("folder", ["packs/", "index/", "snapshots/"])
def test_the_lost_answer_of_a_write_is_read_back(folder: str, fault: str, oracle: Oracle, fresh_source: Path) -> None:
    """The object is there: that is no conflict, and no reason to fail."""
    store = stored_copy(oracle.world)
    made = back_up(FaultyStore(store, first_create(folder, fault)), fresh_source)
    oracle.everything_is_whole(store, OLD, (made, files_of(fresh_source)))


@pytest.mark.parametrize("fault", ["unreachable after", "exists after"])
@pytest.mark.parametrize("folder", ["keys/", "config"])
def test_the_lost_answer_of_an_init_is_read_back(folder: str, fault: str, oracle: Oracle, fresh_source: Path) -> None:
    store = empty_store()
    create(FaultyStore(store, first_create(folder, fault)))
    made = back_up(store, fresh_source)
    assert verified(store, OLD, oracle.folder).healthy == (made,)
    assert restored(Repository.open(store, OLD), made, oracle.folder / "restored") == files_of(fresh_source)


@pytest.mark.parametrize("fault", ["unreachable after", "exists after"])
def test_the_lost_answer_of_a_new_key_slot_is_read_back(fault: str, oracle: Oracle) -> None:
    store = stored_copy(oracle.world)
    change_password(FaultyStore(store, first_create("keys/", fault)))
    assert not opens(store, OLD)
    oracle.everything_is_whole(store, NEW)


def test_a_config_of_another_init_is_a_conflict_and_not_our_own_lost_answer(oracle: Oracle) -> None:
    """Between the look and the write another one was faster: its slot stays, ours goes."""
    store = empty_store()

    class Overtaken(FaultyStore):
        def create(self, name: str, data: bytes | memoryview) -> None:
            if name == "config":
                create(self.inner, NEW)
            super().create(name, data)

    with pytest.raises(AlreadyExists):
        create(Overtaken(store))
    assert opens(store, NEW)
    assert not opens(store, OLD)
    slots, problems = Repository.open(store, NEW).key_slots()
    assert (len(slots), problems) == (1, [])


@pytest.mark.parametrize("fault", ["unreachable before", "denied", "cut"])
def test_restore_meets_a_fault_at_every_operation(fault: str, oracle: Oracle) -> None:
    """It is exact, or it fails, leaves no target and is exact when run again."""
    store = stored_copy(oracle.world)
    snapshot = oracle.world.order[2]

    def run(over: Store, folder: Path) -> tuple[bytes, bytes]:
        return restored(Repository.open(over, OLD), snapshot, folder)

    for number in places_of(fault, store, lambda counted: run(counted, oracle.folder / "count")):
        place = oracle.folder / f"out-{number}"
        faulty = FaultyStore(store, at(number, fault))
        try:
            assert run(faulty, place) == oracle.world.expected[snapshot]
        except StrongroomError:
            assert not list(place.glob("index.*"))
            assert run(faulty, place) == oracle.world.expected[snapshot]


@pytest.mark.parametrize("hidden", [("packs/",), ("index/",), ("snapshots/",), ("packs/", "index/"), FOLDERS[1:]])
def test_a_listing_that_lags_behind(hidden: tuple[str, ...], oracle: Oracle, fresh_source: Path) -> None:
    """What was just written isn't listed yet: earlier snapshots restore, the new one does or is missed out loud; and a second
    backup meanwhile does no harm."""
    store = stored_copy(oracle.world)
    before = set(everything(store))
    made = back_up(store, fresh_source)
    lagging = FaultyStore(store)
    lagging.hidden = {name for name in set(everything(store)) - before if name.startswith(hidden)}
    assert lagging.hidden

    for number, (snapshot, content) in enumerate(oracle.world.expected.items()):
        assert restored(Repository.open(lagging, OLD), snapshot, oracle.folder / f"earlier-{number}") == content
    try:
        assert restored(Repository.open(lagging, OLD), made, oracle.folder / "new") == files_of(fresh_source)
    except StrongroomError:
        assert not list((oracle.folder / "new").glob("index.*"))
    again = back_up(lagging, fresh_source)

    oracle.everything_is_whole(store, OLD, (made, files_of(fresh_source)), (again, files_of(fresh_source)))


def test_init_in_an_unsafe_store_leaves_nothing() -> None:
    store = empty_store()
    unsafe = FaultyStore(store)
    unsafe.conditional = False
    with pytest.raises(UnsafeStore):
        create(unsafe)
    assert everything(store) == {}


def test_backup_into_an_unsafe_store_changes_nothing(oracle: Oracle, fresh_source: Path) -> None:
    store = stored_copy(oracle.world)
    before = everything(store)
    unsafe = FaultyStore(store)
    unsafe.conditional = False
    with pytest.raises(UnsafeStore):
        back_up(unsafe, fresh_source)
    assert everything(store) == before


def test_a_repository_that_stays_open_sees_what_others_store(world: World, fresh_source: Path, tmp_path: Path) -> None:
    """A server keeps a repository open for weeks."""
    room = world.open()
    assert restored(room.repository, world.order[0], tmp_path / "first") == world.expected[world.order[0]]
    made = world.open().backup(f"faiss://{fresh_source}").snapshot.id
    assert restored(room.repository, made, tmp_path / "second") == files_of(fresh_source)
    assert room.verify(level=Level.DATA).passed


DYING = textwrap.dedent("""
    import faiss, json, os, sys  # before the forks, so that none has to
    from strongroom.library import open_repository

    left = 0

    def dying(call):
        def wrapped(*arguments, **options):
            die_at_zero()
            result = call(*arguments, **options)
            die_at_zero()
            return result
        return wrapped

    def die_at_zero():
        global left
        left -= 1
        if left == 0:
            os._exit(9)

    def carry_out(repository, state, source, number):
        global left
        os.environ["STRONGROOM_STATE_DIR"] = state
        room = open_repository(repository, password="correct horse")
        left = number
        os.link, os.fsync = dying(os.link), dying(os.fsync)
        room.backup(source, probes=0)

    for order in sys.stdin:
        child = os.fork()
        if not child:
            try:
                carry_out(*json.loads(order))
            except BaseException as error:
                sys.stderr.write(repr(error))
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
""")


@pytest.fixture
def dying() -> Iterator[Callable[[World, Path, int], int]]:
    """Backs a source up in a process of its own that dies at a step; gives its exit code: 9 if it died, 0 if it came through."""
    command = [sys.executable, "-c", DYING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:

        def die(world: World, source: Path, number: int) -> int:
            print(json.dumps([str(world.folder), str(world.state), f"faiss://{source}", number]), file=process.stdin)
            return int(process.stdout.readline())

        yield die
        process.stdin.close()


@pytest.mark.parametrize("step", part_of([3], [3, 1]))
def test_a_process_dies_at_every_write_to_a_directory(
    step: int, dying: Callable[[World, Path, int], int], world: World, sources: Sources, fresh_source: Path, tmp_path: Path
) -> None:
    """Before and after every link and every fsync (or every third) of a real backup, with the process really gone."""
    oracle = Oracle(world, sources, tmp_path)
    for number in itertools.count(1, step):
        copy = world.copy(tmp_path / f"repository-{number}", tmp_path / f"state-{number}")
        ended = dying(copy, fresh_source, number)
        assert ended in (0, 9)
        store = open_store(str(copy.folder))
        oracle.everything_is_whole(store)
        if ended == 0:
            break
        made = back_up(store, fresh_source)
        oracle.everything_is_whole(store, OLD, (made, files_of(fresh_source)))
    assert number > 12
