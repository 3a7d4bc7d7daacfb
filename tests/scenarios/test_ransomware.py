"""Somebody takes over the backup host: he has its key, its password and its credentials of the store, there is no object lock.

What he does is done by the command where it lets him, else by a program of his own. A replica that another one pulls is left."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import faiss
import numpy as np
import pytest
from commands import Ended, build_index, strongroom
from runbooks import runbook

from strongroom.clock import Clock
from strongroom.errors import Refused
from strongroom.library import init_repository, open_repository
from strongroom.operations.erase.run import EraseOptions, erase
from strongroom.operations.forget import ForgetOptions
from strongroom.operations.replicate import ReplicateOptions
from strongroom.policy.retention import Rules
from strongroom.repository import Argon2Cost, Secret
from strongroom.repository.identity import AccessRole
from strongroom.repository.tombstones import What

CHEAP = Argon2Cost(1, 1, 64)
DAYS_AGO = 2


class Firm:
    """A backup host, and a machine that pulls a replica: each with a key and a state of its own. Three days ago was a good backup,
    and the host's next one two days ago."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.primary, self.replica = folder, folder / "primary", folder / "replica"
        self.index = folder / "src" / "x.faiss"
        for who in ("vault", "host", "new host"):
            (folder / f"password of {who}").write_text(f"secret of {who}")
        clock = Clock(lambda: (datetime.now(UTC) - timedelta(days=DAYS_AGO)).timestamp())
        room = init_repository(str(self.primary), password="secret of vault", cost=CHEAP, clock=clock)
        room.add_key(Secret.passphrase("secret of host"), "nightly", role=AccessRole.OPERATOR, cost=CHEAP)
        room = open_repository(str(self.primary), password="secret of host", clock=clock)
        self.good: dict[str, bytes] = {}
        for rows in (990, 1_000):
            build_index(self.index, rows=rows)
            self.good[room.backup(self.source).snapshot.id] = self.index.read_bytes()
        for path in (self.primary / "snapshots").iterdir():
            os.utime(path, (clock.now().timestamp(), clock.now().timestamp()))

    @property
    def source(self) -> str:
        return f"faiss://{self.index}"

    @property
    def slots(self) -> dict[str, str]:
        return {one["label"]: one["id"] for one in self.run("vault", "key", "list", "--json").done().json}

    def env(self, who: str) -> dict[str, str | None]:
        state, password = self.folder / f"state of {who}", self.folder / f"password of {who}"
        return {
            "STRONGROOM_REPOSITORY": str(self.primary),
            "STRONGROOM_PASSWORD": None,
            "STRONGROOM_PASSWORD_FILE": str(password),
            "STRONGROOM_STATE_DIR": str(state),
        }

    def run(self, who: str, *arguments: str | Path) -> Ended:
        return strongroom(*arguments, env=self.env(who))

    def pull(self) -> Ended:
        return self.run("vault", "replicate", "--once", "--to", str(self.replica), "-q")

    def encrypt_the_live_data(self) -> None:
        """Rows that nobody can use any more, in a file that is still an index."""
        index = faiss.IndexFlatL2(32)
        index.add(np.frombuffer(os.urandom(1_000 * 32 * 2), np.uint16).astype(np.float32).reshape(1_000, 32))
        faiss.write_index(index, str(self.index))
        os.utime(self.index, (2, 2))


@pytest.fixture
def firm(tmp_path: Path) -> Firm:
    made = Firm(tmp_path)
    made.pull().done()
    return made


