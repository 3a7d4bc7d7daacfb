"""Is a tenant gone for good once his key is destroyed, by every road that leads back, and are all others as they were?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from commands import strongroom
from format_reader import Reader
from tenants import (
    CHEAP,
    PASSWORD,
    TENANTS,
    WRITERS,
    Letters,
    Town,
    all_that_can_be_read,
    build_town,
    expected,
    found_among,
    rows_of,
    write_faiss,
)

from strongroom.errors import Damaged, Overtaken, Refused, WrongRequest
from strongroom.library import init_repository, open_repository
from strongroom.model import ROLE, Role
from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.operations.erase.certificate import check
from strongroom.operations.erase.run import EraseOptions, EraseReport, erase
from strongroom.operations.hold import HoldOptions
from strongroom.operations.keys.reencrypt import ReencryptOptions
from strongroom.operations.prune.run import PruneOptions
from strongroom.operations.verify import Level
from strongroom.progress import Pace
from strongroom.repository import Repository, Secret, open_store
from strongroom.repository.carrying import MARK
from strongroom.repository.erasures import destructions
from strongroom.repository.framing import HEADER_BYTES
from strongroom.repository.holds import Scope
from strongroom.repository.policies import publish
from strongroom.repository.region import name_region
from strongroom.repository.tenants import FOLDER, folder_of, key_objects, keys_of
from strongroom.snapshots.tenant_parts import parts_of, tenants_of

WHY = "Art. 17 request 2026-118"
PARTLY, DAMAGED, REFUSED = 3, 4, 5


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return build_town(tmp_path)


def shred(town: Town, tenant: str = "acme", **wish: object) -> EraseReport:
    return town.room.erase(EraseOptions(tenant=tenant, reason=WHY, **wish))  # type: ignore[arg-type]


def verified(town: Town, level: Level = Level.DATA) -> list[str]:
    return [f"{one.subject}: {one.problem}" for one in town.room.verify(level=level).findings]


@pytest.mark.parametrize("engine", WRITERS)
def test_rows_come_back_and_a_shredded_tenants_dont(engine: str, tmp_path: Path) -> None:
    town = build_town(tmp_path, engine)
    assert not any(kept.catalog.feed for one in town.room.snapshots() for kept in one.manifest.collections)  # it may tell of rows
    town.room.restore(town.snapshots[1], town.other("whole"))
    assert rows_of(town.other("whole")) == expected(town.after)
    (rows,) = [one.rows for one in town.room.diff("latest~1", "latest").collections]
    assert rows is not None
    assert (rows.added, rows.changed, rows.removed) == (0, 6, 0)
    report = shred(town)
    assert [(one.rows, one.sealed) for one in report.still_in] == [(40, 40), (40, 40)]
    assert report.shredded.whole
    assert found_among(town.told, all_that_can_be_read(town.repository.store)) == set()
    for number, letters in enumerate((town.before, town.after)):
        plan = town.room.plan_restore(town.snapshots[number], town.other(f"left{number}"))
        assert "40 rows of tenant acme are not in it" in plan.reasons[-1]
        town.room.restore(town.snapshots[number], town.other(f"left{number}"))
        assert rows_of(town.other(f"left{number}")) == expected(letters, "acme")
    found = town.room.verify()
    assert found.findings == ()
    assert found.shredded[0].startswith("acme: 80 rows in 2 snapshots can't be read")


def test_only_a_tenants_key_opens_his_rows(town: Town, own_state: Path) -> None:
    """The attack works: with the key everything is found, without it nothing, be it in memory of this machine."""
    (key,) = keys_of(town.repository, "acme")
    shred(town)
    store = town.repository.store
    assert found_among(town.told, all_that_can_be_read(store)) == set()
    assert found_among(town.told, all_that_can_be_read(store, key)) == set(town.told)
    assert found_among(town.after.told("bolt"), all_that_can_be_read(store)) == set(town.after.told("bolt"))
    kept = [path.read_bytes() for path in own_state.rglob("*") if path.is_file()]
    assert found_among([*town.told, *town.after.told("bolt")], iter(kept)) == set()
    assert not list(own_state.rglob("rows"))


def test_nothing_confirms_a_guess(town: Town, tmp_path: Path) -> None:
    """Whoever knows the very rows, and has all keys of the repository, finds no hash of theirs: another repository with the same
    keys that stores them for everybody has not one blob in common, and other tenants' equal rows are stored apart."""
    shred(town)
    guess = tmp_path / "guess"
    shutil.copytree(town.folder / "repo", guess)
    before = {blob for pack in town.repository.index.packs.values() for blob in (one.id for one in pack.blobs)}
    room = open_repository(str(guess), password=PASSWORD)
    made = room.backup(town.url, tenant_column="").snapshot.manifest
    assert made.rows == 120
    assert before.isdisjoint(bytes.fromhex(blob) for blob in made.blobs())
    twins = Letters.written()
    twins.documents, twins.vectors[:] = ["the same"] * len(twins.owners), twins.vectors[0]
    url = write_faiss(tmp_path / "twins", twins)
    parts = parts_of(town.room.backup(url, tenant_column="owner").snapshot.manifest)
    blobs = [set(part.blobs) for part in parts]
    assert len(blobs) == 2
    assert blobs[0].isdisjoint(blobs[1])


