"""How does a Chroma directory come to be from a snapshot: by its own files, or by inserting rows?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from strongroom.engines import isolation
from strongroom.engines.changes import Change
from strongroom.engines.chroma import conversion, edit
from strongroom.engines.chroma.apply import apply
from strongroom.engines.chroma.capture import DATABASE
from strongroom.engines.chroma.catalog import Address
from strongroom.engines.chroma.creation import create_like, hnsw_of
from strongroom.engines.chroma.frozen import ChromaSource
from strongroom.engines.conversions import Becoming, Ways, table
from strongroom.engines.staged_directory import DirectoryStage, DirectoryTarget
from strongroom.engines.staging import remove, sync_tree
from strongroom.errors import EngineFailed, WrongRequest
from strongroom.model import Collection, Conversion, Description, Fidelity, Selection

_CLIENT = "strongroom.engines.chroma.client"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")


class ChromaTarget(DirectoryTarget):
    """The directory to restore to."""

    holds_one = False
    learns_dimension = True

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """Why such rows can't be loaded: more than one vector, no id, a name that Chroma doesn't allow."""
        found = list(conversion.objections(schema))
        try:
            address = Address.parse(collection.name)
        except WrongRequest as error:
            return [*found, str(error)]
        return [*found, *objections_to_name(address)]

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        return list(conversion.losses(schema))

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        return conversions_of(collection, schema)

    def fidelity(self, collection: Collection) -> Fidelity:
        """Cosine collections hold unit vectors."""
        return fidelity_of(collection)

    def stage(self, token: str, selection: Selection) -> ChromaStage:
        """Open or re-open the stage of `token` beside the directory. Raises Locked."""
        return ChromaStage(self._place, token)


class ChromaStage(DirectoryStage):
    """A new Chroma directory under construction. Every step may be repeated after a crash."""

    def adopt(self, description: Description, selection: Selection) -> None:
        """Drop what isn't selected (without a trace in the files), rename what is. The rest stays bit for bit."""
        if not selection.everything:
            chosen = selection.chosen(description.collections)
            edit.keep(self._root, {c.catalog["id"]: Address.parse(selection.target_name(c.name)) for c in chosen})

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Create the collection and add the rows, which are spooled to the stage first: Chroma's process takes them from there.
        Raises EngineFailed if Chroma refuses, or ends up with another number of rows."""
        address = Address.parse(collection.name)
        self._root.mkdir(mode=0o700, exist_ok=True)
        if (self._root / DATABASE).exists():
            edit.drop(self._root, address)
        where = (str(self._root), address.tenant, address.database, address.name)
        create_like(self._root, address, collection)
        spool = self.directory / "spool.arrow"
        try:
            rows = _spool(spool, batches)
            loaded = isolation.ask(f"{_CLIENT}:insert", *where, str(spool)) if rows else 0
        finally:
            remove(spool)
        if loaded != rows:
            raise EngineFailed(f"Chroma has {loaded} rows in {collection.name!r} after {rows} were added")

    def identity(self, collection: Collection) -> str:
        """Its id: a collection may be renamed."""
        return str(collection.catalog["id"])

    def apply(self, changes: Iterable[Change], selection: Selection) -> int:
        """Apply changes of the journal in order: see `apply`."""
        self.seal()
        return apply(self._root, self.directory, changes, selection)

    def seal(self) -> None:
        """Make everything durable. A snapshot without collections becomes an empty database."""
        if not (self._root / DATABASE).exists():
            self._root.mkdir(mode=0o700, exist_ok=True)
            isolation.call(f"{_CLIENT}:prepare", str(self._root))
        sync_tree(self._root)

    def source(self) -> ChromaSource:
        """The staged directory, to be read back; its private copies are made in the stage."""
        return ChromaSource(self._root, beside=self.directory)


def objections_to_name(address: Address) -> Sequence[str]:
    """Why a collection can't be called so."""
    if _NAME.fullmatch(address.name):
        return ()
    allowed = "3 to 512 letters, digits, '.', '_' and '-'"
    return (f"Chroma allows names of {allowed}, and not {address.name!r}; use --rename",)


def conversions_of(collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
    """What becomes of each part of rows in a Chroma, embedded or a server."""
    becomes = Becoming("float32", str(hnsw_of(collection)["space"]), "hnsw")
    own = "schema_str" in collection.catalog
    unit = "of unit length once they are in the index"
    ways = Ways(conversion.loaded, lambda _: becomes, fidelity_of(collection), gaps=False, own=own, unit=unit)
    return table(collection, schema, ways)


def fidelity_of(collection: Collection) -> Fidelity:
    """Cosine collections hold unit vectors."""
    cosine = any(field.metric == "cosine" for field in collection.fields)
    return Fidelity.NORMALIZED if cosine else Fidelity.KEPT


def _spool(path: Path, batches: Iterable[pa.RecordBatch]) -> int:
    """Write the batches to an Arrow stream; returns the number of rows, 0 (and no file) if there are none."""
    rows = 0
    writer = None
    try:
        for batch in batches:
            writer = writer or pa.ipc.new_stream(str(path), batch.schema)
            writer.write_batch(batch)
            rows += batch.num_rows
    finally:
        if writer is not None:
            writer.close()
    return rows
