"""Does the policy file keep people's data in Europe? From the file to the stores: told by `config check`, published, and refused
by backup, copy and the daemon before a byte moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import Ended, strongroom
from served import build, once, served

from strongroom.library import init_repository, open_repository
from strongroom.policy import marked, reading
from strongroom.repository import Argon2Cost, open_store
from strongroom.repository.region import name_region, region_of

PASSWORD = "correct horse"
CHEAP = Argon2Cost(1, 1, 64)


class Land:
    """Two repositories, of which one is to lie in Europe, and a policy file that keeps people there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "strongroom.yaml"
        self.people = build(folder / "sources", "people", 2)
        self.docs = build(folder / "sources", "docs", 1)
        (folder / "password").write_text(PASSWORD)
        for name in ("central", "ohio"):
            init_repository(str(folder / name), password=PASSWORD, cost=CHEAP)
        self.document: dict[str, Any] = {
            "version": 1,
            "sources": {"docs": {"url": self.docs}, "people": {"url": self.people, "collections": ["people"]}},
            "repositories": {
                "central": self.place("central", "eu-central-1"),
                "ohio": self.place("ohio", "us-east-2"),
                "west": self.place("west", "eu-west-1"),
            },
            "policies": {
                "gdpr": {"repository": "central", "match": {"collection": ["people*"]}, "residency": {"regions": ["eu-*"]}},
                "docs": {"repository": "ohio", "match": {"source": ["docs"]}},
            },
        }

    def place(self, name: str, region: str) -> dict[str, Any]:
        return {"url": str(self.folder / name), "region": region, "password_file": str(self.folder / "password")}

    def command(self, *arguments: str | Path) -> Ended:
        self.file.write_text(marked.write(self.document))
        return strongroom(*arguments, env={"STRONGROOM_CONFIG": str(self.file), "STRONGROOM_PASSWORD": PASSWORD})

    def objects(self, name: str) -> set[str]:
        """But for the audit log: that it was asked for, and refused, stands there."""
        found = {one.name for one in open_store(str(self.folder / name)).list("")}
        return {one for one in found if not one.startswith(("audit/", "probe"))}


@pytest.fixture
def land(tmp_path: Path) -> Land:
    return Land(tmp_path)


def problems(land: Land) -> str:
    with pytest.raises(reading.WrongDocument) as found:
        reading.read_text(marked.write(land.document))
    return " ".join(one.what for one in found.value.problems)


def test_a_file_that_would_break_its_own_residency_is_told(land: Land) -> None:
    reading.read_text(marked.write(land.document))
    land.document["policies"]["gdpr"]["replicas"] = ["ohio"]
    assert "a replica is only copied to" in problems(land)
    land.document["repositories"]["virginia"] = land.place("virginia", "us-east-1")
    land.document["policies"]["gdpr"]["replicas"] = ["virginia"]
    assert "'virginia' is in region us-east-1, which this doesn't allow" in problems(land)
    land.document["policies"]["gdpr"]["replicas"] = ["west"]
    reading.read_text(marked.write(land.document))
    land.document["policies"]["all"] = {"repository": "central", "replicas": ["virginia"]}  # another policy, of the same source
    assert "'virginia' is in region us-east-1" in problems(land)
    land.document["repositories"]["virginia"]["replication"] = {"leave_out": True}
    reading.read_text(marked.write(land.document))
    land.document["policies"]["all"]["repository"] = "ohio"
    assert "'ohio' is in region us-east-2" in problems(land)
    checked = land.command("config", "check", "--json")
    assert (checked.code, "'ohio' is in region us-east-2" in checked.json["problems"][0]["what"]) == (2, True)
    assert land.command("run", "--once").code == 2


def test_published_it_is_kept_by_every_road_before_a_byte_moves(land: Land) -> None:
    land.command("config", "publish").done()
    room = open_repository(str(land.folder / "ohio"), password=PASSWORD)
    assert region_of(room.repository) == "us-east-2"  # the file's word, said in the repository
    assert room.audit()[-2].verb == "name_region"
    before = land.objects("ohio")
    refused = land.command("backup", land.people, "--repo", land.folder / "ohio")
    refused.failed(5, "'gdpr' keeps collection 'people'", "is in us-east-2")
    assert land.objects("ohio") == before

    made = land.command("backup", land.people, "--repo", land.folder / "central", "--json")
    assert made.code == 0, made
    refused = land.command("copy", "--repo", land.folder / "central", "--to", land.folder / "virginia", "--region", "us-east-1")
    refused.failed(5, "is in us-east-1: nothing was sent")
    land.command("copy", "--repo", land.folder / "central", "--to", land.folder / "nowhere").failed(5, "nobody has said")
    assert not (land.folder / "virginia").exists() or land.objects("virginia") == set()
    assert not (land.folder / "nowhere").exists() or land.objects("nowhere") == set()


def test_a_daemon_with_a_laxer_file_than_the_published_one_is_refused_and_told_once(land: Land) -> None:
    land.command("config", "publish").done()
    land.command("backup", land.people, "--repo", land.folder / "central", "--quiet")
    del land.document["policies"]["gdpr"]["residency"]  # in this machine's file alone
    land.document["repositories"]["virginia"] = {**land.place("virginia", "us-east-1"), "replication": {"when": {"interval": "1s"}}}
    land.document["repositories"]["central"]["replicas"] = ["virginia", "west"]
    with served(land.document, land.folder) as told:
        told.wait_for("behind", 2)
        told.wait_until(lambda: any("west: in step" in one["text"] for one in told.of("done")))
    assert {one["exit_code"] for one in told.of("behind")} == {5}
    assert "'gdpr' keeps collection 'people'" in told.of("behind")[0]["text"]
    assert len(told.of("broken", repository="virginia")) == 1
    assert not (land.folder / "virginia").exists() or land.objects("virginia") == set()
    land.document["policies"]["gdpr"] |= {"repository": "ohio", "schedule": [{"kind": "full", "interval": "1h"}]}
    before = land.objects("ohio")
    code, told = once(land.document, land.folder)
    assert code == 5
    assert "'gdpr' keeps collection 'people'" in told.of("failed", work="full")[0]["text"]
    assert land.objects("ohio") == before


def test_a_file_that_is_wrong_about_where_a_store_lies_is_refused(land: Land) -> None:
    name_region(open_repository(str(land.folder / "central"), password=PASSWORD).repository, "us-west-2")
    before = land.objects("central"), land.objects("ohio")
    land.command("config", "publish").failed(5, "says that central is in eu-central-1, the repository that it is in us-west-2")
    assert (land.objects("central"), land.objects("ohio")) == before
    land.document["policies"]["gdpr"]["schedule"] = [{"kind": "full", "interval": "1h"}]
    code, told = once(land.document, land.folder)
    assert code == 5
    assert "says that central is in eu-central-1" in told.of("failed")[0]["text"]
    assert land.objects("central") == before[0]
