"""Policies and regions: is a rolled-back one missed, and do two who publish at once lose nothing in silence?"""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_store import FaultyStore
from worlds import CHEAP, PASSWORD

from strongroom.errors import Damaged, Overtaken, Refused
from strongroom.library import init_repository
from strongroom.policy.residency import residency_of
from strongroom.repository import Repository, Secret
from strongroom.repository.local_store import LocalStore
from strongroom.repository.policies import FOLDER, history, newest, publish
from strongroom.repository.region import name_region, region_of

RULES = {"residency": [{"name": "eu", "regions": ["eu-*"]}]}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return init_repository(str(tmp_path / "r"), password=PASSWORD, cost=CHEAP).repository


def test_a_policy_that_was_taken_away_is_missed(repository: Repository) -> None:
    publish(repository, RULES)
    second = publish(repository, {"residency": []})
    assert (second.version, newest(repository)) == (2, second)
    repository.store.delete(FOLDER + second.id)
    with pytest.raises(Damaged, match="version 2 was here, and the newest now is 1: rolled back"):
        newest(repository)
    third = publish(repository, RULES)
    assert (third.version, newest(repository)) == (3, third)


def test_an_altered_one_is_not_passed_over(repository: Repository) -> None:
    name = FOLDER + publish(repository, RULES).id
    content = bytearray(repository.store.read(name))
    repository.store.delete(name)
    content[-1] ^= 1
    repository.store.create(name, bytes(content))
    with pytest.raises(Damaged):
        newest(repository)


def test_of_two_at_once_one_hears_of_it(repository: Repository, tmp_path: Path) -> None:
    other = Repository.open(LocalStore(tmp_path / "r"), Secret.passphrase(PASSWORD))
    honest, met = repository.store, []

    def meanwhile(operation) -> None:
        if operation.verb == "create" and operation.name.startswith(FOLDER) and not met:
            met.append(publish(other, {"residency": []}))

    repository.store = FaultyStore(honest, meanwhile)
    with pytest.raises(Overtaken, match="at the same moment"):
        publish(repository, RULES)
    repository.store = honest
    assert [one.id for one in history(repository)] == [met[0].id]


def test_a_region_has_a_name_and_a_newest(repository: Repository) -> None:
    assert region_of(repository) is None
    name_region(repository, "eu-central-1")
    name_region(repository, "eu-west-1")
    assert region_of(repository) == "eu-west-1"


POLICY_FILE = {
    "sources": {"people": {"url": "pgvector://me:secret@db/people[1]"}, "docs": {"url": "chroma:///docs"}},
    "policies": {
        "gdpr": {"match": {"source": ["peo*"]}, "residency": {"regions": ["eu-*"]}},
        "acme": {"match": {"tenant": ["acme"], "tag": {"env": "prod"}}, "residency": {"regions": ["us-*"]}},
        "free": {"match": {}},
    },
}


@pytest.mark.parametrize(
    ("source", "tenant", "tags", "region", "rule"),
    [
        ("pgvector://me@db/people[1]", None, {}, "us-east-1", "gdpr"),
        ("pgvector://me@db/people[1]", None, {}, None, "gdpr"),
        ("pgvector://me@db/people[1]", None, {}, "eu-west-1", None),
        ("pgvector://me@db/people1", None, {}, "us-east-1", None),
        ("chroma:///docs", None, {}, None, None),
        ("chroma:///docs", "acme", {"env": "prod"}, "eu-west-1", "acme"),
        ("chroma:///docs", "acme", {"env": "test"}, "eu-west-1", None),
        ("chroma:///docs", "acme", None, "eu-west-1", "acme"),
        ("chroma:///docs", "other", {"env": "prod"}, "eu-west-1", None),
    ],
)
def test_a_policy_file_says_what_may_be_where(source, tenant, tags, region, rule) -> None:
    residency = residency_of(POLICY_FILE)
    assert len(residency.rules) == 2
    if rule is None:
        residency.check(["c"], tenant, region, source=source, tags=tags)
    else:
        with pytest.raises(Refused, match=f"residency rule '{rule}' keeps collection 'c'") as refused:
            residency.check(["c"], tenant, region, source=source, tags=tags)
        assert refused.value.exit_code == 5


@pytest.mark.parametrize("said", ["eu", [{"regions": "eu"}], [{"regions": ["eu"], "sauce": "x"}], [{"regions": [1]}], [{}]])
def test_rules_that_are_not_understood_allow_nothing(said) -> None:
    with pytest.raises(Damaged, match="residency"):
        residency_of({"residency": said})
