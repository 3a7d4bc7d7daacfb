"""Does every wrong request end in one line that says what to do, the right exit code, and nothing touched?"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from commands import Place, build_index, strongroom

from strongroom.repository.crypto import content_hash

REPO = "{repo}"
SOURCE = "{source}"

WRONG_REQUESTS: dict[str, tuple[list[str], int, tuple[str, ...]]] = {
    "no command": (["--json-lines"], 2, ("no such option",)),
    "unknown command": (["frobnicate"], 2, ("no such command 'frobnicate'", "--help")),
    "unknown option": (["backup", SOURCE, "--fast"], 2, ("--fast", "strongroom backup --help")),
    "missing argument": (["backup"], 2, ("source",)),
    "missing target": (["restore", "latest"], 2, ("target",)),
    "one argument too many": (["show", "latest", "more"], 2, ("more",)),
    "unknown level": (["verify", "--level", "deep"], 2, ("deep", "answers")),
    "budget of nothing": (["verify", "--budget", "0"], 2, ("--budget",)),
    "probes below zero": (["backup", SOURCE, "--probes", "-1"], 2, ("--probes",)),
    "probes in words": (["backup", SOURCE, "--probes", "many"], 2, ("--probes", "integer")),
    "tag without value": (["backup", SOURCE, "--tag", "prod"], 2, ("--tag", "prod", "KEY=VALUE")),
    "tag without key": (["backup", SOURCE, "--tag", "=prod"], 2, ("--tag", "KEY=VALUE")),
    "unknown engine": (["backup", "quux:///srv/x"], 2, ("quux", "known engines", "faiss")),
    "no engine": (["backup", "/srv/x.faiss"], 2, ("names no engine", "engine:///path")),
    "empty source": (["backup", ""], 2, ("names no engine",)),
    "host in a file URL": (["backup", "faiss://host/x.faiss"], 2, ("faiss:///",)),
    "sidecar as source": (["backup", "faiss:///srv/x.parquet"], 2, ("sidecar",)),
    "no such source": (["backup", "faiss:{tmp}/none.faiss"], 1, ("no index", "none.faiss", "check the path")),
    "no such Chroma": (["backup", "chroma:{tmp}/none"], 1, ("none",)),
    "no such LanceDB": (["backup", "lancedb:{tmp}/none"], 1, ("none",)),
    "directory as source": (["backup", "faiss:{tmp}"], 1, ("is not a file",)),
    "text as source": (["backup", "faiss:{tmp}/text"], 1, ("text",)),
    "text as Chroma": (["backup", "chroma:{tmp}/text"], 1, ("text",)),
    "text as LanceDB": (["backup", "lancedb:{tmp}/text"], 1, ("text",)),
    "empty file as source": (["backup", "faiss:{tmp}/empty"], 1, ("not a whole faiss index",)),
    "half a source": (["backup", "faiss:{tmp}/half.faiss"], 1, ("not a whole faiss index",)),
    "unknown snapshot": (["show", "ffffffffffff"], 1, ("ffffffffffff", "strongroom snapshots")),
    "unknown snapshot to restore": (["restore", "ffffffffffff", "faiss:{tmp}/out/x.faiss"], 1, ("strongroom snapshots",)),
    "unknown snapshot to verify": (["verify", "ffffffffffff"], 1, ("strongroom snapshots",)),
    "no snapshot's name": (["show", ""], 1, ("strongroom snapshots",)),
    "unknown collection": (["restore", "latest", "faiss:{tmp}/out/x.faiss", "--collection", "y"], 1, ("'y'", "it has x")),
    "rename of nothing": (["restore", "latest", "faiss:{tmp}/out/x.faiss", "--rename", "y=z"], 1, ("'y'", "it has x")),
    "rename without a name": (["restore", "latest", "faiss:{tmp}/out/x.faiss", "--rename", "x"], 2, ("--rename", "OLD=NEW")),
    "unknown target engine": (["restore", "latest", "quux:///srv/x"], 2, ("quux", "known engines")),
    "no target engine": (["restore", "latest", "{tmp}/out"], 2, ("names no engine",)),
    "unknown rung": (["restore", "latest", "faiss:{tmp}/out/x.faiss", "--rung", "best"], 2, ("--rung", "exact")),
    "rung out of reach": (["restore", "latest", "chroma:{tmp}/out", "--rung", "exact"], 2, ("can't be reached",)),
    "not exact": (["restore", "latest", "chroma:{tmp}/out", "--require", "exact"], 5, ("would not be exact", "--require")),
    "not exact, planned": (["restore", "latest", "chroma:{tmp}/out", "--require", "exact", "--dry-run"], 5, ("--require",)),
    "target taken": (["restore", "latest", SOURCE], 5, ("not empty", "--overwrite")),
    "target's folder is a file": (["restore", "latest", "faiss:{tmp}/text/x.faiss"], 1, ("text",)),
    "scratch that isn't there": (["verify", "--level", "restore", "--scratch", "{tmp}/none"], 1, ("none", "is not there")),
    "unknown key slot": (["key", "remove", "ffff"], 1, ("ffff", "key list")),
    "last key slot": (["key", "remove", ""], 5, ("last key slot", "add another")),
    "no new password": (["key", "add"], 2, ("STRONGROOM_NEW_PASSWORD",)),
    "no new password to change to": (["key", "passwd"], 2, ("STRONGROOM_NEW_PASSWORD",)),
    "key file in the way": (["key", "add", "--new-key-file", "{tmp}/text"], 1, ("text is already there",)),
    "key file in no folder": (["key", "add", "--new-key-file", "{tmp}/none/key"], 1, ("none/key",)),
    "repository already": (["init"], 1, ("is a repository already",)),
}

WRONG_REPOSITORIES: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "nothing there": ("{tmp}/none", 10, ("no repository", "strongroom init")),
    "a file": ("{tmp}/text", 10, ("no repository",)),
    "below a file": ("{tmp}/text/repo", 10, ("no repository",)),
    "another directory": ("{tmp}", 10, ("no repository",)),
    "somebody's config": ("{tmp}/foreign", 10, ("config", "check the address")),
    "binary config": ("{tmp}/binary", 10, ("config",)),
    "newer format": ("{tmp}/newer", 10, ("format 2", "newer strongroom")),
    "altered config": ("{tmp}/altered", 4, ("config", "altered")),
    "config gone": ("{tmp}/headless", 4, ("config", "missing")),
    "unknown scheme": ("http://127.0.0.1/repo", 2, ("'http'", "s3")),
    "broken URL": ("s3://[half/repo", 2, ("not a url",)),
    "no bucket": ("s3://", 2, ("no bucket",)),
    "credentials in it": ("s3://user:topsecret@bucket/x", 2, ("credentials", "AWS_ACCESS_KEY_ID")),
    "blank": ("  ", 2, ("names no store",)),
    "file of a host": ("file://host/repo", 2, ("file:///",)),
}

WRONG_SECRETS: dict[str, tuple[dict[str, str | None], int, tuple[str, ...]]] = {
    "wrong password": ({"STRONGROOM_PASSWORD": "guess"}, 12, ("no key slot", "STRONGROOM_PASSWORD")),
    "no password": ({"STRONGROOM_PASSWORD": None}, 12, ("no password was given", "STRONGROOM_PASSWORD")),
    "empty password": ({"STRONGROOM_PASSWORD": ""}, 2, ("password is empty",)),
    "no such file": ({"STRONGROOM_PASSWORD": None, "STRONGROOM_PASSWORD_FILE": "{tmp}/none"}, 1, ("none", "is not there")),
    "a directory": ({"STRONGROOM_PASSWORD": None, "STRONGROOM_PASSWORD_FILE": "{tmp}"}, 1, ("directory",)),
    "not text": ({"STRONGROOM_PASSWORD": None, "STRONGROOM_PASSWORD_FILE": "{tmp}/binary/config"}, 2, ("not utf-8",)),
    "failing command": ({"STRONGROOM_PASSWORD": None, "STRONGROOM_PASSWORD_COMMAND": "false"}, 12, ("_COMMAND failed", "by hand")),
    "no such command": ({"STRONGROOM_PASSWORD": None, "STRONGROOM_PASSWORD_COMMAND": "/none/x"}, 12, ("_COMMAND failed",)),
    "broken command": ({"STRONGROOM_PASSWORD": None, "STRONGROOM_PASSWORD_COMMAND": "echo 'half"}, 12, ("_COMMAND failed",)),
    "silent command": ({"STRONGROOM_PASSWORD": None, "STRONGROOM_PASSWORD_COMMAND": "true"}, 2, ("password is empty",)),
    "no key file": ({"STRONGROOM_KEY_FILE": "{tmp}/text"}, 2, ("not a strongroom key file", "key add")),
    "no such key file": ({"STRONGROOM_KEY_FILE": "{tmp}/none"}, 1, ("none", "is not there")),
    "another's key file": ({"STRONGROOM_KEY_FILE": "{tmp}/key"}, 12, ("no key slot", "STRONGROOM_KEY_FILE")),
}


@pytest.fixture(scope="module")
def odd_things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and directories that are not what they are taken for. Read only."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "text").write_text("this is no index of any kind\n" * 50)
    (folder / "empty").touch()
    whole = build_index(folder / "half.faiss", rows=500)
    os.truncate(whole, whole.stat().st_size // 2)
    os.utime(whole, (1, 1))
    os.utime(folder / "text", (1, 1))
    os.utime(folder / "empty", (1, 1))
    body = {"strongroom": 2, "repository": "00" * 16, "created": "2030-01-01T00:00:00+00:00"}
    newer = {**body, "check": content_hash(json.dumps(body, sort_keys=True).encode()).hex()}
    present = {**newer, "strongroom": 1}
    for name, content in (
        ("foreign", b'{"version": 2, "name": "restic"}'),
        ("binary", bytes(range(256))),
        ("newer", json.dumps(newer).encode()),
        ("altered", json.dumps(present).encode()),
    ):
        (folder / name).mkdir()
        (folder / name / "config").write_bytes(content)
    (folder / "headless" / "packs" / "00").mkdir(parents=True)
    (folder / "headless" / "packs" / "00" / ("00" * 32)).write_bytes(b"x")
    (folder / "key").write_bytes(b"strongroom-key-1:" + b"A" * 43 + b"=\n")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    """What is there, but for the audit log, which tells of wrong requests, too, and the notes of what was proven."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(("audit/", "proofs/"))}


