"""How is a state built on a Qdrant server and put in its place?

<name>.strongroom-<token>-<nonce>   a collection of the server; once it is in place, the alias <name> means it
<notes>/.strongroom-<token>/        (on this machine) staged.json: which is which; publishing: what is switched; new/: files
<notes>/receipt.json                what the last restore from this machine was
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from strongroom.engines.qdrant.conversion import points_of
from strongroom.engines.qdrant.server import definitions
from strongroom.engines.qdrant.server.connection import Server, connected
from strongroom.engines.qdrant.server.cutover import CutOver
from strongroom.engines.qdrant.server.definitions import SAID, aliases_of, names_of
from strongroom.engines.qdrant.server.frozen import QdrantSource
from strongroom.engines.qdrant.server.native import CATALOG, path_of, recover
from strongroom.engines.qdrant.server.place import Place, own_name, public_name
from strongroom.engines.qdrant.shape import config_for, shape_of
from strongroom.engines.staging import StagedEntries, write_durably
from strongroom.errors import EngineFailed, NotFound, Refused
from strongroom.model import Collection, Description, Selection

RECEIPT = "receipt.json"
_MOST_BYTES, _MOST_POINTS = 2 << 20, 500
"""Of one request, as Arrow has them: as JSON they are up to ten times as much, and a server takes 32 MB."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A collection that is built: the server's name of it, and the aliases that it shall have beside its name."""

    actual: str
    aliases: tuple[str, ...]


