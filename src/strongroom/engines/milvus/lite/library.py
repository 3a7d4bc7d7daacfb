"""What milvus_lite itself is asked about a folder that nobody else has open. Each runs in a child process.

It is asked as a server is: by its own service, on a socket in a folder that nobody else may enter.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from strongroom.engines.milvus import listing
from strongroom.engines.milvus.connection import Server
from strongroom.engines.milvus.creation import LITE, is_of_milvus
from strongroom.engines.milvus.cutover import holder
from strongroom.engines.milvus.listing import Listed
from strongroom.engines.milvus.loading import Loading, pairs
from strongroom.engines.milvus.moment import Moment, read_once
from strongroom.engines.milvus.place import DEFAULT, Place
from strongroom.engines.milvus.reading import loaded
from strongroom.engines.milvus.search import nearest
from strongroom.errors import EngineFailed
from strongroom.model import Answers, Collection, Json
from strongroom.progress import SILENT


def load() -> None:
    import milvus_lite.adapter.grpc.server  # noqa: F401 - so that it is there when it is needed


@contextmanager
def serving(path: str) -> Iterator[Server]:
    """The folder's own service while this is open; then all of it is in files."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    logging.getLogger("milvus_lite").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="strongroom-lite-") as private:
        host = f"unix:{private}/socket"
        service, database, _ = start_server_in_thread(path, host)
        try:
            with Server(Place(f"{host}:0", shown=Path(path).name), EngineFailed) as server:
                yield server
        finally:
            service.stop(grace=None).wait()
            database.close()


def folder_of(path: Path, name: str) -> Path:
    """Where the collection of that name lies in the folder `path`."""
    database, own = place_of(name)
    return path.joinpath(*(() if database == DEFAULT else ("databases", database)), "collections", own)


def place_of(name: str) -> tuple[str, str]:
    """The database of a collection, and its own name."""
    database, _, own = name.rpartition("/")
    return database or DEFAULT, own


def read(path: str, folder: str) -> Moment:
    """All rows, into files in `folder`."""
    with serving(path) as server, ExitStack() as stack:
        found = [_indexed(Path(path), one) for one in listing.collections(server)]
        for one in found:
            stack.enter_context(loaded(server, one))
        return read_once(server, found, Path(folder), 1, SILENT)


def search(path: str, listed: Listed, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
    with serving(path) as server:
        return nearest(server, listed, field, queries, k)


def make(path: str, collection: Collection, spool: str) -> int:
    """A new collection in the folder, with the rows of an Arrow stream, if there is one; gives how many rows it took."""
    database, own = place_of(collection.name)
    with serving(path) as server:
        said = collection.catalog if is_of_milvus(collection) else {}
        if database not in server.ask("ListDatabases").db_names:
            _, _, common = server.messages
            server.ask("CreateDatabase", database=database, properties=pairs(common, said.get("database_properties", {})))
        if listing.identity(server, database, own) is not None:
            server.ask("DropCollection", database=database, collection_name=own)
        loading = Loading(server, database, own, LITE)
        if spool:
            with pa.ipc.open_stream(spool) as stream:
                rows = loading.run(collection, stream)
        else:
            rows = loading.run(collection, ())
        for alias in said.get("aliases", ()):
            if holder(server, database, alias) is None:
                server.ask("CreateAlias", database=database, collection_name=own, alias=alias)
        return rows


def rename(path: str, renames: Mapping[str, str]) -> None:
    """Give collections other names; two may change theirs."""
    with serving(path) as server:
        aside = {old: f"{old}.strongroom" for old in renames}
        for moves in (aside, {aside[old]: new for old, new in renames.items()}):
            for old, new in moves.items():
                _rename(server, old, new)


def prepare(path: str) -> None:
    """An empty folder."""
    with serving(path):
        pass


def _rename(server: Server, old: str, new: str) -> None:
    (database, own), (there, name) = place_of(old), place_of(new)
    if database != there:
        raise EngineFailed(f"{old!r} can't be moved to another database by its files", hint="restore with --rung rebuild")
    server.ask("RenameCollection", database=database, oldName=own, newName=name)


def _indexed(path: Path, listed: Listed) -> Listed:
    """With the parameters of its indexes, which the service leaves out. What is loaded is no property of a folder."""
    try:
        manifest = json.loads((folder_of(path, listed.name) / "manifest.json").read_bytes())
    except FileNotFoundError:
        manifest = {}
    specs: Mapping[str, Mapping[str, Any]] = manifest.get("index_specs", {})
    found = [{**one, "params": {**_parameters(specs.get(one["field"], {})), **one["params"]}} for one in listed.said["indexes"]]
    return replace(listed, said={**listed.said, "indexes": found, "loaded": True})


def _parameters(spec: Mapping[str, Any]) -> dict[str, Json]:
    return dict(spec.get("build_params") or {})
