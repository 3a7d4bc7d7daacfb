"""Does a key slot open for its own secret only, and is an altered one noticed?"""

from __future__ import annotations

import contextlib
import json
import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.errors import Damaged, NotFound, Refused, StrongroomError, WrongKey, WrongRequest
from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.repository import Argon2Cost, Secret, new_key_file
from strongroom.repository.crypto import content_hash, key_of_passphrase
from strongroom.repository.identity import AccessRole, Bearer
from strongroom.repository.key_slots import TOKEN, KeySlot, make_slot, read_slot
from strongroom.repository.keys import Keys

CHEAP = Argon2Cost(1, 1, 64)
REPOSITORY, MASTER = b"r" * 16, bytes(range(32))
OTHER = Secret.passphrase("another one")
passphrases = st.text(min_size=1, max_size=40).filter(lambda text: not any("\ud800" <= sign <= "\udfff" for sign in text))
secrets = st.one_of(
    passphrases.map(Secret.passphrase), st.binary(min_size=32, max_size=32).map(lambda raw: Secret("key file", raw))
)


def slot_for(secret: Secret, label: str = "") -> tuple[KeySlot, bytes]:
    return make_slot(REPOSITORY, MASTER, secret, label, "2026-01-01T00:00:00+00:00", CHEAP)


@settings(max_examples=60, deadline=None)
@given(secrets, st.text(max_size=20))
def test_a_slot_gives_the_master_key_back(secret: Secret, label: str) -> None:
    made, content = slot_for(secret, label)
    read = read_slot(made.name, content, REPOSITORY)
    assert read == made
    assert read.open(secret) == MASTER
    assert (read.kind, read.label) == (secret.kind, label)


@settings(max_examples=60, deadline=None)
@given(secrets, secrets)
def test_another_secret_opens_nothing(secret: Secret, wrong: Secret) -> None:
    slot, _ = slot_for(secret)
    assert slot.open(wrong) == (MASTER if wrong == secret else None)


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_the_same_bytes_as_another_kind_open_nothing(raw: bytes) -> None:
    for kind, other in (("passphrase", "key file"), ("key file", "passphrase")):
        assert slot_for(Secret(kind, raw))[0].open(Secret(other, raw)) is None


def test_every_flipped_bit_of_a_slot_is_damage() -> None:
    slot, content = slot_for(OTHER, "label")
    for place in range(len(content)):
        altered = bytes([*content[:place], content[place] ^ 1, *content[place + 1 :]])
        with pytest.raises(Damaged):
            read_slot(slot.name, altered, REPOSITORY)
    for length in range(len(content)):
        with pytest.raises(Damaged):
            read_slot(slot.name, content[:length], REPOSITORY)


@pytest.mark.parametrize("part", ["label", "created", "salt", "wrapped", "kind", "argon2id", "person", "issuer", "signer"])
def test_a_part_that_was_altered_under_a_fitting_name_opens_nothing(part: str) -> None:
    """Anybody can give an altered slot the name of its new bytes: its parts are bound to the wrapped key."""
    bearer = Bearer(AccessRole.OPERATOR, "A" * 32, "A" * 64)
    _, content = make_slot(REPOSITORY, MASTER, OTHER, "label", "2026-01-01T00:00:00+00:00", CHEAP, bearer=bearer)
    body = json.loads(content)
    given = body[part]
    body[part] = {**given, "passes": 2} if part == "argon2id" else ("B" if given[0] == "A" else "A") + given[1:]
    altered = json.dumps(body, sort_keys=True).encode()
    assert read_slot(f"keys/{content_hash(altered).hex()}", altered, REPOSITORY).open(OTHER) is None


ROLES = [role.value for role in AccessRole if role is not AccessRole.OPERATOR]


@pytest.mark.parametrize("change", [{"role": role} for role in ROLES] + [{}, {"role": "emperor"}])
def test_nobody_raises_a_role(change: dict[str, str]) -> None:
    """Not even by leaving it out, which means an administrator."""
    made, content = make_slot(REPOSITORY, MASTER, OTHER, "", "2026-01-01T00:00:00+00:00", CHEAP, bearer=Bearer(AccessRole.OPERATOR))
    assert made.identity.role is AccessRole.OPERATOR
    body = {name: value for name, value in json.loads(content).items() if name != "role"} | change
    altered = json.dumps(body, sort_keys=True).encode()
    if change.get("role") == "emperor":
        with pytest.raises(Damaged):
            read_slot(f"keys/{content_hash(altered).hex()}", altered, REPOSITORY)
    else:
        assert read_slot(f"keys/{content_hash(altered).hex()}", altered, REPOSITORY).open(OTHER) is None


@pytest.mark.parametrize("later", ["2027-01-01T00:00:00+00:00", None])
def test_nobody_prolongs_a_token(later: str | None) -> None:
    until = datetime(2026, 1, 1, tzinfo=UTC)
    token = Secret.key_file(new_key_file(TOKEN))
    made, content = make_slot(REPOSITORY, MASTER, token, "", "2026-01-01T00:00:00+00:00", CHEAP, bearer=Bearer(expires=until))
    assert (made.open(token), made.identity.expires) == (MASTER, until)
    body = {**json.loads(content), "expires": later}
    altered = json.dumps(body if later else {name: body[name] for name in body if name != "expires"}, sort_keys=True).encode()
    name = f"keys/{content_hash(altered).hex()}"
    if later is None:
        with pytest.raises(Damaged):  # a token has an end
            read_slot(name, altered, REPOSITORY)
    else:
        assert read_slot(name, altered, REPOSITORY).open(token) is None


