"""Which calls of chromadb's HTTP client change what? The rest of its capture is that of any client: `oplog/client.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from blake3 import blake3

from strongroom.engines.chroma.server import listing
from strongroom.engines.chroma.server.connection import Server
from strongroom.engines.chroma.server.place import Place
from strongroom.engines.chroma.server.reading_back import ReadingBack
from strongroom.engines.oplog.client import Capture, CapturedClientObject, CapturedObject
from strongroom.engines.oplog.folder import OplogFolder
from strongroom.errors import WrongRequest, from_os_error
from strongroom.model import Json
from strongroom.repository.state import state_directory

_ABOUT = b"chroma+http 1"


def log_of(place: Place) -> OplogFolder:
    """Where the log of a database lies: in the folder that the URL names, else in this user's state directory."""
    name = blake3("\n".join((place.base, place.tenant, place.home)).encode()).hexdigest(8)
    path = Path(place.log) if place.log else state_directory() / "capture" / f"chroma-{name}.oplog"
    return OplogFolder(path, place.shown)


def capture(client: Any, place: Place, every: float, anew: bool) -> CapturedChroma:
    """See `protocol.Capturing`. `client` is a chromadb client of the database that the URL names."""
    if not all(hasattr(client, one) for one in ("get_or_create_collection", "tenant", "database")):
        raise WrongRequest(f"{type(client)} is no chromadb client", hint="give chromadb.HttpClient(...)")
    if (client.tenant, client.database) != (place.tenant, place.database):
        raise WrongRequest(
            f"the client uses {client.tenant}/{client.database}, and the URL names {place.shown}",
            hint=f"write {place.url.split('//')[0]}//host:port/{client.tenant}/{client.database}",
        )
    server = Server(place)
    try:
        theirs = {str(one.id) for one in client.list_collections()}
        if theirs != {str(one["id"]) for one in listing.every(server)}:
            raise WrongRequest(f"the client has other collections than {place.shown}", hint="name the server that it is of")
        folder = log_of(place)
        try:
            folder.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise from_os_error(error, str(folder.path)) from error
        return CapturedChroma(client, Capture(folder, _ABOUT, ReadingBack(server), every=every, anew=anew))
    except BaseException:
        server.close()
        raise


def _rows(collection: Any, given: Mapping[str, Any]) -> Json:
    ids = given["ids"]
    return {"rows": str(collection.id), "ids": [ids] if isinstance(ids, str) else list(ids or ())}


def _deleted(collection: Any, given: Mapping[str, Any]) -> Json:
    """Those that a filter finds are asked for before: afterwards nobody knows which they were."""
    if given.get("where") is None and given.get("where_document") is None:
        return _rows(collection, given)
    asked = {key: given[key] for key in ("ids", "where", "where_document") if given.get(key) is not None}
    return {"rows": str(collection.id), "ids": list(collection.get(include=[], **asked)["ids"])}


def _catalog(_: Any, __: Mapping[str, Any]) -> Json:
    return {"catalog": True}


class CapturedCollection(CapturedObject):
    """A `chromadb.Collection`."""

    changing: ClassVar = {"add": _rows, "upsert": _rows, "update": _rows, "delete": _deleted, "modify": _catalog}
    refused: ClassVar = dict.fromkeys(
        ("fork", "attach_function", "detach_function"), "do it with a client that isn't captured, then capture with anew=True"
    )


class CapturedChroma(CapturedClientObject):
    """A `chromadb.HttpClient`."""

    changing: ClassVar = dict.fromkeys(("create_collection", "get_or_create_collection", "delete_collection"), _catalog)
    refused: ClassVar = dict.fromkeys(("reset", "set_tenant", "set_database"), "capture another client for another database")

    def wrap(self, answer: Any) -> Any:
        """Collections are captured too."""
        if isinstance(answer, list):
            return [self.wrap(one) for one in answer]
        return CapturedCollection(answer, self._capture) if hasattr(answer, "upsert") else answer
