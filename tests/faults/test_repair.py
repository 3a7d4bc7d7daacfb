"""Is what was damaged made whole again from each source, is nothing lost on the way, and is it said what could not be repaired?"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import chromadb
import command_forks
import lancedb
import numpy as np
import pytest
from faulty_store import FaultyStore, SimulatedCrash, at
from sampling import part_of
from test_mutations import MUTATIONS, WAYS, manifest_of, name_of, pack_of
from worlds import CHEAP, PASSWORD, Sources, World, build_source, files_of, restored

from strongroom.errors import Damaged, NoRepository, StrongroomError, WrongKey, WrongRequest
from strongroom.library import Strongroom, init_repository, open_repository, repair_repository
from strongroom.operations.forget import ForgetOptions
from strongroom.operations.machine.witness import Witness
from strongroom.operations.repair import RepairOptions, RepairReport, repair
from strongroom.operations.verify import Level, verify
from strongroom.repository import Repository, Secret, Store, open_store
from strongroom.snapshots import history
from strongroom.snapshots.parts import ArtifactReader
from strongroom.snapshots.slots import Slots

_NAMES = itertools.count()
SECRET = Secret.passphrase(PASSWORD)
OURS_ALONE = {
    "manifest under another name",
    "foreign index",
    "foreign manifest",
    "foreign key slot",
    "foreign config and slots",
    "object in a folder",
    *(name for name in MUTATIONS if name.startswith(("planted", "stray"))),
}
"""What somebody put there that never was this repository's: a repair names it and leaves it."""


@pytest.fixture
def twin(pristine: World, tmp_path: Path) -> Path:
    """A byte copy of the repository."""
    shutil.copytree(pristine.folder, tmp_path / "twin")
    return tmp_path / "twin"


def mend(world: World, *sources: Path | str, own: bool = False, **wishes) -> RepairReport:
    return repair_repository(str(world.folder), password=PASSWORD, sources=[str(one) for one in sources], own_sources=own, **wishes)


def require_whole(world: World) -> None:
    """As a process of its own sees it: every file of every snapshot, bit for bit."""
    repository = world.open().repository
    for snapshot, content in world.expected.items():
        assert files_in(repository, snapshot) == content


def files_in(repository: Repository, snapshot: str) -> tuple[bytes, ...]:
    """The files of a snapshot, joined from their blobs."""
    record = history.read(repository, snapshot).manifest
    slots = {one.name: Slots(one, repository.read_blob) for one in record.collections}
    reader = ArtifactReader(slots, repository.read_blob, repository.keys.identify)
    return tuple(b"".join(reader.read(part) for part in artifact.parts) for artifact in record.artifacts)