def objects(place: Path) -> dict[str, bytes]:
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_the_replica_survives_all_that_the_host_can_do(firm: Firm, tmp_path: Path) -> None:
    # by the program: his role lets him back up, and take nothing away
    first, second = firm.good
    owner, his_slot = firm.slots["first"], firm.slots["nightly"]
    firm.run("host", "forget", first).failed(5, "the role operator may not")
    host = open_repository(str(firm.primary), password="secret of host")
    for refused in (host.prune, lambda: host.remove_key(owner), lambda: host.erase(EraseOptions(ids=("1",), reason="x"))):
        with pytest.raises(Refused, match="the role operator may not"):
            refused()
    firm.encrypt_the_live_data()
    fakes = [host.backup(firm.source, reread=True).snapshot.id for _ in range(3)]
    firm.pull().done()

    # a flood of fakes pushes nothing out: today has more than any day before
    fates = open_repository(str(firm.primary), password="secret of vault").forget(ForgetOptions(rules=Rules(last=2), dry_run=True))
    assert {one.snapshot for one in fates.fates if one.keep} >= set(firm.good)

    # by a program of his own: the host's key wraps the repository's master key, and the store lets him delete
    before = objects(firm.replica)
    his = open_repository(str(firm.primary), password="secret of host").repository
    his.bury(What.FORGOTTEN, list(firm.good))
    his.bury(What.REVOKED, [owner])
    (firm.primary / "keys" / owner).unlink()
    for path in sorted((firm.primary / "packs").rglob("*")):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(os.urandom(path.stat().st_size))
    for folder in ("snapshots", "index", "audit"):
        shutil.rmtree(firm.primary / folder)
    assert firm.pull().code == 12  # on call hears of it
    after = objects(firm.replica)
    assert {name: after.get(name) for name in before} == before  # nothing is gone there, nothing is other than it was

    target = f"faiss://{tmp_path}/back/x.faiss"
    names = {"REPLICA": firm.replica, "HOST": "nightly", "PRIMARY": tmp_path / "new primary"}
    with runbook("the backup host was taken over", firm.env("vault"), **names, TARGET=target) as play:
        told = play.step().out
        assert told.count("refused") == 4
        assert all(one[:12] in told for one in (*firm.good, *fakes))
        changed = play.step(GOOD=second, BAD=fakes[0]).out
        assert "1,000" in changed
        play.step()
        assert (tmp_path / "back" / "x.faiss").read_bytes() == firm.good[second]
        play.step(SLOT=his_slot)
        play.step(NEW_PASSWORD_FILE=firm.folder / "password of new host")
    new = str(tmp_path / "new primary")
    firm.run("host", "snapshots", "-r", new).failed(12)
    firm.run("new host", "forget", "-r", new, second).failed(5)
    firm.run("vault", "forget", "-r", new, second).failed(5, "incident response")
    firm.run("vault", "forget", "-r", new, *fakes).done()


def test_who_pulls_hears_of_it_and_is_not_locked_out_with_the_primary(firm: Firm) -> None:
    """He opened it before the attack, and pulls on: the attacker removes his key slot, and names all else that he may think of."""
    held = firm.run("vault", "hold", "place", next(iter(firm.good)), "--reason", "r", "--authority", "a", "--json").done().json
    firm.pull().done()
    pulling = open_repository(str(firm.primary), password="secret of vault")
    before = objects(firm.replica)
    his = open_repository(str(firm.primary), password="secret of host").repository
    his.bury(What.REVOKED, [firm.slots["first"], held["hold"]["id"], *firm.good])
    for path in [
        *(firm.primary / "snapshots").iterdir(),
        *(firm.primary / "holds").iterdir(),
        *(firm.primary / "audit").rglob("*"),
    ]:
        if path.is_file():
            path.unlink()
    (firm.primary / "keys" / pulling.repository.identity.slot).unlink()
    (lag,) = pulling.replicate([str(firm.replica)], ReplicateOptions(once=True))
    assert "lacks 2 snapshots that are at the replica, and nobody forgot them" in lag.problem
    after = objects(firm.replica)
    assert {name: after.get(name) for name in before} == before
    assert open_repository(str(firm.replica), password="secret of vault").verify().passed


def test_a_log_of_its_own_at_the_replica_is_not_mixed_with_the_primarys(firm: Firm) -> None:
    """Somebody works at the replica: both logs stay what they are, and the copy says that one doesn't go on after the other."""
    firm.run("vault", "key", "list", "-r", str(firm.replica)).done()
    firm.run("host", "backup", firm.source, "-q", "--reread").done()
    said = firm.run("vault", "copy", "--to", str(firm.replica), "-q", "--json").done().json
    assert [one for one in said["left_out"] if "audit log" in one]
    for place in (firm.primary, firm.replica):
        firm.run("vault", "audit", "verify", "-r", str(place)).done()


def test_an_erasure_that_he_forges_reaches_the_replica_and_is_taken_out_there(firm: Firm, tmp_path: Path) -> None:
    """What doesn't hold: a true erasure must reach replicas, and his can't be told from one. The rows are there all the same."""
    his = open_repository(str(firm.primary), password="secret of host").repository
    forged = erase(his, EraseOptions(ids=tuple(str(one) for one in range(1_000)), reason="all")).erasure
    firm.pull().done()
    newest, target = list(firm.good)[-1], f"faiss://{tmp_path}/back/x.faiss"
    said = firm.run("vault", "restore", "-r", str(firm.replica), newest, target, "-q").done().out
    assert "1,000 rows were erased" in said
    (listed,) = firm.run("vault", "certificate", "list", "-r", str(firm.replica), "--json").done().json
    assert listed["id"] == forged
    (firm.replica / "erasures" / forged).unlink()
    back = ("restore", "-r", str(firm.replica), newest, target.replace("back", "again"), "-q")
    memory = f"{his.config.repository_id.hex()}-erasure-"  # this machine saw it: without a word of somebody's nothing is restored
    assert memory in firm.run("vault", *back).failed(4, "erasures/", "taken away", "if it was you").err
    for path in (firm.folder / "state of vault").glob(f"{memory}*.json"):
        path.unlink()
    firm.run("vault", *back).done()
    assert (tmp_path / "again" / "x.faiss").read_bytes() == firm.good[newest]