def test_a_backup_stores_what_changed_of_each_tenant(town: Town) -> None:
    first, second = (one.manifest for one in town.room.snapshots())
    third = town.room.backup(town.url).snapshot.manifest
    assert third.stored_bytes == 0
    assert parts_of(third) == parts_of(second)
    assert second.stored_bytes < first.stored_bytes / 2
    assert all(set(old.blobs) & set(new.blobs) for old, new in zip(parts_of(first), parts_of(second), strict=True))
    assert not third.artifacts
    assert not any(one.probes or one.segments for one in third.collections)


def test_many_changes_leave_few_segments(town: Town) -> None:
    letters = town.after
    for step in range(10):
        letters.vectors[step * 3] += 1  # all of them acme's
        write_faiss(town.folder / "source", letters)
        town.room.backup(town.url)
    part = next(one for one in parts_of(town.room.snapshot("latest").manifest) if one.tenant == "acme")
    assert len(part.blobs) <= 4 * 11
    town.room.restore("latest", town.other("many"))
    assert rows_of(town.other("many")) == expected(letters)


def test_a_replica_loses_the_key_too_and_gets_none_again(town: Town) -> None:
    town.room.copy(str(town.folder / "near"))
    town.room.copy(str(town.folder / "far"))
    shutil.copytree(town.folder / "far", town.folder / "away")
    shutil.rmtree(town.folder / "far")
    report = shred(town)
    assert [one.place for one in report.shredded.gone] == [str(town.folder / "repo"), str(town.folder / "near")]
    assert [one.place for one in report.shredded.unreached] == [str(town.folder / "far")]
    assert not report.shredded.whole
    assert town.room.certificate(report.erasure)["certificate"]["replicas_not_reached"] == [str(town.folder / "far")]
    near = open_store(str(town.folder / "near"))
    assert found_among(town.told, all_that_can_be_read(near)) == set()
    near_room = open_repository(str(town.folder / "near"), password=PASSWORD)
    near_room.restore(town.snapshots[0], town.other("near-left"))
    assert rows_of(town.other("near-left")) == expected(town.before, "acme")
    shutil.copytree(town.folder / "away", town.folder / "far")  # it is back, with its key
    far = open_store(str(town.folder / "far"))
    town.room.copy(str(town.folder / "far"))
    assert found_among(town.told, all_that_can_be_read(far)) == set()
    again = shred(town)
    assert again.erasure == report.erasure
    assert again.shredded.whole
    assert town.room.certificate(report.erasure)["certificate"]["replicas_not_reached"] == []
    stale = open_repository(str(town.folder / "away"), password=PASSWORD)  # a copy of before, which knows of no erasure
    assert keys_of(stale.repository, "acme")
    stale.copy(str(town.folder / "repo"))
    assert key_objects(town.repository.store, town.repository.keys, "acme") == []


def test_a_copy_of_the_key_that_is_put_back_opens_nothing(town: Town) -> None:
    (name,) = key_objects(town.repository.store, town.repository.keys, "acme")
    content = town.repository.store.read(name)
    shred(town)
    town.repository.store.create(name, content)
    town.room.restore("latest", town.other("left"))
    assert rows_of(town.other("left")) == expected(town.after, "acme")
    assert any("was erased, and a key of his is still there" in one for one in verified(town))
    assert [one.keys for one in shred(town).shredded.gone] == [(name,)]
    assert verified(town) == []


