"""A court's hold comes while tonight's retention runs. Real processes on a real directory; every interleaving of their
operations is in tests/faults/test_hold_interleavings.py."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from commands import Place, build_index
from runbooks import runbook

from strongroom.operations.forget import ForgetOptions
from strongroom.operations.prune.run import PruneOptions
from strongroom.policy.retention import Rules
from strongroom.repository.local_store import LocalStore


@pytest.mark.parametrize("stop_at", ["snapshots/", "packs/"])
def test_what_is_held_in_the_middle_of_it_stays(
    stop_at: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention stops before its first deletion below a folder; the hold is placed by the runbook there."""
    mine = Place(place.repo, tmp_path / "src" / "y.faiss")
    contents = []
    for seed in (1, 2):
        build_index(mine.index, rows=200, seed=seed)
        mine.open().backup(mine.source)
        contents.append(mine.index.read_bytes())
    names = {"SOURCE": mine.source, "REASON": "discovery in Miller v. Acme", "AUTHORITY": "CASE-114"}
    with runbook("data must be held", mine.env, **names) as play:
        stopped, real = [], LocalStore.delete

        def delete(store: LocalStore, name: str) -> None:
            if name.startswith(stop_at) and not stopped:
                stopped.append(name)
                stopped.append(play.step().out)
            real(store, name)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "delete", delete)
            room = mine.open()
            room.forget(ForgetOptions(rules=Rules(last=1), source=mine.source))
            for _ in range(2):
                room.prune(PruneOptions(timedelta(0), 0.0))
        assert "held now" in stopped[1]
        assert ("brought back" in stopped[1]) == (stop_at == "snapshots/")
        play.step()
        kept = play.step().out
        assert "legal hold" in kept
        assert "0 would be forgotten" in kept
    held = [one for one in mine.open().snapshots() if one.manifest.source == mine.source]
    expected = contents if stop_at == "snapshots/" else contents[1:]  # before the manifest went; after it what is left
    found = set()
    for number, one in enumerate(held):
        target = tmp_path / f"back-{number}" / "y.faiss"
        mine.run("restore", one.id, f"faiss://{target}", "-q").done()
        found.add(target.read_bytes())
    assert found == set(expected)
