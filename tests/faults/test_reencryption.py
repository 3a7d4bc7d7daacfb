"""After old keys leaked and all was encrypted anew: what do they open, and was there a moment in which a snapshot was lost?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from faulty_store import FaultyStore, Operation, SimulatedCrash, at
from towns import OLD, Content, empty_store, files_in, stored_copy
from worlds import CHEAP, Sources, World

from strongroom.errors import Damaged, NotFound, Refused, StrongroomError, WrongKey
from strongroom.operations.backup import backup
from strongroom.operations.close_epochs import close_epochs
from strongroom.operations.copy import CopyOptions, copy
from strongroom.operations.drill.past import drill_history
from strongroom.operations.epochs_left import by_epoch, sealed_by
from strongroom.operations.forget import ForgetOptions, forget
from strongroom.operations.prune import PruneOptions, prune
from strongroom.operations.reencrypt import ReencryptOptions, ReencryptReport, reencrypt
from strongroom.operations.verify import Level, VerifyOptions, verify
from strongroom.repository import Repository, Secret, Store
from strongroom.repository.carrying import MARK, carried_name
from strongroom.repository.closing import closing_name
from strongroom.repository.crypto import Keys, derive
from strongroom.repository.framing import HEADER_BYTES, Kind, seal
from strongroom.repository.keyring import name_of, numbers
from strongroom.repository.rotation import rotate

NOW = timedelta()
AT_ONCE = ReencryptOptions(grace=NOW)


def everything(store: Store) -> dict[str, bytes]:
    return {listed.name: store.read(listed.name) for listed in store.list("")}


def copied(store: Store) -> Store:
    target = empty_store()
    for name, content in everything(store).items():
        target.create(name, content)
    return target


@pytest.fixture
def store(world: World) -> Store:
    """Three snapshots, and new keys since."""
    made = stored_copy(world)
    repository = Repository.open(made, OLD)
    rotate(repository, OLD, drop=True, cost=CHEAP)
    return made


@pytest.fixture
def expected(world: World) -> dict[str, Content]:
    return {snapshot: world.expected[snapshot] for snapshot in world.order}


def opened(store: Store) -> Repository:
    return Repository.open(store, OLD)


def require_all(store: Store, expected: dict[str, Content]) -> None:
    repository = opened(store)
    assert repository.manifest_ids() == sorted(expected)
    for snapshot, content in expected.items():
        assert files_in(repository, snapshot) == content, snapshot


def finished(repository: Repository) -> ReencryptReport:
    """One run without a time of grace is enough."""
    report = reencrypt(repository, AT_ONCE)
    assert report.written, report
    assert report.done, report
    assert not report.problems
    return report


# -- what it is for --------------------------------------------------------------------------------------------------------


def test_old_keys_open_nothing_after_it(store: Store, expected: dict[str, Content]) -> None:
    """With raw primitives: every key that the old epoch could derive, at every place of every object where a ciphertext begins."""
    master, repository_id = opened(store).keys.master, opened(store).config.repository_id
    before = everything(store)
    assert {name.split("/")[0] for name in _opened_by(before, master, repository_id)} >= {"packs", "index", "snapshots"}
    finished(opened(store))
    assert not _opened_by(everything(store), master, repository_id)
    require_all(store, expected)
    assert close_epochs(opened(store), grace=NOW).closed
    assert not _opened_by(everything(store), master, repository_id)
    require_all(store, expected)


def _opened_by(objects: dict[str, bytes], secret: bytes, repository_id: bytes) -> list[str]:
    return [name for name, content in objects.items() if _opens(name, content, secret, repository_id)]


def _opens(name: str, content: bytes, secret: bytes, repository_id: bytes) -> bool:
    if content[:4] != b"SRRM":
        return False
    start, salt, rest = content[:6], content[6:38], content[38:]
    bounds = [start + repository_id, start + repository_id + name.split("~/")[0].encode()]
    ends = [rest, rest[4:], rest[: int.from_bytes(rest[-4:], "little")], rest[-4 - int.from_bytes(rest[-4:], "little") : -4]]
    for purpose, bound, end, nonce in itertools.product([one.purpose for one in Kind], bounds, ends, (0, 1)):
        with suppress(InvalidTag, ValueError):
            AESGCM(derive(secret, purpose, salt=salt + repository_id)).decrypt(nonce.to_bytes(12, "big"), end, bound)
            return True
    return False
