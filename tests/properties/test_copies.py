"""Does a file that repeats kept bytes come back from its recipe, is what is repeated found, and is damage always a CodecError?"""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.codecs import CodecError, copies
from strongroom.codecs.copies import Step, Trail

REFERENCE = np.random.default_rng(3).bytes(300_000)


@st.composite
def planted(draw: st.DrawFn) -> tuple[bytes, list[bytes], list[Step]]:
    """A piece made of literals and of parts of some sources, and the steps that say so."""
    sources = draw(st.lists(st.binary(max_size=50), min_size=1, max_size=3))
    piece, steps = b"", []
    for _ in range(draw(st.integers(0, 6))):
        piece += draw(st.binary(max_size=9))
        number = draw(st.integers(0, len(sources) - 1))
        offset = draw(st.integers(0, len(sources[number])))
        length = draw(st.integers(0, len(sources[number]) - offset))
        steps.append(Step(len(piece), length, number, offset))
        piece += sources[number][offset : offset + length]
    return piece + draw(st.binary(max_size=9)), sources, steps


@given(planted())
def test_a_piece_comes_back_from_its_recipe(made: tuple[bytes, list[bytes], list[Step]]) -> None:
    piece, sources, steps = made
    recipe = copies.split(piece, steps)
    assert bytes(copies.join(recipe, sources, len(piece))) == piece
    copied = sum(step.length for step in steps)
    assert len(recipe) == 4 + 16 * len(steps) + len(piece) - copied


@given(planted(), st.data())
def test_altered_recipes_never_raise_anything_else(made: tuple[bytes, list[bytes], list[Step]], data: st.DataObject) -> None:
    piece, sources, steps = made
    recipe = bytearray(copies.split(piece, steps))
    for _ in range(data.draw(st.integers(1, 3))):
        recipe[data.draw(st.integers(0, len(recipe) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CodecError):
        assert len(copies.join(bytes(recipe), sources, len(piece))) == len(piece)


@given(st.binary(max_size=60), st.lists(st.binary(max_size=9), max_size=2), st.integers(0, 100))
def test_arbitrary_recipes_never_raise_anything_else(recipe: bytes, sources: list[bytes], length: int) -> None:
    with contextlib.suppress(CodecError):
        assert len(copies.join(recipe, sources, length)) == length


def test_recipes_that_do_not_fit_are_refused() -> None:
    recipe = copies.split(b"abcdef", [Step(1, 4, 0, 2)])
    assert bytes(copies.join(recipe, [b"..bcde"], 6)) == b"abcdef"
    for sources, length in [([], 6), ([b"..bcd"], 6), ([b"..bcde"], 5), ([b"..bcde"], 7)]:
        with pytest.raises(CodecError):
            copies.join(recipe, sources, length)
    for cut in (recipe[:3], recipe[:10], recipe[:-1], b""):
        with pytest.raises(CodecError):
            copies.join(cut, [b"..bcde"], 6)


def test_steps_that_overlap_or_lead_outside_are_refused() -> None:
    for steps in ([Step(0, 4, 0, 0), Step(3, 2, 0, 0)], [Step(4, 3, 0, 0)]):
        with pytest.raises(ValueError, match="step"):
            copies.split(b"abcdef", steps)


def follow(file: bytes, piece_bytes: int, reference: bytes = REFERENCE) -> int:
    """How many bytes of the file are found; each of them is really the reference's."""
    trail = Trail(lambda offset, length: reference[offset : offset + length], len(reference))
    found = 0
    for start in range(0, len(file), piece_bytes):
        piece, end = file[start : start + piece_bytes], 0
        for run in trail.runs(piece):
            assert run.place >= end
            end = run.place + run.length
            assert piece[run.place : end] == reference[run.offset : run.offset + run.length]
            found += run.length
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(5_000, 70_000), min_size=1, max_size=8), st.integers(1, 300), st.integers(0, 90_000), st.integers(0, 9))
def test_pages_of_the_reference_are_found(pages: list[int], header: int, front: int, seed: int) -> None:
    """Whatever stands before, between and after them, and wherever pieces are cut."""
    other = np.random.default_rng(seed + 100)
    file, at = other.bytes(front), 0
    for page in pages:
        file += other.bytes(header) + REFERENCE[at : at + page]
        at = min(at + page, len(REFERENCE))
    cut = 65_536
    assert follow(file + other.bytes(1_000), cut) >= 0.9 * at - 2_048 * (len(file) // cut + len(pages))


def test_what_was_left_out_is_passed_over() -> None:
    """A dictionary page leaves out repetitions; a compressor replaces some bytes."""
    file = b"".join(REFERENCE[start : start + 9_000] + b"\x01\x02" for start in range(0, len(REFERENCE), 9_010))
    assert follow(file, 1 << 16) > 0.9 * len(REFERENCE)
    assert follow(REFERENCE[:100] + b"?" + REFERENCE[50_000:], 1 << 18) > 0.7 * len(REFERENCE)


def test_what_is_no_repetition_is_not_found() -> None:
    assert follow(np.random.default_rng(9).bytes(200_000), 50_000) == 0
    assert follow(REFERENCE[1:], 50_000, REFERENCE[:1] + bytes(16)) == 0
    assert follow(b"", 10) == follow(REFERENCE[:5], 10) == follow(REFERENCE, 1 << 16, b"") == 0
