"""Where on a Qdrant server is a snapshot restored to, and what fits there?

Collections are built beside those that users see, under names of their own, and found by aliases when they are right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from blake3 import blake3

from strongroom.engines.qdrant.loading import conversions_of, fidelity_of, losses_of, objections_of
from strongroom.engines.qdrant.server.connection import connected
from strongroom.engines.qdrant.server.definitions import SAID, aliases_of, names_of, sharded_by_key
from strongroom.engines.qdrant.server.place import LONGEST_NAME, Place, public_name
from strongroom.engines.qdrant.server.stage import RECEIPT, QdrantStage
from strongroom.model import Collection, Conversion, Fidelity, Selection
from strongroom.repository.state import state_directory

_FORBIDDEN = '<>:"/\\|?*\0\x1f'


class QdrantTarget:
    """A server, or a folder of the local mode. Collections that a restore doesn't name are left alone."""

    holds_one = False

    def __init__(self, place: Place) -> None:
        self._place = place

    def occupied(self, collections: Sequence[str]) -> Sequence[str]:
        """Those names that are taken."""
        if not collections or (self._place.folder and not (Path(self._place.folder) / "meta.json").is_file()):
            return ()
        with connected(self._place) as server:
            there = {*names_of(server), *aliases_of(server)}
        return [f"collection {name}" for name in collections if name in there]

    def receipt(self) -> bytes | None:
        """What the last `publish` of this machine left."""
        try:
            return (notes(self._place) / RECEIPT).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return [*objections_of(collection, schema), *_objections_to_name(collection.name)]

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        found = list(losses_of(collection, schema))
        if self._place.folder and collection.catalog.get("payload_indexes"):
            found.append("the local mode has no payload indexes")
        if self._place.folder and SAID in collection.catalog:
            found.append("the local mode keeps vectors as float32, and nothing of how they are indexed")
        if sharded_by_key(collection):
            found.append("shard keys of points are lost: the server spreads them over its shards")
        return found

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        return conversions_of(collection, schema, self.fidelity(collection), local=bool(self._place.folder))

    def fidelity(self, collection: Collection) -> Fidelity:
        """The local mode keeps every vector as it is given."""
        return Fidelity.KEPT if self._place.folder else fidelity_of(collection)

    def stage(self, token: str, selection: Selection) -> QdrantStage:
        """Open or re-open the stage of `token`. Raises Locked, Unreachable, Refused or NotFound."""
        return QdrantStage(self._place, notes(self._place), token, selection)


def notes(place: Place) -> Path:
    """Where this machine notes what it restores to a place."""
    return state_directory() / "qdrant" / blake3(place.shown.encode()).hexdigest(8)


def _objections_to_name(name: str) -> Iterator[str]:
    if any(one in name for one in _FORBIDDEN) or name in ("", ".", ".."):
        yield f"Qdrant has no collection called {name!r}; use --rename"
    if len(name.encode()) > LONGEST_NAME:
        yield f"{name[:40]!r}... is too long for a collection that is restored; use --rename"
    if public_name(name) is not None:
        yield f"{name!r} is a name that restores give to what they build; use --rename"
