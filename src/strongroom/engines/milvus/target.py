"""Where on a Milvus server is a snapshot restored to, and what fits there?

Collections are built beside those that users see, under names that begin with `strongroom_`, and renamed when they are right. What
this machine notes of a restore, and which one was the last, lies in its state directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from blake3 import blake3

from strongroom.engines.milvus import creation, listing
from strongroom.engines.milvus.connection import Server
from strongroom.engines.milvus.creation import Offer, is_of_milvus, offer_of
from strongroom.engines.milvus.cutover import holder
from strongroom.engines.milvus.place import Place
from strongroom.engines.milvus.stage import RECEIPT, ServerStage
from strongroom.errors import WrongRequest
from strongroom.model import Collection, Conversion, Fidelity, Selection
from strongroom.repository.state import state_directory


class ServerTarget:
    """A server, or one of its databases. Collections that a restore doesn't name are left alone."""

    holds_one = False

    def __init__(self, place: Place) -> None:
        self._place = place

    def occupied(self, collections: Sequence[str]) -> Sequence[str]:
        """Those collections that are there already."""
        if not collections:
            return ()
        with Server(self._place) as server:
            places = [(name, self._place.address(name)) for name in collections]
            return [f"collection {name}" for name, place in places if listing.identity(server, *place) is not None]

    def receipt(self) -> bytes | None:
        """What the last `publish` of this machine left."""
        try:
            return (notes(self._place) / RECEIPT).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """Names that Milvus can't have, and types that the server's release doesn't offer."""
        try:
            _, own = self._place.address(collection.name)
        except WrongRequest as error:
            return [f"{error}: {error.hint}"]
        return list(creation.objections(collection, schema, own, self._offer()))

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """What loading changes, and which aliases are another collection's here."""
        found = list(creation.losses(collection, self._offer()))
        database, own = self._place.address(collection.name)
        with Server(self._place) as server:
            for alias in collection.catalog["aliases"] if is_of_milvus(collection) else ():
                other = holder(server, database, alias)
                if other is not None and other[0] != own:
                    found.append(f"{collection.name}: the alias {alias} stays that of {other[0]}")
        return found

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        return creation.conversions(collection, schema, self._offer())

    def fidelity(self, collection: Collection) -> Fidelity:
        """Milvus gives vectors back as it was given them, also where it measures by cosine."""
        return Fidelity.KEPT

    def stage(self, token: str, selection: Selection) -> ServerStage:
        """Open or re-open the stage of `token`. Raises Locked, Unreachable, Refused or NotFound."""
        return ServerStage(self._place, notes(self._place), token)

    def _offer(self) -> Offer:
        with Server(self._place) as server:
            return offer_of(listing.version_of(server))


def notes(place: Place) -> Path:
    """Where this machine notes what it restores to a place."""
    return state_directory() / "milvus" / blake3(place.shown.encode()).hexdigest(8)
