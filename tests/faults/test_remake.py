"""Does the live source give back what an incremental backup cut, exactly as far as its content is still there?

Expected is what the model says: the rows of each state are known, and what a blob held is read from the whole repository.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import chromadb
import faiss
import hnswlib
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_store import FaultyStore, SimulatedCrash, at, felt
from sampling import part_of
from worlds import CHEAP, DIMENSION, PASSWORD

from strongroom.errors import Damaged
from strongroom.library import Strongroom, init_repository, open_repository, repair_repository
from strongroom.operations.repair import RepairOptions, RepairReport, repair
from strongroom.operations.repair.remaking import remake
from strongroom.operations.verify import Level
from strongroom.progress import SILENT
from strongroom.repository import Pack, Repository, Secret, Store, open_store
from strongroom.snapshots.manifest import Block, Manifest, Segment
from strongroom.snapshots.segments import read_segment
from strongroom.snapshots.slots import Slots

SECRET = Secret.passphrase(PASSWORD)
ROWS, STATES, CHANGED, MORE = 1_200, 4, 40, 30
_NAMES = itertools.count()

Row = tuple[bytes, str | None, int]
"""A row as the model has it: vector, document, rank."""


def state(number: int) -> list[Row]:
    """The rows after so many changes: each changes rows that are spread over all, the later ones some that an earlier one changed,
    documents alone of others, and adds some at the end."""
    draw = np.random.default_rng(7)
    vectors = draw.standard_normal((ROWS + STATES * MORE, DIMENSION)).astype(np.float32)
    documents = [f"text {place}" if place % 7 else None for place in range(len(vectors))]
    for change in range(1, number + 1):
        first = {1: 0, 2: 3, 3: 3}[change]  # all that the second changed, the third changes once more
        vectors[first : first + CHANGED * 20 : 20] += np.float32(change)
        for place in range(change + 10, ROWS, 200):
            documents[place] = f"text {place}, edition {change}"
    count = ROWS + number * MORE
    return [(vectors[place].tobytes(), documents[place], place) for place in range(count)]


def write_faiss(folder: Path, rows: list[Row]) -> str:
    vectors = np.frombuffer(b"".join(vector for vector, _, _ in rows), np.float32).reshape(-1, DIMENSION)
    folder.mkdir(parents=True, exist_ok=True)
    index = faiss.IndexHNSWFlat(DIMENSION, 8)
    faiss.omp_set_num_threads(1)
    index.add(vectors)
    faiss.write_index(index, str(folder / "index.faiss"))
    sidecar = pa.table({"document": [document for _, document, _ in rows], "rank": [rank for _, _, rank in rows]})
    pq.write_table(sidecar, folder / "index.parquet")
    for name in ("index.faiss", "index.parquet"):
        os.utime(folder / name, (1, 1))  # long at rest
    return f"faiss://{folder}/index.faiss"


@dataclass(frozen=True)
class Chain:
    """A repository of one source's states, one snapshot each, and the source, which is at the last of them."""

    folder: Path
    state: Path
    source: str
    snapshots: tuple[str, ...]

    def open(self) -> Strongroom:
        return open_repository(str(self.folder), password=PASSWORD)

    def manifests(self) -> list[Manifest]:
        return [self.open().snapshot(one).manifest for one in self.snapshots]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Never to be changed."""
    return make_chain(tmp_path_factory.mktemp("chain"), lambda folder, number: write_faiss(folder, state(number)))


def make_chain(folder: Path, change: Callable[[Path, int], str], states: int = STATES) -> Chain:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", str(folder / "state"))
        room = init_repository(str(folder / "repository"), password=PASSWORD, cost=CHEAP)
        made = []
        for number in range(states):
            source = change(folder / "source", number)
            made.append(room.backup(source).snapshot.id)
    return Chain(folder / "repository", folder / "state", source, tuple(made))


@pytest.fixture
def chain(whole: Chain, tmp_path: Path, own_state: Path) -> Chain:
    """A copy to be damaged, on a machine that remembers nothing of it."""
    shutil.copytree(whole.folder, tmp_path / "repository")
    return Chain(tmp_path / "repository", own_state, whole.source, whole.snapshots)


def mend(chain: Chain, **wishes) -> RepairReport:
    return repair_repository(str(chain.folder), password=PASSWORD, **wishes)


def hurt(chain: Chain, blob: bytes) -> None:
    """Alter the blob wherever it lies."""
    for place in chain.open().repository.index.places(blob):
        path = chain.folder / place.pack.name
        content = bytearray(path.read_bytes())
        content[place.blob.offset + 3] ^= 1
        path.write_bytes(content)


# -- what the model says ---------------------------------------------------------------------------------------------------


class Model:
    """Which blobs can the source give, by what they hold?"""

    def __init__(self, chain: Chain, folder: Path) -> None:
        self._repository = chain.open().repository
        self.manifests = chain.manifests()
        self._last = state(STATES - 1)
        self._vectors = {vector for vector, _, _ in self._last}
        self._full = plain_bytes_of_a_full_backup(chain.source, folder)

    def blobs(self) -> dict[bytes, bool]:
        """Every blob, and whether its content is in the source."""
        before = {blob for one in self.manifests[:-1] for blob in one.blobs()}
        expected = {}
        for manifest in self.manifests:
            for blob in manifest.blobs():
                plain = bytes(self._repository.read_blob(bytes.fromhex(blob)))
                expected[bytes.fromhex(blob)] = blob not in before or plain in self._full
        for manifest in self.manifests:
            [collection] = manifest.collections
            for block in collection.vectors["vector"]:
                expected[bytes.fromhex(block.blob)] |= self.gives_vectors(block)
                expected[bytes.fromhex(block.prints)] = True  # they follow from the block
            for segment in collection.segments:
                expected[bytes.fromhex(segment.prints)] = True  # or from the rows
        for manifest in reversed(self.manifests):  # the older ones know which rows lived
            for segment in manifest.collections[0].segments:
                expected[bytes.fromhex(segment.rest)] |= self.gives_rows(manifest, segment)
        return expected

    def by_fingerprint(self, manifest: Manifest) -> Iterator[bytes]:
        """The blobs of rows and vectors of a snapshot that are all in the source."""
        [collection] = manifest.collections
        yield from (bytes.fromhex(one.blob) for one in collection.vectors["vector"] if self.gives_vectors(one))
        yield from (bytes.fromhex(one.rest) for one in collection.segments if self.gives_rows(manifest, one))

    def gives_vectors(self, block: Block) -> bool:
        content = bytes(self._repository.read_blob(bytes.fromhex(block.blob)))
        width = DIMENSION * 4
        return {content[place : place + width] for place in range(0, len(content), width)} <= self._vectors

    def gives_rows(self, manifest: Manifest, segment: Segment) -> bool:
        """Every row that it was made of, as the oldest snapshot has it."""
        [collection] = manifest.collections
        rows = read_segment(
            segment, collection.arrow_schema(), Slots(collection, self._repository.read_blob), self._repository.read_blob
        )
        if segment.dead:
            return False
        return set(rows_of(rows.batch)) <= set(self._last)


def rows_of(batch: pa.RecordBatch) -> Iterator[Row]:
    vectors = np.asarray(batch.column("vector").flatten(), np.float32).reshape(batch.num_rows, -1)
    for vector, document, rank in zip(vectors, batch.column("document").to_pylist(), batch.column("rank").to_pylist(), strict=True):
        yield vector.tobytes(), document, rank


def plain_bytes_of_a_full_backup(source: str, folder: Path) -> set[bytes]:
    room = init_repository(str(folder / "full"), password=PASSWORD, cost=CHEAP)
    made = room.backup(source).snapshot.manifest
    return {bytes(room.repository.read_blob(bytes.fromhex(blob))) for blob in made.blobs()}


def test_each_blob_comes_back_whose_content_is_there(chain: Chain, tmp_path: Path) -> None:
    """Each is damaged by itself, in a repository of the same bytes."""
    expected = Model(chain, tmp_path).blobs()
    kinds = kinds_of(chain.manifests())
    given = {kinds[blob] for blob, there in expected.items() if there}
    lost = {kinds[blob] for blob, there in expected.items() if not there}
    assert {"vectors", "rows", "prints", "order", "mapped", "difference"} <= given
    assert {"vectors", "rows", "order", "mapped", "difference"} <= lost
    for number, (blob, there) in enumerate(expected.items()):
        one = Chain(tmp_path / f"hurt-{number}", chain.state, chain.source, chain.snapshots)
        shutil.copytree(chain.folder, one.folder)
        hurt(one, blob)
        report = mend(one)
        assert report.passed == report.verified.passed
        assert report.passed == there, (kinds[blob], blob.hex(), report)
        room = one.open()
        assert {snapshot.id for snapshot in room.snapshots()} == set(chain.snapshots)
        if there:
            assert all(room.repository.read_blob(other) for other in expected)
        else:
            assert any(not outcome.repaired and "doesn't give 1 blob" in outcome.how for outcome in report.outcomes)
            assert room.verify(level=Level.DATA).passed is False
        shutil.rmtree(one.folder)


def kinds_of(manifests: list[Manifest]) -> dict[bytes, str]:
    kinds: dict[bytes, str] = {}

    def say(blob: str, kind: str) -> None:
        if blob:
            kinds.setdefault(bytes.fromhex(blob), kind)

    for manifest in manifests:
        for collection in manifest.collections:
            for segment in collection.segments:
                say(segment.rest, "rows")
                say(segment.prints, "prints")
                for blob in segment.vectors.values():
                    say(blob, "mapped")
            for block in itertools.chain(*collection.vectors.values()):
                say(block.blob, "vectors")
                say(block.prints, "prints")
            for blob in collection.order:
                say(blob, "order")
            for probe in collection.probes:
                say(probe.blob, "probes")
        for part in (part for artifact in manifest.artifacts for part in artifact.parts):
            for blob in part.differences:
                say(blob, "difference")
            for blob in part.blobs():
                say(blob, "file")
    return kinds


# -- several at once, a little at a time -----------------------------------------------------------------------------------


def blobs_of(manifest: Manifest) -> set[bytes]:
    return {bytes.fromhex(blob) for blob in manifest.blobs()}


@pytest.mark.parametrize("budget", [1, 20_000, 256 << 20])
def test_what_is_gathered_at_a_time_changes_nothing(budget: int, chain: Chain, tmp_path: Path) -> None:
    """The source may be read many times for it."""
    model = Model(chain, tmp_path)
    expected = {blob for manifest in model.manifests for blob in model.by_fingerprint(manifest)}
    assert len(expected) > 3
    room = chain.open()
    snapshots = sorted(room.snapshots(), key=lambda one: one.manifest.created)
    wanted = {blob for manifest in model.manifests for blob in blobs_of(manifest)}
    read = room.repository.read_blob
    assert remake(room.repository, chain.source, snapshots, wanted, read, SILENT, budget) == expected


def test_the_machine_that_made_them_knows_the_fingerprints(whole: Chain, tmp_path: Path, own_state: Path) -> None:
    """All packs of a snapshot in the middle and of the newest one are lost, fingerprints included."""
    shutil.copytree(whole.folder, tmp_path / "repository")
    shutil.copytree(whole.state, own_state, dirs_exist_ok=True)
    chain = Chain(tmp_path / "repository", own_state, whole.source, whole.snapshots)
    model = Model(chain, tmp_path)
    rows = {blob for manifest in model.manifests for blob in model.by_fingerprint(manifest)}
    packs = packs_of(chain)
    for number in (1, 3):
        (chain.folder / packs[number].name).unlink()
    lost = {blob.id for number in (1, 3) for blob in packs[number].blobs}
    mend(chain)
    again = chain.open()
    back = {blob for blob in lost if can_be_read(again.repository, blob)}
    assert any(blob.id in rows for blob in packs[1].blobs)
    assert rows & lost <= back


def packs_of(chain: Chain) -> list[Pack]:
    """The pack of what each snapshot added."""
    repository = chain.open().repository
    packs: list[Pack] = []
    for manifest in chain.manifests():
        here = [place.pack for blob in blobs_of(manifest) for place in repository.index.places(blob)]
        [fresh] = {pack.id: pack for pack in here if pack.id not in {one.id for one in packs}}.values()
        packs.append(fresh)
    return packs


def can_be_read(repository: Repository, blob: bytes) -> bool:
    try:
        repository.read_blob(blob)
    except Damaged:
        return False
    return True


def content(chain: Chain) -> dict[Path, bytes]:
    """All but the log, which tells of dry runs too."""
    files = (path for path in chain.folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if "audit" not in path.relative_to(chain.folder).parts}


def test_a_dry_run_promises_what_a_repair_gives(whole: Chain, tmp_path: Path, own_state: Path) -> None:
    shutil.copytree(whole.folder, tmp_path / "repository")
    shutil.copytree(whole.state, own_state, dirs_exist_ok=True)
    chain = Chain(tmp_path / "repository", own_state, whole.source, whole.snapshots)
    (chain.folder / packs_of(chain)[3].name).unlink()
    before = content(chain)
    promised = mend(chain, dry_run=True)
    assert content(chain) == before
    assert [one.repaired for one in promised.outcomes] == [True]
    assert mend(chain).passed


def test_the_next_backup_is_whole_where_a_repair_could_not_be(chain: Chain, tmp_path: Path) -> None:
    """Some rows of a segment and of a block are dead and gone, and all that the newest snapshot needs of them is in the source."""
    model = Model(chain, tmp_path)
    gone = [blob for blob, there in model.blobs().items() if not there and blob in blobs_of(model.manifests[-1])]
    kinds = kinds_of(model.manifests)
    assert {"rows", "vectors"} <= {kinds[blob] for blob in gone}
    for blob in gone:
        hurt(chain, blob)
    report = mend(chain)
    assert not report.passed
    assert not any(outcome.repaired for outcome in report.outcomes)
    room = chain.open()
    made = room.backup(chain.source, reread=True).snapshot
    assert not blobs_of(made.manifest) & set(gone)
    room = chain.open()
    assert made.id in room.verify(made.id, level=Level.ANSWERS).healthy
    room.restore(made.id, f"faiss://{tmp_path}/restored/index.faiss")
    for name in ("index.faiss", "index.parquet"):
        original = Path(chain.source.removeprefix("faiss://")).with_name(name).read_bytes()
        assert (tmp_path / "restored" / name).read_bytes() == original


# -- crashes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", part_of(["crash after"], ["crash before", "crash after"]))
def test_a_crash_at_any_operation_loses_nothing(moment: str, chain: Chain, tmp_path: Path) -> None:
    """One pack of an incremental is damaged in part; what can be remade is, whenever it is run again."""
    model = Model(chain, tmp_path)
    blob = next(one for one in model.by_fingerprint(model.manifests[1]) if one not in blobs_of(model.manifests[0]))
    hurt(chain, blob)
    damaged = {path.relative_to(chain.folder).as_posix(): path.read_bytes() for path in chain.folder.rglob("*") if path.is_file()}
    everything = {one for manifest in model.manifests for one in blobs_of(manifest)}

    def store() -> Store:
        fresh = open_store(f"memory://remade-{next(_NAMES)}")
        for name, content in damaged.items():
            fresh.create(name, content)
        return fresh

    counting = FaultyStore(store())
    assert run(counting, tmp_path).passed
    assert any(one.verb == "delete" for one in counting.operations)
    for number in felt(moment, counting.operations):
        kept = store()
        with suppress(SimulatedCrash):
            run(FaultyStore(kept, at(number, moment)), tmp_path)
        repository = Repository.open(kept, SECRET)
        assert all(can_be_read(repository, one) for one in everything - {blob})
        assert run(kept, tmp_path).passed
        repository = Repository.open(kept, SECRET)
        assert all(can_be_read(repository, one) for one in everything)


def run(store: Store, folder: Path) -> RepairReport:
    """On a machine that never saw the repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", tempfile.mkdtemp(dir=folder))
        return repair(store, SECRET, options=RepairOptions())


