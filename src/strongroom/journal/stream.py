"""Which segments does a stream have, and do they follow on each other? A stream is the change log of one source."""

from __future__ import annotations

import json
import socket
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import urlsplit

from strongroom.engines.changes import Change
from strongroom.errors import AlreadyExists, Damaged, NotFound, Unreachable
from strongroom.journal.segments import (
    FOLDER,
    FRONT_GUESS,
    Front,
    decode_changes,
    decode_front,
    front_length,
    number_in,
    segment_name,
)
from strongroom.repository import Repository
from strongroom.repository.cache import Record
from strongroom.repository.framing import Kind, seal

CHUNK = 1_024
"""The heads of so many segments, from a multiple of it on, are one file of this machine's cache."""
_READERS = 8
_CLAIMS = 1_000


def stream_of(repository: Repository, source: str) -> str:
    """The name of a source's stream (32 hex digits). A path is another source on each host."""
    host = "" if urlsplit(source).netloc else socket.gethostname()
    return repository.keys.identify(f"stream\0{host}\0{source}".encode()).hex()[:32]


@dataclass(frozen=True, slots=True)
class Chain:
    """The segments of a stream that could be read, in order, and what is wrong with it, segment by segment. Unless `whole` it is a
    part of the stream: without those before the first of them, or after the last."""

    stream: str
    fronts: tuple[Front, ...]
    problems: tuple[Damaged, ...] = ()
    whole: bool = True

    @property
    def last(self) -> Front | None:
        return self.fronts[-1] if self.fronts else None


def streams(repository: Repository) -> dict[str, dict[int, int]]:
    """Every stream's segments: number and length of the object."""
    found: dict[str, dict[int, int]] = {}
    for listed in repository.store.list(FOLDER):
        place = number_in(listed.name)
        if place is not None:
            found.setdefault(place[0], {})[place[1]] = listed.size
    return found


def segments_of(repository: Repository, stream: str) -> dict[int, int]:
    """A stream's segments: number and length of the object."""
    found = ((number_in(listed.name), listed.size) for listed in repository.store.list(f"{FOLDER}{stream}/"))
    return {place[1]: size for place, size in found if place is not None}


def read_chain(repository: Repository, stream: str, sizes: Mapping[int, int] | None = None) -> Chain:
    """Read all heads of a stream, of which `sizes` are the segments' numbers and lengths, and check that each follows on the one
    before. What this machine read once it knows."""
    present = segments_of(repository, stream) if sizes is None else sizes
    if present:
        repository.forget_recalled(_cache_of(stream), f"{min(present) // CHUNK:09d}")
    return chain_of(stream, read_heads(repository, stream, present), present)


