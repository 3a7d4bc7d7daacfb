"""What of a server does a snapshot have, and what not?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from strongroom.engines.qdrant.server.definitions import SAID, sharded_by_key
from strongroom.engines.qdrant.server.moment import Moment
from strongroom.engines.qdrant.server.place import Place
from strongroom.model import INDEX_FILES, Collection, LedgerItem, Status

_HELD, _MISSING, _NOTHING = Status.CAPTURED, Status.NOT_CAPTURED, Status.NOT_OFFERED


def ledger(place: Place, moment: Moment, found: Sequence[Collection]) -> Iterator[LedgerItem]:
    shapes = [one.listed.shape for one in moment.rows]
    vectors = [(row.listed.name, vector) for row, shape in zip(moment.rows, shapes, strict=True) for vector in shape.vectors]
    yield LedgerItem("points", _HELD, "ids, payload and all vectors")
    yield LedgerItem("one moment", _HELD, f"all points were read {moment.readings} times, and were the same twice running")
    yield LedgerItem("configuration, aliases", _HELD, "vectors, HNSW, quantization, optimizers, shards and replicas in number")
    yield _files(place)
    if place.folder:
        yield LedgerItem("payload indexes", _NOTHING, "the local mode has none")
    else:
        keys = sorted({key for one in found for key in one.catalog["payload_indexes"]})
        yield LedgerItem("payload indexes", _HELD, _listed(keys) or "there are none")
    odd = [f"{name}: {vector.column}" for name, vector in vectors if vector.kind != "dense"]
    if odd:
        yield LedgerItem("probes of multi-vectors and sparse vectors", _MISSING, f"{_listed(odd)}; their rows are")
        if place.folder:
            yield LedgerItem("digits of them beyond float32", _MISSING, "only the local mode has any; a server has none")
    coded = [f"{name}: {vector.column}" for name, vector in vectors if vector.coded]
    if coded:
        yield LedgerItem("vectors as they were given", _NOTHING, f"{_listed(coded)}: only codes are kept")
    if not place.folder and any(vector.said.get("distance") == "Cosine" for _, vector in vectors):
        yield LedgerItem("lengths of vectors measured by Cosine", _NOTHING, "Qdrant keeps unit vectors")
    keyed = [one.name for one in found if sharded_by_key(one)]
    if keyed:
        yield LedgerItem("shard keys of points", _MISSING, f"{_listed(keyed)}: rows don't say in which shard they lie")
    if any(one.catalog[SAID]["config"]["params"].get("read_fan_out_factor") for one in found):
        yield LedgerItem("fan-out of reads", _MISSING, "it is noted, and not set again by a restore")
    if moment.left:
        yield LedgerItem("collections of restores under way or broken off", _MISSING, _listed(moment.left))
    yield LedgerItem("API keys, access rules, cluster configuration", _NOTHING, "they are those of the server's configuration")


def _files(place: Place) -> LedgerItem:
    if place.folder:
        return LedgerItem(INDEX_FILES, _NOTHING, "the local mode has no index: it searches all points")
    if not place.snapshots:
        return LedgerItem(INDEX_FILES, _MISSING, "the URL doesn't say ?snapshots=yes: the index is built again from the rows")
    nodes = f"{len(place.nodes)} nodes" if len(place.nodes) > 1 else "the one node"
    return LedgerItem(INDEX_FILES, _HELD, f"the server's own snapshots of {nodes} that the URL names")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")
