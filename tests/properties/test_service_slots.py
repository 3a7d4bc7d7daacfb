"""Does a slot of a key service open by that service only, and does one that is refused keep no other from opening?"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.errors import Damaged, NotAdmitted, Unreachable, WrongKey, WrongRequest
from strongroom.library import Strongroom, init_repository
from strongroom.repository import Argon2Cost, KeySlot, Repository, Secret, open_store
from strongroom.repository.crypto import Box, NotAuthentic, content_hash, derive
from strongroom.repository.key_services import Context, NotOurs
from strongroom.repository.key_services.protocol import patiently
from strongroom.repository.key_slots import make_slot, opening, read_slot

REPOSITORY, MASTER, CHEAP = b"r" * 16, bytes(range(32)), Argon2Cost(1, 1, 64)


@dataclass
class Memory:
    """A service in this process, that counts what it is asked."""

    key: bytes = b"k" * 32
    url: str = "vault://memory/transit/keys/k"
    kind: str = "vault"
    asked: int = 0
    failing: list[Exception] = field(default_factory=list)

    def wrap(self, key: bytes, context: Context) -> bytes:
        return self._box(context).seal(0, key, context.encoded())

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        self.asked += 1
        if self.failing:
            raise self.failing.pop(0)
        try:
            return self._box(context).open(0, wrapped, context.encoded())
        except NotAuthentic as error:
            raise NotOurs from error

    def _box(self, context: Context) -> Box:
        return Box(derive(self.key, "test", salt=bytes.fromhex(context.slot)))


def slot_of(service: Memory, created: str = "2026-01-01T00:00:00+00:00") -> tuple[KeySlot, bytes]:
    return make_slot(REPOSITORY, MASTER, Secret.of_service(service), "label", created, CHEAP)


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_its_own_service_opens_it_and_another_does_not(key: bytes, other: bytes) -> None:
    slot, content = slot_of(Memory(key))
    assert read_slot(slot.name, content, REPOSITORY) == slot
    assert slot.open(Secret.of_service(Memory(key))) == MASTER
    assert slot.open(Secret.of_service(Memory(other))) == (MASTER if key == other else None)
    assert slot.open(Secret.of_service(Memory(key, kind="aws-kms"))) is None
    assert slot.open(Secret("vault", b"x" * 32)) is None


@pytest.mark.parametrize("part", ["label", "created", "salt", "service", "service_key", "wrapped"])
def test_an_altered_slot_under_a_fitting_name_opens_nothing(part: str) -> None:
    service = Memory()
    _, content = slot_of(service)
    body = json.loads(content)
    body[part] = ("B" if body[part][0] == "A" else "A") + body[part][1:]
    altered = json.dumps(body, sort_keys=True).encode()
    assert read_slot(f"keys/{content_hash(altered).hex()}", altered, REPOSITORY).open(Secret.of_service(service)) is None


@pytest.mark.parametrize("change", [{"service": 7}, {"service": "x" * 3_000}, {"service_key": "A" * 20_000}, {"service_key": "?"}])
def test_a_slot_that_asks_for_absurd_things_is_damage(change: dict[str, object]) -> None:
    _, content = slot_of(Memory())
    altered = json.dumps({**json.loads(content), **change}, sort_keys=True).encode()
    with pytest.raises(Damaged):
        read_slot(f"keys/{content_hash(altered).hex()}", altered, REPOSITORY)


def test_two_slots_of_one_service_never_share_a_wrapping_key() -> None:
    """Or a rewrap would use a nonce twice."""
    service = Memory()
    bodies = [slot_of(service)[0].body for _ in range(20)]
    assert len({body["service_key"] for body in bodies}) == len({body["salt"] for body in bodies}) == 20


def test_a_refused_slot_keeps_no_other_from_opening() -> None:
    service = Memory()
    slots = [slot_of(service, f"2026-01-0{day}T00:00:00+00:00")[0] for day in (1, 2)]
    service.failing = [WrongKey("denied")]
    assert [slot for slot, _ in opening(slots, Secret.of_service(service))] == slots[1:]
    service.failing = [WrongKey("denied"), WrongKey("denied, too")]
    with pytest.raises(WrongKey, match=r"denied$"):
        list(opening(slots, Secret.of_service(service)))


def test_who_is_not_admitted_asks_once() -> None:
    """Each further try could lock the token, and who can write to the store can put any number of slots there."""
    service = Memory()
    slots = [slot_of(service, f"2026-01-0{day}T00:00:00+00:00")[0] for day in range(1, 9)]
    service.asked, service.failing = 0, [NotAdmitted("wrong PIN")]
    with pytest.raises(NotAdmitted):
        list(opening(slots, Secret.of_service(service)))
    assert service.asked == 1


def test_slots_of_the_named_service_are_asked_first() -> None:
    service, another = Memory(), Memory(key=b"o" * 32, url="vault://elsewhere/transit/keys/k")
    slots = [*(slot_of(another)[0] for _ in range(5)), slot_of(service)[0]]
    service.asked = 0
    next(opening(slots, Secret.of_service(service)))
    assert service.asked == 1


def test_no_slot_is_made_that_its_service_would_not_open() -> None:
    class Forgetful(Memory):
        def unwrap(self, wrapped: bytes, context: Context) -> bytes:
            raise NotOurs

    store = open_store("memory://forgetful")
    with pytest.raises(WrongRequest, match="doesn't unwrap"):
        Repository.create(store, Secret.of_service(Forgetful()))
    assert list(store.list("keys/")) == []


def room_of(service: Memory, name: str) -> Strongroom:
    room = init_repository(f"memory://{name}", password="first", cost=CHEAP)
    room.add_key(Secret.of_service(service), "by service")
    return room


def test_a_rewrap_that_is_cut_off_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the old slot goes: both open, and the next rewrap leaves one for each."""
    service = Memory()
    room = room_of(service, "cut-off")
    secret = Secret.of_service(service)

    def killed(self: Repository, prefix: str) -> KeySlot:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Repository, "remove_key", killed)
        with pytest.raises(KeyboardInterrupt):
            room.rewrap_keys(secret)
    mine = [slot for slot in room.key_slots() if slot.kind == "vault"]
    assert [slot.open(secret) for slot in mine] == [room.repository.keys.master] * 2
    fresh = Memory(key=b"n" * 32)
    assert len(room.rewrap_keys(secret, Secret.of_service(fresh))) == 2
    left = [slot for slot in room.key_slots() if slot.kind == "vault"]
    assert [slot.open(secret) for slot in left] == [None] * 2
    assert {slot.open(Secret.of_service(fresh)) for slot in left} == {room.repository.keys.master}
    assert len(room.key_slots()) == 3


def test_a_rewrap_by_a_service_that_is_away_changes_nothing() -> None:
    service = Memory()
    room = room_of(service, "away")
    before = room.key_slots()
    service.failing = [Unreachable("away")]
    with pytest.raises(Unreachable):
        room.rewrap_keys(Secret.of_service(service))
    assert room.key_slots() == before
    with pytest.raises(WrongKey):
        room.rewrap_keys(Secret.of_service(Memory(key=b"n" * 32)))
    assert room.key_slots() == before


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "2")
    monkeypatch.setattr("time.sleep", lambda seconds: waited.append(seconds))
    clock = iter(number * 0.4 for number in range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    waited: list[float] = []

    def ask() -> None:
        raise Unreachable("no")

    with pytest.raises(Unreachable):
        patiently(ask)
    assert 1 <= len(waited) <= 4
    assert all(0 < seconds <= 4 for seconds in waited)
