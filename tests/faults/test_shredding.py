"""Does a crash or a failing store, at whatever operation of a tenant's erasure or backup, bring him back, or lose another one?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_store import FaultyStore, SimulatedCrash, at, felt
from sampling import part_of
from towns import empty_store
from worlds import CHEAP, PASSWORD

from strongroom.errors import StrongroomError
from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.operations.copy import copy
from strongroom.operations.erase.run import EraseOptions, erase
from strongroom.operations.restore.rows import stored_rows
from strongroom.operations.verify import verify
from strongroom.repository import Repository, Secret, Store
from strongroom.repository.erasures import destructions, erased_tenants, erasures
from strongroom.repository.tenant_renewal import reseal
from strongroom.repository.tenants import key_objects, keys_of
from strongroom.snapshots import history
from strongroom.snapshots.tenant_parts import opened, tenants_of

SECRET = Secret.passphrase(PASSWORD)
SHRED = EraseOptions(tenant="acme", reason="asked")
FAULTS = part_of(["crash after"], ["crash before", "crash after", "unreachable after"])
_STATES = itertools.count()


def write(folder: Path, seed: int) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    made = faiss.IndexFlatL2(8)
    made.add(np.random.default_rng(seed).standard_normal((30, 8)).astype(np.float32))
    faiss.write_index(made, str(folder / "x.faiss"))
    owners = ["acme" if place % 2 else "bolt" for place in range(30)]
    pq.write_table(pa.table({"document": [f"{seed}: {place}" for place in range(30)], "owner": owners}), folder / "x.parquet")
    return f"faiss://{folder}/x.faiss"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], str]:
    """The objects of a repository with one snapshot of two tenants, and its source, which has changed since."""
    folder, store = tmp_path_factory.mktemp("tenants"), empty_store()
    repository = Repository.create(store, SECRET, cost=CHEAP)
    url = write(folder, 1)
    backup(repository, url, BackupOptions(tenant_column="owner"))
    write(folder, 2)
    return {one.name: store.read(one.name) for one in store.list("")}, url


def stored(objects: dict[str, bytes]) -> Store:
    store = empty_store()
    for name, content in objects.items():
        store.create(name, content)
    return store


def open_anew(store: Store, tmp_path: Path, patch: pytest.MonkeyPatch) -> Repository:
    patch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / f"state-{next(_STATES)}"))
    return Repository.open(store, SECRET)


def rows_by_tenant(repository: Repository, snapshot: str) -> dict[str, int]:
    found: dict[str, int] = {}
    whole = opened(repository, history.read(repository, snapshot))
    for collection in whole.manifest.collections:
        for block in stored_rows(whole.reading(repository), collection):
            for tenant in tenants_of(block.live(), "owner"):
                found[tenant] = found.get(tenant, 0) + 1
    return found


def broken_off(work: Callable[[Store], object], inner: Store, number: int, fault: str) -> None:
    try:
        work(FaultyStore(inner, at(number, fault)))
    except (SimulatedCrash, StrongroomError):
        return


def every(work: Callable[[Store], object], objects: dict[str, bytes], fault: str) -> Iterator[tuple[Store, str]]:
    """The store after the work met the fault at each of its operations."""
    counting = FaultyStore(stored(objects))
    work(counting)
    assert len(counting.operations) > 5
    for number in felt(fault, counting.operations):
        store = stored(objects)
        broken_off(work, store, number, fault)
        yield store, f"{fault} {counting.operations[number]}"


@pytest.mark.parametrize("fault", FAULTS)
def test_an_erasure_that_is_cut_off_is_finished_by_the_next(fault, pristine, tmp_path, monkeypatch) -> None:
    objects, _ = pristine
    begun = 0
    for store, where in every(lambda one: erase(Repository.open(one, SECRET), SHRED), objects, fault):
        repository = open_anew(store, tmp_path, monkeypatch)
        (snapshot,) = repository.manifest_ids()
        erased = "acme" in erased_tenants(erasures(repository))
        keys = key_objects(store, repository.keys, "acme")
        assert erased or keys, where  # no key goes before the ledger says why
        assert rows_by_tenant(repository, snapshot) == ({"bolt": 15} if erased else {"acme": 15, "bolt": 15}), where
        problems = [one.problem for one in verify(repository).findings]
        assert all("is still there" in one for one in problems), (where, problems)
        assert bool(problems) == (erased and bool(keys)), where
        report = erase(repository, SHRED)
        assert report.shredded.whole, where
        assert key_objects(store, repository.keys, "acme") == [], where
        assert len(erased_tenants(erasures(repository))) == len(erasures(repository)) == 1, where
        assert destructions(repository, report.erasure), where
        assert verify(repository).passed, where
        assert rows_by_tenant(repository, snapshot) == {"bolt": 15}, where
        begun += erased
    assert begun


@pytest.mark.parametrize("fault", FAULTS)
def test_a_backup_that_is_cut_off_leaves_every_tenant_readable(fault, pristine, tmp_path, monkeypatch) -> None:
    objects, url = pristine
    for store, where in every(lambda one: backup(Repository.open(one, SECRET), url), objects, fault):
        repository = open_anew(store, tmp_path, monkeypatch)
        assert all(rows_by_tenant(repository, one) == {"acme": 15, "bolt": 15} for one in repository.manifest_ids()), where
        assert verify(repository).passed, where


def test_keys_that_are_made_at_once_are_both_good(pristine, tmp_path, monkeypatch) -> None:
    """Two machines meet a new tenant at the same time."""
    objects, url = pristine
    store = stored({name: content for name, content in objects.items() if not name.startswith(("tenants/", "snapshots/"))})
    racing = FaultyStore(store)
    racing.hidden |= {name for name in objects if name.startswith("tenants/")}
    first = backup(Repository.open(store, SECRET), url, BackupOptions(tenant_column="owner")).snapshot.id
    racing.hidden |= {one.name for one in store.list("tenants/")}
    second = backup(Repository.open(racing, SECRET), url, BackupOptions(tenant_column="owner")).snapshot.id
    repository = open_anew(store, tmp_path, monkeypatch)
    assert len(keys_of(repository, "acme")) == 2
    assert all(rows_by_tenant(repository, one) == {"acme": 15, "bolt": 15} for one in (first, second))
    erase(repository, SHRED)
    assert all(rows_by_tenant(repository, one) == {"bolt": 15} for one in (first, second))
    assert keys_of(repository, "acme") == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_copy_that_is_cut_off_never_keeps_an_erased_tenants_key(fault, pristine, tmp_path, monkeypatch) -> None:
    objects, _ = pristine
    primary, replica = stored(objects), empty_store()
    copy(Repository.open(primary, SECRET), replica)
    before = {one.name: replica.read(one.name) for one in replica.list("")}
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "elsewhere"))  # where nobody knows of the replica
    repository = Repository.open(primary, SECRET)
    erase(repository, SHRED)
    for store, where in every(lambda one: copy(repository, one), before, fault):
        told = Repository.open(store, SECRET)
        if "acme" in erased_tenants(erasures(told)):
            (snapshot,) = told.manifest_ids()
            assert rows_by_tenant(told, snapshot) == {"bolt": 15}, where
        copy(repository, store)
        assert key_objects(store, repository.keys, "acme") == [], where


def test_a_stale_copy_of_the_repository_brings_no_key_back(pristine, tmp_path, monkeypatch) -> None:
    """Not for a moment, though the copy itself knows of no erasure."""
    objects, _ = pristine
    store = stored(objects)
    erase(open_anew(store, tmp_path, monkeypatch), SHRED)
    told = FaultyStore(store)
    stale = open_anew(stored(objects), tmp_path, monkeypatch)
    (name,) = key_objects(stale.store, stale.keys, "acme")
    copy(stale, told)
    assert name not in {one.name for one in told.operations if one.verb == "create"}
    assert key_objects(store, stale.keys, "acme") == []


@pytest.mark.parametrize("fault", FAULTS)
def test_keys_that_are_sealed_anew_are_there_at_any_moment(fault, pristine, tmp_path, monkeypatch) -> None:
    from strongroom.repository.rotation import rotate

    objects, _ = pristine
    store = stored(objects)
    rotate(Repository.open(store, SECRET), SECRET, cost=CHEAP)
    rotated = {one.name: store.read(one.name) for one in store.list("")}
    for cut, where in every(lambda one: reseal(Repository.open(one, SECRET)), rotated, fault):
        repository = open_anew(cut, tmp_path, monkeypatch)
        (snapshot,) = repository.manifest_ids()
        assert rows_by_tenant(repository, snapshot) == {"acme": 15, "bolt": 15}, where
        reseal(repository)
        assert len(list(cut.list("tenants/"))) == 2, where
