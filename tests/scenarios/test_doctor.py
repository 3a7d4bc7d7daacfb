"""Does doctor say of a store what is so, and leave nothing behind?"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from azurite import Azurite
from commands import Ended, build_index, strongroom
from rclone import Rclone
from seaweed import ACCESS, SECRET, SeaweedFS

from strongroom import engines
from strongroom.errors import StoreDenied
from strongroom.operations import doctor
from strongroom.operations.doctor import Result, examine_store, lock_of, versioning_of
from strongroom.repository.bucket import Bucket
from strongroom.repository.profiles import PROFILES, profile_of, region_of
from strongroom.repository.store import Listed, Store, open_store

NUMBERS = itertools.count()
PAGE = (Path(__file__).parents[2] / "docs" / "OPERATIONS.md").read_text()
LOCK = (
    '<ObjectLockConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><ObjectLockEnabled>Enabled</ObjectLockEnabled>'
    "<Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
)
VERSIONS = (
    '<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>'
)


def bucket_on(seaweed: SeaweedFS, kind: str) -> Bucket:
    """A new one: 'plain', 'versioned', or 'locked' with a default retention."""
    bucket = Bucket(f"http://127.0.0.1:{seaweed.port}", f"{kind}{next(NUMBERS)}", "us-east-1", ACCESS, SECRET)
    locked = {"x-amz-bucket-object-lock-enabled": "true"} if kind == "locked" else {}
    assert bucket.ask("PUT", headers=locked).status == 200
    if kind == "versioned":
        assert bucket.ask("PUT", query="versioning", body=VERSIONS.encode()).status == 200
    if kind == "locked":
        assert bucket.ask("PUT", query="object-lock", body=LOCK.encode()).status == 200
    return bucket


def told(ended: Ended) -> dict[str, str]:
    return {one["name"]: one["result"] for one in ended.json["store"]["probes"]}


def found(location: str) -> dict[str, Result]:
    return {one.name: one.result for one in examine_store(location).probes}


BASIC = ("create and read back", "conditional create", "list after write", "range reads", "object of a pack's size", "delete")


def test_a_directory_is_fit_and_left_as_it_was(tmp_path: Path) -> None:
    ended = strongroom("doctor", str(tmp_path / "repo"), "--json").done()
    assert ended.json["fit"] is True
    assert {name: told(ended)[name] for name in BASIC} == dict.fromkeys(BASIC, "yes")
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == []


def test_a_good_s3_store(seaweed: SeaweedFS) -> None:
    bucket = bucket_on(seaweed, "plain")
    ended = strongroom("doctor", f"s3://{bucket.bucket}/some/where", "--json", env=seaweed.environment()).done()
    expected = {**dict.fromkeys((*BASIC, "multipart"), "yes"), "checksums": "no", "versioning": "no", "object lock": "no"}
    assert told(ended) == expected
    assert obstore.list(seaweed.raw(bucket.bucket)).collect() == []


def test_azure(azurite: Azurite) -> None:
    azurite.make_container("doctored")
    ended = strongroom("doctor", "az://doctored/repo", "--json", env=azurite.environment()).done()
    assert told(ended) == dict.fromkeys((*BASIC, "multipart"), "yes")
    assert obstore.list(azurite.raw("doctored")).collect() == []


def test_a_store_that_overwrites(rclone: Rclone) -> None:
    files = rclone.make_bucket("doctored")
    env: dict[str, str | None] = {**rclone.environment(), "STRONGROOM_REPOSITORY": "s3://doctored/repo"}
    ended = strongroom("doctor", env=env)
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert "conditional create: it overwrites what is there" in ended.err
    assert re.search(r"✗ conditional create .*\n.*✓ list after write .*\n.*– range reads ", ended.out)
    assert [one for one in files.rglob("*") if one.is_file()] == []
    strongroom("init", "--without-conditional-creates", env=env).done()
    fit = strongroom("doctor", "--json", env=env).done().json  # its repository asks for no more
    assert fit["fit"] is True
    assert "no journals" in fit["store"]["repository"]


def test_versions_and_locks_are_told(seaweed: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.environment().items():
        monkeypatch.setenv(name, value)
    versioned = {one.name: one for one in examine_store(f"s3://{bucket_on(seaweed, 'versioned').bucket}/r").probes}
    assert versioned["versioning"].result is Result.YES
    assert versioned["object lock"].result is Result.NO
    locked = {one.name: one for one in examine_store(f"s3://{bucket_on(seaweed, 'locked').bucket}/r").probes}
    assert locked["object lock"].result is Result.YES
    assert locked["object lock"].follows.startswith("COMPLIANCE for 1 days: ")
    assert locked["delete"].result is Result.YES  # it hides


@pytest.mark.parametrize("kind", ["versioned", "locked"])
def test_a_bucket_that_keeps_what_is_deleted(seaweed: SeaweedFS, kind: str, tmp_path: Path) -> None:
    """Backups, forget and prune work as anywhere; what stays is said."""
    bucket = bucket_on(seaweed, kind)
    env: dict[str, str | None] = {**seaweed.environment(), "STRONGROOM_REPOSITORY": f"s3://{bucket.bucket}/repo"}
    index = tmp_path / "x.faiss"
    strongroom("init", env=env).done()
    for seed in (1, 2):
        build_index(index, seed=seed)
        strongroom("backup", "--quiet", f"faiss:{index}", env=env).done()
    strongroom("forget", "--keep-last", "1", env=env).done()
    pruned = strongroom("prune", "--grace", "0", "--quiet", env=env).done().out
    assert "deleted 1 pack" in pruned
    assert "stays     the bucket keeps old versions of what was deleted" in pruned
    assert ("COMPLIANCE for 1 days" in pruned) == (kind == "locked")
    assert strongroom("verify", "--quiet", "--json", env=env).done().json["passed"]
    strongroom("restore", "latest", f"faiss:{tmp_path}/out/x.faiss", "--quiet", env=env).done()
    assert (tmp_path / "out" / "x.faiss").read_bytes() == index.read_bytes()
    assert "<DeleteMarker>" in bucket.ask("GET", query="versions").body


class Changed:
    """A store that does one thing wrong."""

    def __init__(self, inner: Store, **wrong: Callable[..., Any]) -> None:
        self._inner = inner
        self.__dict__.update(wrong)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def denied(*_: object) -> Any:
    raise StoreDenied("no right")


def unlisted(_: str) -> list[Listed]:
    return []


WRONG: dict[str, tuple[dict[str, Callable[..., Any]], str, Result]] = {
    "reads other bytes": ({"read": lambda *_: b"?"}, "create and read back", Result.NO),
    "lists late": ({"list": unlisted}, "list after write", Result.NO),
    "may not be written": ({"create": denied}, "create and read back", Result.UNKNOWN),
    "cuts": ({"size": lambda _: 1}, "object of a pack's size", Result.NO),
    "overwrites": ({"create": lambda *_: None, "read": lambda *_: b"0123456789"}, "conditional create", Result.NO),
    "may not delete": ({"delete": denied}, "delete", Result.NO),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes, name, result = WRONG[what]
    monkeypatch.setattr(doctor, "open_store", lambda url: Changed(open_store(url), **changes))
    assert found(str(tmp_path))[name] is result
    report = examine_store(str(tmp_path))
    assert bool(report.lacking) == (name != "delete")


def test_who_may_only_read_hears_what_could_not_be_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "open_store", lambda url: Changed(open_store(url), create=denied))
    report = examine_store(str(tmp_path))
    assert {one.result for one in report.probes} == {Result.UNKNOWN}
    with pytest.raises(Exception, match="could not be tried"):
        report.require_fit()


def test_engines_are_listed_with_what_is_experimental(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = strongroom("doctor", "--json", env={"STRONGROOM_REPOSITORY": None}).done().json
    assert (ended["store"], ended["fit"]) == (None, None)
    assert [one["name"] for one in ended["engines"]] == engines.known()
    assert all(one["version"] for one in ended["engines"])
    monkeypatch.setattr(type(engines.find("faiss")), "experimental", True, raising=False)
    assert {one.name: one.experimental for one in engines.installed()}["faiss"] is True


def test_words_for_buckets() -> None:
    assert versioning_of(None)[0] is lock_of(None)[0] is Result.UNKNOWN
    assert versioning_of("Suspended")[0] is versioning_of("")[0] is lock_of("off")[0] is Result.NO


# -- profiles --------------------------------------------------------------------------------------------------------------


def test_the_page_has_the_same_profiles() -> None:
    rows = re.findall(r"^\| (.*) \|$", PAGE.partition("### Look-alikes of S3")[2].partition("\n##")[0], re.MULTILINE)[1:]
    table = [tuple(cell.strip() for cell in row.split(" | ")) for row in rows]
    numbered = itertools.count(1)
    assert table == [
        (
            one.name,
            one.conditional_create,
            one.object_lock,
            one.multipart,
            one.checksums,
            one.addressing,
            one.region,
            " ".join(f"[{next(numbered)}]({source})" for source in one.sources),
        )
        for one in PROFILES
    ]


@pytest.mark.parametrize(
    ("endpoint", "name", "region"),
    [
        ("https://abc123.r2.cloudflarestorage.com", "Cloudflare R2", "auto"),
        ("https://abc123.eu.r2.cloudflarestorage.com", "Cloudflare R2", "auto"),
        ("https://s3.eu-central-003.backblazeb2.com", "Backblaze B2", "eu-central-003"),
        ("https://fsn1.your-objectstorage.com", "Hetzner", "fsn1"),
        ("https://s3.fr-par.scw.cloud", "Scaleway", "fr-par"),
        ("https://s3.rbx.io.cloud.ovh.net/", "OVHcloud", "rbx"),
        ("https://ceph.example.org", None, None),
        ("https://s3.fr-par.scw.cloud.example.org", None, None),
        ("", None, None),
    ],
)
def test_a_server_is_known_by_its_name(endpoint: str, name: str | None, region: str | None) -> None:
    profile = profile_of(endpoint)
    assert (profile.name if profile else None) == name
    assert region_of(endpoint).get("region") == region