def test_who_has_the_slots_secret_signs_for_it_and_nobody_else() -> None:
    made, _ = slot_for(OTHER)
    other, _ = slot_for(OTHER)
    for slot in (made, other):
        opened = slot.unwrap(OTHER)
        assert opened is not None
        assert opened[1] is not None
        assert opened[1].public == slot.identity.signer
    assert made.identity.signer != other.identity.signer
    assert made.unwrap(Secret.passphrase("wrong")) is None


def test_a_slot_of_another_repository_is_damage() -> None:
    slot, content = slot_for(OTHER)
    with pytest.raises(Damaged, match="another repository"):
        read_slot(slot.name, content, b"R" * 16)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=80),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=9)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(["repository", "kind", "label", "created", "salt", "wrapped", "argon2id"]), inner, max_size=7
                ),
            ),
        ).map(lambda value: json.dumps(value).encode()),
        st.fixed_dictionaries(
            {"repository": st.just(REPOSITORY.hex()), "kind": st.sampled_from(["passphrase", "key file", "new kind"])},
            optional={
                "label": st.just(""),
                "created": st.just(""),
                "salt": st.sampled_from(["", "AAAAAAAAAAAAAAAAAAAAAA==", "?", "é"]),
                "wrapped": st.sampled_from(["", "A" * 64, "?", "é"]),
                "argon2id": st.sampled_from(
                    [
                        None,
                        {},
                        [],
                        7,
                        {"passes": "x", "lanes": 1, "memory_kib": 64},
                        {"passes": 1, "lanes": 1, "memory_kib": 1 << 40},
                        {"passes": None, "lanes": 1, "memory_kib": 64},
                    ]
                ),
            },
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_garbage_under_a_fitting_name_is_damage_or_opens_nothing(content: bytes) -> None:
    with contextlib.suppress(Damaged):
        slot = read_slot(f"keys/{content_hash(content).hex()}", content, REPOSITORY)
        assert slot.open(OTHER) is None
        assert slot.open(Secret("key file", b"k" * 32)) is None


def test_no_secret_is_ever_printed() -> None:
    file = Secret.key_file(new_key_file())
    slot, content = slot_for(Secret.passphrase("hunter2"))
    for thing in (file, Secret.passphrase("hunter2"), Keys.of(MASTER, REPOSITORY), slot, content):
        for text in (repr(thing), str(thing), f"{thing}", f"{[thing]}"):
            assert "hunter2" not in text
            assert MASTER.hex() not in text
            assert repr(MASTER) not in text
            assert repr(file.value)[2:-1] not in text


@pytest.mark.parametrize(
    "content", [b"", b"strongroom-key-1:", b"strongroom-key-1:AAAA", b"x" * 44, b"strongroom-key-1:" + b"\xff" * 44]
)
def test_what_is_no_key_file_is_a_wrong_request_that_does_not_show_it(content: bytes) -> None:
    with pytest.raises(WrongRequest) as raised:
        Secret.key_file(content)
    assert "\xff" not in str(raised.value)


@pytest.fixture
def room(request: pytest.FixtureRequest) -> Strongroom:
    return init_repository(f"memory://{request.node.name}", password="first", cost=CHEAP)


def opens(room: Strongroom, **secret: str) -> bool:
    try:
        return bool(open_repository(room.repository.store.url, **secret))
    except WrongKey:
        return False


def test_slots_come_and_go(room: Strongroom) -> None:
    added = room.add_key(Secret.passphrase("second"), "two", cost=CHEAP)
    assert (opens(room, password="first"), opens(room, password="second"), opens(room, password="third")) == (True, True, False)
    room.change_passphrase(Secret.passphrase("first"), Secret.passphrase("third"), cost=CHEAP)
    assert (opens(room, password="first"), opens(room, password="second"), opens(room, password="third")) == (False, True, True)
    room.remove_key(added.id[:12])
    assert (opens(room, password="second"), opens(room, password="third")) == (False, True)
    assert [slot.kind for slot in room.key_slots()] == ["passphrase"]


def test_the_last_slot_stays(room: Strongroom) -> None:
    (last,) = room.key_slots()
    with pytest.raises(Refused):
        room.remove_key(last.id)
    with pytest.raises(NotFound):
        room.remove_key("no such id")
    with pytest.raises(WrongKey):
        room.change_passphrase(OTHER, Secret.passphrase("new"), cost=CHEAP)
    assert room.key_slots() == [last]
    assert opens(room, password="first")


def test_the_same_passphrase_can_be_put_in_its_own_place(room: Strongroom) -> None:
    room.change_passphrase(Secret.passphrase("first"), Secret.passphrase("first"), cost=CHEAP)
    assert opens(room, password="first")
    assert len(room.key_slots()) == 1


def test_a_key_file_opens(room: Strongroom, tmp_path) -> None:
    path = tmp_path / "key"
    path.write_bytes(new_key_file())
    assert not opens(room, key_file=str(path))
    room.add_key(Secret.key_file(path.read_bytes()), "file")
    assert opens(room, key_file=str(path))
    with pytest.raises(StrongroomError):
        Secret.passphrase("")


def test_keys_of_passphrases_are_derived_by_any_number_of_threads() -> None:
    """OpenSSL's lanes are threads of one pool: two derivations at once would wait for each other, or fail."""
    found: list[bytes] = []

    def derive() -> None:
        found.extend(key_of_passphrase(b"secret", bytes(16), Argon2Cost(1, 4, 64)) for _ in range(100))

    threads = [threading.Thread(target=derive, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 400
    assert len(set(found)) == 1