def test_a_hold_refuses_and_says_so(town: Town) -> None:
    env = {"STRONGROOM_REPOSITORY": str(town.folder / "repo"), "STRONGROOM_PASSWORD": PASSWORD}
    arguments = ("erase", "--tenant", "acme", "--reason", WHY, "--quiet")
    for scope in (Scope(tenant="acme"), Scope(source=town.url), Scope(snapshots=(town.snapshots[0],))):
        hold = town.room.hold(HoldOptions(scope, "discovery", "CASE-114"))
        assert hold.covered
        with pytest.raises(Refused, match="CASE-114"):
            shred(town)
        assert len(keys_of(town.repository, "acme")) == 1
        assert hold.hold is not None
        town.room.release_hold(hold.hold.id, reason="over", authority="CASE-114")
    town.room.hold(HoldOptions(Scope(source=town.url), "discovery", "CASE-115"))
    strongroom(*arguments, env=env).failed(REFUSED, "CASE-115", "nothing was erased")
    assert rows_of_latest(town) == expected(town.after)


def test_a_hold_on_one_tenant_holds_no_other(town: Town) -> None:
    hold = town.room.hold(HoldOptions(Scope(tenant="bolt"), "discovery", "CASE-116"))
    assert sorted(hold.covered) == sorted(town.snapshots)
    shred(town)
    with pytest.raises(Refused, match="CASE-116"):
        shred(town, "bolt")
    town.room.hold(HoldOptions(Scope(tenant="corp"), "discovery", "CASE-117"))
    with pytest.raises(Refused, match="can't be held"):
        town.room.hold(HoldOptions(Scope(tenant="acme"), "discovery", "CASE-118"))
    hers = town.room.backup(town.url, tags={"tenant": "dora"}).snapshot.id  # all of it, whosever its rows
    town.room.hold(HoldOptions(Scope(tenant="dora"), "discovery", "CASE-119"))
    assert hers in town.snapshots
    town.room.release_hold(town.room.holds()[1].hold.id, reason="over", authority="CASE-117")
    with pytest.raises(Refused, match="CASE-119"):
        shred(town, "corp")


def rows_of_latest(town: Town) -> dict[str, tuple[str, bytes]]:
    town.room.restore("latest", town.other("held"), overwrite=True)
    return rows_of(town.other("held"))


def test_a_lost_key_is_damage_until_it_is_meant(town: Town) -> None:
    (name,) = key_objects(town.repository.store, town.repository.keys, "bolt")
    town.repository.store.delete(name)
    assert [one for one in verified(town) if "a key of tenant 'bolt'" in one]
    with pytest.raises(Damaged, match="bolt"):
        town.room.restore("latest", town.other("left"))
    shred(town, "bolt")
    assert verified(town, Level.RESTORE) == []
    town.room.restore("latest", town.other("left"))
    assert rows_of(town.other("left")) == expected(town.after, "bolt")


def test_a_lost_key_is_brought_back_from_a_replica(town: Town) -> None:
    town.room.copy(str(town.folder / "near"))
    (name,) = key_objects(town.repository.store, town.repository.keys, "bolt")
    town.repository.store.delete(name)
    assert verified(town)
    open_repository(str(town.folder / "near"), password=PASSWORD).copy(str(town.folder / "repo"))
    assert verified(town) == []
    town.room.restore("latest", town.other("whole"))
    assert rows_of(town.other("whole")) == expected(town.after)


def test_an_erased_tenant_is_backed_up_no_more(town: Town) -> None:
    shred(town)
    report = town.room.backup(town.url)
    assert [item.item for item in report.not_captured] == ["40 rows of acme"]
    assert {part.tenant for part in parts_of(report.snapshot.manifest)} == {"bolt", "corp"}
    assert keys_of(town.repository, "acme") == []


def test_a_tenant_who_is_erased_while_he_is_backed_up(town: Town) -> None:
    class Meddling(Pace):
        def read(self, amount: int) -> None:
            other = open_repository(str(town.folder / "repo"), password=PASSWORD)
            erase(other.repository, EraseOptions(tenant="acme", reason=WHY))

    before = town.snapshots
    with pytest.raises(Overtaken, match="acme"):
        backup(town.repository, town.url, BackupOptions(pace=Meddling()))
    assert town.snapshots == before
    assert keys_of(town.repository, "acme") == []


def test_snapshots_go_and_packs_are_pruned_as_ever(town: Town) -> None:
    shred(town)
    town.room.prune(PruneOptions(grace=timedelta(0)))
    assert verified(town) == []
    town.room.restore("latest", town.other("left"))
    assert rows_of(town.other("left")) == expected(town.after, "acme")


