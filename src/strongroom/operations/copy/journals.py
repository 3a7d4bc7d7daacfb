"""How a journal reaches a replica: segment by segment, in their order, so that it always is a beginning of the primary's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from strongroom.errors import Damaged, NotFound
from strongroom.journal.segments import FOLDER, decode_changes, decode_front, segment_name
from strongroom.journal.stream import streams
from strongroom.operations.copy.transport import Transport
from strongroom.repository import Repository, tombstones
from strongroom.repository.crypto import content_hash
from strongroom.repository.store import Listed
from strongroom.repository.tombstones import Tombstone, What


def send_journals(primary: Repository, replica: Repository, transport: Transport, chosen: Iterable[str]) -> None:
    """Segments that the replica lacks, of these streams, and the claims of their followers, which tell a later one its epoch."""
    here, there = streams(primary), streams(replica)
    for stream in chosen:
        numbers, present = here.get(stream, {}), there.get(stream, {})
        missing = [number for number in sorted(numbers) if number not in present]
        if not _is_beginning(primary, replica, transport, stream, max(numbers.keys() & present.keys(), default=None)):
            continue
        claims = {one.name: one.size for one in primary.store.list(f"{FOLDER}{stream}/epochs/")}
        known = {one.name for one in replica.store.list(f"{FOLDER}{stream}/epochs/")}
        transport.send([Listed(name, size) for name, size in sorted(claims.items()) if name not in known])
        _explain_trimmed(primary, replica, stream, min(numbers, default=0), present)
        for number in missing:  # one after another: no hole while it runs
            listed = Listed(segment_name(stream, number), numbers[number])
            if not transport.send([listed], lambda name, content: _require_segment(primary, name, content)):
                break


def _is_beginning(primary: Repository, replica: Repository, transport: Transport, stream: str, last: int | None) -> bool:
    """Is the replica's stream the same up to the last segment that both have? Each holds the hash of the one before. If it went its
    own way, nothing is sent: the chain would break."""
    if last is None:
        return True
    name = segment_name(stream, last)
    try:
        ours = primary.store.read(name)
        if ours == replica.store.read(name):
            return True
        _require_segment(primary, name, ours)
    except Damaged as error:
        transport.damaged[name] = error.problem
    except NotFound:  # trimmed since it was listed: the next copy sees it
        return False
    else:
        transport.different.add(name)
    return False


def _require_segment(primary: Repository, name: str, content: bytes) -> None:
    """Raises Damaged unless head and operations are those that were signed."""
    front = decode_front(primary.keys, name, content)
    if content_hash(content[front.length :]).hex() != front.head.body:
        deque(decode_changes(primary.keys, front, content), maxlen=0)  # says what is wrong
        raise Damaged(name, "its operations are not the ones that its head was signed for")


def _explain_trimmed(primary: Repository, replica: Repository, stream: str, first: int, present: dict[int, int]) -> None:
    """Segments that were trimmed before they came here are no loss; those that are here stay."""
    if present and first <= max(present) + 1:
        return
    for tombstone in primary.tombstones(What.TRIMMED):
        of_stream = {one: at for one, at in tombstone.since.items() if one.startswith(stream)}
        known = {one for there in replica.tombstones(What.TRIMMED) for one in there.since}
        fresh = {one: at for one, at in of_stream.items() if one not in known}
        if fresh:
            tombstones.bury(replica.store, replica.keys, Tombstone(What.TRIMMED, fresh))
