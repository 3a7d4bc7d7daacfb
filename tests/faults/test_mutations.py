"""Is every damage that storage can do, without the key, found and named, with exit code 4, while the rest still restores?"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import command_forks
import pytest
from worlds import PASSWORD, World, restored

from strongroom import cli
from strongroom.errors import Damaged, StrongroomError
from strongroom.operations.verify import Level
from strongroom.repository.crypto import content_hash


@dataclass(frozen=True)
class Damage:
    """What must be named (a part of some finding's subject or of the error), and the snapshots that may be called broken."""

    named: str
    broken: frozenset[str] = frozenset()
    opens: bool = True


Mutation = Callable[[World, World], Damage]


# -- what can be done to any object -------------------------------------------------------------------------------------------


def flip(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[min(len(content) - 1, int(at * len(content)))] ^= 0x10
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"garbage")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


WAYS: dict[str, Callable[[Path], None]] = {
    "flip first": lambda path: flip(path, 0),
    "flip middle": lambda path: flip(path, 0.5),
    "flip last": lambda path: flip(path, 1),
    "truncate": cut,
    "empty": empty,
    "zeros": zero,
    "append": extend,
    "delete": Path.unlink,
}


# -- which object --------------------------------------------------------------------------------------------------------------


def pack_of(world: World, place: int) -> Path:
    """The pack that the backup of this snapshot wrote."""
    room = world.open()
    needed = [{bytes.fromhex(blob) for blob in one.manifest.blobs()} for one in room.snapshots()]
    before = set().union(*needed[:place])
    packs = room.repository.index.packs.values()
    [pack] = [one for one in packs if {blob.id for blob in one.blobs} & (needed[place] - before)]
    return world.folder / pack.name


def users_of(world: World, pack: Path) -> frozenset[str]:
    room = world.open()
    return needing(world, *(blob.id for blob in room.repository.index.packs[pack.name].blobs))


def needing(world: World, *blobs: bytes) -> frozenset[str]:
    """The snapshots that need one of these blobs."""
    return frozenset(
        one.id for one in world.open().snapshots() if set(blobs) & {bytes.fromhex(blob) for blob in one.manifest.blobs()}
    )


def index_of(world: World, pack: Path) -> Path:
    """The index object that lists the pack: of the three, the one without which its blobs are not found."""
    for path in sorted((world.folder / "index").iterdir()):
        content = path.read_bytes()
        path.unlink()
        listed = pack.name in world.open().repository.index.packs
        path.write_bytes(content)
        if not listed:
            return path
    raise AssertionError("no index object lists it")


def manifest_of(world: World, place: int) -> Path:
    return world.folder / "snapshots" / world.order[place]


def slot_of(world: World, kind: str) -> Path:
    [slot] = [one for one in world.open().key_slots() if one.kind == kind]
    return world.folder / slot.name


def name_of(world: World, path: Path) -> str:
    return path.relative_to(world.folder).as_posix()


# -- mutations -----------------------------------------------------------------------------------------------------------------


def hurt_pack(way: str) -> Mutation:
    def damage(world: World, _: World) -> Damage:
        pack = pack_of(world, 0)
        broken = users_of(world, pack)
        if way == "flip middle":  # that is inside one blob
            middle = pack.stat().st_size // 2
            held = world.open().repository.index.packs[pack.name].blobs
            broken = needing(world, *(blob.id for blob in held if blob.offset <= middle < blob.offset + blob.stored))
        WAYS[way](pack)
        return Damage(name_of(world, pack), broken)

    return damage


def hurt_blob(which: str) -> Mutation:
    """A byte of one blob: the snapshots that don't need that blob are not touched, though they use the same pack."""

    def damage(world: World, _: World) -> Damage:
        path = pack_of(world, 0)
        room = world.open()
        pack = room.repository.index.packs[path.name]
        needs = {one.id: {bytes.fromhex(blob) for blob in one.manifest.blobs()} for one in room.snapshots()}
        single = [blob for blob in pack.blobs if sum(blob.id in needed for needed in needs.values()) == 1]
        shared = [blob for blob in pack.blobs if sum(blob.id in needed for needed in needs.values()) == 2]
        blob = {"first": pack.blobs[0], "last": pack.blobs[-1], "single": single[0], "shared": shared[0]}[which]
        content = bytearray(path.read_bytes())
        content[blob.offset + blob.stored // 2] ^= 1
        path.write_bytes(content)
        broken = frozenset(one for one, needed in needs.items() if blob.id in needed)
        return Damage(f"{name_of(world, path)}, blob {blob.id.hex()[:16]}", broken)

    return damage


def hurt_pack_at(part: str) -> Mutation:
    def damage(world: World, _: World) -> Damage:
        path = pack_of(world, 1)
        users = users_of(world, path)
        size = path.stat().st_size
        content = bytearray(path.read_bytes())
        content[{"header": 4, "salt": 20, "directory": size - 30, "length": size - 2}[part]] ^= 1
        path.write_bytes(content)
        return Damage(name_of(world, path), users)

    return damage


def hurt_index(way: str) -> Mutation:
    """Every pack has a directory of its own: a lost index object is found, and costs nothing."""

    def damage(world: World, _: World) -> Damage:
        pack = pack_of(world, 1)
        path = index_of(world, pack)
        WAYS[way](path)
        return Damage(name_of(world, pack) if way == "delete" else name_of(world, path))

    return damage


def hurt_manifest(way: str, place: int) -> Mutation:
    def damage(world: World, _: World) -> Damage:
        path = manifest_of(world, place)
        WAYS[way](path)
        return Damage(name_of(world, path), frozenset({path.name}))

    return damage


def hurt_slot(way: str) -> Mutation:
    """One of two: the other one opens."""

    def damage(world: World, _: World) -> Damage:
        path = slot_of(world, "key file")
        WAYS[way](path)
        return Damage(name_of(world, path))

    return damage


def hurt_only_slot(way: str) -> Mutation:
    def damage(world: World, _: World) -> Damage:
        slot_of(world, "key file").unlink()
        path = slot_of(world, "passphrase")
        WAYS[way](path)
        return Damage("keys/" if way == "delete" else name_of(world, path), opens=False)

    return damage


def hurt_config(way: str) -> Mutation:
    def damage(world: World, _: World) -> Damage:
        WAYS[way](world.folder / "config")
        return Damage("config", opens=False)

    return damage


def swap(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def swapped_packs(world: World, _: World) -> Damage:
    first, second = pack_of(world, 0), pack_of(world, 1)
    broken = users_of(world, first) | users_of(world, second)
    swap(first, second)
    return Damage(name_of(world, first), broken)


def swapped_blobs(world: World, _: World) -> Damage:
    """The ciphertexts of two blobs of one length change places inside a pack."""
    path = pack_of(world, 0)
    pack = world.open().repository.index.packs[path.name]
    one, other = next((a, b) for a in pack.blobs for b in pack.blobs if a.id != b.id)
    length = min(one.stored, other.stored)
    content = bytearray(path.read_bytes())
    first, second = slice(one.offset, one.offset + length), slice(other.offset, other.offset + length)
    content[first], content[second] = content[second], content[first]
    broken = needing(world, one.id, other.id)
    path.write_bytes(content)
    return Damage(f"{name_of(world, path)}, blob {one.id.hex()[:16]}", broken)


def swapped_manifests(world: World, _: World) -> Damage:
    first, second = manifest_of(world, 0), manifest_of(world, 1)
    swap(first, second)
    return Damage(name_of(world, second), frozenset({first.name, second.name}))


def older_manifest_put_back(world: World, _: World) -> Damage:
    newest = manifest_of(world, 2)
    newest.write_bytes(manifest_of(world, 0).read_bytes())
    return Damage(name_of(world, newest), frozenset({newest.name}))


def manifest_under_another_name(world: World, _: World) -> Damage:
    copied = world.folder / "snapshots" / ("ab" * 32)
    shutil.copy(manifest_of(world, 0), copied)
    return Damage(name_of(world, copied))


def older_repository_put_back(world: World, _: World) -> Damage:
    """All that the last backup wrote is taken away at once."""
    pack = pack_of(world, 2)
    for path in (index_of(world, pack), pack, manifest_of(world, 2)):
        path.unlink()
    return Damage(f"snapshots/{world.order[2]}", frozenset({world.order[2]}))


def every_manifest_removed(world: World, _: World) -> Damage:
    for place in range(3):
        manifest_of(world, place).unlink()
    return Damage("snapshots/", frozenset(world.order))


def every_pack_removed(world: World, _: World) -> Damage:
    named = name_of(world, pack_of(world, 0))
    shutil.rmtree(world.folder / "packs")
    return Damage(named, frozenset(world.order))


def every_index_removed(world: World, _: World) -> Damage:
    """The packs' own directories stand for the whole blob index."""
    named = name_of(world, pack_of(world, 0))
    shutil.rmtree(world.folder / "index")
    return Damage(named)


def swapped_indexes(world: World, _: World) -> Damage:
    first, second = index_of(world, pack_of(world, 0)), index_of(world, pack_of(world, 1))
    swap(first, second)
    return Damage(name_of(world, first))


def index_and_its_pack_removed(world: World, _: World) -> Damage:
    """Nothing says any more where the blobs were: they are named themselves."""
    pack = pack_of(world, 1)
    blob = world.open().repository.index.packs[pack.name].blobs[0]
    index_of(world, pack).unlink()
    pack.unlink()
    return Damage(f"blob {blob.id.hex()[:16]}", frozenset({world.order[1]}))


def foreign_pack(world: World, foreign: World) -> Damage:
    pack = pack_of(world, 1)
    users = users_of(world, pack)
    pack.write_bytes(pack_of(foreign, 1).read_bytes())
    return Damage(name_of(world, pack), users)


def foreign_index(world: World, foreign: World) -> Damage:
    path = next(iter((foreign.folder / "index").iterdir()))
    shutil.copy(path, world.folder / "index")
    return Damage(f"index/{path.name}")


def foreign_manifest(world: World, foreign: World) -> Damage:
    path = manifest_of(foreign, 0)
    shutil.copy(path, world.folder / "snapshots")
    return Damage(f"snapshots/{path.name}")


def foreign_manifest_instead(world: World, foreign: World) -> Damage:
    path = manifest_of(world, 1)
    path.write_bytes(manifest_of(foreign, 1).read_bytes())
    return Damage(name_of(world, path), frozenset({path.name}))


def foreign_slot(world: World, foreign: World) -> Damage:
    """Planted by somebody who knows the foreign repository's password, which happens to be ours too."""
    path = slot_of(foreign, "passphrase")
    shutil.copy(path, world.folder / "keys")
    return Damage(f"keys/{path.name}")


def foreign_config(world: World, foreign: World) -> Damage:
    shutil.copy(foreign.folder / "config", world.folder / "config")
    return Damage("config", opens=False)


def foreign_config_and_slots(world: World, foreign: World) -> Damage:
    """The password opens it, and not one object is readable with that key."""
    shutil.rmtree(world.folder / "keys")
    shutil.copytree(foreign.folder / "keys", world.folder / "keys")
    shutil.copy(foreign.folder / "config", world.folder / "config")
    return Damage(f"snapshots/{world.order[0]}", frozenset(world.order))


def config_altered_with_its_check_sum(world: World, _: World) -> Damage:
    """Anybody can compute the check sum: the key slots are bound to the id."""
    path = world.folder / "config"
    body = json.loads(path.read_bytes())
    del body["check"]
    body["repository"] = "00" * 16
    check = content_hash(json.dumps(body, sort_keys=True).encode()).hex()
    path.write_text(json.dumps({**body, "check": check}, sort_keys=True))
    return Damage("config", opens=False)


def planted(changes: dict[str, object]) -> Mutation:
    """A key slot that anybody could have made: its name fits, its content is nonsense."""

    def damage(world: World, _: World) -> Damage:
        body = {**json.loads(slot_of(world, "passphrase").read_bytes()), "created": "1970", **changes}
        content = json.dumps(body, sort_keys=True).encode()
        path = world.folder / "keys" / content_hash(content).hex()
        path.write_bytes(content)
        return Damage(name_of(world, path))

    return damage


def object_in_a_folder(world: World, _: World) -> Damage:
    path = world.folder / "snapshots" / "aa" / ("aa" * 32)
    path.parent.mkdir()
    path.write_bytes(b"what is this")
    return Damage(name_of(world, path))


def stray_file(folder: str) -> Mutation:
    def damage(world: World, _: World) -> Damage:
        path = world.folder / folder / ".DS_Store"
        path.write_bytes(b"\0\0\0\1Bud1")
        return Damage(name_of(world, path))

    return damage


ABSURD = {"passes": 1, "lanes": 1, "memory_kib": 1 << 40}
MUTATIONS: dict[str, tuple[str, Mutation]] = {
    **{f"config: {way}": ("objects", hurt_config(way)) for way in WAYS},
    **{f"key slot: {way}": ("objects", hurt_slot(way)) for way in WAYS if way != "delete"},
    **{f"only key slot: {way}": ("objects", hurt_only_slot(way)) for way in WAYS},
    **{f"pack: {way}": ("objects", hurt_pack(way)) for way in ("truncate", "empty", "append", "delete")},
    **{f"pack: {way}": ("data", hurt_pack(way)) for way in ("flip first", "flip middle", "flip last", "zeros")},
    **{f"pack: {part}": ("data", hurt_pack_at(part)) for part in ("header", "salt", "directory", "length")},
    **{f"pack: {which} blob": ("data", hurt_blob(which)) for which in ("first", "last", "single", "shared")},
    **{f"index: {way}": ("objects", hurt_index(way)) for way in WAYS},
    **{f"newest manifest: {way}": ("objects", hurt_manifest(way, 2)) for way in WAYS},
    **{f"middle manifest: {way}": ("objects", hurt_manifest(way, 1)) for way in ("flip middle", "delete")},
    **{f"oldest manifest: {way}": ("objects", hurt_manifest(way, 0)) for way in ("empty", "delete")},
    "packs swapped": ("objects", swapped_packs),
    "blobs swapped": ("data", swapped_blobs),
    "manifests swapped": ("objects", swapped_manifests),
    "older manifest put back": ("objects", older_manifest_put_back),
    "manifest under another name": ("objects", manifest_under_another_name),
    "older repository put back": ("objects", older_repository_put_back),
    "every manifest removed": ("objects", every_manifest_removed),
    "every pack removed": ("objects", every_pack_removed),
    "every index object removed": ("objects", every_index_removed),
    "indexes swapped": ("objects", swapped_indexes),
    "index and its pack removed": ("objects", index_and_its_pack_removed),
    "foreign pack": ("data", foreign_pack),
    "foreign index": ("objects", foreign_index),
    "foreign manifest": ("objects", foreign_manifest),
    "foreign manifest instead": ("objects", foreign_manifest_instead),
    "foreign key slot": ("objects", foreign_slot),
    "foreign config": ("objects", foreign_config),
    "foreign config and slots": ("objects", foreign_config_and_slots),
    "config altered with its check sum": ("objects", config_altered_with_its_check_sum),
    "planted key slot: absurd cost": ("objects", planted({"argon2id": ABSURD})),
    "planted key slot: no cost": ("objects", planted({"argon2id": None})),
    "planted key slot: no salt": ("objects", planted({"salt": ""})),
    "planted key slot: no base64": ("objects", planted({"wrapped": "?"})),
    "planted key slot: numbers": ("objects", planted({"kind": 7, "salt": 7, "wrapped": 7, "label": 7})),
    "object in a folder": ("objects", object_in_a_folder),
    **{f"stray file in {folder}": ("objects", stray_file(folder)) for folder in ("keys", "index", "snapshots")},
}
REAL_PROCESSES = ["pack: delete", "pack: flip middle", "newest manifest: delete", "only key slot: empty", "config: empty"]


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_damage_is_found_and_named_and_the_rest_restores(
    mutation: str, world: World, foreign: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    level, mutate = MUTATIONS[mutation]
    damage = mutate(world, foreign)

    report = verify_by_command(world, level, monkeypatch, capsys)

    if damage.opens:
        findings = report["findings"]
        assert any(damage.named in finding["subject"] for finding in findings), findings
        assert set(world.order) - set(report["healthy"]) == damage.broken
        require_truth(world, damage.broken, tmp_path)
    else:
        assert damage.named in report["error"]


@pytest.mark.parametrize("mutation", REAL_PROCESSES)
def test_a_process_ends_with_exit_code_4(mutation: str, world: World, foreign: World) -> None:
    level, mutate = MUTATIONS[mutation]
    damage = mutate(world, foreign)
    variables = {**os.environ, "STRONGROOM_REPOSITORY": str(world.folder), "STRONGROOM_PASSWORD": PASSWORD}
    run = command_forks.run(["verify", "--level", level, "--json", "--quiet"], variables)
    assert run.returncode == 4
    assert damage.named in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("level", list(Level))
def test_the_pristine_repository_passes(level: Level, world: World) -> None:
    report = world.open().verify(level=level)
    assert report.findings == ()
    assert set(report.healthy) == set(world.order)
    looked_at = ["snapshots", "blobs", "bytes", "rows", "probes"][: 1 + level]
    assert [report.looked_at.get(what, 0) > 0 for what in looked_at] == [True] * len(looked_at)
    if level >= Level.RESTORE:
        assert report.looked_at["rows"] == 3 * 2_000
    if level >= Level.ANSWERS:
        assert report.looked_at["probes"] == 3 * 32


def test_a_rolled_back_repository_stays_suspect_after_another_backup(world: World, foreign: World, sources) -> None:
    """A nightly backup into the older state must not make this machine forget what it saw."""
    older_repository_put_back(world, foreign)
    room = world.open()
    made = room.backup(f"faiss://{sources.second}").snapshot.id
    report = world.open().verify(level=Level.OBJECTS)
    assert [finding.subject for finding in report.findings] == [f"snapshots/{world.order[2]}"]
    assert made in report.healthy


@pytest.mark.parametrize(("machine", "place"), [("same", 2), ("other", 2), ("other", 0)])
def test_latest_is_not_silently_an_older_snapshot(
    machine: str, place: int, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which snapshot is the newest can't be said while one can't be read of which this machine knows nothing."""
    if machine == "other":
        monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "state"))
    flip(manifest_of(world, place), 0.5)
    room = world.open()
    with pytest.raises(Damaged, match=world.order[place]) as raised:
        room.restore("latest", f"faiss://{tmp_path}/out/index.faiss")
    assert "id" in raised.value.hint
    assert not (tmp_path / "out").exists()


def test_a_lost_object_is_stored_again_by_the_next_backup(world: World, sources, tmp_path: Path) -> None:
    """Dedup must not rely on packs that are gone."""
    shutil.rmtree(world.folder / "packs")
    room = world.open()
    made = room.backup(f"faiss://{sources.second}").snapshot.id
    assert restored(world.open().repository, made, tmp_path / "out") == world.expected[world.order[1]]
    assert restored(world.open().repository, world.order[1], tmp_path / "again") == world.expected[world.order[1]]


def test_a_damaged_slot_of_two_can_be_removed(world: World) -> None:
    path = slot_of(world, "key file")
    flip(path, 0.5)
    world.open().remove_key(path.name[:12])
    assert world.open().verify(level=Level.OBJECTS).passed


def verify_by_command(world: World, level: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict:
    """What `strongroom verify --json` prints; it must end with 4."""
    monkeypatch.setenv("STRONGROOM_REPOSITORY", str(world.folder))
    monkeypatch.setenv("STRONGROOM_PASSWORD", PASSWORD)
    monkeypatch.setattr(sys, "argv", ["strongroom", "verify", "--level", level, "--json", "--quiet"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert ended.value.code == 4, printed
    return json.loads(printed.out or printed.err)


def require_truth(world: World, broken: frozenset[str], folder: Path) -> None:
    """Untouched snapshots restore exactly; broken ones exactly too, or they fail and leave no target."""
    for number, (snapshot, content) in enumerate(world.expected.items()):
        place = folder / f"restored-{number}"
        try:
            assert restored(world.open().repository, snapshot, place) == content
        except StrongroomError:
            assert snapshot in broken
            assert not (place / "index.faiss").exists()


def test_base64_of_the_planted_slots_is_what_the_program_writes(world: World) -> None:
    """The planted slots differ from a real one only in what they say that they do."""
    body = json.loads(slot_of(world, "passphrase").read_bytes())
    assert {"salt", "wrapped", "argon2id", "kind", "label", "created"} <= body.keys()
    assert len(base64.b64decode(body["salt"])) == 16
