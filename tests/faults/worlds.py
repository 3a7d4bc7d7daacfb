"""What is there to be damaged? Sources, repositories over them, and what each snapshot must give back."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.operations.restore.run import RestoreOptions, RestoreReport, restore
from strongroom.repository import Argon2Cost, Repository, Secret, Store, new_key_file

STRONGROOM = str(Path(sys.executable).with_name("strongroom"))
PASSWORD = "correct horse"
CHEAP = Argon2Cost(1, 1, 64)
ROWS, DIMENSION = 2_000, 32


def build_source(folder: Path, name: str, seed: int, changed: int = 0, rows: int = ROWS) -> Path:
    """An HNSW index of `rows` vectors with a Parquet sidecar, the first `changed` of them other ones than without."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.random.default_rng(seed).standard_normal((rows, DIMENSION)).astype(np.float32)
    vectors[:changed] += np.float32(0.25)
    index = faiss.IndexHNSWFlat(DIMENSION, 8)
    faiss.omp_set_num_threads(1)
    index.add(vectors)
    path = folder / f"{name}.faiss"
    faiss.write_index(index, str(path))
    documents = [f"{name}: text number {place}" if place % 7 else None for place in range(rows)]
    pq.write_table(pa.table({"document": documents, "rank": list(range(rows))}), path.with_suffix(".parquet"))
    for file in (path, path.with_suffix(".parquet")):
        os.utime(file, (1, 1))  # long at rest
    return path


def files_of(index: Path) -> tuple[bytes, bytes]:
    """The bytes of an index file and of its sidecar."""
    return index.read_bytes(), index.with_suffix(".parquet").read_bytes()


def restored(repository: Repository, snapshot: str, folder: Path, *, overwrite: bool = False) -> tuple[bytes, bytes]:
    """The bytes that a restore gives, which must leave nothing else behind but its receipt."""
    restore_to(repository, snapshot, folder, overwrite=overwrite)
    found = sorted(path.name for path in folder.iterdir())
    assert found == ["index.faiss", "index.faiss.strongroom.json", "index.parquet"]
    return files_of(folder / "index.faiss")


def restore_to(repository: Repository, snapshot: str, folder: Path, *, overwrite: bool = False) -> RestoreReport:
    options = RestoreOptions(overwrite=overwrite, replay=False)
    return restore(repository, snapshot, f"faiss://{folder}/index.faiss", options)


@dataclass(frozen=True)
class World:
    """A repository in `folder`, what this machine remembers of it, and the bytes that each snapshot must give back."""

    folder: Path
    state: Path
    key_file: Path
    expected: dict[str, tuple[bytes, bytes]]
    order: tuple[str, ...]  # the snapshots, oldest first

    def open(self) -> Strongroom:
        return open_repository(str(self.folder), password=PASSWORD)

    def copy(self, folder: Path, state: Path) -> World:
        shutil.copytree(self.folder, folder)
        shutil.copytree(self.state, state, dirs_exist_ok=True)
        return World(folder, state, self.key_file, self.expected, self.order)


@dataclass(frozen=True)
class Sources:
    """Two sources, and the first of them once more after 1 % of its vectors changed."""

    first: Path
    second: Path
    changed: Path


def build_world(folder: Path, sources: Sources) -> World:
    """The third snapshot shares blobs with the first: its sidecar didn't change."""
    key_file, state = folder / "key", folder / "state"
    key_file.write_bytes(new_key_file())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STRONGROOM_STATE_DIR", str(state))
        room = init_repository(str(folder / "repository"), password=PASSWORD, cost=CHEAP)
        room.add_key(Secret.key_file(key_file.read_bytes()), "file")
        made = [room.backup(f"faiss://{path}").snapshot.id for path in (sources.first, sources.second, sources.changed)]
    contents = [files_of(path) for path in (sources.first, sources.second, sources.changed)]
    return World(folder / "repository", state, key_file, dict(zip(made, contents, strict=True)), tuple(made))


def names_in(store: Store, *folders: str) -> list[str]:
    """All objects of a store below these folders."""
    return sorted(listed.name for folder in folders for listed in store.list(folder))