def objects(folder: Path) -> dict[str, bytes]:
    """All but the notes of what was proven and the audit log, which every look adds to."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if not name.startswith(("proofs/", "audit/"))}


# -- from a copy of the repository -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_copy_repairs_every_damage(mutation: str, world: World, foreign: World, twin: Path) -> None:
    before = objects(world.folder)
    MUTATIONS[mutation][1](world, foreign)
    copied = objects(twin)

    report = mend(world, twin)

    assert report.outcomes
    require_whole(world)
    assert objects(twin) == copied, "a replica is only read"
    assert set(world.order) <= set(report.verified.healthy)
    if mutation in OURS_ALONE:
        assert not report.passed
        assert any(not one.repaired for one in report.outcomes)
        return
    assert report.passed, report
    assert all(one.repaired and one.how for one in report.outcomes)
    assert world.open().verify(level=Level.DATA).passed
    assert not Witness(world.open().repository).damaged
    assert not list((world.folder / "repairs").rglob("*.*"))
    unchanged = {name for name in before if not name.startswith(("packs/", "index/"))}
    assert {name: objects(world.folder).get(name) for name in unchanged} == {
        name: before[name] for name in unchanged
    } or mutation.startswith("only key slot"), "objects with a name of their own come back byte for byte"


@pytest.mark.parametrize("mutation", ["pack: flip middle", "pack: delete", "newest manifest: zeros", "config: flip middle"])
def test_a_dry_run_changes_nothing(mutation: str, world: World, foreign: World, twin: Path) -> None:
    MUTATIONS[mutation][1](world, foreign)
    before = objects(world.folder)
    report = mend(world, twin, dry_run=True)
    assert objects(world.folder) == before
    assert not report.passed
    assert all(one.repaired and str(twin) in one.how for one in report.outcomes), report
    assert mend(world, twin).passed


def test_a_repair_of_a_whole_repository_changes_nothing(world: World, twin: Path) -> None:
    before = objects(world.folder)
    report = mend(world, twin)
    assert (report.passed, report.outcomes) == (True, ())
    assert objects(world.folder) == before


# -- from the repository itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutation", [f"index: {way}" for way in WAYS] + ["every index object removed"])
def test_the_packs_own_directories_make_the_blob_index_again(mutation: str, world: World, foreign: World) -> None:
    MUTATIONS[mutation][1](world, foreign)
    assert mend(world).passed
    assert world.open().verify().passed
    assert world.open().repository.unlisted.packs == {}
    require_whole(world)


@pytest.mark.parametrize("mutation", [*(f"config: {way}" for way in WAYS), "foreign config", "config altered with its check sum"])
def test_a_key_slot_says_what_config_said(mutation: str, world: World, foreign: World) -> None:
    before = objects(world.folder)
    MUTATIONS[mutation][1](world, foreign)
    assert mend(world).passed
    assert objects(world.folder) == before


def test_a_blob_that_another_pack_has_whole_needs_no_replica(world: World, sources: Sources) -> None:
    """A backup stored it anew. The damaged pack goes; what is still whole in it is kept, be it needed or not."""
    pack = pack_of(world, 0)
    flip_every_blob(pack)
    assert not world.open().verify().passed
    world.open().backup(f"faiss://{sources.first}")
    report = mend(world)
    assert report.passed
    assert all("whole in other packs; the damaged pack removed" in one.how for one in report.outcomes)
    assert not pack.exists()
    assert pack.name not in world.open().repository.index.packs
    require_whole(world)


def test_what_only_a_forgotten_snapshot_needed_is_dropped(tmp_path: Path) -> None:
    """Though one that stays names it as its predecessor: nobody took it away."""
    room = init_repository(str(tmp_path / "repository"), password=PASSWORD, cost=CHEAP)
    old, kept = (room.backup(f"faiss://{build_source(tmp_path, 'one', seed)}", probes=0).snapshot for seed in (1, 2))
    assert kept.manifest.parents == (old.id,)
    room.forget(ForgetOptions((old.id,)))
    blob = bytes.fromhex(next(iter(set(old.manifest.blobs()) - set(kept.manifest.blobs()))))
    (place,) = room.repository.index.places(blob)
    flip_at(tmp_path / "repository" / place.pack.name, place.blob.offset + 5)
    report = repair_repository(str(tmp_path / "repository"), password=PASSWORD, own_sources=False)
    assert [one.repaired for one in report.outcomes] == [True]
    assert "1 blob dropped that no snapshot needs" in report.outcomes[0].how
    assert report.passed
    assert files_in(room.repository, kept.id) == files_of(tmp_path / "one.faiss")


@pytest.mark.parametrize("who", ["one that is kept", "one that was forgotten"])
def test_what_a_snapshot_that_was_taken_away_may_need_is_not_dropped(who: str, tmp_path: Path) -> None:
    """Another one names it as its predecessor: it may come back."""
    room = init_repository(str(tmp_path / "repository"), password=PASSWORD, cost=CHEAP)
    gone, *others = (room.backup(f"faiss://{build_source(tmp_path, 'one', seed)}", probes=0).snapshot for seed in (1, 2, 3))
    if who == "one that was forgotten":
        room.forget(ForgetOptions((others[0].id,)))
    manifest = tmp_path / "repository" / "snapshots" / gone.id
    taken = manifest.read_bytes()
    manifest.unlink()
    needed = {blob for one in others for blob in one.manifest.blobs()}
    (place,) = room.repository.index.places(bytes.fromhex(next(iter(set(gone.manifest.blobs()) - needed))))
    pack = tmp_path / "repository" / place.pack.name
    flip_at(pack, place.blob.offset + 5)
    report = repair_repository(str(tmp_path / "repository"), password=PASSWORD, own_sources=False)
    (found,) = [one for one in report.outcomes if one.finding.subject.startswith(place.pack.name)]
    assert not found.repaired
    assert "may need them" in found.how
    assert pack.exists()
    manifest.write_bytes(taken)
    flip_at(pack, place.blob.offset + 5)
    assert files_in(open_repository(str(tmp_path / "repository"), password=PASSWORD).repository, gone.id)


def test_damage_that_breaks_no_snapshot_yet_breaks_none_later(tmp_path: Path) -> None:
    """What only forgotten snapshots needed lies there still, and the next backup relies on it, if it may."""
    room = init_repository(str(tmp_path / "repository"), password=PASSWORD, cost=CHEAP)
    sources = [build_source(tmp_path / name, name, seed, rows=rows) for name, seed, rows in (("one", 1, 200), ("two", 2, 300))]
    old, kept = (room.backup(f"faiss://{source}", probes=0).snapshot for source in sources)
    room.forget(ForgetOptions((old.id,)))
    packs = [
        pack
        for pack in room.repository.index.packs.values()
        if {blob.id.hex() for blob in pack.blobs}.isdisjoint(kept.manifest.blobs())
    ]
    assert packs
    for pack in packs:
        flip_every_blob(tmp_path / "repository" / pack.name)
    assert room.verify("latest").passed, "it needs none of that"
    assert not room.verify().passed
    assert repair_repository(str(tmp_path / "repository"), password=PASSWORD, own_sources=False).passed
    room = open_repository(str(tmp_path / "repository"), password=PASSWORD)
    again = room.backup(f"faiss://{sources[0]}", probes=0).snapshot
    assert files_in(room.repository, again.id) == files_of(sources[0])


def test_what_is_still_whole_in_a_pack_that_stays_broken_is_not_lost(world: World) -> None:
    pack, blob = hurt_one_blob(world)
    report = mend(world)
    assert not report.passed
    [outcome] = report.outcomes
    assert outcome.how.endswith("1 blob could not be had (no replica was given)")
    assert pack.exists()
    room = world.open()
    assert all(room.repository.read_blob(one.id) for one in room.repository.index.packs[pack.name].blobs if one.id != blob)
    before = objects(world.folder)
    mend(world)
    assert objects(world.folder) == before, "nothing is stored once more"


# -- from another repository that backed up the same source ----------------------------------------------------------------


@pytest.mark.parametrize("mutation", ["pack: flip middle", "pack: delete", "every pack removed", "index and its pack removed"])
def test_an_independent_repository_gives_the_same_content(mutation: str, world: World, foreign: World) -> None:
    MUTATIONS[mutation][1](world, foreign)
    report = mend(world, foreign.folder)
    assert report.passed, report
    assert any(str(foreign.folder) in one.how for one in report.outcomes)
    assert world.open().verify(level=Level.ANSWERS).passed
    require_whole(world)


def test_another_repository_with_nothing_to_give(world: World, foreign: World, tmp_path: Path) -> None:
    MUTATIONS["pack: delete"][1](world, foreign)
    MUTATIONS["newest manifest: zeros"][1](world, foreign)
    other = init_repository(str(tmp_path / "other"), password=PASSWORD, cost=CHEAP)
    other.backup(f"faiss://{build_source(tmp_path / 'else', 'else', seed=5, rows=300)}", probes=0)
    report = mend(world, tmp_path / "other")
    assert [one.repaired for one in report.outcomes] == [False, False]
    assert all(str(tmp_path / "other") in one.how for one in report.outcomes)
    assert {one.subject for one in report.verified.findings} == {one.finding.subject for one in report.outcomes}


def test_a_replica_that_is_damaged_in_the_same_place(world: World, twin: Path) -> None:
    names = (name_of(world, manifest_of(world, 1)), name_of(world, pack_of(world, 0)))
    for name in names:
        for folder in (world.folder, twin):
            WAYS["zeros"](folder / name)
    report = mend(world, twin)
    assert not report.passed
    assert {one.finding.subject.partition(",")[0]: one.repaired for one in report.outcomes} == dict.fromkeys(names, False)
    assert all(str(twin) in one.how for one in report.outcomes)


def test_each_of_two_replicas_gives_what_it_has(world: World, twin: Path, foreign: World) -> None:
    pack = pack_of(world, 0)
    flip_every_blob(pack)
    hurt_one_blob(world, twin)
    report = mend(world, twin, foreign.folder)
    assert report.passed
    assert all(f" from {twin}" in one.how and "1 blob from" in one.how for one in report.outcomes)
    require_whole(world)


def test_a_replica_that_doesnt_open(world: World, twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = objects(world.folder)
    with pytest.raises(WrongKey):
        mend(world, twin, sources_secret=Secret.passphrase("another one"))
    with pytest.raises(NoRepository):
        mend(world, tmp_path / "nothing")
    with pytest.raises(WrongRequest, match="from itself"):
        mend(world, world.folder)
    assert objects(world.folder) == before


def test_another_repository_is_never_taken_for_the_one_whose_config_is_gone(world: World, foreign: World) -> None:
    (world.folder / "config").unlink()
    shutil.rmtree(world.folder / "keys")
    before = objects(world.folder)
    with pytest.raises(Damaged, match="config"):
        mend(world, foreign.folder)
    assert objects(world.folder) == before


def flip_every_blob(pack: Path) -> None:
    content = bytearray(pack.read_bytes())
    for place in range(40, len(content) - 4 - int.from_bytes(content[-4:], "little"), 16):
        content[place] ^= 1
    pack.write_bytes(content)


def hurt_one_blob(world: World, folder: Path | None = None) -> tuple[Path, bytes]:
    """The longest one of the first snapshot's pack, here or in a copy in another folder."""
    name = name_of(world, pack_of(world, 0))
    pack = world.open().repository.index.packs[Path(name).name]
    blob = max(pack.blobs, key=lambda one: one.stored)
    path = (folder or world.folder) / name
    flip_at(path, blob.offset + 5)
    return path, blob.id


