"""After a repository's keys were rotated: what does an old slot open, what do the others, can a crash lock all out?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from faulty_store import FaultyStore, SimulatedCrash, at, felt
from towns import empty_store
from worlds import CHEAP, Sources, restored

from strongroom.errors import Damaged, Overtaken, Refused, StrongroomError, UnsafeStore, WrongKey
from strongroom.operations.backup.run import backup
from strongroom.operations.keys.status import key_status
from strongroom.operations.repair import repair
from strongroom.operations.verify import Level, VerifyOptions, verify
from strongroom.repository import Repository, Secret, Store
from strongroom.repository.crypto import content_hash
from strongroom.repository.epochs import Epoch
from strongroom.repository.framing import HEADER_BYTES, Kind, unseal
from strongroom.repository.key_slots import make_slot, opening
from strongroom.repository.keyring import begin_epoch, name_of, new_bundle, numbers
from strongroom.repository.keys import Keys
from strongroom.repository.rotation import rotate, sealable, upgrade

MINE, THEIRS, ANOTHER = Secret.passphrase("mine"), Secret.passphrase("theirs"), Secret.passphrase("another's")


def rotated(repository: Repository, secret: Secret = MINE, **options: object) -> int:
    return rotate(repository, secret, cost=CHEAP, **options).epoch  # type: ignore[arg-type]


def everything(store: Store) -> dict[str, bytes]:
    return {listed.name: store.read(listed.name) for listed in store.list("")}


def copied(store: Store) -> Store:
    copy = empty_store()
    for name, content in everything(store).items():
        copy.create(name, content)
    return copy


@pytest.fixture
def store() -> Store:
    """A repository that two people open, one with a slot of each version."""
    made = empty_store()
    repository = Repository.create(made, MINE, cost=CHEAP)
    repository.add_key(THEIRS, "theirs", cost=CHEAP)
    upgrade(repository, THEIRS, cost=CHEAP)
    return made


def back_up(repository: Repository, source: Path) -> str:
    return backup(repository, f"faiss://{source}").snapshot.id


# -- what it is for --------------------------------------------------------------------------------------------------------


def test_everything_is_read_across_epochs_and_nothing_is_rewritten(store: Store, sources: Sources, tmp_path: Path) -> None:
    before = Repository.open(store, MINE)
    first = back_up(before, sources.first)
    old = {name: content for name, content in everything(store).items() if not name.startswith("keys/")}
    assert rotated(before) == 1
    assert old.items() <= everything(store).items()
    second = back_up(before, sources.changed)
    stored = sum(len(content) for name, content in everything(store).items() if name not in old)
    assert stored < sum(map(len, old.values())) / 2, "blobs of the epoch before are known and not stored again"
    for secret in (MINE, THEIRS):
        repository = Repository.open(store, secret)
        assert repository.keys.newest.number == 1
        for number, (snapshot, source) in enumerate(((first, sources.first), (second, sources.changed))):
            folder = tmp_path / f"{secret.value.decode()}-{number}"
            folder.mkdir()
            assert restored(repository, snapshot, folder) == (source.read_bytes(), source.with_suffix(".parquet").read_bytes())


def test_a_slot_that_was_copied_and_removed_opens_nothing_that_is_written_later(store: Store, sources: Sources) -> None:
    """With all bytes of the store, before and after, and everything that the slot ever held: each key is tried on each object."""
    repository = Repository.open(store, MINE)
    back_up(repository, sources.second)
    stolen = everything(store)
    slot, _ = next(iter(opening(repository.key_slots()[0], THEIRS)))
    rotated(repository, without=[slot.id])
    assert slot.name not in everything(store)
    back_up(repository, sources.first)
    enemy = Keys.of(repository.keys.master, repository.config.repository_id)
    new = {name: content for name, content in everything(store).items() if name not in stolen}
    sealed = {name: content for name, content in new.items() if name.startswith(("packs/", "index/", "snapshots/"))}
    assert {name.split("/")[0] for name in sealed} == {"packs", "index", "snapshots"}
    assert not [name for name, content in sealed.items() if opens(enemy, name, content)]
    assert [name for name, content in sealed.items() if opens(repository.keys, name, content)] == list(sealed)
    assert b'"' + slot.id.encode() not in new[name_of(1)]
    returned = copied(store)
    returned.create(slot.name, stolen[slot.name])
    with pytest.raises(WrongKey, match="left out"):
        Repository.open(returned, THEIRS)


def opens(keys: Keys, name: str, content: bytes) -> bool:
    """Does any key of these open the object, or a pack's first blob or directory?"""
    from strongroom.repository.packs import read_directory

    try:
        if name.startswith("packs/"):
            read_directory(keys, name, len(content), lambda offset, length: content[offset : offset + length])
        else:
            unseal(keys, Kind(content[HEADER_BYTES - 1]), name, content)
    except Damaged:
        return False
    return True