@pytest.mark.parametrize("name", WRONG_REQUESTS)
def test_a_wrong_request_is_one_line_and_touches_nothing(name: str, pristine: Place, odd_things: Path) -> None:
    arguments, code, words = WRONG_REQUESTS[name]
    before = tree(pristine.repo), tree(odd_things)
    given = [one.format(source=pristine.source, tmp=odd_things) for one in arguments]
    pristine.run(*given).failed(code, *words)
    assert (tree(pristine.repo), tree(odd_things)) == before
    assert not (odd_things / "out").exists() or not any((odd_things / "out").iterdir())


@pytest.mark.parametrize("name", WRONG_REPOSITORIES)
def test_what_is_no_repository_is_said_to_be_none(name: str, pristine: Place, odd_things: Path) -> None:
    address, code, words = WRONG_REPOSITORIES[name]
    before = tree(odd_things)
    ended = strongroom("backup", pristine.source, "-r", address.format(tmp=odd_things)).failed(code, *words)
    assert "topsecret" not in ended.err
    assert tree(odd_things) == before


@pytest.mark.parametrize(("address", "code", "words"), [("{tmp}/text", 1, "not a directory"), ("{tmp}/newer", 10, "format 2")])
def test_no_repository_is_made_over_something_else(odd_things: Path, address: str, code: int, words: str) -> None:
    before = tree(odd_things)
    strongroom("init", "-r", address.format(tmp=odd_things)).failed(code, words)
    assert tree(odd_things) == before


