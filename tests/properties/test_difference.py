"""Does content come back from its difference to any base, is the difference small, and is damage always a CodecError?"""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom import codecs
from strongroom.codecs import CodecError, difference

RANDOM = np.random.default_rng(7).bytes(300_000)


@st.composite
def states(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two states of some bytes: overwritten in places, with pieces moved, removed and inserted, grown or cut."""
    base = RANDOM[: draw(st.integers(0, 40_000))] if draw(st.booleans()) else bytes(draw(st.integers(0, 40_000)))
    content = bytearray(base)
    for _ in range(draw(st.integers(0, 5))):
        at, length = draw(st.integers(0, len(content))), draw(st.integers(0, 600))
        more = RANDOM[-draw(st.integers(1, 3_000)) :][:length]
        match draw(st.integers(0, 2)):
            case 0:
                content[at : at + len(more)] = more
            case 1:
                content[at:at] = more
            case _:
                del content[at : at + length]
    return bytes(content), base


@given(states(), st.sampled_from(codecs.KINDS))
@settings(deadline=None)
def test_content_comes_back_from_its_difference(pair: tuple[bytes, bytes], kind: str) -> None:
    content, base = pair
    found = difference.smaller(content, base, kind)
    assert found == difference.smaller(content, base, kind)
    if found is not None:
        assert bytes(difference.undo(found, base)) == content
        assert difference.length_of(found) == len(content)
        assert len(found) < len(codecs.encode(content, kind)[1])


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_xor_is_its_own_inverse_whatever_the_lengths(content: bytes, base: bytes) -> None:
    differing = difference.xor(content, base)
    assert len(differing) == len(content)
    assert difference.xor(differing, base) == content
    padded = base[: len(content)].ljust(len(content), b"\0")
    assert differing == bytes(one ^ other for one, other in zip(content, padded, strict=True))


@pytest.mark.parametrize("method", [difference.XOR, difference.PATCH])
def test_a_chain_of_differences_leads_from_the_first_state_to_the_last(method: int) -> None:
    states = [RANDOM[:100_000]]
    for step in range(4):
        before = states[-1]
        middle = b"inserted" if method == difference.PATCH else before[5_000:5_008]
        states.append(before[:5_000] + middle + before[5_008 if method == difference.XOR else 5_000 :] + bytes([step]) * 500)
    chain = [difference.smaller(after, before, "bytes") for before, after in pairwise(states)]
    content: codecs.Bytes = states[0]
    for one in chain:
        assert one is not None
        assert one[4] == method
        assert len(one) < 300
        content = difference.undo(one, content)
    assert bytes(content) == states[-1]


def test_what_changed_in_place_and_what_moved_is_found() -> None:
    links = np.frombuffer(RANDOM, "<u4").copy()
    links[::200] += 1
    small = difference.smaller(links.tobytes(), RANDOM, "int32")
    assert small is not None and small[4] == difference.XOR
    assert len(small) < 0.03 * len(RANDOM)
    moved = RANDOM[200_000:] + b"new" + RANDOM[:200_000]
    patch = difference.smaller(moved, RANDOM, "bytes")
    assert patch is not None and patch[4] == difference.PATCH
    assert len(patch) < 200


def test_a_shift_of_the_longest_region_is_found() -> None:
    base = np.random.default_rng(1).bytes(8 << 20)
    content = b"something new" + base[: -(1 << 10)]
    found = difference.smaller(content, base, "bytes")
    assert found is not None and len(found) < 0.01 * len(base)
    assert bytes(difference.undo(found, base)) == content


@pytest.mark.parametrize(
    ("content", "base"),
    [
        (b"", RANDOM),
        (RANDOM[:1_000], RANDOM[:1_000]),  # too short to be worth it
        (RANDOM[:50_000], b""),
        (RANDOM[:50_000], RANDOM[100_000:150_000]),
        (bytes(50_000), RANDOM[:50_000]),  # by itself it is nothing
    ],
)
def test_what_had_better_be_stored_alone_has_no_difference(content: bytes, base: bytes) -> None:
    assert difference.smaller(content, base, "bytes") is None


@pytest.fixture(params=[difference.XOR, difference.PATCH], ids=["xor", "patch"], scope="module")
def made(request: pytest.FixtureRequest) -> tuple[bytes, bytes, bytes]:
    """A difference, its base, and the content."""
    base = RANDOM[:60_000]
    content = base[:30_000] + b"x" + base[30_000 + (request.param == difference.XOR) :]
    found = difference.smaller(content, base, "bytes")
    assert found is not None and found[4] == request.param
    return found, base, content


@given(at=st.integers(0, 10_000), value=st.integers(1, 255), cut=st.integers(0, 10_000))
@settings(deadline=None)
def test_damage_gives_a_codec_error_or_as_many_bytes_as_promised(
    made: tuple[bytes, bytes, bytes], at: int, value: int, cut: int
) -> None:
    found, base, _ = made
    damaged = bytearray(found)
    damaged[at % len(found)] ^= value
    for broken in (bytes(damaged), found[: cut % len(found)]):
        try:
            content = difference.undo(broken, base)
        except CodecError:
            continue
        assert len(content) == difference.length_of(broken)


def test_a_wrong_base_never_gives_the_content(made: tuple[bytes, bytes, bytes]) -> None:
    found, base, content = made
    for wrong in (b"", base[::-1], base[:-30_000]):
        try:
            assert bytes(difference.undo(found, wrong)) != content
        except CodecError:
            continue


def test_promises_of_endless_content_are_refused() -> None:
    for method in (difference.XOR, difference.PATCH):
        with pytest.raises(CodecError):
            difference.undo(struct.pack("<IB", 0xFFFF_FFFF, method) + b"\x01" + RANDOM[:100], RANDOM)
    with pytest.raises(CodecError, match="unknown method"):
        difference.undo(struct.pack("<IB", 10, 9) + bytes(10), RANDOM)