def test_the_certificate_tells_of_the_keys(town: Town) -> None:
    (key,) = key_objects(town.repository.store, town.repository.keys, "acme")
    report = shred(town)
    body = check(town.room.certificate(report.erasure))
    assert [(one["place"], one["keys"]) for one in body["keys_destroyed"]] == [(str(town.folder / "repo"), [key])]
    assert (body["keys_left"], body["still_encrypted_in"]) == ([], {})
    assert body["unreadable_in"] == dict.fromkeys(town.snapshots, 40)
    assert len(destructions(town.repository, report.erasure)) == 1
    shred(town)  # nothing more is done, and nothing more is told
    assert len(destructions(town.repository, report.erasure)) == 1


def test_the_page_of_the_format_is_enough(town: Town) -> None:
    shred(town, "corp")
    reader = Reader(town.folder / "repo", passphrase=PASSWORD)
    for (_, manifest), letters in zip(reader.snapshots().items(), (town.before, town.after), strict=True):
        assert manifest["strongroom_manifest"] == 3
        assert manifest["root"] == reader.root(manifest)
        (collection,) = manifest["collections"]
        tables = reader.rows_of_tenants(collection)
        assert sorted(tables) == ["acme", "bolt"]
        rows = [row for table in tables.values() for row in table.to_pylist()]
        told = {str(row["id"]): (row["document"], np.float32(row["vector"]).tobytes()) for row in rows}
        assert told == expected(letters, "corp")


def test_names_of_objects_tell_no_tenant(town: Town) -> None:
    names = " ".join(one.name for one in town.repository.store.list(""))
    assert names.count(FOLDER) == 3
    assert not any(tenant in names for tenant in TENANTS)
    other = init_repository(str(town.folder / "other"), password=PASSWORD, cost=CHEAP)
    assert folder_of(other.repository.keys, "acme") != folder_of(town.repository.keys, "acme")


def test_keys_are_sealed_anew_when_the_repositorys_are_rotated(town: Town) -> None:
    secret = Secret.passphrase(PASSWORD)
    shred(town, "corp")
    town.room.rotate_keys(secret)
    repository = Repository.open(town.repository.store, secret)
    names = [one.name for one in repository.store.list(FOLDER)]
    assert len(names) == 2
    tag = repository.keys.newest.tag
    assert all(repository.store.read(name, HEADER_BYTES, len(tag)) == tag for name in names)
    assert verified(town) == []
    shred(town)
    town.room.restore("latest", town.other("left"))
    assert rows_of(town.other("left")) == expected(town.after, "acme", "corp")


def test_old_keys_given_up_leave_no_copy_of_a_tenants_key(town: Town) -> None:
    """Nothing carries one: what is destroyed is gone, also where an erasure comes in the midst of it."""
    secret, at_once = Secret.passphrase(PASSWORD), ReencryptOptions(grace=timedelta())
    town.room.rotate_keys(secret)
    town.room.reencrypt(at_once)
    shred(town, "corp")
    for _ in range(3):
        town.room.reencrypt(at_once)
    assert not any(MARK in one.name for one in town.repository.store.inner.list(FOLDER))
    for _ in range(2):
        closed = town.room.close_epochs(timedelta()).closed
    assert closed
    assert verified(town) == []
    town.room.restore("latest", town.other("left"))
    assert rows_of(town.other("left")) == expected(town.after, "corp")
    shred(town)
    assert len(list(town.repository.store.list(FOLDER))) == 1


def test_a_source_stays_by_tenant_until_somebody_says_otherwise(town: Town) -> None:
    assert parts_of(town.room.backup(town.url, reread=True).snapshot.manifest)
    assert not parts_of(town.room.backup(town.url, tenant_column="").snapshot.manifest)
    report = shred(town)
    assert len(report.unsealed) == 1
    with pytest.raises(WrongRequest, match="whose they are"):
        town.room.backup(town.url, tenant_column="ovner")


def test_nobody_forgets_that_a_source_is_by_tenant(town: Town) -> None:
    """If what says so can't be read, rows aren't kept under everybody's key."""
    for name in town.snapshots:
        path = town.folder / "repo" / "snapshots" / name
        path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises(Refused, match="kept by tenant"):
            town.room.backup(town.url)
        shutil.rmtree(Path(os.environ["STRONGROOM_STATE_DIR"]))  # which remembers that they were there
    assert parts_of(town.room.backup(town.url, tenant_column="owner").snapshot.manifest)


