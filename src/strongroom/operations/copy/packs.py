"""How blobs reach a replica: whole packs as they are, or, where only some of a pack may go there, blobs in new packs."""

from __future__ import annotations

from collections.abc import Iterable

from strongroom.errors import Damaged, NotFound, Stopped
from strongroom.operations.copy.transport import Transport
from strongroom.repository import Pack, Repository
from strongroom.repository.blob_index import BlobIndex
from strongroom.repository.evacuation import Standing
from strongroom.repository.store import Listed
from strongroom.repository.writer import BlobWriter

_LOOKS = 4
_BATCH_BYTES = 1 << 30
"""Packs are listed in the replica's blob index after so many bytes: a copy that is cut off has kept them."""


def send_packs(
    primary: Repository, replica: Repository, transport: Transport, needs: set[bytes], *, goes: set[bytes], whole: bool, host: str
) -> set[bytes]:
    """See to it that every blob that snapshots of a host need ('': of the repository itself) lies at the replica in a listed pack;
    gives those that can't be had whole anywhere. `goes` is all that may go there."""
    bad: set[str] = set()
    for _ in range(_LOOKS):
        standing = Standing.now(replica)
        missing = _missing(standing, needs, host)
        if not missing:
            return set()
        primary.look_again()
        chosen, alone = _choose(primary, missing, bad | standing.condemned, goes, whole=whole, host=host)
        if not chosen:
            return _send_blobs(primary, replica, transport, missing)
        went = {pack.id for pack in chosen if pack.id in replica.index.packs and not standing.is_there(pack)}
        _send_whole(replica, transport, chosen, went)
        bad |= {pack.id for pack in chosen if pack.name in transport.damaged or pack.name in transport.gone}
        bad |= {pack.id for pack in chosen if pack.name in transport.different}
        if alone:
            _send_blobs(primary, replica, transport, alone)
    return _send_blobs(primary, replica, transport, _missing(Standing.now(replica), needs, host))


def _missing(standing: Standing, needs: Iterable[bytes], host: str) -> set[bytes]:
    return {blob for blob in needs if standing.pack_of(blob, host) is None}


def _choose(
    primary: Repository, missing: set[bytes], bad: set[str], goes: set[bytes], *, whole: bool, host: str
) -> tuple[list[Pack], set[bytes]]:
    """Packs that go as they are, and the blobs of packs of which something may not go, or of none."""
    standing = Standing.now(primary)
    chosen: dict[str, Pack] = {}
    alone: set[bytes] = set()
    mixed: dict[str, bool] = {}
    for blob in missing:
        places = [one.pack for one in primary.index.places(blob) if one.pack.id not in bad and standing.is_there(one.pack)]
        places = [one for one in places if standing.speaks_for(one, host)]
        best = min(places, key=lambda pack: pack.id in standing.condemned, default=None)
        if best is None:
            alone.add(blob)
            continue
        if best.id not in mixed:
            mixed[best.id] = not whole and any(one.id not in goes for one in best.blobs)
        if mixed[best.id]:
            alone.add(blob)
        else:
            chosen[best.id] = best
    return list(chosen.values()), alone


def _send_whole(replica: Repository, transport: Transport, packs: list[Pack], went: set[str]) -> None:
    """`went`: the ids of those that were listed and aren't there: a prune took them away, and what listed them."""
    transport.progress.begin(f"packs to {replica.store.url}", sum(pack.size for pack in packs), "bytes")
    batch: list[Pack] = []
    for pack in packs:
        batch.append(pack)
        if sum(one.size for one in batch) >= _BATCH_BYTES:
            _send_batch(replica, transport, batch, went)
            batch = []
    _send_batch(replica, transport, batch, went)


def _send_batch(replica: Repository, transport: Transport, packs: list[Pack], went: set[str]) -> None:
    """Packs that are there already, of a copy that was cut off, are only listed if they arrived whole."""
    arrived: set[str] = set()
    try:
        transport.send((Listed(pack.name, pack.size) for pack in packs), arrived=arrived)
    except Stopped:
        _list_those(replica, packs, arrived, went)
        raise
    _list_those(replica, packs, arrived, went)


def _list_those(replica: Repository, packs: list[Pack], arrived: set[str], went: set[str]) -> None:
    listed = replica.index.packs.keys() - went
    fresh = [pack for pack in packs if pack.name in arrived and pack.id not in listed]
    if fresh:
        replica.add_index(fresh)


def _send_blobs(primary: Repository, replica: Repository, transport: Transport, blobs: Iterable[bytes]) -> set[bytes]:
    """Blobs by themselves, each decrypted and checked, into new packs; gives those that can't be read."""
    lost: set[bytes] = set()
    wanted = sorted(blobs)
    if not wanted:
        return lost
    with BlobWriter(replica.store, replica.keys, BlobIndex()) as writer:
        for blob in wanted:
            try:
                coded = primary.read_coded(blob)
            except (Damaged, NotFound):
                lost.add(blob)
                continue
            transport.pace.take(len(coded.payload))
            writer.submit_coded(coded)
        packs = writer.close()
    replica.add_index(packs)
    transport.moved += len(packs)
    transport.moved_bytes += sum(pack.size for pack in packs)
    return lost
