"""An operator leaves, with a key and a token in his pocket. The runbook of docs/OPERATIONS.md, as it is written there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from commands import Ended, build_index, strongroom
from runbooks import runbook

from strongroom.library import init_repository, open_repository
from strongroom.repository import Argon2Cost, Secret
from strongroom.repository.identity import AccessRole

OPERATIONS = Path(__file__).parents[2] / "docs" / "OPERATIONS.md"
CHEAP = Argon2Cost(1, 1, 64)


class Firm:
    """A repository, and people who have their passwords in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repo = folder / "repo"
        self.index = build_index(folder / "src" / "x.faiss", rows=200)
        for name in ("admin", "otto", "auditor"):
            (folder / name).write_text(f"password of {name}")
        room = init_repository(str(self.repo), password="password of admin", cost=CHEAP)
        for name, role in (("otto", AccessRole.OPERATOR), ("auditor", AccessRole.AUDITOR)):
            room.add_key(Secret.passphrase(f"password of {name}"), name, role=role, cost=CHEAP)

    def run(self, who: str, *arguments: str) -> Ended:
        return strongroom(*arguments, env=self.env(who))

    def env(self, who: str) -> dict[str, str | None]:
        secret = "STRONGROOM_TOKEN_FILE" if who.startswith("token") else "STRONGROOM_PASSWORD_FILE"
        return {"STRONGROOM_REPOSITORY": str(self.repo), "STRONGROOM_PASSWORD": None, secret: str(self.folder / who)}


@pytest.fixture
def firm(tmp_path: Path) -> Firm:
    return Firm(tmp_path)


def test_what_he_had_opens_nothing_and_what_he_did_is_known(firm: Firm, tmp_path: Path) -> None:
    token = str(tmp_path / "token of otto")
    firm.run("admin", "token", "create", "--role", "restorer", "--expires", "7d", "--label", "otto on call", "--out", token).done()
    assert Path(token).stat().st_mode & 0o777 == 0o600
    firm.run("otto", "backup", "-q", f"faiss://{firm.index}").done()
    own = firm.run("otto", "token", "create", "--role", "observer", "--label", "of otto himself", "--json").done().json
    (tmp_path / "token of his own").write_text(own["token"])
    firm.run("token of otto", "restore", "-q", "latest", f"faiss://{tmp_path}/taken/x.faiss").done()
    firm.run("otto", "forget", "latest").failed(5, "the role operator may not forget", "it needs the role admin")
    shutil.copytree(firm.repo / "keys", tmp_path / "his copy")

    # what did he do?
    did = firm.run("auditor", "audit", "show", "--who", "otto", "--json").done().json
    assert [(one["verb"], one["result"]) for one in did] == [
        ("backup", "done"),
        ("create_token", "done"),
        ("forget", "refused"),
    ]
    took = firm.run("auditor", "audit", "show", "--who", "otto on call", "--json").done().json
    assert [(one["verb"], one["arguments"]["target"]) for one in took] == [("restore", f"faiss://{tmp_path}/taken/x.faiss")]

    # take away what he has: his key, and the tokens that he has or made
    with runbook("somebody leaves", firm.env("admin"), WHO="otto", LOG=tmp_path / "log.jsonl") as play:
        assert "operator may not forget" in play.step().out
        slots = {one["label"]: one["id"] for one in firm.run("admin", "key", "list", "--json").done().json}
        tokens = [one["id"] for one in firm.run("admin", "token", "list", "--json").done().json]
        assert len(tokens) == 2
        play.step(SLOT=slots["otto"], TOKENS=" ".join(tokens))
        play.step()
    firm.run("nobody", "audit", "check", str(tmp_path / "log.jsonl")).done()

    # nothing of his opens it
    for name in ("otto", "token of otto", "token of his own"):
        firm.run(name, "snapshots").failed(12, "no key slot")
        firm.run(name, "restore", "-q", "latest", f"faiss://{tmp_path}/again/x.faiss").failed(12)
    assert not (tmp_path / "again").exists()
    tried = firm.run("admin", "audit", "show", "--turned-away", "--json").done().json
    assert [one["secret"] for one in tried] == ["passphrase"] * 2 + ["token"] * 4

    # and the log is whole, and still says what he did
    firm.run("auditor", "audit", "verify").done()
    again = firm.run("auditor", "audit", "show", "--who", "otto", "--json").done().json
    assert [one["verb"] for one in again] == [one["verb"] for one in did]
    gone = firm.run("auditor", "audit", "show", "--verb", "key remove", "--json").done().json
    assert [(one["reason"], one["outcome"]["label"]) for one in gone] == [("left the firm", "otto")]

    # he can still write to the bucket, and puts his key slot back: that is seen
    for path in (tmp_path / "his copy").iterdir():
        if not (firm.repo / "keys" / path.name).exists():
            shutil.copy(path, firm.repo / "keys" / path.name)
    found = firm.run("auditor", "audit", "verify", "--json")
    assert found.code == 4
    assert len(found.json["problems"]) == 3
    assert all("is there again" in problem for problem in found.json["problems"])


