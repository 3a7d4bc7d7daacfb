"""How is a file cut into regions whose inside isn't known? By content, or in fixed blocks. Pure, but for `read`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from blake3 import blake3

from strongroom import codecs
from strongroom.codecs import chunks
from strongroom.engines.protocol import BLOCK_BYTES
from strongroom.model import Region

_LOOKED_BACK = 64
_KEY_DIGITS = 8


def by_content(read: Callable[[int, int], bytes], size: int, offset: int = 0) -> Iterator[Region]:
    """`size` bytes from `offset`, cut where their content says, so that bytes that were inserted or removed change no more than the
    regions that they lie in. A region's key is made of the bytes before it: the next state's region that follows the same ones is
    its counterpart, wherever it lies. `read(offset, length)` gives exactly these bytes."""
    average = chunks.average_of(size)
    seen: Counter[str] = Counter()
    end, stop, before = offset, offset + size, b""
    while end < stop:
        window = read(end, min(BLOCK_BYTES, stop - end))
        kind, place = "bytes" if codecs.has_numbers(window) else "text", 0
        for length in chunks.lengths(window, average, last=end + len(window) == stop):
            key = blake3(before).hexdigest()[:_KEY_DIGITS]
            seen[key] += 1
            yield Region(end + place, length, kind, key=f"after {key}" if seen[key] == 1 else f"after {key}, {seen[key]}")
            place += length
            before = window[max(0, place - _LOOKED_BACK) : place]
        end += place


def fixed_blocks(name: str, start: int, stop: int, block: int = BLOCK_BYTES, kind: str = "bytes") -> Iterator[Region]:
    """The bytes from `start` to `stop` in regions of `block` bytes from `start` on, with the keys '`name` 0', '`name` 1' ..."""
    for number, offset in enumerate(range(start, stop, block)):
        yield Region(offset, min(block, stop - offset), kind, key=f"{name} {number}")
