"""Are bytes that have no format cut where their content says, so that an insertion leaves all other pieces as they were?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.codecs import chunks
from strongroom.engines import regions
from strongroom.engines.protocol import BLOCK_BYTES
from strongroom.engines.regions import by_content, fixed_blocks
from strongroom.model import Region

LONG = np.random.default_rng(5).bytes(20 << 20)


def reading(content: bytes):
    def read(offset: int, length: int) -> bytes:
        assert offset >= 0 and 0 < length <= BLOCK_BYTES and offset + length <= len(content)
        return content[offset : offset + length]

    return read


def cut(content: bytes, offset: int = 0) -> list[Region]:
    return list(by_content(reading(content), len(content) - offset, offset))


def pieces(content: bytes) -> dict[str, bytes]:
    """What each key names."""
    found = cut(content)
    named = {region.key: content[region.offset : region.offset + region.length] for region in found}
    assert len(named) == len(found)
    return named


def assert_cover(found: list[Region], start: int, stop: int) -> None:
    ends = [start, *(region.offset + region.length for region in found)]
    assert [region.offset for region in found] == ends[:-1]
    assert ends[-1] == stop
    assert all(0 < region.length <= BLOCK_BYTES for region in found)


@given(st.integers(0, 3), st.integers(-2, 2), st.integers(0, 5_000), st.booleans())
@settings(deadline=None, max_examples=40)
def test_regions_cover_any_file_once(blocks: int, more: int, offset: int, same: bool) -> None:
    size = max(0, blocks * (5 << 20) + more)
    content = bytes(size + offset) if same else LONG[: size + offset]
    assert_cover(cut(content, min(offset, len(content))), min(offset, len(content)), len(content))
    assert_cover(list(fixed_blocks("n", offset, len(content), 4_096)), min(offset, len(content)), len(content))


def test_an_insertion_changes_only_the_regions_around_it() -> None:
    changed = LONG[: 7 << 20] + b"inserted" + LONG[7 << 20 : 15 << 20] + LONG[(15 << 20) + 100 :]
    before, after = set(pieces(LONG).values()), set(pieces(changed).values())
    assert len(before) > 80
    assert len(after - before) <= 4
    assert sum(map(len, after - before)) < 8 * chunks.SMALLEST_AVERAGE


def test_a_changed_region_is_found_by_the_key_of_what_it_was() -> None:
    before = pieces(LONG)
    for at in range(3 << 20, 18 << 20, 3 << 20):
        after = pieces(LONG[:at] + b"inserted" + LONG[at:])
        changed = {key: piece for key, piece in after.items() if piece != before.get(key)}
        assert 1 <= len(changed) <= 3
        first = next(iter(changed))
        assert changed[first].startswith(before[first][:1_000])


def test_where_reading_stops_is_not_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cut(LONG[: 6 << 20])
    monkeypatch.setattr(regions, "BLOCK_BYTES", 1 << 20)
    assert cut(LONG[: 6 << 20]) == whole


def test_chunks_keep_to_their_bounds_and_grow_with_the_file() -> None:
    average = chunks.average_of(len(LONG))
    found = list(chunks.lengths(LONG, average, last=True))
    assert sum(found) == len(LONG)
    assert max(found) <= chunks.longest_of(average) <= BLOCK_BYTES
    assert min(found[:-1]) >= average // 4
    assert 0.5 * average < np.mean(found) < 2 * average
    assert [chunks.average_of(size) for size in (0, 1 << 27, 1 << 28, 1 << 40)] == [1 << 17, 1 << 17, 1 << 18, 1 << 21]
    assert chunks.longest_of(chunks.average_of(1 << 50)) <= BLOCK_BYTES
