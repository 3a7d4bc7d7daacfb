"""A host that can't read, from the command line; and is docs/FORMAT.md enough to read what it wrote?"""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest
from session_reader import SessionReader
from typer.testing import CliRunner

import strongroom
from strongroom.cli.commands import app
from strongroom.repository import Argon2Cost, Secret


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a slot for a host, and a source."""
    for name in ("admin", "host"):
        (tmp_path / name).write_text(f"password of {name}")
    index = faiss.IndexFlatL2(8)
    index.add(np.random.default_rng(1).standard_normal((300, 8)).astype(np.float32))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    room = strongroom.init(str(tmp_path / "repository"), password="password of admin", cost=Argon2Cost(1, 1, 64))
    room.add_key(Secret.passphrase("password of host"), "web-1", write_only=True, cost=Argon2Cost(1, 1, 64))
    monkeypatch.setenv("STRONGROOM_REPOSITORY", str(tmp_path / "repository"))
    return tmp_path


def told(place: Path, who: str, *words: str) -> tuple[int, str]:
    environment = {"STRONGROOM_PASSWORD_FILE": str(place / who), "STRONGROOM_STATE_DIR": str(place / f"state-{who}")}
    done = CliRunner().invoke(app, list(words), env=environment)
    return done.exit_code, done.output


def test_it_backs_up_and_the_administrator_sees_who_it_was(place: Path) -> None:
    assert told(place, "host", "backup", f"faiss://{place}/index.faiss", "--quiet")[0] == 0
    code, text = told(place, "admin", "snapshots", "--json")
    assert code == 0
    (snapshot,) = json.loads(text)["snapshots"] if isinstance(json.loads(text), dict) else json.loads(text)
    assert snapshot["made_by"] == "web-1"
    assert "made by    web-1" in told(place, "admin", "show")[1]
    assert "by web-1" in told(place, "admin", "snapshots")[1]
    keys = json.loads(told(place, "admin", "key", "list", "--json")[1])
    assert [(one["label"], one["role"], one["write_only"]) for one in keys] == [
        ("first", "admin", False),
        ("web-1", "operator", True),
    ]


def test_everything_else_ends_with_one_line_that_says_why(place: Path) -> None:
    told(place, "host", "backup", f"faiss://{place}/index.faiss", "--quiet")
    for words in (["snapshots"], ["restore", "latest", f"faiss://{place}/out.faiss"], ["verify"], ["prune"], ["key", "list"]):
        code, text = told(place, "host", *words)
        assert code == 5
        assert "this key can only back up" in text
        assert len(text.strip().splitlines()) == 1
    assert not (place / "out.faiss").exists()


def test_a_key_for_one_is_made_on_the_command_line_and_has_no_other_role(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRONGROOM_NEW_PASSWORD", "of another")
    assert told(place, "admin", "key", "add", "--write-only", "--role", "restorer")[0] == 2
    assert told(place, "admin", "key", "add", "--write-only", "--label", "web-2")[0] == 0
    assert told(place, "admin", "key", "list")[1].count("writes") == 2


def test_where_a_policy_is_published_it_cant_tell_whether_it_may(place: Path) -> None:
    strongroom.open(str(place / "repository"), password="password of admin").publish_policy({"repositories": {}})
    code, text = told(place, "host", "backup", f"faiss://{place}/index.faiss", "--quiet")
    assert code == 5
    assert "can only back up" in text


def test_the_format_page_is_enough_to_read_what_it_wrote(place: Path) -> None:
    told(place, "host", "backup", f"faiss://{place}/index.faiss", "--quiet")
    reader = SessionReader(place / "repository", passphrase="password of admin")
    (manifest,) = reader.snapshots().values()
    (artifact,) = manifest["artifacts"]
    assert reader.artifact(manifest, artifact) == (place / "index.faiss").read_bytes()
    assert reader.root(manifest) == manifest["root"]