def read_heads(repository: Repository, stream: str, present: Mapping[int, int]) -> dict[int, Front | Damaged]:
    """The heads of segments, of which the numbers and lengths are given: of each chunk all that there are, or what this machine
    knows of the others is dropped."""
    chunks: dict[int, dict[int, int]] = {}
    for number, size in present.items():
        chunks.setdefault(number // CHUNK, {})[number] = size
    found: dict[int, Front | Damaged] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for chunk, numbers in sorted(chunks.items()):
            found |= _read_chunk(repository, stream, chunk, numbers, pool)
    return found


def chain_of(stream: str, heads: Mapping[int, Front | Damaged], present: Container[int], *, whole: bool = True) -> Chain:
    """Do these heads follow on each other?"""
    problems = [one for one in heads.values() if isinstance(one, Damaged)]
    fronts = [one for _, one in sorted(heads.items()) if isinstance(one, Front)]
    return Chain(stream, tuple(fronts), (*problems, *_breaks(stream, fronts, present)), whole)


def _read_chunk(
    repository: Repository, stream: str, chunk: int, present: Mapping[int, int], pool: ThreadPoolExecutor
) -> dict[int, Front | Damaged]:
    kind = f"{_cache_of(stream)}{chunk:09d}"
    found: dict[int, Front | Damaged] = {**_recalled(repository, stream, kind, present)}
    unknown = [number for number in sorted(present) if number not in found]
    names = [segment_name(stream, number) for number in unknown]
    records: list[Record] = []
    for number, read in zip(unknown, pool.map(lambda name: _front(repository, name), names), strict=True):
        if isinstance(read, Front):
            records.append(Record(_record_id(stream, number), present[number], read.content))
        found[number] = read if isinstance(read, Damaged) else read.listed(present[number])
    repository.remember(kind, records)
    return found


def _recalled(repository: Repository, stream: str, kind: str, present: Mapping[int, int]) -> dict[int, Front]:
    """The fronts that this machine has read before. They prove themselves, and the operations that are read by them."""
    listed = {_record_id(stream, number): size for number, size in present.items()}
    found = {}
    for record in repository.recall(kind, listed):
        number = int(record.id[32:], 16)
        with suppress(Damaged):
            front = decode_front(repository.keys, segment_name(stream, number), record.content)
            found[number] = front.listed(present[number])
    return found


def _cache_of(stream: str) -> str:
    return f"journal-{stream}-"


def _record_id(stream: str, number: int) -> str:
    return f"{stream}{number:032x}"


def _breaks(stream: str, fronts: Sequence[Front], unread: Container[int]) -> Iterator[Damaged]:
    """Where segments are missing, or one isn't the successor of the one before; those that are there and can't be read are
    `unread`."""
    for before, after in pairwise(fronts):
        missing = range(before.head.sequence + 1, after.head.sequence)
        yield from (Damaged(segment_name(stream, number), "missing") for number in missing if number not in unread)
        if not missing and after.head.previous != before.hash:
            yield Damaged(after.head.name, f"it doesn't follow on {before.head.name}: one of the two was swapped")
        elif not missing and not after.head.hole and after.head.first != before.head.last + 1:
            yield Damaged(after.head.name, "its operations don't follow on those of the segment before")


def read_front(repository: Repository, name: str) -> Front:
    """The head of the segment of this name. Raises Damaged, also if it is missing."""
    read = _front(repository, name)
    if isinstance(read, Damaged):
        raise read
    return read


def read_changes(repository: Repository, front: Front) -> Iterable[Change]:
    """The operations of a segment. Raises Damaged, also if it is missing."""
    try:
        content = repository.store.read(front.head.name)
    except NotFound as error:
        raise Damaged(front.head.name, "missing") from error
    return decode_changes(repository.keys, front, content)


def _front(repository: Repository, name: str) -> Front | Damaged:
    try:
        content = repository.store.read(name, 0, FRONT_GUESS)
        needed = front_length(name, content)
        if needed > len(content):
            content = repository.store.read(name, 0, needed)
        return decode_front(repository.keys, name, content)
    except NotFound:
        return Damaged(name, "missing: it was listed a moment before")
    except Damaged as error:
        return error


# -- fencing -------------------------------------------------------------------------------------------------------------------


def claim_epoch(repository: Repository, stream: str) -> int:
    """A number that no follower of this stream had before, higher than all of theirs. Raises UnsafeStore."""
    repository.require_safe_store()
    body = {"host": socket.gethostname(), "since": repository.clock.now().isoformat()}
    content = seal(repository.keys, Kind.EPOCH, json.dumps(body).encode())[1]
    for _ in range(_CLAIMS):
        epoch = last_epoch(repository, stream) + 1
        name = f"{_epochs(stream)}{epoch:012d}"
        try:
            repository.store.create(name, content)
        except AlreadyExists:
            continue
        except Unreachable:  # it may have landed
            with suppress(NotFound):
                if repository.store.read(name) == content:
                    return epoch
            raise
        return epoch
    raise Unreachable(f"no epoch of stream {stream} could be claimed")


def last_epoch(repository: Repository, stream: str) -> int:
    """That of the follower that came last, 0 if there never was one."""
    names = (one.name.rpartition("/")[2] for one in repository.store.list(_epochs(stream)))
    return max((int(name) for name in names if name.isdigit()), default=0)


def _epochs(stream: str) -> str:
    return f"{FOLDER}{stream}/epochs/"