# -- engines ---------------------------------------------------------------------------------------------------------------


def change_hnswlib(folder: Path, number: int) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    rows = state(number)
    index = hnswlib.Index("l2", DIMENSION)
    index.init_index(len(rows), M=8, ef_construction=50, random_seed=1)
    index.set_num_threads(1)
    index.add_items(np.frombuffer(b"".join(one[0] for one in rows), np.float32).reshape(-1, DIMENSION), np.arange(len(rows)))
    index.save_index(str(folder / "index.bin"))
    pq.write_table(pa.table({"id": range(len(rows)), "document": [one[1] for one in rows]}), folder / "index.parquet")
    return f"hnswlib://{folder}/index.bin?space=l2"


def change_chroma(folder: Path, number: int) -> str:
    client = chromadb.PersistentClient(str(folder))
    things = client.get_or_create_collection("things", configuration={"hnsw": {"sync_threshold": 100, "batch_size": 50}})
    before = state(number - 1) if number else []
    changed = [(place, row) for place, row in enumerate(state(number)) if place >= len(before) or before[place] != row]
    things.upsert(
        ids=[str(place) for place, _ in changed],
        embeddings=np.frombuffer(b"".join(row[0] for _, row in changed), np.float32).reshape(-1, DIMENSION),
        documents=[row[1] or "" for _, row in changed],
    )
    client.close()
    return f"chroma://{folder}"