def flip_at(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


# -- from the live source --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutation", ["pack: flip middle", "pack: delete", "index and its pack removed"])
def test_the_live_source_gives_what_it_still_has(mutation: str, world: World, foreign: World, sources: Sources) -> None:
    """The snapshots name their sources; no snapshot is made."""
    MUTATIONS[mutation][1](world, foreign)
    report = mend(world, own=True)
    assert report.passed, report
    assert any("faiss://" in one.how for one in report.outcomes)
    assert {one.id for one in world.open().snapshots()} == set(world.order)
    assert world.open().verify(level=Level.ANSWERS).passed
    require_whole(world)


def test_a_source_that_moved_is_named(world: World, foreign: World, sources: Sources, tmp_path: Path) -> None:
    MUTATIONS["pack: delete"][1](world, foreign)
    shutil.copytree(sources.first.parent, tmp_path / "moved")
    moved = f"faiss://{tmp_path}/moved/{sources.first.name}"
    assert mend(world, moved).passed
    require_whole(world)


def test_a_source_that_changed_gives_the_rest(world: World, foreign: World, sources: Sources) -> None:
    """Only the vectors that changed and their answers are gone; what is stored is what was wanted, and no more."""
    pack = pack_of(world, 0)
    blobs = {blob.id for blob in world.open().repository.index.packs[pack.name].blobs}
    pack.unlink()
    before = set(objects(world.folder))
    report = mend(world, f"faiss://{sources.changed}")
    assert not report.passed
    [outcome] = report.outcomes
    assert "doesn't give" in outcome.how
    new = [one for one in world.open().repository.index.packs.values() if one.name not in before and one.id != pack.name]
    assert {blob.id for one in new for blob in one.blobs} < blobs


def test_a_source_that_is_gone_is_said(world: World, foreign: World, tmp_path: Path) -> None:
    MUTATIONS["pack: delete"][1](world, foreign)
    [outcome] = mend(world, f"faiss://{tmp_path}/nowhere.faiss").outcomes
    assert not outcome.repaired
    assert "nowhere.faiss" in outcome.how


def test_a_dry_run_reads_the_source_and_stores_nothing(world: World, foreign: World) -> None:
    MUTATIONS["pack: delete"][1](world, foreign)
    before = objects(world.folder)
    report = mend(world, own=True, dry_run=True)
    assert objects(world.folder) == before
    assert [one.repaired for one in report.outcomes] == [True]


@pytest.mark.parametrize(
    ("engine", "way"), [("chroma", "copy"), ("chroma", "independent"), ("chroma", "live"), ("lancedb", "copy"), ("lancedb", "live")]
)
def test_engines_with_folders(engine: str, way: str, tmp_path: Path) -> None:
    """Every pack is lost. The fingerprints of LanceDB's rows can't come from another repository: they are keyed, and the rows are
    in the engine's files."""
    source = f"{engine}://{tmp_path}/source"
    fill(engine, tmp_path / "source")
    room = init_repository(str(tmp_path / "repository"), password=PASSWORD, cost=CHEAP)
    made = room.backup(source).snapshot.id
    shutil.copytree(tmp_path / "repository", tmp_path / "copy")
    init_repository(str(tmp_path / "independent"), password=PASSWORD, cost=CHEAP).backup(source)
    shutil.rmtree(tmp_path / "repository" / "packs")
    given = source if way == "live" else str(tmp_path / way)
    report = repair_repository(str(tmp_path / "repository"), password=PASSWORD, sources=[given], own_sources=False)
    assert report.passed, report
    again = open_repository(str(tmp_path / "repository"), password=PASSWORD)
    assert again.verify(made, level=Level.ANSWERS).passed


def fill(engine: str, folder: Path) -> None:
    vectors = np.random.default_rng(3).random((2000, 16), np.float32)
    if engine == "lancedb":
        lancedb.connect(folder).create_table("things", [{"id": one, "vector": row} for one, row in enumerate(vectors)])
        return
    client = chromadb.PersistentClient(str(folder))
    ids = [str(one) for one in range(len(vectors))]
    client.create_collection("things").add(ids=ids, embeddings=vectors, documents=[f"text {one}" for one in ids])
    client.close()


# -- crashes, lost answers, others at work ---------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[World, World], object]] = {
    "a damaged pack": lambda world, _: flip_half(pack_of(world, 0)),
    "a missing pack": MUTATIONS["pack: delete"][1],
    "a damaged manifest": MUTATIONS["newest manifest: flip middle"][1],
    "a damaged index object": MUTATIONS["index: zeros"][1],
    "a damaged key slot": MUTATIONS["key slot: truncate"][1],
    "a damaged config": MUTATIONS["config: flip middle"][1],
    "no config and no key slot": lambda world, _: ((world.folder / "config").unlink(), shutil.rmtree(world.folder / "keys")),
}


