"""After old keys leaked and all was encrypted anew: what do they open, and was there a moment in which a snapshot was lost?"""

from __future__ import annotations

import itertools
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import faiss
import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from faulty_store import FaultyStore, Operation, SimulatedCrash, at
from towns import GRACE, OLD, Content, empty_store, files_in, stored_copy
from worlds import CHEAP, PASSWORD, Sources, World, build_source, files_of

from strongroom.clock import Clock
from strongroom.errors import AlreadyExists, Damaged, Overtaken, Refused, StrongroomError
from strongroom.journal.stream import read_chain, streams
from strongroom.library import init_repository, open_repository
from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.operations.copy import CopyOptions, copy, open_replica
from strongroom.operations.drill.past import drill_history
from strongroom.operations.drill.report import DrillReport
from strongroom.operations.drill.signing import signed
from strongroom.operations.follow.run import FollowOptions
from strongroom.operations.forget import ForgetOptions, forget
from strongroom.operations.keys.close_epochs import close_epochs
from strongroom.operations.keys.epochs_left import by_epoch, sealed_by
from strongroom.operations.keys.reencrypt import ReencryptOptions, ReencryptReport, reencrypt
from strongroom.operations.keys.status import key_status
from strongroom.operations.prune.run import PruneOptions, prune
from strongroom.operations.repair import repair
from strongroom.operations.repair.epochs import mend_epochs
from strongroom.operations.repair.report import Notes
from strongroom.operations.verify import Level, VerifyOptions, verify
from strongroom.repository import Repository, Secret, Store, drills, new_key_file
from strongroom.repository.audit_log import entry_name
from strongroom.repository.carrying import MARK, carried_name, plain_name
from strongroom.repository.closing import close_before, closing_name, decode_closing
from strongroom.repository.crypto import derive
from strongroom.repository.framing import Kind, seal
from strongroom.repository.identity import AccessRole, Bearer
from strongroom.repository.key_renewal import rewrap
from strongroom.repository.keyring import begin_epoch, name_of, numbers, read_beginning
from strongroom.repository.keys import Keys
from strongroom.repository.policies import publish
from strongroom.repository.rotation import rotate, upgrade
from strongroom.repository.state import state_directory

NOW = timedelta()
ANOTHER = Secret.passphrase("another's")
AT_ONCE = ReencryptOptions(grace=NOW)


def everything(store: Store) -> dict[str, bytes]:
    return {listed.name: store.read(listed.name) for listed in store.list("")}


def copied(store: Store) -> Store:
    target = empty_store()
    for name, content in everything(store).items():
        target.create(name, content)
    return target


@pytest.fixture
def store(world: World) -> Store:
    """Three snapshots, and new keys since."""
    made = stored_copy(world)
    repository = Repository.open(made, OLD)
    rotate(repository, OLD, drop=True, cost=CHEAP)
    return made


@pytest.fixture
def expected(world: World) -> dict[str, Content]:
    return {snapshot: world.expected[snapshot] for snapshot in world.order}


def test_a_keyring_object_that_is_cut_anywhere_is_damage(store: Store) -> None:
    whole = store.read(name_of(1))
    closing = close_before(opened(store).keys, (), "2026-11-29T12:00:00+00:00")
    assert decode_closing(1, closing).number == 1
    for length in range(len(closing)):
        with pytest.raises(Damaged):
            decode_closing(1, closing[:length])
    for length in range(len(whole)):
        store.delete(name_of(1))
        store.create(name_of(1), whole[:length])
        with pytest.raises(Damaged):
            read_beginning(store, 1)


def opened(store: Store) -> Repository:
    return Repository.open(store, OLD)


def require_all(store: Store, expected: dict[str, Content]) -> None:
    repository = opened(store)
    assert repository.manifest_ids() == sorted(expected)
    for snapshot, content in expected.items():
        assert files_in(repository, snapshot) == content, snapshot


