"""Is a cache of this machine only ever a matter of speed, whatever becomes of it and of the store?"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faulty_store import FaultyStore
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mutations import flip, index_of, manifest_of, pack_of
from worlds import PASSWORD, Sources, World, build_source, files_of, restored

from strongroom.errors import Damaged, NotFound
from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.operations.verify import Level
from strongroom.repository import Repository, Secret, open_store
from strongroom.repository import cache as cache_module
from strongroom.repository.cache import MOST_FRAMES, Cache, Record
from strongroom.repository.keys import Keys
from strongroom.repository.state import alone_at
from strongroom.snapshots import history
from strongroom.snapshots.history import Headline

KEYS = Keys.of(bytes(range(32)), b"r" * 16)
SECRET = Secret.passphrase(PASSWORD)


def record(number: int, content: bytes = b"content", size: int = 100) -> Record:
    return Record(f"{number:064x}", size, content)


def listing(*numbers: int, size: int = 100) -> dict[str, int]:
    return {f"{number:064x}": size for number in numbers}


def caches(state: Path) -> list[Path]:
    return sorted(state.glob("*.cache"))


def counting(world: World) -> FaultyStore:
    return FaultyStore(open_store(str(world.folder)))


def reads_of(store: FaultyStore) -> Counter[str]:
    """How many objects were read in each folder."""
    return Counter(one.name.split("/")[0] for one in store.operations if one.verb == "read")


def told(repository: Repository) -> tuple[list[Headline], list[str], set[str], tuple[str, ...]]:
    """All that a cache has a part in: headlines, what can't be read, the packs of the blob index, and the heads."""
    known, damaged = history.headlines(repository)
    return known, [problem.subject for problem in damaged], set(repository.index.packs), history.heads(known)


def told_by_another_machine(world: World, state: Path) -> tuple[list[Headline], list[str], set[str], tuple[str, ...]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", str(state))
        return told(world.open().repository)


# -- what it saves -----------------------------------------------------------------------------------------------------------


def test_what_was_read_once_is_not_read_again(world: World, own_state: Path) -> None:
    """Nor is what this machine wrote itself."""
    for file in caches(own_state):
        file.unlink()
    first, second = counting(world), counting(world)
    expected = told(Repository.open(first, SECRET))
    assert (reads_of(first)["index"], reads_of(first)["snapshots"]) == (3, 3)
    assert told(Repository.open(second, SECRET)) == expected
    assert (reads_of(second)["index"], reads_of(second)["snapshots"]) == (0, 0)


def test_a_backup_reads_one_manifest_however_many_there_are(world: World, tmp_path: Path) -> None:
    sources = [f"faiss://{build_source(tmp_path / 'new', 'new', seed, rows=100)}" for seed in (5, 6)]
    for source in sources:
        world.open().backup(source, probes=0)
    store = counting(world)
    backup(Repository.open(store, SECRET), sources[0], BackupOptions(probes=0))
    assert reads_of(store)["index"] == 0
    assert reads_of(store)["snapshots"] <= 2  # the newest of its source, and the last one's own, by whoever looks at the history


def test_the_newest_of_a_source_and_the_heads_are_those_of_the_manifests(world: World) -> None:
    repository = world.open().repository
    known, damaged = history.headlines(repository)
    assert (known, damaged) == (history.headlines(world.open().repository)[0], [])
    snapshots, _ = history.read_all(repository)
    assert [(one.id, one.created, one.source, one.parents) for one in known] == [
        (one.id, one.manifest.created, one.manifest.source, one.manifest.parents) for one in snapshots
    ]
    assert history.heads(known) == history.heads(snapshots) == world.order[-1:]
    for source in {one.manifest.source for one in snapshots}:
        newest = [one for one in snapshots if one.manifest.source == source][-1]
        assert history.newest_of(repository, known, source) == newest
    assert history.newest_of(repository, known, "faiss:///elsewhere") is None


# -- what becomes of the file -------------------------------------------------------------------------------------------------


def cut_to(share: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(path.stat().st_size * share))


def torn(path: Path) -> None:
    """As a writer leaves it that was killed."""
    content = path.read_bytes()
    path.write_bytes(content + content[: len(content) // 2])


def become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "gone": Path.unlink,
    "empty": cut_to(0),
    "cut": cut_to(0.5),
    "cut at its end": cut_to(0.999),
    "length": lambda path: flip(path, 0),
    "flipped": lambda path: flip(path, 0.5),
    "flipped last": lambda path: flip(path, 1),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "noise": lambda path: path.write_bytes(os.urandom(5_000)),
    "twice": lambda path: path.write_bytes(path.read_bytes() * 2),
    "torn": torn,
    "a directory": become_a_directory,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_cache_only_costs_time(damage: Callable[[Path], None], world: World, own_state: Path) -> None:
    expected = told(world.open().repository)
    assert len(caches(own_state)) == 2
    for path in caches(own_state):
        damage(path)
    assert told(world.open().repository) == expected
    if all(path.is_file() for path in caches(own_state)):
        store = counting(world)
        assert told(Repository.open(store, SECRET)) == expected
        assert (reads_of(store)["index"], reads_of(store)["snapshots"]) == (0, 0)
    assert world.open().snapshot("latest").id == world.order[-1]


def test_the_cache_of_another_kind_or_repository_says_nothing(world: World, foreign: World, own_state: Path) -> None:
    expected = told(world.open().repository)
    headline, index = caches(own_state)
    kept = index.read_bytes()
    shutil.copy(headline, index)
    headline.write_bytes(kept)
    assert told(world.open().repository) == expected
    for ours, theirs in zip(caches(own_state), caches(foreign.state), strict=True):
        shutil.copy(theirs, ours)
    assert told(world.open().repository) == expected


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (KEYS, "headline"),
        (Keys.of(bytes(32), b"r" * 16), "index"),
        (Keys.of(bytes(range(32)), b"R" * 16), "index"),
    ],
    ids=["another kind", "another master key", "another repository id"],
)
def test_only_the_key_of_its_kind_and_repository_opens_it(keys: Keys, kind: str, own_state: Path) -> None:
    Cache(KEYS, "index").add([record(1)])
    [file] = caches(own_state)
    other = own_state / f"{keys.repository_id.hex()}-{kind}.cache"
    if other != file:
        shutil.copy(file, other)
    assert list(Cache(KEYS, "index").read(listing(1))) == [record(1)]
    assert list(Cache(keys, kind).read(listing(1))) == []


def _no_home() -> Path:
    raise RuntimeError("a user without a home")


@pytest.mark.parametrize("where", ["below a file", "no home", "no room"])
def test_a_machine_that_cannot_remember_can_back_up(
    where: str, world: World, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    if where == "no room":
        monkeypatch.setattr(cache_module, "MOST_BYTES", 0)
    elif where == "no home":
        monkeypatch.delenv("STRONGROOM_STATE_DIR")
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", _no_home)
    else:
        monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "file" / "state"))
    made = world.open().backup(f"faiss://{sources.first}", probes=0).snapshot.id
    assert restored(world.open().repository, made, tmp_path / "out") == files_of(sources.first)