def flip_half(pack: Path) -> None:
    """Every second blob stays whole."""
    whole = pack.read_bytes()
    flip_every_blob(pack)
    content = bytearray(pack.read_bytes())
    middle = len(content) // 2
    content[middle:] = whole[middle:]
    pack.write_bytes(content)


class Bench:
    """A damaged repository and its copy in memory, anew for each run; each time on a machine that never saw it."""

    def __init__(self, world: World, twin: Path, folder: Path) -> None:
        self.folder = folder
        self.names = {name: content for name, content in objects(twin).items() if not name.startswith(("packs/", "index/"))}
        if not (world.folder / "keys").exists():  # which slots there were is known to nobody
            self.names = {name: content for name, content in self.names.items() if not name.startswith("keys/")}
        self.damaged = objects(world.folder)
        self.copy = Repository.open(open_store(str(twin)), SECRET)
        self.world = world

    def store(self) -> Store:
        store = open_store(f"memory://repairs-{next(_NAMES)}")
        for name, content in self.damaged.items():
            store.create(name, content)
        return store

    def mend(self, store: Store) -> RepairReport:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STRONGROOM_STATE_DIR", tempfile.mkdtemp(dir=self.folder))
            return repair(store, SECRET, replicas=[self.copy], options=RepairOptions(own_sources=False))

    def require_whole(self, store: Store) -> None:
        assert self.mend(store).passed
        assert is_whole_here(store, self.world)
        assert {name: store.read(name) for name in self.names} == self.names
        assert not list(store.list("repairs/"))