def finished(repository: Repository) -> ReencryptReport:
    """One run without a time of grace is enough."""
    report = reencrypt(repository, AT_ONCE)
    assert report.written, report
    assert report.done, report
    assert not report.problems
    return report


# -- what it is for --------------------------------------------------------------------------------------------------------


def test_old_keys_open_nothing_after_it(store: Store, expected: dict[str, Content]) -> None:
    """With raw primitives: every key that the old epoch could derive, at every place of every object where a ciphertext begins."""
    master, repository_id = opened(store).keys.master, opened(store).config.repository_id
    before = everything(store)
    assert {name.split("/")[0] for name in _opened_by(before, master, repository_id)} >= {"packs", "index", "snapshots"}
    finished(opened(store))
    assert not _opened_by(everything(store), master, repository_id)
    require_all(store, expected)
    assert close_epochs(opened(store), grace=NOW).closed
    assert not _opened_by(everything(store), master, repository_id)
    require_all(store, expected)


def _opened_by(objects: dict[str, bytes], secret: bytes, repository_id: bytes) -> list[str]:
    return [name for name, content in objects.items() if _opens(name, content, secret, repository_id)]


def _opens(name: str, content: bytes, secret: bytes, repository_id: bytes) -> bool:
    if content[:4] != b"SRRM":
        return False
    start, salt, rest = content[:6], content[6:38], content[38:]
    bounds = [start + repository_id, start + repository_id + name.split("~/")[0].encode()]
    ends = [rest, rest[4:], rest[: int.from_bytes(rest[-4:], "little")], rest[-4 - int.from_bytes(rest[-4:], "little") : -4]]
    for purpose, bound, end, nonce in itertools.product([one.purpose for one in Kind], bounds, ends, (0, 1)):
        with suppress(InvalidTag, ValueError):
            AESGCM(derive(secret, purpose, salt=salt + repository_id)).decrypt(nonce.to_bytes(12, "big"), end, bound)
            return True
    return False


def test_names_hashes_and_signatures_stay(store: Store, expected: dict[str, Content]) -> None:
    seen = {name: content for name, content in everything(store).items() if name.startswith("snapshots/")}
    finished(opened(store))
    close_epochs(opened(store), grace=NOW)
    raw = everything(store)
    assert not seen.keys() & raw.keys()
    assert {carried_name(name, 1) for name in seen} <= raw.keys()
    repository = opened(store)
    for name, content in seen.items():
        assert repository.store.read(name) == content
        assert repository.store.size(name) == len(content)
        assert {one.name: one.size for one in repository.store.list("snapshots/")}[name] == len(content)
    found = verify(repository, options=VerifyOptions(level=Level.DATA))
    assert not found.findings
    assert set(found.healthy) == expected.keys()


def test_a_second_time_carries_what_is_carried(store: Store, expected: dict[str, Content]) -> None:
    finished(opened(store))
    close_epochs(opened(store), grace=NOW)
    rotate(opened(store), OLD, drop=True, cost=CHEAP)
    assert [one.epoch for one in by_epoch(sealed_by(opened(store)))] == [1]
    finished(opened(store))
    assert close_epochs(opened(store), grace=NOW).closed
    names = {name for name in everything(store) if name.startswith("keyring/")}
    assert names == {closing_name(2)}
    assert {name.partition(MARK)[2] for name in everything(store) if MARK in name} == {"000002"}
    assert [one.number for one in opened(store).keys.epochs] == [2]
    require_all(store, expected)
    opened(store).add_key(ANOTHER, "another", cost=CHEAP)
    assert files_in(Repository.open(store, ANOTHER), next(iter(expected))) == next(iter(expected.values()))
    rotate(opened(store), OLD, cost=CHEAP)
    for secret in (OLD, ANOTHER):
        assert [one.number for one in Repository.open(store, secret).keys.epochs] == [2, 3]


