"""Does a legal hold beat everything that takes away, by every road? And what do people and scripts see of it?"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest
from commands import Place, build_index

from strongroom.clock import Clock
from strongroom.errors import Damaged, Refused
from strongroom.operations.forget import ForgetOptions, forget
from strongroom.operations.hold import HoldOptions, place_hold
from strongroom.operations.prune import run as pruning
from strongroom.operations.prune.run import PruneOptions, prune
from strongroom.policy.retention import Rules
from strongroom.repository import Repository, holds
from strongroom.repository.holds import Scope
from strongroom.repository.tombstones import What
from strongroom.snapshots import commit, history

USAGE, DAMAGED, REFUSED = 2, 4, 5
WHY = ("--reason", "discovery in Miller v. Acme", "--authority", "CASE-114")
COURT = ("discovery", "CASE-114")
NOW = PruneOptions(timedelta(0), 0.0)


@pytest.fixture
def two(place: Place, tmp_path) -> Place:
    """Two snapshots of one source, and no other."""
    room = place.open()
    mine = Place(place.repo, tmp_path / "src" / "y.faiss")
    others = tuple(mine.snapshots())
    for seed in (1, 2):
        build_index(mine.index, rows=300, seed=seed)
        room.backup(mine.source)
    room.forget(ForgetOptions(others))
    return mine


def hold(repository: Repository, **scope) -> holds.Hold:
    return place_hold(repository, HoldOptions(Scope(**scope), *COURT)).hold


def test_a_held_snapshot_is_forgotten_by_nobody(two: Place, tmp_path) -> None:
    first, second = two.snapshots()
    placed = two.run("hold", "place", first[:12], *WHY, "--json").done().json
    assert placed["covered"] == [first]
    two.run("forget", first).failed(REFUSED, "legal hold", "CASE-114", "Miller v. Acme", "hold release")
    said = two.run("forget", "--keep-last", "1", "--dry-run").done().out
    assert "legal hold" in said
    assert "CASE-114" in said
    assert two.run("forget", "--keep-last", "1", "--json").done().json["snapshots"][1]["keep"]
    two.run("prune", "--grace", "0", "--quiet").done()
    assert two.snapshots() == [first, second]
    assert two.run("verify", "--json", "--quiet").done().json["passed"]
    (listed,) = two.run("hold", "list", "--json").done().json
    assert (listed["active"], listed["authority"]) == (True, "CASE-114")
    two.run("hold", "release", listed["id"][:10], "--reason", "", "--authority", "x").failed(USAGE, "--reason is empty")
    two.run("hold", "release", listed["id"][:10], "--reason", "settled", "--authority", "CASE-114").done()
    two.run("hold", "release", listed["id"][:10], "--reason", "settled", "--authority", "CASE-114").failed(REFUSED, "already")
    two.run("forget", first).done()
    assert two.snapshots() == [second]
    (listed,) = two.run("hold", "list", "--json").done().json
    assert (listed["active"], listed["release"]["reason"]) == (False, "settled")


def test_a_hold_on_a_collection_keeps_what_was_made_before_and_after(two: Place) -> None:
    two.run("hold", "place", "--collection", two.index.stem, *WHY).done()
    build_index(two.index, seed=3)
    two.run("backup", two.source, "--quiet").done()
    before = two.snapshots()
    assert len(before) == 3
    assert not two.open().forget(ForgetOptions(rules=Rules(last=1))).forgotten
    for name in before:
        two.run("forget", name).failed(REFUSED, "CASE-114")
    assert two.snapshots() == before


@pytest.mark.parametrize(
    ("scope", "covers"),
    [({"tenant": "acme"}, True), ({"tenant": "other"}, False), ({"source": "SOURCE"}, True), ({"collections": ("no",)}, False)],
)
def test_tenants_and_sources_are_held_too(scope, covers: bool, two: Place) -> None:
    build_index(two.index, seed=3)
    two.run("backup", two.source, "--quiet", "--tag", "tenant=acme").done()
    last = two.snapshots()[-1]
    repository = two.open().repository
    source = history.read(repository, last).manifest.source
    hold(repository, **{name: source if value == "SOURCE" else value for name, value in scope.items()})
    if covers:
        with pytest.raises(Refused, match="legal hold"):
            forget(repository, ForgetOptions((last,)))
    else:
        forget(repository, ForgetOptions((last,)))


def test_a_hold_that_is_placed_while_its_snapshot_is_forgotten_brings_it_back(two: Place, monkeypatch, tmp_path) -> None:
    """The worst moment: forget looked for holds, found none, and is about to delete the manifest."""
    first = two.snapshots()[0]
    content = history.read(two.open().repository, first).manifest
    placed = []
    real = commit.held_among

    def late(repository, ids):
        found = real(repository, ids)
        if not placed:
            placed.append(place_hold(two.open().repository, HoldOptions(Scope((first,)), *COURT)))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(commit, "held_among", late)
        two.open().forget(ForgetOptions((first,)))
    (rescued,) = placed[0].rescued
    assert first not in two.snapshots()
    assert history.read(two.open().repository, rescued).manifest == content
    two.run("forget", rescued).failed(REFUSED, "CASE-114")
    prune(two.open().repository, NOW)
    prune(two.open().repository, NOW)
    assert two.run("verify", "--json", "--quiet").done().json["passed"]


@pytest.mark.parametrize("moment", ["before the mark", "between mark and sweep", "in the sweep"])
def test_a_hold_that_is_placed_during_a_prune(moment: str, two: Place, monkeypatch) -> None:
    first = two.snapshots()[0]
    repository = two.open().repository
    with monkeypatch.context() as patch:
        if moment == "before the mark":
            uses_of = pruning.uses_of
            patch.setattr(pruning, "uses_of", lambda *a: (hold(repository, snapshots=(first,)), uses_of(*a))[1])
        elif moment == "in the sweep":
            sweep = pruning.sweep
            patch.setattr(pruning, "sweep", lambda *a, **k: (hold(repository, snapshots=(first,)), sweep(*a, **k))[1])
        two.open().prune(NOW)
    if moment == "between mark and sweep":
        hold(repository, snapshots=(first,))
    with pytest.raises(Refused):
        two.open().forget(ForgetOptions((first,)))
    two.open().prune(NOW)
    two.open().prune(NOW)
    assert first in two.snapshots()
    assert two.run("verify", "--json", "--quiet").done().json["passed"]


def test_a_hold_that_came_too_late_for_a_tombstone_still_keeps_the_manifest(two: Place) -> None:
    """Forget died between its tombstone and the manifest: whoever goes on reads the holds."""
    first = two.snapshots()[0]
    repository = two.open().repository
    repository.bury(What.FORGOTTEN, [first])
    report = place_hold(repository, HoldOptions(Scope((first,)), *COURT))
    assert report.rescued
    prune(two.open().repository, NOW)
    assert {first, *report.rescued} <= set(two.snapshots())


def test_a_tombstone_alone_takes_nothing_away(two: Place) -> None:
    """Who may add objects, and not delete, makes tombstones of all snapshots; somebody else's prune doesn't act on them."""
    repository = two.open().repository
    before = two.snapshots()
    repository.bury(What.FORGOTTEN, before)
    prune(two.open().repository, NOW)
    prune(two.open().repository, NOW)
    assert two.snapshots() == before
    assert two.run("verify", "--json", "--quiet").done().json["passed"]


def test_a_withdrawn_snapshot_that_is_held_stays(two: Place) -> None:
    repository = two.open().repository
    first = two.snapshots()[0]
    hold(repository, collections=(two.index.stem,))
    assert commit.withdraw(repository, [first], ()).keys() == {first}
    assert first in two.snapshots()
    assert first not in commit.forgotten(repository)[0]


def test_a_hold_ends_when_both_clocks_say_so(two: Place) -> None:
    first = two.snapshots()[0]
    soon = datetime.now(UTC) + timedelta(hours=1)
    ahead = Clock(lambda: (soon + timedelta(days=9000)).timestamp())
    repository = two.open().repository
    place_hold(repository, HoldOptions(Scope((first,)), *COURT, soon))
    repository.clock = ahead  # this machine's clock jumped, the store's stamps didn't
    with pytest.raises(Refused, match="until"):
        forget(repository, ForgetOptions((first,)))
    newest = two.repo / "snapshots" / two.snapshots()[1]
    os.utime(newest, (soon.timestamp() + 1, soon.timestamp() + 1))  # something was stored after it
    forget(repository, ForgetOptions((first,)))


@pytest.mark.parametrize("harm", ["altered", "gone", "the newest is gone"])
def test_without_all_holds_nothing_goes(harm: str, two: Place) -> None:
    repository = two.open().repository
    placed = hold(repository, snapshots=(two.snapshots()[0],))
    if harm != "the newest is gone":  # that one no other names: this machine remembers
        hold(repository, collections=("other",))
    path = two.repo / "holds" / placed.id
    path.chmod(0o600)
    if "gone" in harm:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    for work in (lambda: forget(repository, ForgetOptions(rules=Rules(last=1))), lambda: prune(repository, NOW)):
        with pytest.raises(Damaged, match="holds/"):
            work()
    two.run("hold", "list").failed(DAMAGED, "holds/")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (WHY, "nothing says what to hold"),
        (("latest", "--reason", " ", "--authority", "x"), "--reason is empty"),
        (("latest", *WHY, "--until", "2020-01-01"), "over already"),
        (("latest", *WHY, "--until", "soon"), "no time"),
    ],
)
def test_a_hold_says_what_and_why(arguments: tuple[str, ...], words: str, place: Place) -> None:
    place.run("hold", "place", *arguments).failed(USAGE, words)


def test_a_dry_run_holds_nothing(place: Place) -> None:
    assert place.run("hold", "place", "latest", *WHY, "--dry-run", "--json").done().json["hold"] is None
    assert place.run("hold", "list", "--json").done().json == []
