"""How does a server's own snapshot of a collection come into a file of this machine, and how is a collection made of such files?

A node has the shards that lie on it: each node makes a snapshot of its own, and recovers its own. Aliases aren't in them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from strongroom.engines import regions
from strongroom.engines.qdrant.server.connection import SECONDS, api_key, connected, said_by
from strongroom.engines.qdrant.server.moment import Moment
from strongroom.engines.qdrant.server.place import Place
from strongroom.engines.retrying import Retrying
from strongroom.errors import EngineFailed, SourceChanged, Unreachable, Unreadable
from strongroom.model import Cut, Region

_PIECE = 1 << 20


CATALOG = "catalog.json"
"""Which files there are, and what is to be made of them."""


class KeptFile:
    """A file as an artifact: see `protocol.Artifact`."""

    immutable = False
    cut = Cut.CONTENT

    def __init__(self, file: Path, path: str, collection: str | None) -> None:
        self._file = file.open("rb")
        self._lock = threading.Lock()
        self.path = path
        self.collection = collection
        self.size = file.stat().st_size

    def regions(self) -> Iterable[Region]:
        return regions.by_content(self.read, self.size)

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises SourceChanged if the file was meddled with."""
        with self._lock:
            self._file.seek(offset)
            content = self._file.read(length)
        if len(content) != length:
            raise SourceChanged(f"{self.path} ends early")
        return content

    def close(self) -> None:
        self._file.close()


class NativeSnapshots:
    """The server's own snapshots of what was read last, in a folder."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._place = place
        self._folder = folder
        folder.mkdir(mode=0o700)
        self.files: tuple[KeptFile, ...] = ()

    def close(self) -> None:
        for one in self.files:
            one.close()

    def take(self, moment: Moment) -> None:
        """In place of those that were taken before."""
        self.close()
        found = []
        for number, rows in enumerate(moment.rows):
            for node in range(len(self._place.nodes)):
                file = self._folder / f"{number}-{node}"
                fetch(self._place, node, rows.listed.actual, file)
                found.append((file, path_of(rows.listed.name, node), rows.listed.name))
        catalog = self._folder / CATALOG
        nodes = len(self._place.nodes)
        said = {one.listed.name: {"count": one.count, "aliases": one.listed.aliases, "nodes": nodes} for one in moment.rows}
        files = [path for _, path, _ in found]
        catalog.write_text(json.dumps({"version": moment.version, "collections": said, "files": files}, sort_keys=True))
        self.files = (KeptFile(catalog, CATALOG, None), *(KeptFile(*one) for one in found))


def path_of(collection: str, node: int) -> str:
    """Where the file of a node lies, for the name that users have for the collection."""
    return f"snapshots/{quote(collection, safe=' ')}/{node}.snapshot".replace("/./", "/%2E/").replace("/../", "/%2E%2E/")


def fetch(place: Place, node: int, actual: str, file: Path) -> None:
    """Let a node make a snapshot, download it, and remove it there. Raises Unreadable if what came isn't what the node promised."""
    with connected(place, Unreadable, node) as server:
        made = server.tell("create_snapshot", actual, wait=True)
        if made is None:
            raise Unreadable(f"{server.shown} made no snapshot of {actual}")
        try:
            Retrying().call(lambda: _download(server.shown, actual, made, file))
        finally:
            server.ask("delete_snapshot", actual, made.name, wait=True)


def _download(shown: str, actual: str, made: Any, file: Path) -> None:
    digest, size = sha256(), 0
    with _requests(shown) as http, http.stream("GET", _url("collections", actual, "snapshots", made.name)) as answer:
        if answer.status_code != 200:
            answer.read()
            raise said_by(shown, answer.status_code, answer.content, Unreadable)
        with file.open("wb") as written:
            for piece in answer.iter_bytes(_PIECE):
                written.write(piece)
                digest.update(piece)
                size += len(piece)
    if size != made.size or made.checksum not in (None, digest.hexdigest()):
        raise Unreachable(f"{shown}: the snapshot of {actual} came otherwise than the server said", busy=True)


def recover(place: Place, node: int, actual: str, file: Path) -> None:
    """Make the collection of the file of a node, whatever replicas say. Raises EngineFailed or Unreachable; may be repeated."""
    with file.open("rb") as read:
        digest = sha256()
        while piece := read.read(_PIECE):
            digest.update(piece)
    asked = {"wait": "true", "priority": "snapshot", "checksum": digest.hexdigest()}
    shown = place.nodes[node]
    with _requests(shown) as http, file.open("rb") as read:
        answer = http.post(_url("collections", actual, "snapshots", "upload"), params=asked, files={"snapshot": (file.name, read)})
    if answer.status_code != 200:
        raise said_by(shown, answer.status_code, answer.content, EngineFailed)


def _url(*parts: str) -> str:
    return "/".join(quote(one, safe="") for one in parts)


@contextmanager
def _requests(shown: str) -> Iterator[Any]:
    """What the client doesn't offer: files, piece by piece."""
    import httpx

    key = api_key()
    head = {"api-key": key} if key else {}
    try:
        with httpx.Client(base_url=f"{shown}/", headers=head, timeout=httpx.Timeout(SECONDS, connect=20)) as http:
            yield http
    except httpx.HTTPError as error:
        raise Unreachable(f"{shown}: {type(error).__name__}", hint="check that the server runs, and its address") from error