def test_it_is_for_its_user_only_and_holds_no_plain_text(world: World, own_state: Path) -> None:
    told(world.open().repository)
    source = history.read_all(world.open().repository)[0][0].manifest.source
    for path in caches(own_state):
        assert path.stat().st_mode & 0o777 == 0o600
        content = path.read_bytes()
        assert source.encode()[:8] not in content
        assert not any(snapshot.encode() in content or bytes.fromhex(snapshot) in content for snapshot in world.order)


# -- what becomes of the store ------------------------------------------------------------------------------------------------


def test_a_snapshot_that_was_taken_away_does_not_live_on(world: World, tmp_path: Path) -> None:
    told(world.open().repository)
    newest = manifest_of(world, 2)
    newest.unlink()
    repository = world.open().repository
    assert told(repository) == told_by_another_machine(world, tmp_path / "state")
    assert newest.name not in {one.id for one in history.headlines(repository)[0]}
    assert history.find(repository, "latest").id == world.order[1]
    with pytest.raises(NotFound):
        history.find(repository, newest.name)


def test_packs_of_an_index_object_that_is_gone_are_not_known(world: World, tmp_path: Path) -> None:
    pack = pack_of(world, 2)
    index_of(world, pack).unlink()
    repository = world.open().repository
    assert pack.name not in repository.index.packs
    assert told(repository) == told_by_another_machine(world, tmp_path / "state")


def test_a_store_that_was_rolled_back_is_told_as_it_is(world: World, sources: Sources, tmp_path: Path) -> None:
    shutil.copytree(world.folder, tmp_path / "before")
    room = world.open()
    for number in range(2):
        made = room.backup(f"faiss://{build_source(tmp_path / 'new', 'new', number, rows=100)}", probes=0).snapshot.id
    shutil.rmtree(world.folder)
    shutil.copytree(tmp_path / "before", world.folder)
    assert told(world.open().repository) == told_by_another_machine(world, tmp_path / "state")
    findings = world.open().verify(level=Level.OBJECTS).findings
    assert [one.subject for one in findings] == [f"snapshots/{made}"]


def test_verify_looks_at_the_objects_themselves(world: World, sources: Sources, tmp_path: Path) -> None:
    """And the next backup knows what it found, and stores anew what only a damaged index object tells of."""
    told(world.open().repository)
    pack = pack_of(world, 2)
    index, manifest = index_of(world, pack), manifest_of(world, 0)
    for path in (index, manifest):
        flip(path, 0.5)
    assert pack.name in world.open().repository.index.packs
    subjects = {one.subject for one in world.open().verify(level=Level.OBJECTS).findings}
    assert {f"index/{index.name}", f"snapshots/{manifest.name}"} <= subjects
    made = world.open().backup(f"faiss://{sources.changed}", probes=0).snapshot.id
    for path in (index, pack):
        path.unlink()
    assert restored(world.open().repository, made, tmp_path / "out") == world.expected[world.order[2]]