def test_slots_that_would_be_left_out_refuse_it_unless_they_are_dropped(store: Store) -> None:
    repository = Repository.open(store, MINE)
    kept = repository.add_key(ANOTHER, "old", cost=CHEAP)
    before = everything(store)
    with pytest.raises(Refused, match=f"{kept.id[:12]}.*upgrade"):
        rotated(repository)
    assert everything(store) == before
    done = rotate(repository, MINE, drop=True, cost=CHEAP)
    assert done.removed == (kept.id,)
    assert {slot.version for slot in repository.key_slots()[0]} == {2}
    with pytest.raises(WrongKey):
        Repository.open(store, ANOTHER)
    assert Repository.open(store, THEIRS).keys.newest.number == 1
    repository.add_key(ANOTHER, "new", cost=CHEAP)
    assert rotated(Repository.open(store, THEIRS), THEIRS) == 2
    assert Repository.open(store, ANOTHER).keys.newest.number == 2


def test_a_repository_that_was_never_rotated_has_todays_bytes(sources: Sources) -> None:
    made = empty_store()
    repository = Repository.create(made, MINE, cost=CHEAP)
    repository.add_key(THEIRS, "", cost=CHEAP)
    back_up(repository, sources.first)
    assert not [name for name in everything(made) if name.startswith("keyring/")]
    for slot in repository.key_slots()[0]:
        assert slot.version == 1
        assert not {"public", "epoch", "signature"} & slot.body.keys()
        assert slot.open(MINE) in (None, repository.keys.master)


# -- beside others ---------------------------------------------------------------------------------------------------------


def test_who_had_it_open_reads_on_and_his_snapshots_stay(store: Store, sources: Sources, tmp_path: Path) -> None:
    """A backup of the old epoch is stored after the rotation; then the same process reads what the new epoch wrote."""
    old = Repository.open(store, THEIRS)
    old.keys.newer = lambda _: ()  # it doesn't hear of the rotation
    other = Repository.open(store, MINE)
    rotated(other)
    first = back_up(old, sources.first)
    assert restored(other, first, _folder(tmp_path, "a"))[0] == sources.first.read_bytes()
    second = back_up(other, sources.changed)
    late = Repository.open(copied(store), THEIRS)
    assert restored(late, second, _folder(tmp_path, "b"))[0] == sources.changed.read_bytes()


def test_a_process_learns_of_an_epoch_when_it_meets_it(store: Store, sources: Sources, tmp_path: Path) -> None:
    old = Repository.open(store, THEIRS)
    other = Repository.open(store, MINE)
    rotated(other)
    snapshot = back_up(other, sources.first)
    assert old.keys.newest.number == 0
    assert restored(old, snapshot, _folder(tmp_path, "a"))[0] == sources.first.read_bytes()
    assert old.keys.newest.number == 1


def _folder(place: Path, name: str) -> Path:
    (place / name).mkdir()
    return place / name