class QdrantStage:
    """See `protocol.Stage`."""

    def __init__(self, place: Place, notes: Path, token: str, selection: Selection) -> None:
        self._place, self._notes, self._token, self._selection = place, notes, token, selection
        self._entries = StagedEntries(notes, token, ())
        self.directory = self._entries.directory
        try:
            if not (self.directory / "begun").exists():
                self._clear()
                write_durably(self.directory / "begun", b"")
        except BaseException:
            self._entries.close()
            raise

    def artifact_path(self, path: str) -> Path:
        """In a directory of this machine, from where the server gets it. Raises Damaged if it points outside."""
        place = self._entries.contained(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def adopt(self, description: Description, selection: Selection) -> None:
        """Files of what isn't selected aren't there."""
        self._recover()

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Make the collection anew and put the points. Raises EngineFailed if the server refuses, or has another number of them."""
        with connected(self._place, EngineFailed) as server:
            said = collection.catalog.get(SAID) or {}
            aliases = said.get("aliases", ()) if said.get("name") == collection.name else ()
            actual = self._make_room(server, collection.name, aliases)
            definitions.make(server, actual, collection)
            names = shape_of(config_for(collection)).names
            rows = sum(_put(server, actual, batch, names) for batch in batches)
            _require_count(server, actual, collection.name, rows)
            definitions.settle(server, actual, collection)

    def _make_room(self, server: Server, name: str, aliases: Sequence[str]) -> str:
        """A name that nobody has, in place of what an earlier run left."""
        staged = self._staged()
        if name in staged:
            _remove(server, staged[name].actual)
        actual = own_name(name, self._token)
        self._note({**staged, name: Staged(actual, tuple(aliases))})
        return actual

    def _recover(self) -> None:
        """Let the server make collections of the installed files, once."""
        file = self.artifact_path(CATALOG)
        if not file.exists():
            return
        catalog, noted = json.loads(file.read_bytes()), self.directory / "recovered.json"
        files = {path: self._entries.contained(path).stat().st_mtime_ns for path in catalog["files"] if self._has(path)}
        if noted.exists() and json.loads(noted.read_bytes()) == files:
            return
        with connected(self._place, EngineFailed) as server:
            _require_release(server, catalog["version"])
            for name, said in catalog["collections"].items():
                if self._selection.wants(name):
                    self._recover_one(server, name, said)
        write_durably(noted, json.dumps(files).encode())

    def _recover_one(self, server: Server, name: str, said: Mapping[str, Any]) -> None:
        if said["nodes"] > len(self._place.nodes):
            hint = "name as many nodes with &node=..., or restore with --rung rebuild"
            raise Refused(f"{name} lay on {said['nodes']} nodes, and the URL names {len(self._place.nodes)}", hint=hint)
        wanted = self._selection.target_name(name)
        actual = self._make_room(server, wanted, said["aliases"] if wanted == name else ())
        for node in range(said["nodes"]):
            recover(self._place, node, actual, self.artifact_path(path_of(name, node)))
        _require_count(server, actual, name, said["count"])

    def _has(self, path: str) -> bool:
        return self._entries.contained(path).exists()

    def seal(self) -> None:
        """A server keeps what it has answered to."""

    def source(self) -> QdrantSource:
        """The staged collections, called as they will be."""
        self._recover()
        return QdrantSource(self._place, {name: one.actual for name, one in self._staged().items()})

    def publish(self, receipt: bytes, *, overwrite: bool) -> None:
        """Switch the aliases: see `cutover`. Raises Refused if something is in the way."""
        wanted = {name: (one.actual, one.aliases) for name, one in self._staged().items()}
        with connected(self._place, EngineFailed) as server:
            cut_over = CutOver(server, self.directory / "publishing")
            cut_over.run(wanted, overwrite=overwrite)
            write_durably(self._notes / RECEIPT, receipt)
            cut_over.remove_replaced()
        self.discard()

    def discard(self) -> None:
        """Remove what is staged, and isn't in its place."""
        self._clear()
        self._entries.discard()

    def close(self) -> None:
        """Let go of the stage; it stays for a later run."""
        self._entries.close()

    def _clear(self) -> None:
        """Also those of which there is no note."""
        if self._place.folder and not (Path(self._place.folder) / "meta.json").is_file():
            return
        with connected(self._place, EngineFailed) as server:
            aliases = aliases_of(server)
            for actual in names_of(server):
                own = public_name(actual)
                if own is not None and own[1] == self._token and actual not in aliases.values():
                    _remove(server, actual)

    def _staged(self) -> dict[str, Staged]:
        try:
            kept = json.loads((self.directory / "staged.json").read_bytes())
        except FileNotFoundError:
            return {}
        return {name: Staged(actual, tuple(aliases)) for name, (actual, aliases) in kept.items()}

    def _note(self, staged: Mapping[str, Staged]) -> None:
        kept = {name: (one.actual, one.aliases) for name, one in staged.items()}
        write_durably(self.directory / "staged.json", json.dumps(kept).encode())


def _remove(server: Server, actual: str) -> None:
    with suppress(NotFound):
        server.ask("delete_collection", actual)


def _put(server: Server, actual: str, batch: pa.RecordBatch, names: Mapping[str, str]) -> int:
    """Put points, in requests that a server takes. Done twice it is done once. Gives how many they are."""
    from qdrant_client import models

    each = max(1, batch.nbytes // max(1, batch.num_rows))
    step = max(1, min(_MOST_POINTS, _MOST_BYTES // each))
    for start in range(0, batch.num_rows, step):
        given = points_of(batch.slice(start, step), names)
        points = [models.PointStruct(id=one, vector=_vectors(vectors), payload=payload) for one, vectors, payload in given]
        server.ask("upsert", actual, points, wait=True)
    return int(batch.num_rows)


def _vectors(vectors: Mapping[str, Any]) -> dict[str, Any]:
    from qdrant_client import models

    return {name: models.SparseVector(**one) if isinstance(one, dict) else one for name, one in vectors.items()}


def _require_count(server: Server, actual: str, name: str, rows: int) -> None:
    there = server.ask("count", actual, exact=True).count
    if there != rows:
        raise EngineFailed(f"the server has {there} points in {name!r} after {rows} were given to it")


def _require_release(server: Server, written_by: str) -> None:
    present = server.version()
    if present.split(".")[:2] != written_by.split(".")[:2]:
        raise Refused(
            f"{server.shown} is Qdrant {present}, and the files are of {written_by}",
            hint="restore with --rung rebuild, or to a server of that release",
        )