def test_it_goes_on_within_a_budget_and_waits_for_the_time_of_grace(store: Store, expected: dict[str, Content]) -> None:
    first = reencrypt(opened(store), ReencryptOptions(budget=1))
    assert (first.written, first.deleted.packs) == (False, 0)
    assert first.emptied.packs + first.carried.packs >= 1
    runs = 1
    while not reencrypt(opened(store), ReencryptOptions(budget=200_000)).written:
        runs += 1
        require_all(store, expected)
    assert 1 < runs < 30
    waiting = reencrypt(opened(store))
    assert waiting.written
    assert not waiting.done
    assert (waiting.emptied.packs, waiting.carried.packs, waiting.deleted.packs) == (0, 0, 0)
    assert {f"snapshots/{one}" for one in expected} <= everything(store).keys(), "each lies there twice"
    with pytest.raises(Refused, match="epoch 0: "):
        close_epochs(opened(store), grace=NOW)
    finished(opened(store))
    waits = close_epochs(opened(store))
    assert not waits.closed
    assert numbers(store) == [1]
    assert close_epochs(opened(store), grace=NOW).closed
    require_all(store, expected)


def test_a_dry_run_tells_and_does_nothing(store: Store) -> None:
    before = everything(store)
    report = reencrypt(opened(store), ReencryptOptions(dry_run=True))
    assert [(one.epoch, one.packs) for one in report.left] == [(0, len([name for name in before if name.startswith("packs/")]))]
    assert everything(store) == before
    rotated = empty_store()
    Repository.create(rotated, OLD, cost=CHEAP)
    with pytest.raises(Refused, match="never rotated"):
        reencrypt(Repository.open(rotated, OLD))


# -- crashes and faults ----------------------------------------------------------------------------------------------------


def all_of_it(store: Store) -> None:
    repository = opened(store)
    reencrypt(repository, AT_ONCE)
    close_epochs(repository, grace=NOW)


def forget_epochs() -> None:
    """Copies of one store are no rollbacks of each other."""
    for path in state_directory().glob("*-epoch.json"):
        path.unlink()


@pytest.mark.parametrize("fault", ["crash before", "unreachable after", "exists after"])
def test_wherever_it_stops_every_snapshot_is_there_and_it_goes_on(store: Store, expected: dict[str, Content], fault: str) -> None:
    all_of_it(copied(store))  # what this machine caches saves the next ones some reads
    forget_epochs()
    whole = FaultyStore(copied(store))
    all_of_it(whole)
    writing = {"create", "delete"}
    places = [one.number for one in whole.operations if one.verb in writing]
    assert len(places) > 20
    places = places if fault == "crash before" else places[::5]
    for number in places:
        forget_epochs()
        inner = copied(store)
        with suppress(SimulatedCrash, StrongroomError):
            all_of_it(FaultyStore(inner, at(number, fault)))
        require_all(inner, expected)
        all_of_it(inner)
        require_all(inner, expected)
        assert [one.number for one in opened(inner).keys.epochs] == [1]


