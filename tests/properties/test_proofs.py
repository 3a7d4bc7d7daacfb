"""Do notes of what was proven, however told, merged and read again, say what a simple model says?"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.errors import Damaged
from strongroom.repository import Store, open_store, proofs
from strongroom.repository.framing import Kind, seal
from strongroom.repository.keys import Keys
from strongroom.repository.proofs import FOLDER, SKEW, UNDATED, Look, Notes

PACKS = [letter * 64 for letter in "abc"]
BLOBS = 6
NOW = 1_000_000.0
KEYS = Keys.of(b"m" * 32, b"r" * 16)
_NAMES = itertools.count()


def empty_store() -> Store:
    return open_store(f"memory://proofs-{next(_NAMES)}")


@dataclass(frozen=True)
class Told:
    """One note: of a pack, of all its blobs (None) or some, by a look."""

    pack: str
    blobs: frozenset[int] | None
    look: Look


looks = st.builds(Look, st.integers(1, 5), st.booleans(), st.sampled_from([0.0, 10.0, NOW - 1, NOW, NOW + 1, NOW + 10 * SKEW]))
told = st.builds(Told, st.sampled_from(PACKS), st.none() | st.frozensets(st.integers(0, BLOBS - 1), min_size=1), looks)


def notes_of(some: list[Told]) -> Notes:
    notes = Notes()
    for one in some:
        notes.add(one.pack, one.look, one.blobs)
    return notes


def model(some: list[Told], pack: str, blob: int) -> float | None:
    """The last one that said something of the blob counts; of those that began together, whoever found damage."""
    said = [one.look for one in some if one.pack == pack and (one.blobs is None or blob in one.blobs)]
    newest = [look for look in said if look.number == max(one.number for one in said)]
    if not newest or any(look.damaged for look in newest):
        return None
    at = max(look.at for look in newest)
    return UNDATED if at > NOW + SKEW else min(at, NOW)


def as_told(notes: Notes) -> dict[tuple[str, int], float | None]:
    return {(pack, blob): notes.proven(pack, blob, NOW) for pack in PACKS for blob in range(BLOBS)}


@settings(max_examples=80, deadline=None)
@given(st.lists(told, max_size=12), st.randoms())
def test_notes_say_what_the_model_says(some: list[Told], draw) -> None:
    expected = {(pack, blob): model(some, pack, blob) for pack in PACKS for blob in range(BLOBS)}
    assert as_told(notes_of(some)) == expected
    store, parts = empty_store(), [list[Told](), list[Told](), list[Told]()]
    for one in some:
        for part in draw.sample(parts, draw.randint(1, 3)):  # told once or several times, in any object
            part.append(one)
    for part in parts:
        proofs.write(store, KEYS, notes_of(part))
    found, problems = proofs.read_all(store, KEYS)
    assert problems == []
    names = list(found)
    draw.shuffle(names)
    merged = Notes()
    for name in names:
        merged.update(found[name])
    assert as_told(merged) == expected
    again = empty_store()
    proofs.write(again, KEYS, merged)  # what merges write says only what counts, and the same
    (once,) = proofs.read_all(again, KEYS)[0].values()
    assert as_told(once) == expected
    told_of = [blob for standing in once.packs.values() for blobs in standing.notes.values() for blob in blobs or ()]
    assert len(told_of) <= len(PACKS) * BLOBS  # however often it was looked


def test_many_looks_at_the_same_packs_take_the_room_of_one() -> None:
    notes = Notes()
    sizes = []
    for number in range(1, 200):
        for pack in range(50):
            notes.add(f"{pack:064x}", Look(number, False, float(number)), None if number % 3 else [1, 2, 3])
        if number % 99 == 0:
            store = empty_store()
            proofs.write(store, KEYS, notes)
            sizes.append(next(iter(store.list(FOLDER))).size)
    assert sizes[1] <= sizes[0] * 1.1


@pytest.mark.parametrize(
    "keys", [Keys.of(b"x" * 32, b"r" * 16), Keys.of(b"m" * 32, b"s" * 16)], ids=["another key", "another repository"]
)
def test_a_note_of_others_is_not_believed(keys: Keys) -> None:
    store = empty_store()
    proofs.write(store, keys, notes_of([Told(PACKS[0], None, Look(1, False, NOW))]))
    found, problems = proofs.read_all(store, KEYS)
    assert (found, len(problems)) == ({}, 1)


def test_a_note_without_our_signature_is_not_believed() -> None:
    store, other = empty_store(), Keys.of(b"x" * 32, b"r" * 16)
    proofs.write(store, KEYS, notes_of([Told(PACKS[0], None, Look(1, False, NOW))]))
    (listed,) = store.list(FOLDER)
    plain = proofs.unseal(KEYS, Kind.PROOF, listed.name, store.read(listed.name))
    body = plain[64:]
    store.delete(listed.name)
    for signature, kind in ((other.sign(body), Kind.PROOF), (KEYS.sign(body), Kind.TOMBSTONE)):
        object_id, content = seal(KEYS, kind, signature + body)
        store.create(FOLDER + object_id, content)
    found, problems = proofs.read_all(store, KEYS)
    assert (found, len(problems)) == ({}, 2)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255))
def test_an_altered_note_is_not_believed(place: int, change: int) -> None:
    store = empty_store()
    proofs.write(store, KEYS, notes_of([Told(PACKS[0], frozenset({1, 3}), Look(1, False, NOW))]))
    (listed,) = store.list(FOLDER)
    content = bytearray(store.read(listed.name))
    content[place % len(content)] ^= change
    store.delete(listed.name)
    store.create(listed.name, bytes(content))
    found, problems = proofs.read_all(store, KEYS)
    assert found == {}
    assert isinstance(problems[0], Damaged)
    assert "delete it" in problems[0].hint


def test_what_a_signed_note_may_say_is_bounded() -> None:
    for wrong in ({"number": -1}, {"number": True}, {"at": 1.5}, {"damaged": 0}, {"packs": "AAAA"}, {"blobs": {"x": ""}}):
        good = {"number": 1, "at": 1, "damaged": False, "packs": "", "blobs": {}}
        with pytest.raises(ValueError):
            proofs._decode({"strongroom_proof": 1, "looks": [{**good, **wrong}]})
    assert proofs._decode({"strongroom_proof": 1, "looks": []}).highest == 0
