"""Which sources have rows of several tenants, and what could somebody read who has all keys and objects that are left?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import faiss
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from strongroom import engines
from strongroom.errors import StrongroomError
from strongroom.library import Strongroom, init_repository
from strongroom.progress import SILENT
from strongroom.repository import PACKS, Argon2Cost, Repository, Secret, Store
from strongroom.repository.framing import Kind, unseal
from strongroom.repository.packs import read_directory
from strongroom.repository.tenants import FOLDER, TenantKey, read_key
from strongroom.snapshots.fingerprints import role_of
from strongroom.snapshots.segments import bare_values

PASSWORD = "correct horse"
CHEAP = Argon2Cost(1, 1, 64)
TENANTS = ("acme", "bolt", "corp")
ROWS, DIMENSION = 120, 16


@dataclass
class Letters:
    """Rows of three tenants in turn; each document and vector is found nowhere else."""

    vectors: np.ndarray
    documents: list[str]
    owners: list[str]

    @classmethod
    def written(cls, seed: int = 1, rows: int = ROWS) -> Letters:
        owners = [TENANTS[place % 3] for place in range(rows)]
        vectors = np.random.default_rng(seed).standard_normal((rows, DIMENSION)).astype(np.float32)
        return cls(vectors, [f"a letter to {owner}, number {place:05d}" for place, owner in enumerate(owners)], owners)

    def of(self, tenant: str) -> list[int]:
        return [place for place, owner in enumerate(self.owners) if owner == tenant]

    def told(self, tenant: str) -> list[bytes]:
        """What nobody may find any more: each document, and a piece of each vector."""
        return [one for place in self.of(tenant) for one in (self.documents[place].encode(), self.vectors[place, :4].tobytes())]


def write_faiss(folder: Path, letters: Letters) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    made = faiss.IndexFlatL2(DIMENSION)
    made.add(letters.vectors)
    faiss.write_index(made, str(folder / "x.faiss"))
    pq.write_table(pa.table({"document": letters.documents, "owner": letters.owners}), folder / "x.parquet")
    return f"faiss://{folder}/x.faiss"


def write_lancedb(folder: Path, letters: Letters) -> str:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(letters.vectors.ravel()), DIMENSION)
    ids = pa.array(range(len(letters.owners)))
    columns = {"id": ids, "vector": vectors, "document": pa.array(letters.documents), "owner": pa.array(letters.owners)}
    lancedb.connect(str(folder)).create_table("x", pa.table(columns), mode="overwrite")
    return f"lancedb://{folder}"


WRITERS: Mapping[str, Callable[[Path, Letters], str]] = {"faiss": write_faiss, "lancedb": write_lancedb}


@dataclass(frozen=True)
class Town:
    """A repository, and a source of which it has two snapshots by tenant: in the second the vectors of six rows are other ones."""

    room: Strongroom
    folder: Path
    url: str
    before: Letters
    after: Letters

    @property
    def repository(self) -> Repository:
        return self.room.repository

    @property
    def snapshots(self) -> list[str]:
        return [one.id for one in self.room.snapshots()]

    @property
    def told(self) -> list[bytes]:
        return [*self.before.told("acme"), *self.after.told("acme")]

    def other(self, name: str) -> str:
        """The URL of an empty place for the same engine."""
        return self.url.replace("/source", f"/{name}")


def build_town(folder: Path, engine: str = "faiss") -> Town:
    room = init_repository(str(folder / "repo"), password=PASSWORD, cost=CHEAP)
    before, after = Letters.written(), Letters.written()
    url = WRITERS[engine](folder / "source", before)
    room.backup(url, tenant_column="owner")
    after.vectors[:6] += 1
    WRITERS[engine](folder / "source", after)
    room.backup(url)
    return Town(room, folder, url, before, after)


def rows_of(url: str) -> dict[str, tuple[str, bytes]]:
    """Id to document and vector."""
    found = {}
    with engines.source_of(url).freeze(SILENT) as frozen:
        for collection in frozen.description.collections:
            for block in frozen.rows(collection.name):
                batch = block.live()
                at = {role_of(field): field.name for field in batch.schema}
                raw = np.frombuffer(bare_values(batch.column(at["vector"])), np.uint8).reshape(batch.num_rows, -1)
                ids, documents = batch.column(at["id"]).to_pylist(), batch.column(at["document"]).to_pylist()
                found |= {str(one): (text, bytes(vector)) for one, text, vector in zip(ids, documents, raw, strict=True)}
    return found


def expected(letters: Letters, *gone: str) -> dict[str, tuple[str, bytes]]:
    return {
        str(place): (letters.documents[place], letters.vectors[place].tobytes())
        for place, owner in enumerate(letters.owners)
        if owner not in gone
    }


def all_that_can_be_read(store: Store, *more: TenantKey) -> Iterator[bytes]:
    """The plain bytes of every object and of every blob in every pack, needed or not, for one who has a secret of a slot; what
    is sealed with a tenant's key is tried with each such key that is left, with those that are given, and with each key of
    the repository itself as if it were one."""
    repository = Repository.open(store, Secret.passphrase(PASSWORD))
    keys = [*_tenants_keys(repository), *more]
    for listed in store.list(""):
        content = store.read(listed.name)
        yield content
        for kind in Kind:
            with contextlib.suppress(StrongroomError):
                plain = unseal(repository.keys, kind, listed.name, content)
                yield plain
                with contextlib.suppress(zstandard.ZstdError):
                    yield zstandard.ZstdDecompressor().decompress(plain[64:], max_output_size=1 << 28)
    for listed in store.list(PACKS):
        pack = read_directory(repository.keys, listed.name, listed.size, lambda *at, name=listed.name: store.read(name, *at))
        for blob in pack.blobs:
            place = next(one for one in _index_of(pack).places(blob.id))
            plain = bytes(repository.open_place(place)[1])
            yield from _opened(plain)
            for key in keys:
                with contextlib.suppress(StrongroomError):
                    yield from _opened(bytes(key.open(plain)))


def _opened(plain: bytes) -> Iterator[bytes]:
    yield plain
    with contextlib.suppress(zstandard.ZstdError):
        yield zstandard.ZstdDecompressor().decompress(plain, max_output_size=1 << 28)


def _index_of(pack):  # type: ignore[no-untyped-def]
    from strongroom.repository.blob_index import BlobIndex

    index = BlobIndex()
    index.add(pack)
    return index


def _tenants_keys(repository: Repository) -> Iterator[TenantKey]:
    for listed in repository.store.list(FOLDER):
        yield read_key(repository, listed.name)
    keys, repository_id = repository.keys, repository.config.repository_id
    for secret in (keys.blob_id, keys.fingerprint, *(epoch.secret for epoch in keys.epochs)):
        yield TenantKey("", "", datetime.now(UTC), "", repository_id, secret)


def found_among(told: list[bytes], readable: Iterator[bytes]) -> set[bytes]:
    """Which of these stand in anything that can be read."""
    found = set()
    for content in readable:
        found |= {one for one in told if one in content}
    return found