def readable(store: Store, snapshots: Iterable[str]) -> set[tuple[str, int]]:
    """What can be read although it is damaged: files of snapshots, by their number."""
    try:
        repository = Repository.open(store, SECRET)
    except StrongroomError:
        return set()
    found = set()
    for snapshot in snapshots:
        with suppress(StrongroomError):
            blobs = sorted(set(history.read(repository, snapshot).manifest.blobs()))
            for number, blob in enumerate(blobs):
                with suppress(Damaged):
                    repository.read_blob(bytes.fromhex(blob))
                    found.add((snapshot, number))
    return found


@pytest.fixture
def bench(damage: str, world: World, foreign: World, twin: Path, tmp_path: Path) -> Bench:
    DAMAGES[damage](world, foreign)
    return Bench(world, twin, tmp_path)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("moment", ["crash before", "crash after"])
def test_a_repair_crashes_at_every_operation(moment: str, bench: Bench, world: World) -> None:
    """What was readable stays so, and the next repair ends whole."""
    before = readable(bench.store(), world.order)
    counting = FaultyStore(bench.store())
    assert bench.mend(counting).passed
    writes = [one.number for one in counting.operations if one.verb in ("create", "delete")]
    assert len(writes) > 1
    for number in writes:
        store = bench.store()
        with pytest.raises(SimulatedCrash):
            bench.mend(FaultyStore(store, at(number, moment)))
        assert before <= readable(store, world.order)
        assert verify_or_error(store) or is_whole_here(store, world), "what is broken is found"
        bench.require_whole(store)