class Rotting(FaultyStore):
    """What is written below a folder is damaged on its way to the disk."""

    folder = ""

    def create(self, name: str, data: bytes | memoryview) -> None:
        content = bytearray(data)
        content[len(content) // 2] ^= name.startswith(self.folder)
        super().create(name, bytes(content))


@pytest.mark.parametrize("folder", ["packs/", "snapshots/", "index/"])
def test_nothing_goes_before_what_took_its_place_reads_back(store: Store, expected: dict[str, Content], folder: str) -> None:
    rotting = Rotting(store)
    rotting.folder = folder
    before = {name for name in everything(store) if name.startswith(folder)}
    report = reencrypt(opened(rotting), AT_ONCE)
    assert report.problems
    assert not report.written
    assert before & everything(store).keys()
    require_all(store, expected)
    for name in everything(store).keys() - before:
        if name.startswith(folder) and folder != "packs/":  # a damaged pack has whole blobs, too
            store.delete(name)
    finished(opened(store))
    require_all(store, expected)


# -- beside others ---------------------------------------------------------------------------------------------------------


PLACES = [("create", "packs/", 1), ("create", "index/", 1), ("create", "snapshots/", 1)]
PLACES += [("list", folder, count) for folder in ("keyring/", "tombstones/condemned/", "index/", "packs/") for count in (1, 2)]


@pytest.mark.parametrize("grace", [GRACE, NOW])
def test_a_backup_that_began_with_old_keys_is_not_lost(
    world: World, expected: dict[str, Content], tmp_path: Path, grace: timedelta
) -> None:
    """Rotation and re-encryption happen between two of its operations. Without a time of grace it may fail, and says so."""
    source = build_source(tmp_path, "first", 1, changed=40)  # partly new, so that it relies on old packs and writes its own
    before = stored_copy(world)
    upgrade(opened(before), OLD, cost=CHEAP)
    for place in PLACES:
        inner, met = copied(before), Meeting(*place)

        def meanwhile(operation: Operation, inner: Store = inner, met: Meeting = met) -> None:
            if met.now(operation):
                rotate(opened(inner), OLD, drop=True, cost=CHEAP)
                reencrypt(opened(inner), ReencryptOptions(grace=grace))
                with suppress(Refused):
                    close_epochs(opened(inner), grace=grace)

        forget_epochs()
        slow = opened(FaultyStore(inner, meanwhile))
        met.ready = True
        with nullcontext() if grace else suppress(Overtaken):
            backup(slow, f"faiss://{source}", BackupOptions(probes=0))
        assert met.count <= 0, place
        kept = {one: expected.get(one, files_of(source)) for one in opened(inner).manifest_ids()}
        assert expected.keys() <= kept.keys()
        require_all(inner, kept)
        if grace:
            assert len(kept) == len(expected) + 1
            finished(opened(inner))
            assert close_epochs(opened(inner), grace=NOW).closed
            require_all(inner, kept)


@dataclass
class Meeting:
    """The so manieth operation of a kind below a folder, from when it is ready on."""

    verb: str
    folder: str
    count: int
    ready: bool = False

    def now(self, operation: Operation) -> bool:
        if not self.ready or operation.verb != self.verb or not operation.name.startswith(self.folder):
            return False
        self.count -= 1
        return self.count == 0


def test_of_two_at_once_both_end_and_nothing_is_lost(store: Store, expected: dict[str, Content]) -> None:
    """The second one does all of it between two operations of the first."""
    reencrypt(opened(copied(store)), AT_ONCE)
    whole = FaultyStore(copied(store))
    reencrypt(opened(whole), AT_ONCE)
    for number in [one.number for one in whole.operations if one.verb in ("create", "delete")][::2]:
        inner = copied(store)

        def meanwhile(operation: Operation, inner: Store = inner, number: int = number) -> None:
            if operation.number == number:
                all_of_it(inner)

        forget_epochs()
        with suppress(StrongroomError):
            reencrypt(opened(FaultyStore(inner, meanwhile)), AT_ONCE)
        require_all(inner, expected)
        forget_epochs()
        finished(opened(inner))
        require_all(inner, expected)


def test_what_is_forgotten_meanwhile_does_not_come_back(store: Store, expected: dict[str, Content]) -> None:
    gone, *_ = expected

    def meanwhile(operation: Operation) -> None:
        if operation.verb == "create" and operation.name.startswith(f"snapshots/{gone}~/"):
            forget(opened(store), ForgetOptions((gone,)))

    reencrypt(opened(FaultyStore(store, meanwhile)), AT_ONCE)
    del expected[gone]
    require_all(store, expected)
    finished(opened(store))
    prune(opened(store), PruneOptions(grace=NOW))
    prune(opened(store), PruneOptions(grace=NOW))
    require_all(store, expected)
    assert close_epochs(opened(store), grace=NOW).closed


def test_forgetting_takes_away_what_is_carried(store: Store, expected: dict[str, Content]) -> None:
    reencrypt(opened(store))  # each manifest lies there twice
    gone, *_ = expected
    forget(opened(store), ForgetOptions((gone,)))
    assert not [name for name in everything(store) if gone in name]
    del expected[gone]
    finished(opened(store))
    require_all(store, expected)


# -- journals and the audit log --------------------------------------------------------------------------------------------


def test_the_audit_log_stays_one_chain(world: World, sources: Sources) -> None:
    url = f"memory://reencrypted-{world.folder.parent.name}"
    room = init_repository(url, password=PASSWORD, cost=CHEAP)
    room.backup(f"faiss://{sources.first}")
    room.rotate_keys(OLD)
    told = [one.number for one in room.access.log.read()]
    reports = [room.reencrypt(AT_ONCE), room.reencrypt(AT_ONCE)]
    assert reports[-1].done
    assert room.close_epochs(NOW).closed
    again = open_repository(url, password=PASSWORD)
    assert again.verify_audit().passed
    entries = again.access.log.read()
    assert [one.number for one in entries][: len(told)] == told
    assert not [one for one in entries if isinstance(one.record, Damaged)]
    raw = {listed.name for listed in again.repository.store.inner.list("audit/")}
    assert entry_name(0) not in raw
    with pytest.raises(AlreadyExists):
        again.repository.store.create(entry_name(0), b"of a writer that slept")
    assert raw <= {listed.name for listed in again.repository.store.inner.list("audit/")}
    assert entry_name(0) not in {listed.name for listed in again.repository.store.inner.list("audit/")}


# -- replicas --------------------------------------------------------------------------------------------------------------


def test_replicas_follow_and_hold_back_what_they_need(store: Store, expected: dict[str, Content], sources: Sources) -> None:
    replica = empty_store()
    copy(opened(store), replica)
    finished(opened(store))
    copy(opened(store), replica)
    with pytest.raises(Refused, match=f"{replica.url} still needs"):
        close_epochs(opened(store), [replica], grace=NOW)
    assert numbers(store) == [1]
    finished(open_replica(opened(store), replica))
    assert close_epochs(opened(store), [replica], grace=NOW).closed
    made = backup(opened(store), f"faiss://{sources.second}", BackupOptions(probes=0)).snapshot.id
    expected[made] = files_of(sources.second)
    assert copy(opened(store), replica).whole
    require_all(replica, expected)
    assert close_epochs(open_replica(opened(store), replica), grace=NOW).closed
    assert copy(opened(store), replica).whole
    assert numbers(replica) == []
    fresh = empty_store()
    assert copy(opened(store), fresh, CopyOptions(read_back=True)).whole
    for one in (store, replica, fresh):
        require_all(one, expected)
        assert not [name for name in everything(one) if name.startswith("snapshots/") and MARK not in name and made not in name]
    rotate(opened(store), OLD, cost=CHEAP)
    for one in (replica, fresh):
        assert copy(opened(store), one).whole
        assert opened(one).keys.newest.number == 2


def test_a_replica_without_the_newest_epoch_holds_it_back(store: Store) -> None:
    replica = empty_store()
    copy(opened(store), replica)
    rotate(opened(store), OLD, cost=CHEAP)
    finished(opened(store))
    with pytest.raises(Refused, match="doesn't have epoch 2"):
        close_epochs(opened(store), [replica], grace=NOW)


# -- a store that is the enemy ---------------------------------------------------------------------------------------------


def test_what_old_keys_sign_passes_no_more(store: Store, expected: dict[str, Content]) -> None:
    old = Keys.of(opened(store).keys.master, opened(store).config.repository_id)
    genuine = opened(store).read_manifest(next(iter(expected)))
    finished(opened(store))
    forged, content = seal(old, Kind.SNAPSHOT, old.sign(genuine) + genuine)
    store.create(f"snapshots/{forged}", content)
    assert opened(store).read_manifest(forged) == genuine, "until the epoch is closed"
    store.delete(f"snapshots/{forged}")
    assert not close_epochs(opened(store)).closed
    store.create(f"snapshots/{forged}", content)
    assert opened(store).read_manifest(forged) == genuine, "while it is only announced"
    with pytest.raises(Refused, match="epoch 0: 1 object"):
        close_epochs(opened(store), grace=NOW)
    store.delete(f"snapshots/{forged}")
    assert close_epochs(opened(store), grace=NOW).closed
    store.create(f"snapshots/{forged}", content)
    with pytest.raises(Damaged, match="key"):
        opened(store).read_manifest(forged)


def test_a_machine_that_saw_the_newest_epoch_refuses_older_stores(store: Store) -> None:
    before, master = copied(store), opened(store).keys.master
    repository_id = opened(store).config.repository_id
    all_of_it(store)
    rotate(opened(store), OLD, cost=CHEAP)
    assert opened(store).keys.newest.number == 2
    with pytest.raises(Damaged, match="not there"):
        opened(before)
    assert opened(store).keys.newest.number == 2
    enemy = Keys.of(master, repository_id)
    for _ in range(3):
        enemy.begin(begin_epoch(enemy, [], "2026-01-01T00:00:00+00:00")[0])
    slots = opened(store).key_slots()[0]
    ours, theirs = opened(store).keys.certificates(), enemy.certificates()
    for lineage in (theirs, [theirs[0], ours[1], ours[2], theirs[3]]):  # the second is known from what closes epochs
        planted = copied(before)
        planted.delete(name_of(1))
        enemy.certificates = lambda lineage=lineage: lineage  # type: ignore[method-assign, misc]
        planted.create(closing_name(3), close_before(enemy, slots, "2026-01-01T00:00:00+00:00"))
        with pytest.raises(Damaged, match="keyring/"):
            opened(planted)


@pytest.mark.parametrize("harm", ["missing", "flipped", "cut", "another's"])
def test_what_closes_epochs_is_proven_and_comes_back_from_a_copy(store: Store, harm: str) -> None:
    slot = opened(store).key_slots()[0][0]
    all_of_it(store)
    opened(store).add_key(ANOTHER, "newer", cost=CHEAP)
    replica = opened(copied(store))
    content = store.read(closing_name(1))
    enemy = Keys.of(b"s" * 32, replica.config.repository_id)
    enemy.begin(begin_epoch(enemy, [], "2026-01-01T00:00:00+00:00")[0])
    harmed = {
        "flipped": content[:400] + bytes([content[400] ^ 1]) + content[401:],
        "cut": content[:-1],
        "another's": close_before(enemy, [slot], "2026-01-01T00:00:00+00:00"),
    }
    store.delete(closing_name(1))
    if harm in harmed:
        store.create(closing_name(1), harmed[harm])
    forget_epochs()
    with pytest.raises(StrongroomError) as caught:
        files_in(opened(store), replica.manifest_ids()[0])
    assert isinstance(caught.value, Damaged)
    if harm == "missing":
        found = verify(Repository.open(store, ANOTHER), options=VerifyOptions(level=Level.OBJECTS)).findings
        assert closing_name(1) in {one.subject for one in found}
        mend_epochs(store, [replica], Notes(), dry_run=False)
        assert store.read(closing_name(1)) == content


def test_a_carried_manifest_that_is_damaged_comes_back_from_a_copy(store: Store, expected: dict[str, Content]) -> None:
    all_of_it(store)
    replica = copied(store)
    name = carried_name(f"snapshots/{next(iter(expected))}", 1)
    content = store.read(name)
    store.delete(name)
    store.create(name, content[:99] + bytes([content[99] ^ 1]) + content[100:])
    report = repair(store, OLD, replicas=[opened(replica)], looking=VerifyOptions(level=Level.OBJECTS))
    assert plain_name(name) in {one.finding.subject for one in report.outcomes if one.repaired}
    require_all(store, expected)
    assert plain_name(name) not in everything(store), "it is carried again"


# -- what else tells of keys -----------------------------------------------------------------------------------------------


def test_status_says_how_much_each_epoch_seals_and_heeds_the_published_policy(store: Store) -> None:
    repository = opened(store)
    old, new = key_status(repository).epochs
    assert old.objects > 5
    assert old.bytes > 100_000
    assert new.objects < old.objects
    publish(repository, {"policies": {"a": {"encryption": {"max_age": "30d"}}, "b": {"encryption": {"max_age": "90d"}}, "c": {}}})
    late = Repository.open(store, OLD, clock=Clock(wall=lambda: time.time() + 31 * 86_400))
    assert key_status(late).max_age_days == 30
    assert key_status(late).too_old
    assert not key_status(late, timedelta(days=40)).too_old
    all_of_it(store)
    first = key_status(opened(store)).epochs[0]
    assert (first.number, first.closed, first.objects) == (0, True, 0)


def test_a_report_of_before_a_rotation_is_believed(store: Store) -> None:
    repository = opened(store)
    said = (repository.config.repository_id.hex(), "2026-01-02T03:05:05+00:00", "host", "0.1.0", None, "faiss", "exact", "")
    report = signed(DrillReport(*said, (), {}, 1.0, None, None, {}, {}, (), passed=True), repository.keys)
    drills.write(repository.store, repository.keys, report.document)
    key = repository.keys.public_key.hex()
    rotate(repository, OLD, cost=CHEAP)
    all_of_it(store)
    found = drill_history(opened(store))
    assert not found.problems
    assert [one.started for one in found.reports] == [report.started]
    assert key in found.public_keys
    assert found.public_key not in (key, *found.public_keys[:-1])


def test_a_slot_that_is_wrapped_anew_keeps_its_role(store: Store) -> None:
    repository = opened(store)
    bearer = Bearer(AccessRole.AUDITOR, "somebody", repository.identity.slot)
    secret, fresh = (Secret.key_file(new_key_file()) for _ in range(2))
    repository.add_key(secret, "auditor", bearer=bearer)
    for wanted in (None, fresh):
        (slot,) = rewrap(repository, secret, wanted)
        assert slot.bearer == bearer
    assert Repository.open(store, fresh).identity.role == AccessRole.AUDITOR


def test_a_moment_comes_back_and_its_journal_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    source, scan = f"faiss://{path}", FollowOptions(every=5, once=True, scan=True)
    room = init_repository(str(tmp_path / "repository"), password=PASSWORD, cost=CHEAP)
    until = []
    for count in (40, 45):
        index = faiss.IndexFlatL2(8)
        index.add(np.random.default_rng(1).standard_normal((count, 8)).astype(np.float32))
        faiss.write_index(index, str(path))
        if not until:
            room.backup(source)
        room.follow(source, scan)
        until.append(room.journal_status()[0].until)
        if count == 40:
            rotate(room.repository, OLD, drop=True, cost=CHEAP)
    room = open_repository(str(tmp_path / "repository"), password=PASSWORD)
    before = [one.hash for stream in streams(room.repository) for one in read_chain(room.repository, stream).fronts]
    finished(room.repository)
    assert close_epochs(room.repository, grace=NOW).closed
    room = open_repository(str(tmp_path / "repository"), password=PASSWORD)
    chains = [read_chain(room.repository, stream) for stream in streams(room.repository)]
    assert [one.hash for chain in chains for one in chain.fronts] == before
    assert not [chain.problems for chain in chains if chain.problems]
    assert [one for one in room.repository.store.inner.list("journal/") if MARK in one.name]
    room.restore("latest", f"faiss://{tmp_path}/out/index.faiss", at=until[1], source=source)
    assert faiss.read_index(str(tmp_path / "out" / "index.faiss")).ntotal == 45
    room.follow(source, scan)
    assert not room.verify(level=Level.DATA).findings