def test_rows_of_nobody_are_kept_too(town: Town) -> None:
    letters = Letters.written()
    letters.owners[5] = ""
    write_faiss(town.folder / "source", letters)
    made = town.room.backup(town.url).snapshot.manifest
    assert {part.tenant: part.rows for part in parts_of(made)} == {"": 1, "acme": 40, "bolt": 40, "corp": 39}
    for tenant in TENANTS:
        shred(town, tenant)
    town.room.restore("latest", town.other("left"))
    assert list(rows_of(town.other("left"))) == ["5"]
    assert verified(town, Level.RESTORE) == []  # of the older snapshots nothing is left to be restored


def test_the_payload_may_say_whose_a_row_is() -> None:
    payload = pa.field("metadata", pa.string(), metadata={ROLE: Role.PAYLOAD.encode()})
    texts = ['{"owner": "acme"}', '{"owner": 7}', '{"other": 1}', None, "[1]", '{"owner": true}']
    assert tenants_of(pa.record_batch([pa.array(texts)], pa.schema([payload])), "owner") == ["acme", "7", "", "", "", "true"]


def test_an_erasure_within_a_tenant_leaves_the_others_rows(town: Town) -> None:
    town.room.erase(EraseOptions(tenant="acme", ids=("0", "1", "3"), reason=WHY))
    town.room.restore("latest", town.other("left"))
    left = expected(town.after)
    assert rows_of(town.other("left")) == {one: row for one, row in left.items() if one not in ("0", "3")}
    assert len(keys_of(town.repository, "acme")) == 1


def test_an_engine_that_takes_files_alone_is_refused(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PostgreSQL's data directories are: rows alone would never come back there."""
    from strongroom.engines.faiss.target import FaissTarget

    monkeypatch.setattr(FaissTarget, "objections", lambda *_: ["rows can't be loaded into it"])
    with pytest.raises(Refused, match="can't be kept by tenant"):
        town.room.backup(town.url)


def test_no_journal_beside_tenants_keys(town: Town, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="isn't followed"):
        town.room.follow(town.url)
    url = WRITERS["lancedb"](tmp_path / "lake", town.before)
    followed(town, url)
    with pytest.raises(Refused, match="has a journal here"):
        town.room.backup(url, tenant_column="owner")


def followed(town: Town, url: str) -> None:
    from strongroom.operations.follow.run import FollowOptions

    town.room.follow(url, FollowOptions(once=True))


@pytest.fixture
def kept_in_europe(town: Town) -> Iterator[Town]:
    rule = {"name": "acme at home", "regions": ["eu-central-1"], "source": ["*"], "tenant": ["acme"]}
    publish(town.repository, {"residency": [rule]})
    yield town


def test_residency_is_asked_of_every_tenant(kept_in_europe: Town) -> None:
    town, before = kept_in_europe, kept_in_europe.snapshots
    name_region(town.repository, "us-east-1")
    with pytest.raises(Refused, match="acme at home"):
        town.room.backup(town.url)
    assert town.snapshots == before
    with pytest.raises(Refused, match="acme at home"):
        town.room.copy(str(town.folder / "abroad"))


def test_by_the_command_line(town: Town, tmp_path: Path) -> None:
    env = {"STRONGROOM_REPOSITORY": str(town.folder / "repo"), "STRONGROOM_PASSWORD": PASSWORD}
    made = strongroom("backup", town.url, "--tenants", "owner", "--quiet", "--json", env=env).done().json
    assert made["rows"] == 120
    shown = strongroom("show", "latest", "--json", env=env).done()
    assert "secret" not in shown.out
    dry = strongroom("erase", "--tenant", "acme", "--reason", WHY, "--dry-run", "--quiet", env=env).done()
    assert "120 rows in 3 snapshots" in dry.out
    done = strongroom("erase", "--tenant", "acme", "--reason", WHY, "--quiet", env=env).done()
    assert f"keys destroyed in {town.folder / 'repo'}: 1" in done.out
    missing = str(tmp_path / "nowhere")
    away = strongroom("erase", "--tenant", "acme", "--reason", WHY, "--replica", missing, "--quiet", env=env)
    assert away.code == PARTLY
    assert "may still be there" in away.err
    told = strongroom("verify", "--quiet", env=env).done()
    assert "tenant acme: 120 rows in 3 snapshots can't be read" in told.out