def verify_or_error(store: Store) -> bool:
    """Does verify, on a machine that never saw the repository, find anything wrong?"""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as state:
        patch.setenv("STRONGROOM_STATE_DIR", state)
        try:
            return not verify(Repository.open(store, SECRET)).passed
        except StrongroomError:
            return True


def is_whole_here(store: Store, world: World) -> bool:
    repository = Repository.open(store, SECRET)
    return all(files_in(repository, snapshot) == content for snapshot, content in world.expected.items())


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "fault",
    part_of(["unreachable after", "cut"], ["unreachable before", "unreachable after", "exists after", "full", "denied", "cut"]),
)
def test_a_repair_meets_a_fault_at_every_operation(fault: str, bench: Bench, world: World) -> None:
    """It fails with one of our errors, or repairs all, or says what it didn't; run again it ends whole."""
    before = readable(bench.store(), world.order)
    counting = FaultyStore(bench.store())
    bench.mend(counting)
    writes = ("create", "delete")
    verbs = {"cut": ("read",), "unreachable before": (*writes, "read", "list"), "exists after": ("create",)}.get(fault, writes)
    for number in [one.number for one in counting.operations if one.verb in verbs]:
        store = bench.store()
        with suppress(StrongroomError):
            report = bench.mend(FaultyStore(store, at(number, fault)))
            assert report.passed == report.verified.passed
        assert before <= readable(store, world.order)
        bench.require_whole(store)