def test_of_two_rotations_at_once_one_wins(store: Store) -> None:
    mine, theirs = Repository.open(store, MINE), Repository.open(store, THEIRS)
    upgrade(mine, MINE, cost=CHEAP)
    theirs.keys.newer = lambda _: ()  # it looked before the other began
    assert rotated(mine) == 1
    with pytest.raises(Overtaken):
        rotated(theirs, THEIRS)
    assert Repository.open(store, THEIRS).keys.newest.tag == mine.keys.newest.tag
    assert numbers(store) == [1]


def test_a_slot_that_is_made_while_another_rotates_opens_the_new_epoch(store: Store) -> None:
    mine = Repository.open(store, MINE)
    rotated(mine)
    theirs = Repository.open(store, THEIRS)

    def meanwhile(operation: object) -> None:
        if operation.verb == "create" and operation.name.startswith("keys/") and numbers(store) == [1]:  # type: ignore[attr-defined]
            rotated(mine)

    between = Repository.open(FaultyStore(store, meanwhile), THEIRS)
    between.add_key(ANOTHER, "", cost=CHEAP)
    assert Repository.open(store, ANOTHER).keys.newest.number == 2
    assert len(theirs.key_slots()[0]) == 3


# -- crashes and faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["crash before", "crash after", "unreachable before", "unreachable after", "exists after"])
def test_whatever_fails_the_repository_opens_with_the_old_epoch_or_the_new(store: Store, fault: str, own_state: Path) -> None:
    whole = FaultyStore(copied(store))
    repository = Repository.open(whole, MINE)
    start = len(whole.operations)
    rotated(repository)
    for number in felt(fault, whole.operations[start:]):
        _forget(own_state)
        inner = copied(store)
        opened = Repository.open(FaultyStore(inner, at(number, fault)), MINE)
        with suppress(SimulatedCrash, StrongroomError):
            rotated(opened)
        epochs = {Repository.open(inner, secret).keys.newest.number for secret in (MINE, THEIRS)}
        assert epochs in ({0}, {1}), number
        again = Repository.open(inner, MINE)
        assert rotated(again) == max(epochs) + 1
        assert Repository.open(inner, THEIRS).keys.newest.tag == again.keys.newest.tag


def _forget(state: Path) -> None:
    for path in state.glob("*-epoch.json"):
        path.unlink()


def test_a_store_that_overwrites_is_refused() -> None:
    made = FaultyStore(empty_store())
    made.conditional = False
    repository = Repository.create(made, MINE, cost=CHEAP, overwriting=True)
    with pytest.raises(UnsafeStore):
        rotated(repository)


# -- a store that is the enemy ---------------------------------------------------------------------------------------------


def test_an_epoch_that_the_store_made_is_damage(store: Store) -> None:
    repository = Repository.open(store, MINE)
    stranger = Keys.of(b"s" * 32, repository.config.repository_id)
    _, content = begin_epoch(stranger, sealable(repository)[0], "2026-01-01T00:00:00+00:00")
    store.create(name_of(1), content)
    for secret in (MINE, THEIRS):
        with pytest.raises(Damaged, match="signature"):
            Repository.open(store, secret)


@pytest.mark.parametrize("harm", ["swapped", "missing", "flipped", "cut", "rolled back"])
def test_epochs_that_are_swapped_cut_or_taken_away_are_damage(store: Store, harm: str) -> None:
    repository = Repository.open(store, MINE)
    rotated(repository)
    rotated(repository)
    first, second = (store.read(name_of(number)) for number in (1, 2))
    harmed = {
        "swapped": {1: second, 2: first},
        "missing": {2: second},
        "flipped": {1: first[:500] + bytes([first[500] ^ 1]) + first[501:], 2: second},
        "cut": {1: first[:-1], 2: second},
        "rolled back": {1: first},
    }[harm]
    for number in (1, 2):
        store.delete(name_of(number))
    for number, content in harmed.items():
        store.create(name_of(number), content)
    with pytest.raises(Damaged, match="keyring/"):
        Repository.open(store, THEIRS)


