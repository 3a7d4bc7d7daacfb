"""A host that can't read, from the command line; and is docs/FORMAT.md enough to read what it wrote?"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from commands import Ended
from commands import strongroom as command
from session_reader import SessionReader

import strongroom
from strongroom.repository import Argon2Cost, Secret


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository with a slot for a host, and a source."""
    for name in ("admin", "host"):
        (tmp_path / name).write_text(f"password of {name}")
    index = faiss.IndexFlatL2(8)
    index.add(np.random.default_rng(1).standard_normal((300, 8)).astype(np.float32))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    room = strongroom.init(str(tmp_path / "repository"), password="password of admin", cost=Argon2Cost(1, 1, 64))
    room.add_key(Secret.passphrase("password of host"), "web-1", write_only=True, cost=Argon2Cost(1, 1, 64))
    return tmp_path


def told(place: Path, who: str, *words: str, **more: str) -> Ended:
    """What a command says that this one runs, on a machine of his own."""
    given = {"STRONGROOM_REPOSITORY": str(place / "repository"), "STRONGROOM_STATE_DIR": str(place / f"state-{who}")}
    return command(*words, env={**given, "STRONGROOM_PASSWORD": None, "STRONGROOM_PASSWORD_FILE": str(place / who), **more})


def back_up(place: Path) -> Ended:
    return told(place, "host", "backup", f"faiss://{place}/index.faiss", "--quiet")


def test_it_backs_up_and_the_administrator_sees_who_it_was(place: Path) -> None:
    back_up(place).done()
    (snapshot,) = told(place, "admin", "snapshots", "--json").done().json
    assert snapshot["made_by"] == "web-1"
    assert "made by    web-1" in told(place, "admin", "show").done().out
    assert "by web-1" in told(place, "admin", "snapshots").done().out
    keys = told(place, "admin", "key", "list", "--json").done().json
    assert {(one["label"], one["role"], one["write_only"]) for one in keys} == {
        ("first", "admin", False),
        ("web-1", "operator", True),
    }


def test_everything_else_ends_with_one_line_that_says_why(place: Path) -> None:
    back_up(place).done()
    for words in (["restore", "latest", f"faiss://{place}/out.faiss"], ["key", "list"]):
        told(place, "host", *words).failed(5, "this key can only back up")
    assert not (place / "out.faiss").exists()


def test_a_key_for_one_is_made_on_the_command_line_and_has_no_other_role(place: Path) -> None:
    fresh = {"STRONGROOM_NEW_PASSWORD": "of another"}
    assert told(place, "admin", "key", "add", "--write-only", "--role", "restorer", **fresh).code == 2
    told(place, "admin", "key", "add", "--write-only", "--label", "web-2", **fresh).done()
    assert told(place, "admin", "key", "list").done().out.count("writes") == 2


def test_where_a_policy_is_published_it_cant_tell_whether_it_may(place: Path) -> None:
    strongroom.open(str(place / "repository"), password="password of admin").publish_policy({"repositories": {}})
    back_up(place).failed(5, "can only back up")


def test_the_format_page_is_enough_to_read_what_it_wrote(place: Path) -> None:
    back_up(place).done()
    reader = SessionReader(place / "repository", passphrase="password of admin")
    (manifest,) = reader.snapshots().values()
    (artifact,) = manifest["artifacts"]
    assert reader.artifact(manifest, artifact) == (place / "index.faiss").read_bytes()
    assert reader.root(manifest) == manifest["root"]
