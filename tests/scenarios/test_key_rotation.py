"""Do the commands that change keys do and say what the runbook shows?"""

from __future__ import annotations

from pathlib import Path

import commands
from commands import PASSWORD, Ended


def test_a_leaked_key_is_left_behind(tmp_path: Path) -> None:
    named = {"STRONGROOM_REPOSITORY": str(tmp_path / "repository"), "STRONGROOM_PASSWORD": PASSWORD}

    def strongroom(*arguments: str) -> Ended:
        return commands.strongroom(*arguments, env=named)

    key_file = str(tmp_path / "key")
    assert strongroom("init").code == 0
    assert strongroom("key", "add", "--new-key-file", key_file, "--label", "offline").code == 0
    refused = strongroom("key", "rotate")
    assert refused.code == 5
    assert len(refused.err.splitlines()) == 1
    assert "offline" in refused.err
    upgraded = strongroom("key", "upgrade", "--key-file", key_file, "--json").json
    assert [slot["kind"] for slot in upgraded] == ["key file"]
    first = strongroom("key", "rotate", "--json").json
    assert (first["epoch"], len(first["slots"]), first["left_out"]) == (1, 2, [])
    second = strongroom("key", "rotate", "--without", upgraded[0]["id"][:12], "--json").json
    assert (second["epoch"], second["removed"]) == (2, [upgraded[0]["id"]])
    assert strongroom("key", "list", "--key-file", key_file).code == 12
    status = strongroom("key", "status", "--max-age", "90d", "--json")
    assert (status.code, status.json["too_old"]) == (0, False)
    assert [epoch["newest"] for epoch in status.json["epochs"]] == [False, False, True]
    assert strongroom("key", "status", "--max-age", "0d").code == 2


def test_old_keys_are_given_up(tmp_path: Path) -> None:
    named = {"STRONGROOM_REPOSITORY": str(tmp_path / "repository"), "STRONGROOM_PASSWORD": PASSWORD}
    replica, source = str(tmp_path / "replica"), commands.build_index(tmp_path / "docs.faiss", rows=200)

    def strongroom(*arguments: str) -> Ended:
        return commands.strongroom(*arguments, env=named)

    assert strongroom("init").code == 0
    assert strongroom("backup", f"faiss://{source}").code == 0
    (made,) = [one["id"] for one in strongroom("snapshots", "--json").json]
    assert strongroom("copy", "--to", replica, "--region", "eu").code == 0
    done = strongroom("key", "rotate", "--reencrypt", "--bandwidth", "1G", "--json").json
    assert (done["epoch"], done["reencryption"]["written"], done["reencryption"]["done"]) == (1, True, False)
    left = strongroom("key", "reencrypt", "--dry-run", "--json").json["left"]
    assert [(one["epoch"], one["packs"]) for one in left] == [(0, 1)]
    assert strongroom("key", "reencrypt", "--grace", "0h", "--budget", "1M", "--json").json["done"]
    assert strongroom("copy", "--to", replica).code == 0
    refused = strongroom("key", "close", "--grace", "0h")
    assert (refused.code, len(refused.err.splitlines())) == (5, 1)
    assert replica in refused.err
    assert strongroom("key", "reencrypt", "--to", replica, "--grace", "0h", "--json").json["done"]
    assert "announced" in strongroom("key", "close").out
    assert strongroom("key", "close", "--grace", "0h", "--json").json["closed"]
    assert strongroom("key", "close", "--to", replica, "--grace", "0h", "--json").json["closed"]
    assert strongroom("verify", made, "-r", replica, "--level", "data").code == 0
    assert strongroom("audit", "verify").code == 0
    assert [one["closed"] for one in strongroom("key", "status", "--json").json["epochs"]] == [True, False]