def test_a_backup_that_began_before_the_repair_is_whole(world: World, twin: Path, sources: Sources) -> None:
    """It counted what lies in the damaged pack as stored; meanwhile that pack goes."""
    pack = pack_of(world, 0)
    flip_half(pack)
    repaired: list[RepairReport] = []

    class Overtaken(FaultyStore):
        def create(self, name: str, data: bytes | memoryview) -> None:
            if name.startswith("snapshots/"):
                repaired.append(mend(world, twin))
            super().create(name, data)

    room = Strongroom(Repository.open(Overtaken(open_store(str(world.folder))), SECRET))
    made = room.backup(f"faiss://{sources.first}", probes=0).snapshot.id
    assert [one.passed for one in repaired] == [True]
    assert not pack.exists()
    assert files_in(world.open().repository, made) == files_of(sources.first)
    assert world.open().verify().passed


def test_a_restore_that_began_before_the_repair_goes_on(world: World, twin: Path, tmp_path: Path) -> None:
    room = world.open()
    room.repository.look_again()
    flip_half(pack_of(world, 0))
    assert mend(world, twin).passed
    assert restored(room.repository, world.order[0], tmp_path / "out") == world.expected[world.order[0]]


def test_two_repairs_at_once(world: World, twin: Path, foreign: World) -> None:
    flip_half(pack_of(world, 0))
    MUTATIONS["newest manifest: zeros"][1](world, foreign)
    MUTATIONS["index: zeros"][1](world, foreign)
    with ThreadPoolExecutor(2) as pool:
        for report in pool.map(lambda _: attempt(lambda: mend(world, twin)), range(2)):
            assert isinstance(report, RepairReport | StrongroomError)
    assert mend(world, twin).passed
    require_whole(world)


def attempt(work: Callable[[], RepairReport]) -> RepairReport | StrongroomError:
    try:
        return work()
    except StrongroomError as error:
        return error


# -- by command ------------------------------------------------------------------------------------------------------------


def command(world: World, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "STRONGROOM_REPOSITORY": str(world.folder), "STRONGROOM_PASSWORD": PASSWORD, **environment}
    return command_forks.run(["verify", "--quiet", *arguments], variables)


def test_the_command_says_what_it_did(world: World, foreign: World, twin: Path) -> None:
    open_repository(str(twin), password=PASSWORD).change_passphrase(SECRET, Secret.passphrase("another one"), cost=CHEAP)
    MUTATIONS["pack: flip middle"][1](world, foreign)
    wrong = command(world, "--repair", "--from", str(twin))
    assert (wrong.returncode, "STRONGROOM_FROM_PASSWORD" in wrong.stderr) == (12, True)
    theirs = {"STRONGROOM_FROM_PASSWORD": "another one"}
    dry = command(world, "--repair", "--from", str(twin), "--dry-run", **theirs)
    assert (dry.returncode, "1 of 1 finding would be repaired" in dry.stdout) == (4, True), dry
    done = command(world, "--repair", "--from", str(twin), "--no-from-source", "--json", **theirs)
    report = json.loads(done.stdout)
    assert (done.returncode, report["passed"], report["dry_run"]) == (0, True, False)
    [outcome] = report["outcomes"]
    assert outcome["repaired"]
    assert str(twin) in outcome["how"]
    assert command(world).returncode == 0
    assert not any(secret in run.stdout + run.stderr for run in (wrong, dry, done) for secret in (PASSWORD, "another one"))


def test_the_command_ends_with_4_if_something_stays_broken(world: World, foreign: World) -> None:
    MUTATIONS["pack: delete"][1](world, foreign)
    run = command(world, "--repair", "--no-from-source")
    assert run.returncode == 4
    assert "not repaired" in run.stdout
    assert command(world, "--from", "/nowhere").returncode == 2
