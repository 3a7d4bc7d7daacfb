"""A region is gone with the primary in it, and comes back when nobody waits for it any more. The replica is a real S3 server's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import PASSWORD, Ended, build_index, strongroom
from runbooks import runbook
from seaweed import SeaweedFS

from strongroom.library import init_repository, open_repository
from strongroom.repository import Argon2Cost
from strongroom.repository.region import name_region


class Firm:
    """A primary in eu-central-1, with two snapshots of which the replica has the first."""

    def __init__(self, folder: Path, replica: str, env: dict[str, str]) -> None:
        self.primary, self.new, self.replica = folder / "central", folder / "north", replica
        self.index = folder / "src" / "x.faiss"
        self.source = f"faiss://{self.index}"
        self.env: dict[str, str | None] = {**env, "STRONGROOM_REPOSITORY": str(self.primary), "AWS_ALLOW_HTTP": "true"}
        room = init_repository(str(self.primary), password=PASSWORD, cost=Argon2Cost(1, 1, 64))
        name_region(room.repository, "eu-central-1")
        self.contents = {}
        self.first = self.back_up(1)
        self.run("copy", "--to", replica, "--region", "eu-west-1", "-q").done()
        self.second = self.back_up(2)

    def run(self, *arguments: str | Path) -> Ended:
        return strongroom(*arguments, env=self.env)

    def back_up(self, seed: int) -> str:
        build_index(self.index, rows=1_000, seed=seed)
        made = str(self.run("backup", self.source, "-q", "--json").done().json["id"])
        self.contents[made] = self.index.read_bytes()
        return made

    def snapshots(self, place: Path | str) -> set[str]:
        return {one["id"] for one in self.run("snapshots", "-r", str(place), "--json").done().json}


@pytest.fixture
def firm(seaweed: SeaweedFS, tmp_path: Path) -> Firm:
    bucket = f"lost-region-{os.getpid()}"
    seaweed.make_bucket(bucket)
    return Firm(tmp_path, f"s3://{bucket}/main", seaweed.environment())


def test_backups_go_on_from_the_replica_and_the_lost_one_comes_back(firm: Firm, tmp_path: Path) -> None:
    lost = tmp_path / "cut off"
    firm.primary.rename(lost)
    target = f"faiss://{tmp_path}/back/x.faiss"

    # what writes doesn't fall over by itself: nobody would know where the newest is
    firm.run("backup", firm.source, "-q").failed(10)
    assert not firm.primary.exists()
    assert firm.snapshots(firm.replica) == {firm.first}

    # this machine knows that the replica isn't the newest, and doesn't let it pass for that
    refused = firm.run("restore", "latest", target, "-q")
    assert (refused.code, refused.out) == (5, "")
    assert "its latest isn't the latest" in refused.err
    assert not (tmp_path / "back").exists()

    names = {"PRIMARY": str(firm.primary), "REPLICA": firm.replica, "NEW": str(firm.new), "REGION": "eu-north-1"}
    with runbook("a region is lost", firm.env, SOURCE=firm.source, TARGET=target, **names) as play:
        said = play.step(SNAPSHOT=firm.first)
        assert firm.first[:12] in said.out
        assert f"READ FROM THE REPLICA {firm.replica}" in said.err
        assert (tmp_path / "back" / "x.faiss").read_bytes() == firm.contents[firm.first]

        found = play.step(code=4).out
        assert f"snapshots/{firm.second}: missing: this machine saw it as the newest one" in found
        assert "1 finding " in found

        play.step()
        (third,) = firm.snapshots(firm.new) - {firm.first}
        firm.contents[third] = firm.index.read_bytes()
        assert open_repository(str(firm.new), password=PASSWORD).snapshot(third).manifest.parents == (firm.first,)
        assert firm.snapshots(firm.replica) == {firm.first, third}

        lost.rename(firm.primary)  # the region is there again
        play.step()
    assert firm.snapshots(firm.new) == firm.snapshots(firm.primary) == set(firm.contents)
    for place, made in ((firm.new, firm.second), (firm.primary, third)):  # each has what only the other had
        out = tmp_path / f"from {place.name}" / "x.faiss"
        firm.run("restore", "-r", str(place), made, f"faiss://{out}", "-q").done()
        assert out.read_bytes() == firm.contents[made]
    assert firm.run("region", "show", "-r", str(firm.new), "--json").done().json["region"] == "eu-north-1"
    assert firm.run("region", "show", "--json").done().json["region"] == "eu-central-1"