def test_every_bit_of_what_begins_an_epoch_counts(store: Store) -> None:
    repository = Repository.open(store, MINE)
    rotated(repository)
    content = store.read(name_of(1))
    for place in range(0, len(content), 7):
        store.delete(name_of(1))
        store.create(name_of(1), content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(Damaged):
            Repository.open(store, THEIRS)


def _planted(repository: Repository, forge: Callable[[Keys], Keys]) -> str:
    """A slot of somebody who has no key of the repository, or not the newest."""
    wrapped, signed = new_bundle(forge(repository.keys))
    slot, content = make_slot(repository.config.repository_id, wrapped, ANOTHER, "", "2026-01-01T00:00:00+00:00", CHEAP, signed)
    repository.store.create(slot.name, content)
    return slot.id


def test_no_epoch_is_sealed_to_a_slot_that_was_planted(store: Store) -> None:
    repository = Repository.open(store, MINE)
    rotated(repository)
    repository_id = repository.config.repository_id
    wrong = Epoch(1, b"s" * 32, "", repository_id)
    stranger = _planted(repository, lambda keys: Keys(repository_id, keys.blob_id, keys.fingerprint, [wrong]))
    former = _planted(repository, lambda keys: Keys.of(keys.master, repository_id))
    assert {one.id for one in sealable(repository)[1]} == {stranger, former}
    with pytest.raises(Refused, match="forged"):
        rotated(repository)
    done = rotate(repository, MINE, drop=True, cost=CHEAP)
    assert {stranger, former}.isdisjoint({slot.id for slot in done.slots})
    assert stranger.encode() not in store.read(name_of(2))


def test_a_slot_that_was_removed_and_put_back_is_left_out(store: Store) -> None:
    repository = Repository.open(store, MINE)
    rotated(repository)
    slot = next(slot for slot, _ in opening(repository.key_slots()[0], THEIRS))
    content = store.read(slot.name)
    repository.remove_key(slot.id)
    store.create(slot.name, content)
    with pytest.raises(Refused, match="put it back"):
        rotated(repository)
    assert content_hash(content).hex() == slot.id


# -- damage ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["missing", "flipped"])
def test_what_begins_an_epoch_is_missed_and_comes_back_from_a_copy(store: Store, sources: Sources, harm: str) -> None:
    repository = Repository.open(store, MINE)
    rotated(repository)
    back_up(repository, sources.second)
    repository.add_key(ANOTHER, "newer", cost=CHEAP)  # wraps the new keys itself
    replica = Repository.open(copied(store), MINE)
    content = store.read(name_of(1))
    store.delete(name_of(1))
    if harm == "flipped":
        store.create(name_of(1), content[:99] + bytes([content[99] ^ 1]) + content[100:])
    with pytest.raises(Damaged):
        Repository.open(copied(store), THEIRS)
    report = verify(Repository.open(store, ANOTHER), options=VerifyOptions(level=Level.OBJECTS))
    assert name_of(1) in {finding.subject for finding in report.findings}
    mended = repair(store, THEIRS, replicas=[replica], looking=VerifyOptions(level=Level.OBJECTS))
    assert name_of(1) in {outcome.finding.subject for outcome in mended.outcomes}
    assert store.read(name_of(1)) == content
    assert Repository.open(store, THEIRS).keys.newest.tag == repository.keys.newest.tag
    assert not verify(Repository.open(store, ANOTHER), options=VerifyOptions(level=Level.OBJECTS)).findings


# -- status ----------------------------------------------------------------------------------------------------------------


class Later:
    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=100)


def test_status_tells_ages_and_what_is_behind(store: Store) -> None:
    repository = Repository.open(store, MINE)
    status = key_status(repository, timedelta(days=90))
    assert not status.too_old
    assert [bool(one.behind) for one in status.slots] == [True, False]
    rotated(repository)
    late = dataclasses.replace(key_status(Repository.open(store, MINE, clock=Later()), timedelta(days=90)))
    assert late.too_old
    assert [(one.number, one.newest, one.too_old) for one in late.epochs] == [(0, False, False), (1, True, True)]
    assert not key_status(Repository.open(store, MINE, clock=Later()), timedelta(days=110)).too_old