@pytest.mark.parametrize("way", [cut_to(0.5), cut_to(0), lambda path: path.write_bytes(path.read_bytes() + b"x")])
def test_an_object_of_another_length_is_read_again(way: Callable[[Path], None], world: World, tmp_path: Path) -> None:
    told(world.open().repository)
    index, manifest = index_of(world, pack_of(world, 2)), manifest_of(world, 0)
    for path in (index, manifest):
        way(path)
    repository = world.open().repository
    assert told(repository) == told_by_another_machine(world, tmp_path / "state")
    assert [problem.subject for problem in repository.problems] == [f"index/{index.name}"]
    with pytest.raises(Damaged, match=manifest.name):
        history.find(repository, "latest")


def test_an_object_in_a_folder_below_its_own_is_read_each_time(world: World) -> None:
    path = next((world.folder / "index").iterdir())
    (path.parent / "below").mkdir()
    path.rename(path.parent / "below" / path.name)
    for _ in range(2):
        assert len(world.open().repository.index.packs) == 3


# -- two at once --------------------------------------------------------------------------------------------------------------


def test_many_write_and_read_at_once() -> None:
    """What is read is right at each moment, and most of it is kept: who finds another writing leaves it."""
    everything = listing(*range(400))

    def add_and_read(start: int) -> int:
        for number in range(start, 400, 4):
            Cache(KEYS, "index").add([record(number, str(number).encode() * 50)])
            for one in Cache(KEYS, "index").read(everything):
                assert one == record(int(one.id, 16), str(int(one.id, 16)).encode() * 50)
        return start

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(add_and_read, range(4))) == [0, 1, 2, 3]
    assert len(list(Cache(KEYS, "index").read(everything))) > 100


def test_who_finds_another_writing_does_not_wait(own_state: Path) -> None:
    cache = Cache(KEYS, "index")
    cache.add([record(1)])
    with alone_at(own_state / f"{KEYS.repository_id.hex()}-index.cache"):
        cache.add([record(2)])
    assert list(cache.read(listing(1, 2))) == [record(1)]


# -- what it keeps ------------------------------------------------------------------------------------------------------------


steps = st.lists(
    st.tuples(st.just("add"), st.lists(st.tuples(st.integers(0, 9), st.integers(1, 2), st.binary(max_size=20)), max_size=4))
    | st.tuples(st.just("read"), st.dictionaries(st.integers(0, 9), st.integers(1, 2)))
    | st.tuples(st.just("clear"), st.none()),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_it_gives_what_was_added_or_nothing(steps) -> None:
    """Whatever was read in between, which may have written the file anew without what was not listed then."""
    cache = Cache(KEYS, "property")
    cache.clear()
    added: set[Record] = set()
    lasting: set[tuple[str, int]] = set()
    for verb, what in steps:
        if verb == "add":
            fresh = [record(number, content, size) for number, size, content in what]
            cache.add(fresh)
            added |= set(fresh)
            lasting |= {(one.id, one.size) for one in fresh}
        elif verb == "read":
            listed = {f"{number:064x}": size for number, size in what.items()}
            found = list(cache.read(listed))
            assert set(found) <= added
            assert {(one.id, one.size) for one in found} == lasting & listed.items()
            assert len({one.id for one in found}) == len(found)
            lasting &= _on_file(cache)
        else:
            cache.clear()
            added.clear()
            lasting.clear()


def _on_file(cache: Cache) -> set[tuple[str, int]]:
    return {(one.id, one.size) for plain in cache._frames() for one in cache_module._records(plain or b"")}


def test_many_small_frames_become_few(own_state: Path) -> None:
    numbers = range(3 * MOST_FRAMES)
    for number in numbers:
        Cache(KEYS, "index").add([record(number)])
    for frames in (len(numbers), 1):
        assert len(list(Cache(KEYS, "index")._frames())) == frames
        assert [one.id for one in Cache(KEYS, "index").read(listing(*numbers))] == list(listing(*numbers))
    assert not list(own_state.glob("*.fresh"))


def test_what_is_gone_is_dropped_when_it_is_more_than_what_is_there(own_state: Path) -> None:
    cache = Cache(KEYS, "index")
    cache.add(record(number, bytes(1_000)) for number in range(100))
    size = caches(own_state)[0].stat().st_size
    assert len(list(cache.read(listing(*range(60))))) == 60
    assert caches(own_state)[0].stat().st_size == size
    assert len(list(cache.read(listing(*range(10))))) == 10
    assert caches(own_state)[0].stat().st_size < size / 8
    assert list(cache.read(listing(50))) == []


def test_it_does_not_grow_for_ever(own_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "MOST_BYTES", 10_000)
    cache = Cache(KEYS, "index")
    for number in range(100):
        cache.add([record(number, bytes(1_000))])
    assert 8_000 < caches(own_state)[0].stat().st_size <= 10_000
    assert 8 <= len(list(cache.read(listing(*range(100))))) < 10


def test_large_records_and_many_of_them_come_back() -> None:
    kept = [record(number, bytes([number]) * (3 << 20)) for number in range(5)]
    cache = Cache(KEYS, "index")
    cache.add(kept)
    assert list(cache.read(listing(*range(5)))) == kept