def change_lancedb(folder: Path, number: int) -> str:
    before = state(number - 1) if number else []
    changed = [(place, row) for place, row in enumerate(state(number)) if place >= len(before) or before[place] != row]
    rows = [{"id": place, "vector": np.frombuffer(row[0] * WIDER, np.float32), "document": row[1] or ""} for place, row in changed]
    database = lancedb.connect(folder)
    if number:
        database.open_table("things").merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)
    else:
        database.create_table("things", rows)
    return f"lancedb://{folder}"


WIDER = 8
"""LanceDB packs short vectors together with others; its files then hold them in no region of their own."""


@pytest.mark.parametrize(("change", "wider"), [(change_hnswlib, 1), (change_chroma, 1), (change_lancedb, WIDER)])
def test_every_engine_gives_what_is_there(change: Callable[[Path, int], str], wider: int, tmp_path: Path, own_state: Path) -> None:
    """All blocks of vectors of the first incremental are lost; those of which all is still there come back, and its rows."""
    chain = make_chain(tmp_path, change, states=3)
    manifests = chain.manifests()
    [first, second, _] = [one.collections[0] for one in manifests]
    repository = chain.open().repository
    last = {vector * wider for vector, _, _ in state(2)}
    segments = [one for one in second.segments if one.rest not in {other.rest for other in first.segments}]
    older = {other.blob for other in itertools.chain(*first.vectors.values())}
    blocks = [one for one in itertools.chain(*second.vectors.values()) if one.blob not in older]
    content = {one.blob: bytes(repository.read_blob(bytes.fromhex(one.blob))) for one in blocks}
    width = DIMENSION * 4 * wider
    there = {blob for blob, plain in content.items() if {plain[at : at + width] for at in range(0, len(plain), width)} <= last}
    assert there, "the test's own vectors are found in what is stored"
    for blob in [*content, *(one.rest for one in segments)]:
        hurt(chain, bytes.fromhex(blob))
    mend(chain)
    again = chain.open().repository
    assert {blob for blob in content if can_be_read(again, bytes.fromhex(blob))} >= there
    assert segments
    assert all(can_be_read(again, bytes.fromhex(one.rest)) for one in segments)