def test_an_exported_log_is_checked_without_repository_and_key(firm: Firm, tmp_path: Path) -> None:
    firm.run("otto", "backup", "-q", f"faiss://{firm.index}").done()
    out = tmp_path / "log.jsonl"
    assert firm.run("auditor", "audit", "export", "--out", str(out), "--json").done().json["file"] == str(out)
    printed = firm.run("auditor", "audit", "export").done().out
    assert len(printed.splitlines()) == len(out.read_text().splitlines()) + 2
    shutil.rmtree(firm.repo)
    assert firm.run("nobody", "audit", "check", str(out), "--json").done().json == {"passed": True, "problems": []}
    out.write_text(out.read_text().replace('"verb": "backup"', '"verb": "snapshots"'))
    checked = firm.run("nobody", "audit", "check", str(out))
    assert checked.code == 4
    assert "what is shown isn't what was signed" in checked.err
    firm.run("nobody", "audit", "check", str(tmp_path / "missing")).failed(1, "is not there")


def test_the_commands_of_two_people(firm: Firm, tmp_path: Path) -> None:
    """As they stand in the documentation; each word of these commands is there."""
    room = open_repository(str(firm.repo), password="password of admin")
    for name in ("anna", "bert"):
        (tmp_path / name).write_text(f"password of {name}")
        room.add_key(Secret.passphrase(f"password of {name}"), name, role=AccessRole.RESTORER, cost=CHEAP)
    made = firm.run("admin", "key", "add", "--role", "restorer", "--new-key-file", str(tmp_path / "key"), "--json").done().json
    assert made["role"] == "restorer"
    firm.run("otto", "backup", "-q", f"faiss://{firm.index}").done()
    rule = ["approval", "require", "--verbs", "restore,forget", "--people", "2", "--expires", "24h", "--reasons", "restore"]
    firm.run("admin", *rule).done()
    target = f"faiss://{tmp_path}/out/x.faiss"
    firm.run("anna", "restore", "-q", "latest", target).failed(5, "restore needs a reason", "--reason")
    firm.run("anna", "restore", "-q", "--reason", "t7", "latest", target).failed(5, "needs 2 people", "approval request")
    asked = firm.run("anna", "approval", "request", "--reason", "t7", "--json", "restore", "latest", target).done().json
    assert (asked["state"], asked["reason"], asked["people"]) == ("pending", "t7", 2)
    assert not (tmp_path / "out").exists()
    listed = firm.run("bert", "approval", "list", "--json").done().json
    assert [one["id"] for one in listed["requests"]] == [asked["id"]]
    firm.run("anna", "approval", "grant", asked["id"]).failed(5, "of their own")
    shown = firm.run("bert", "approval", "grant", asked["id"][:12], "--reason", "saw the ticket").done()
    assert re.search(r"granted by bert \(saw the ticket\)", shown.out)
    assert firm.run("anna", "approval", "request", "snapshots").code == 2
    restore = ["restore", "-q", "--reason", "t7", "--approval", asked["id"][:12], "latest", target]
    firm.run("anna", *restore).done()
    assert (tmp_path / "out" / "x.faiss").read_bytes() == firm.index.read_bytes()
    firm.run("anna", *restore).failed(5, "is used")
    again = firm.run("anna", "approval", "request", "--reason", "t8", "restore", "latest", f"{target}2").done().out
    number = re.search(r"request ([0-9a-f]{12})", again)
    assert number is not None
    firm.run("bert", "approval", "deny", number[1], "--reason", "no").done()
    firm.run("auditor", "audit", "verify").done()
    text = OPERATIONS.read_text()
    assert "approval require --verbs restore,forget --people 2 --expires 24h --reasons restore" in text


def test_json_of_every_command_of_it(firm: Firm) -> None:
    table = firm.run("nobody", "role", "table", "--json").done().json
    assert table["restore"] == ["restorer", "admin"]
    assert firm.run("nobody", "role", "table").done().out.count("\n") == len(table) + 1
    assert json.loads(firm.run("auditor", "audit", "show", "--json").out)[0]["verb"] == "init"
    firm.run("auditor", "audit", "show", "--since", "yesterday").failed(2, "is no time")
    firm.run("otto", "audit", "show").failed(5, "the role operator may not audit show", "auditor or admin")
