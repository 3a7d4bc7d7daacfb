"""How is a long list of numbers written that mostly count up by one: which row lies where, which vector belongs to which row?

As runs: from position `at`, `length` numbers follow that count up from `number`. A list that differs little from an older one is
the older one and the runs that replace some of it.

    three columns of u32, little-endian, one after another: gap to the end of the run before | length | number less the one that
    would have come next (mod 2^32)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.codecs.errors import CodecError
from strongroom.model import Bytes

Numbers = npt.NDArray[np.uint32]

NONE = np.uint32(0xFFFF_FFFF)
"""Stands where there is no number."""

_U32 = np.dtype("<u4")
_ROW_BYTES = 3 * _U32.itemsize
_MOST = 1 << 32


@dataclass(frozen=True, slots=True)
class Runs:
    """Three columns of one length (int64): where each run begins, how long it is, its first number. In order, without overlap."""

    at: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.at)


def runs_of(at: npt.NDArray[Any], numbers: Numbers) -> Runs:
    """The runs of `numbers` at the ascending positions `at`, as few as there can be."""
    place, number = np.asarray(at, np.int64), numbers.astype(np.int64)
    if not len(place):
        return Runs(place, place, place)
    breaks = np.flatnonzero((np.diff(place) != 1) | (np.diff(number) != 1)) + 1
    first = np.concatenate([[0], breaks])
    length = np.diff(np.concatenate([first, [len(place)]]))
    return Runs(place[first], length, number[first])


def joined(parts: Iterable[Runs]) -> Runs:
    """Lists of runs that follow one another, as one. Runs that go on across a border are made one."""
    kept = [part for part in parts if len(part)]
    if not kept:
        return runs_of(np.zeros(0, np.int64), np.zeros(0, np.uint32))
    at, length, number = (np.concatenate([getattr(part, name) for part in kept]) for name in ("at", "length", "number"))
    goes_on = (at[1:] == at[:-1] + length[:-1]) & (number[1:] == number[:-1] + length[:-1])
    first = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    return Runs(at[first], np.add.reduceat(length, first), number[first])


def encode(runs: Runs) -> bytes:
    """Its inverse is `decode`."""
    gaps = runs.at - np.concatenate([[0], (runs.at + runs.length)[:-1]])
    jumps = runs.number - np.concatenate([[0], (runs.number + runs.length)[:-1]])
    return b"".join((column % _MOST).astype(_U32).tobytes() for column in (gaps, runs.length, jumps))


def decode(content: Bytes) -> Runs:
    """Raises CodecError if these can't be runs."""
    count, over = divmod(len(content), _ROW_BYTES)
    if over:
        raise CodecError(f"{len(content)} bytes are not whole runs")
    gaps, length, jumps = np.frombuffer(content, _U32).astype(np.int64).reshape(3, count)
    ends = np.cumsum(gaps + length)
    number = (np.cumsum(jumps) + np.concatenate([[0], np.cumsum(length)[:-1]])[:count]) % _MOST
    if count and (int(ends[-1]) > _MOST or int((number + length).max()) > _MOST or not length.all()):
        raise CodecError("runs go beyond what can be numbered")
    return Runs(ends - length, length, number)


def apply(runs: Runs, numbers: Numbers) -> None:
    """Write the runs into a list of numbers; what lies beyond its end is left out."""
    inside = runs.at < len(numbers)
    at, number = runs.at[inside], runs.number[inside]
    length = np.minimum(runs.length[inside], len(numbers) - at)
    if len(at):
        step = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
        numbers[np.repeat(at, length) + step] = np.repeat(number, length) + step


def expand(runs: Runs, count: int) -> Numbers:
    """The `count` numbers that the runs make; NONE where no run is."""
    numbers = np.full(count, NONE, np.uint32)
    apply(runs, numbers)
    return numbers
