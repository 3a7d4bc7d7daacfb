"""Where on a Chroma server is a snapshot restored to, and what fits there?

Collections are built beside those that users see, under names that begin with `strongroom-`, and renamed when they are right. What
this machine notes of a restore, and which one was the last, lies in its state directory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from blake3 import blake3

from strongroom.engines.chroma import conversion
from strongroom.engines.chroma.catalog import Address
from strongroom.engines.chroma.server import listing
from strongroom.engines.chroma.server.connection import Server
from strongroom.engines.chroma.server.place import Place, is_own
from strongroom.engines.chroma.server.stage import RECEIPT, ServerStage
from strongroom.engines.chroma.target import conversions_of, fidelity_of, objections_to_name
from strongroom.errors import WrongRequest
from strongroom.model import Collection, Conversion, Fidelity, Selection
from strongroom.repository.state import state_directory


class ServerTarget:
    """A tenant of a server, or one of its databases. Collections that a restore doesn't name are left alone."""

    holds_one = False
    learns_dimension = True

    def __init__(self, place: Place) -> None:
        self._place = place

    def occupied(self, collections: Sequence[str]) -> Sequence[str]:
        """Those collections that are there already."""
        if not collections:
            return ()
        found = []
        with Server(self._place) as server:
            for name in collections:
                address = self._place.address(name)
                if listing.find(server, address.database, address.name) is not None:
                    found.append(f"collection {name}")
        return found

    def receipt(self) -> bytes | None:
        """What the last `publish` of this machine left."""
        try:
            return (notes(self._place) / RECEIPT).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """Why such rows can't be loaded: as for an embedded database, and names that this place can't have."""
        found = list(conversion.objections(schema))
        try:
            address: Address = self._place.address(collection.name)
        except WrongRequest as error:
            return [*found, str(error)]
        if is_own(address.name):
            found.append(f"{address.name!r} is a name that restores give to what they build; use --rename")
        return [*found, *objections_to_name(address)]

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return list(conversion.losses(schema))

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        return conversions_of(collection, schema)

    def fidelity(self, collection: Collection) -> Fidelity:
        """Cosine collections hold unit vectors."""
        return fidelity_of(collection)

    def stage(self, token: str, selection: Selection) -> ServerStage:
        """Open or re-open the stage of `token`. Raises Locked, Unreachable, Refused or NotFound."""
        return ServerStage(self._place, notes(self._place), token)


def notes(place: Place) -> Path:
    """Where this machine notes what it restores to a place."""
    return state_directory() / "chroma-server" / blake3(place.shown.encode()).hexdigest(8)
