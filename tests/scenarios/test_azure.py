"""Does the whole job go on Azure Blob Storage? On azurite, looked at past Strongroom."""

from __future__ import annotations

from pathlib import Path

import obstore
from azurite import Azurite
from commands import build_index, strongroom


def test_the_whole_job_on_azure(azurite: Azurite, tmp_path: Path) -> None:
    azurite.make_container("job")
    env: dict[str, str | None] = {**azurite.environment(), "STRONGROOM_REPOSITORY": "az://job/backups/main"}
    index = build_index(tmp_path / "x.faiss")
    first = index.read_bytes()
    assert strongroom("init", "--json", env=env).done().json["url"] == "az://job/backups/main"
    strongroom("init", env=env).failed(1, "is a repository already")
    made = strongroom("backup", "--json", "--quiet", f"faiss:{index}", env=env).done().json
    build_index(index, seed=7)
    assert strongroom("journal", "follow", "--scan", "--once", "--quiet", f"faiss:{index}", env=env).code == 0
    strongroom("backup", "--quiet", f"faiss:{index}", env=env).done()

    raw = azurite.raw("job")
    names = {item["path"] for chunk in obstore.list(raw) for item in chunk}
    assert {name.split("/")[2] for name in names} == {"config", "keys", "packs", "index", "snapshots", "journal", "audit"}
    assert not any(b"faiss" in bytes(obstore.get(raw, name).bytes()) for name in names)
    (status,) = strongroom("journal", "status", "--json", env=env).done().json
    assert status["segments"] > 0
    for snapshot, content in ((made["id"], first), ("latest", index.read_bytes())):
        target = tmp_path / "out" / f"{snapshot[:6]}.faiss"
        strongroom("restore", snapshot, f"faiss:{target}", "--quiet", env=env).done()
        assert target.read_bytes() == content
    report = strongroom("verify", "--level", "answers", "--json", "--quiet", env=env).done().json
    assert report["passed"]
    assert report["looked_at"]["probes"] > 0

    strongroom("forget", made["id"], env=env).done()
    deleted = strongroom("prune", "--grace", "0", "--json", "--quiet", env=env).done().json["deleted"]
    assert deleted["packs"] > 0
    assert strongroom("verify", "--json", "--quiet", env=env).done().json["passed"]
    packs = [item["path"] for chunk in obstore.list(raw, prefix="backups/main/packs") for item in chunk]
    obstore.put(raw, packs[0], bytes(obstore.get(raw, packs[0]).bytes())[:100])
    assert strongroom("verify", "--quiet", env=env).code == 4
