"""The key of a key service is destroyed. With recovery shares the runbook brings everything back; without, nothing pretends to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Ended, build_index, strongroom
from openbao import ROOT_TOKEN, OpenBao
from runbooks import runbook


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    server = OpenBao(tmp_path_factory.mktemp("bao"))
    yield server
    server.stop()


class Firm:
    """A repository that one key of a real OpenBao opens, with one snapshot."""

    def __init__(self, folder: Path, bao: OpenBao, key: str) -> None:
        self.folder, self.bao, self.key = folder, bao, key
        self.env: dict[str, str | None] = {
            "STRONGROOM_REPOSITORY": str(folder / "repo"),
            "STRONGROOM_PASSWORD": None,
            "STRONGROOM_RETRY_SECONDS": "0.5",
            "BAO_TOKEN": ROOT_TOKEN,
        }
        self.url = bao.make_key(key)
        self.index = build_index(folder / "src" / "x.faiss", rows=300)
        self.run("init", "--kms", self.url, kms=None).done()
        self.run("backup", f"faiss://{self.index}", "-q").done()

    def run(self, *arguments: str | Path, kms: str | None = "") -> Ended:
        return strongroom(*arguments, env={**self.env, "STRONGROOM_KMS": self.url if kms == "" else kms})

    def destroy(self) -> None:
        """Its owner deletes the key, for good."""
        self.bao.call("POST", f"transit/keys/{self.key}/config", {"deletion_allowed": True})
        self.bao.call("DELETE", f"transit/keys/{self.key}")


def test_with_the_recovery_shares_of_two_people(bao: OpenBao, tmp_path: Path) -> None:
    firm = Firm(tmp_path, bao, "with-shares")
    words = ("key", "recovery", "--shares", "3", "--threshold", "2", "--out", tmp_path / "shares", "--json")
    shares = firm.run(*words).done().json["files"]
    firm.destroy()
    firm.run("snapshots").failed(12, firm.url)
    before = {path: path.read_bytes() for path in (firm.folder / "repo" / "packs").rglob("*") if path.is_file()}

    lost = {one["kind"]: one["id"] for one in strongroom("key", "list", "--json", env=opened_by(firm, shares)).done().json}
    new = bao.make_key("after-the-loss")
    with runbook("the KMS key is lost", {**firm.env, "STRONGROOM_KMS": firm.url}, NEW_KMS=new) as play:
        play.step(SHARE_1=shares[2], SHARE_2=shares[0])
        assert lost["vault"][:12] in play.step(LOST=lost["vault"]).out
        play.step(SHARES=tmp_path / "new shares", OLD_SHARES=lost["recovery shares"])

    slots = {(one["kind"], one.get("service")) for one in firm.run("key", "list", "--json", kms=new).done().json}
    assert slots == {("vault", new), ("recovery shares", None)}
    firm.run("restore", "latest", f"faiss://{tmp_path}/back/x.faiss", "-q", kms=new).done()
    assert (tmp_path / "back" / "x.faiss").read_bytes() == firm.index.read_bytes()
    assert {path: path.read_bytes() for path in before} == before  # nothing was rewritten
    strongroom("snapshots", env=opened_by(firm, shares)).failed(12)  # the old set opens nothing any more
    fresh = sorted((tmp_path / "new shares").iterdir())
    strongroom("snapshots", env=opened_by(firm, [str(one) for one in fresh])).done()
    firm.run("backup", f"faiss://{firm.index}", "-q", kms=new).done()


def opened_by(firm: Firm, shares: list[str]) -> dict[str, str | None]:
    return {**firm.env, "STRONGROOM_RECOVERY_SHARES_FILES": ":".join(shares[:2])}


def test_without_a_recovery_key_it_stays_shut_and_nothing_pretends(bao: OpenBao, tmp_path: Path) -> None:
    firm = Firm(tmp_path, bao, "without-shares")
    other = Firm(tmp_path / "other", bao, "of-another")
    strangers = other.run("key", "recovery", "--shares", "3", "--threshold", "2", "--out", tmp_path / "strangers", "--json")
    firm.destroy()
    there = sorted(path for path in (firm.folder / "repo").rglob("*") if path.is_file())
    target = f"faiss://{tmp_path}/back/x.faiss"
    for words in (
        ("snapshots",),
        ("restore", "latest", target, "-q"),
        ("drill", "-q"),
        ("backup", f"faiss://{firm.index}", "-q"),
    ):
        said = firm.run(*words).failed(12, firm.url, "another key slot")
        assert "✓" not in said.err
    bao.make_key(firm.key)  # one of the same name is no key of ours
    firm.run("snapshots").failed(12)
    strongroom("snapshots", env=opened_by(firm, strangers.done().json["files"])).failed(12, "recovery shares")
    arguments = ("key", "recover", *(word for one in strangers.json["files"][:2] for word in ("--share", one)))
    strongroom(*arguments, env={**firm.env, "STRONGROOM_NEW_PASSWORD": "hope"}).failed(12)
    assert not (tmp_path / "back").exists()
    assert sorted(path for path in (firm.folder / "repo").rglob("*") if path.is_file()) == there
