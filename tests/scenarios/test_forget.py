"""What do the commands forget and prune do for people and scripts, and what do they refuse?"""

from __future__ import annotations

import pytest
from commands import Place, build_index

USAGE, DAMAGED, REFUSED = 2, 4, 5


@pytest.fixture
def three(place: Place, tmp_path) -> Place:
    """Three snapshots of one source, the first two of no use to the third."""
    index = build_index(tmp_path / "src" / "y.faiss")
    for seed in (2, 3):
        build_index(index, seed=seed)
        place.run("backup", f"faiss://{index}", "--quiet", "--tag", f"n={seed}").done()
    return place


def test_what_a_dry_run_says_is_what_is_forgotten(three: Place) -> None:
    rules = ("forget", "--keep-last", "1", "--json")
    said = three.run(*rules, "--dry-run").done().json
    assert said["dry_run"]
    assert len(three.snapshots()) == 3
    done = three.run(*rules).done().json
    assert done["snapshots"] == said["snapshots"]
    kept = {one["snapshot"]: one["reasons"] for one in done["snapshots"] if one["keep"]}
    assert set(kept) == set(three.snapshots())
    assert list(kept.values()) == [["last 1 of 1"]] * 2  # each source by itself
    assert three.run("verify", "--json", "--quiet").done().json["passed"]


def test_people_see_every_reason(three: Place) -> None:
    out = three.run("forget", "--keep-daily", "2", "--keep-tag", "n=2", "--keep-within", "1d", "--dry-run").done().out
    assert out.count("keep") >= 3
    assert "daily 1 of 2, within 1d" in out
    assert "daily, the oldest, within 1d, tag n=2" in out


def test_the_room_is_free_after_the_grace(three: Place) -> None:
    first = three.snapshots()[0]
    three.run("forget", *three.snapshots()[:2]).done()
    marked = three.run("prune", "--json", "--quiet").done().json
    assert (marked["deleted"]["packs"], marked["condemned"]["packs"], marked["waiting"]["packs"]) == (0, 2, 2)
    assert marked["due"]
    assert three.run("prune", "--json", "--quiet").done().json["deleted"]["packs"] == 0
    assert three.run("prune", "--grace", "0", "--json", "--quiet").done().json["deleted"]["packs"] == 2
    packs = [path for path in (three.repo / "packs").rglob("*") if path.is_file()]
    assert len(packs) == three.run("prune", "--dry-run", "--json", "--quiet").done().json["kept"]["packs"]
    assert three.run("verify", "--json", "--quiet").done().json["passed"]
    three.run("show", first).failed(1, "no snapshot's id begins")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing says what to forget"),
        (("--keep-last", "0"), "--keep-last"),
        (("--keep-daily", "-1"), "--keep-daily"),
        (("--keep-within", "soon"), "not a duration"),
        (("--keep-tag", "=x"), "names no tag"),
        (("latest", "--keep-last", "1"), "not both"),
        (("latest", "--source", "faiss:///x"), "for rules"),
    ],
)
def test_forget_is_never_asked_by_accident(arguments: tuple[str, ...], words: str, place: Place) -> None:
    place.run("forget", *arguments).failed(USAGE, words)
    assert len(place.snapshots()) == 1


def test_rules_never_forget_all_of_a_source(place: Place) -> None:
    """By its id the last one can be forgotten."""
    place.run("forget", "--keep-tag", "env=other").failed(REFUSED, "every snapshot of", "name them")
    (last,) = place.snapshots()
    place.run("forget", last[:8]).done()
    assert place.snapshots() == []
    place.run("forget", last).failed(1, "no snapshot's id begins")


def test_a_source_without_snapshots_is_a_mistake(place: Place) -> None:
    place.run("forget", "--keep-last", "1", "--source", "faiss:///no/such").failed(1, "no snapshot is of")


@pytest.mark.parametrize("arguments", [("--grace", "1m"), ("--grace", "-1h"), ("--max-unused", "101"), ("--max-unused", "-1")])
def test_prune_refuses_numbers_that_can_not_be(arguments: tuple[str, ...], place: Place) -> None:
    place.run("prune", *arguments).failed(USAGE, arguments[0] if arguments[0] != "--grace" else arguments[1])


def test_prune_refuses_while_a_manifest_can_not_be_read(three: Place) -> None:
    first = three.snapshots()[0]
    path = three.repo / "snapshots" / first
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    three.run("prune", "--quiet").failed(DAMAGED, first, "forget it by its id")
    three.run("forget", first).done()
    three.run("prune", "--quiet").done()
    assert three.run("verify", "--json", "--quiet").done().json["passed"]