@pytest.mark.parametrize("name", WRONG_SECRETS)
def test_a_wrong_secret_is_told_from_a_missing_one(name: str, pristine: Place, odd_things: Path) -> None:
    changes, code, words = WRONG_SECRETS[name]
    env = {key: value and value.format(tmp=odd_things) for key, value in changes.items()}
    before = tree(pristine.repo)
    ended = pristine.run("backup", pristine.source, env=env).failed(code, *words)
    assert "guess" not in ended.err
    assert tree(pristine.repo) == before


def test_no_repository_is_named(pristine: Place) -> None:
    strongroom("snapshots").failed(2, "--repo", "STRONGROOM_REPOSITORY")
    strongroom("snapshots", env={"STRONGROOM_REPOSITORY": ""}).failed(2, "--repo")
    strongroom("snapshots", "-r", "").failed(2, "names no store")


def test_an_empty_repository_has_no_latest(tmp_path: Path) -> None:
    env = {"STRONGROOM_REPOSITORY": str(tmp_path / "repo")}
    assert strongroom("init", env=env).code == 0
    strongroom("show", env=env).failed(1, "no snapshot yet", "strongroom backup")
    strongroom("restore", "latest", f"faiss:{tmp_path}/x.faiss", env=env).failed(1, "no snapshot yet")
    empty = strongroom("verify", env=env)
    assert (empty.code, "nothing could be checked" in empty.out) == (4, True)
    assert strongroom("snapshots", "--json", env=env).done().json == []


def test_names_that_are_not_utf8_are_refused_before_any_work(pristine: Place, tmp_path: Path) -> None:
    pristine.run("backup", b"faiss:" + os.fsencode(tmp_path) + b"/\xff.faiss").failed(2, "UTF-8", "rename")


def test_retry_seconds_must_be_a_number() -> None:
    for text in ("soon", "-1", "nan"):
        strongroom("snapshots", "-r", "s3://bucket/x", env={"STRONGROOM_RETRY_SECONDS": text}).failed(2, "RETRY_SECONDS", "number")


@pytest.mark.parametrize(
    ("arguments", "env", "code"),
    [
        (["snapshots", "--json"], {"STRONGROOM_PASSWORD": "guess"}, 12),
        (["snapshots", "--json", "--fast"], {}, 2),
        (["backup", "--json", "quux:///x"], {}, 2),
        (["restore", "--json", "latest", "chroma:///nowhere/at/all", "--require", "exact"], {}, 5),
        (["show", "--json", "-r", "/nowhere/at/all"], {}, 10),
    ],
)
def test_an_error_in_json_is_one_object_in_one_line(arguments: list[str], env: dict[str, str], code: int, pristine: Place) -> None:
    ended = pristine.run(*arguments, env=env)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (code, "", 1)
    said = json.loads(ended.err)
    assert sorted(said) == ["error", "exit_code", "hint"]
    assert said["exit_code"] == code
    assert said["error"]
    assert said["hint"]
