"""Does what is locked outlive whoever has the backup host's credentials, and does it all come back? On a real S3 server."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from commands import PASSWORD, build_index, strongroom
from hypothesis import given
from hypothesis import strategies as st
from seaweed import ACCESS, APPENDING, HOST, SECRET, SeaweedFS
from typer.testing import CliRunner

from strongroom.cli.commands import every_command
from strongroom.errors import AlreadyExists, Refused, StoreDenied, StrongroomError, UnsafeStore, WrongKey, WrongRequest
from strongroom.governance import recover_repository
from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.operations.forget import ForgetOptions
from strongroom.operations.keys.reencrypt import ReencryptOptions
from strongroom.operations.lock import looking
from strongroom.operations.lock.recover import RecoverReport
from strongroom.operations.prune.run import PruneOptions
from strongroom.operations.verify import Level
from strongroom.policy.retention import Rules, Trust
from strongroom.repository import Argon2Cost, Secret, object_lock
from strongroom.repository.bucket import Bucket
from strongroom.repository.carrying import MARK
from strongroom.repository.identity import AccessRole
from strongroom.repository.lock_mode import Mode
from strongroom.repository.lock_rules import FOLDER, FREE, Rule
from strongroom.repository.locking import locking_of
from strongroom.repository.object_lock import ObjectLock, Retention, Version

CHEAP = Argon2Cost(1, 1, 64)
NUMBERS = itertools.count()
BUCKET = "locked-for-all"  # each bucket takes volumes of the server
DAY = timedelta(days=1)
NOW = PruneOptions(grace=timedelta())


class Place:
    """A repository in a bucket with object lock, and what each snapshot must give back."""

    def __init__(self, server: SeaweedFS, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.server, self.folder, self.patch = server, folder, patch
        self.prefix = f"some/where{next(NUMBERS)}"
        self.url = f"s3://{BUCKET}/{self.prefix}"
        assert self.raw().ask("PUT", headers={"x-amz-bucket-object-lock-enabled": "true"}).status in (200, 409)
        self.be(HOST)
        self.index = folder / "x.faiss"
        self.expected: dict[str, bytes] = {}

    def be(self, who: str) -> None:
        for name, value in self.server.environment(who=who).items():
            self.patch.setenv(name, value)

    def raw(self, who: str = ACCESS) -> Bucket:
        """To seed and inspect around Strongroom's own store."""
        endpoint = f"http://127.0.0.1:{self.server.port}"
        return Bucket(endpoint, BUCKET, "us-east-1", who, SECRET, prefix=f"{self.prefix}/")

    def lock(self, who: str = HOST) -> ObjectLock:
        return ObjectLock(self.raw(who))

    def versions(self, prefix: str = "") -> list[Version]:
        return list(self.lock().versions(prefix))

    def open(self) -> Strongroom:
        return open_repository(self.url, password=PASSWORD)

    def back_up(self, seed: int) -> str:
        build_index(self.index, seed=seed)
        made = self.open().backup(f"faiss:{self.index}", probes=0).snapshot.id
        self.expected[made] = self.index.read_bytes()
        return made

    def require_all_restore(self) -> None:
        """Each snapshot gives its own bytes again."""
        room = self.open()
        assert {one.id for one in room.snapshots()} >= self.expected.keys()
        for number, (snapshot, content) in enumerate(self.expected.items()):
            target = self.folder / f"out{next(NUMBERS)}-{number}" / "x.faiss"
            room.restore(snapshot, f"faiss:{target}")
            assert target.read_bytes() == content

    def recover(self, **wish: Any) -> RecoverReport:
        self.be(HOST)
        return recover_repository(self.url, password=PASSWORD, **wish)


@pytest.fixture
def place(seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    made = Place(seaweed, tmp_path, monkeypatch)
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "state"))
    room = init_repository(made.url, password=PASSWORD, cost=CHEAP)
    room.set_lock(DAY)
    return made


def test_what_the_server_enforces(seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the rest stands on, asked of the server itself."""
    bare = Place(seaweed, tmp_path, monkeypatch)
    host, owner = bare.lock(HOST), bare.lock(ACCESS)
    until = host.now().replace(microsecond=0) + DAY
    bypass = {"x-amz-bypass-governance-retention": "true"}

    def removed(who: ObjectLock, version: Version) -> int:
        name = f"{who.bucket.prefix}{version.name}"
        return who.bucket.ask("DELETE", name, {"versionId": version.id}, headers=bypass).status

    found = {}
    for mode in Mode:
        host.put(mode, b"kept", Retention(mode, until))
        with pytest.raises(AlreadyExists):
            host.put(mode, b"other", Retention(mode, until))
        (found[mode],) = host.versions(mode)
        assert host.retention(found[mode]) == Retention(mode, until)
        host.put(mode, b"written over it", Retention(mode, until), anew=False)
        host.hide(mode)
        assert host.read(found[mode]) == b"kept"
        assert not host.remove(found[mode])
        assert removed(host, found[mode]) == 403
        with pytest.raises(StoreDenied):
            host.retain(found[mode], Retention(mode, until - timedelta(hours=1)))
        host.retain(found[mode], Retention(mode, until + DAY))
    with pytest.raises(StoreDenied):
        owner.retain(found[Mode.COMPLIANCE], Retention(Mode.GOVERNANCE, until + 2 * DAY))
    assert removed(owner, found[Mode.COMPLIANCE]) == 403
    assert removed(owner, found[Mode.GOVERNANCE]) == 204  # whoever may bypass it may: that is what the mode means
    assert owner.bucket.ask("DELETE").status == 409
    off = '<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Suspended</Status></VersioningConfiguration>'
    assert owner.bucket.ask("PUT", query="versioning", body=off.encode()).status == 409
    adding = bare.lock(APPENDING)
    assert not adding.remove(found[Mode.COMPLIANCE])
    with pytest.raises(StoreDenied):
        adding.hide(Mode.COMPLIANCE)


def test_all_is_locked_from_its_first_moment(place: Place) -> None:
    place.back_up(1)
    unlocked = [one.name for one in place.versions() if not one.is_marker and place.lock().retention(one) is None]
    assert {name.partition("/")[0] + "/" for name in unlocked} <= set(FREE)
    status = place.open().lock_status()
    assert status.passed, status.findings
    assert {"packs/", "index/", "snapshots/", "keys/", "audit/", "locks/", "config"} <= {one.folder for one in status.folders}
    assert all(one.locked == one.objects for one in status.folders)


def test_ransomware_with_the_hosts_credentials(place: Place) -> None:
    """They may write, delete and lock: all is hidden, overwritten, covered by locked junk, tried to be removed. All comes back."""
    for seed in (1, 2, 3):
        place.back_up(seed)
    attacker = place.lock(HOST)
    kept = [one for one in place.versions() if not one.is_marker and not one.name.startswith(FREE)]
    assert [one.name for one in kept if attacker.remove(one)] == []
    done: Counter[str] = Counter()
    for number, version in enumerate(kept):
        with pytest.raises(StoreDenied):
            attacker.retain(version, Retention(Mode.COMPLIANCE, attacker.now().replace(microsecond=0) + timedelta(seconds=9)))
        what = "hide" if version.name in ("config",) else ("hide", "write", "write locked", "write and hide")[number % 4]
        if what.startswith("write"):
            key = attacker.bucket.prefix + version.name
            if "locked" in what:
                attacker.put(version.name, b"pay", Retention(Mode.COMPLIANCE, attacker.now() + DAY), anew=False)
            else:
                assert attacker.bucket.ask("PUT", key, body=b"pay").status == 200
        if what.endswith("hide"):
            attacker.hide(version.name)
        done[what] += 1
    assert len(done) == 4
    with pytest.raises(StrongroomError):
        place.open()
    planned = place.recover(dry_run=True)
    with pytest.raises(StrongroomError):
        place.open()
    with place.patch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(looking, "_AT_ONCE", 1)
        place.recover(progress=Dies("bringing back", 3))
    report = place.recover()
    assert report.passed
    assert len(planned.recovered) == len(kept)
    assert set(report.recovered) < set(planned.recovered)  # some were back already
    place.require_all_restore()
    room = place.open()
    assert room.lock_status().passed
    assert room.verify(level=Level.DATA).passed
    assert room.verify_audit().passed
    assert place.recover().recovered == ()
    place.back_up(4)


def test_an_attacker_who_has_the_repositorys_key_too(place: Place) -> None:
    """Forgets all, prunes at once, ends the rule and shuts the others out: all in order, by the tombstones. Told since when, it
    comes back."""
    first = place.back_up(1)
    place.open().add_key(Secret.passphrase("of another administrator"), "second", cost=CHEAP)
    time.sleep(1.1)  # the store's stamps are whole seconds
    before = place.lock().now().replace(microsecond=0)
    time.sleep(1.1)
    attacker = place.open()
    attacker.set_lock(timedelta())
    attacker.remove_key(next(one.id for one in attacker.key_slots() if one.label == "second"))
    attacker.forget(ForgetOptions(names=(first,)))
    report = attacker.prune(NOW)
    assert report.locked.packs == report.condemned.packs > 0
    assert report.deleted.packs == 0
    assert place.open().snapshots() == []
    assert place.recover().recovered == ()
    own = Secret.passphrase("the attacker's own")
    attacker.add_key(own, "own", cost=CHEAP)
    attacker.rotate_keys(own, without=[next(one.id for one in attacker.key_slots() if one.label == "first")])
    with pytest.raises(WrongKey):
        place.open()
    place.patch.setenv("STRONGROOM_STATE_DIR", str(place.folder / "another machine"))
    back = place.recover(since=before)
    assert back.epochs == ("keyring/000001",)
    assert any(name.startswith("snapshots/") for name in back.recovered)
    place.require_all_restore()
    assert [one.label for one in place.open().key_slots()].count("second") == 1
    findings = place.open().lock_status().findings
    assert any("no rule for object lock holds" in one for one in findings)


def test_a_wrong_role_recovers_nothing(place: Place) -> None:
    place.open().add_key(Secret.passphrase("operator"), "op", role=AccessRole.OPERATOR, cost=CHEAP)
    with pytest.raises(Refused, match="operator"):
        recover_repository(place.url, password="operator")


def let_time_pass(place: Place, folders: tuple[str, ...]) -> None:
    """The bucket's owner ends the locks of what isn't needed: else the test would take as long as they last."""
    owner = place.lock(ACCESS)
    until = (owner.now() + timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = f"<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>".encode()
    headers = {"x-amz-bypass-governance-retention": "true"}
    for one in owner.versions(""):
        if one.name.startswith(folders) and not one.is_marker:
            query = {"retention": "", "versionId": one.id}
            assert owner.bucket.ask("PUT", owner.bucket.prefix + one.name, query, body, headers).status == 200
    time.sleep(2.5)


def test_what_is_forgotten_goes_once_its_lock_has_ended(
    seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes too: prune removes the versions. What snapshots need is locked on."""
    place = Place(seaweed, tmp_path, monkeypatch)
    init_repository(place.url, password=PASSWORD, cost=CHEAP).set_lock(DAY, Mode.GOVERNANCE)
    old, short = place.back_up(1), place.back_up(2)
    packs = {one.id for one in place.open().repository.index.packs.values()}
    place.open().forget(ForgetOptions(names=(short,)))
    assert any(one.is_marker for one in place.versions(f"snapshots/{short}"))
    kept = place.open().prune(NOW)
    assert (kept.locked.packs, kept.deleted.packs) == (1, 0)
    assert kept.versions.packs >= 1
    assert kept.due is not None
    assert kept.due > (datetime.now(UTC) + DAY).isoformat()
    assert kept.problems == ()
    let_time_pass(place, ("packs/", "snapshots/"))
    dry = place.open().prune(replace(NOW, dry_run=True))
    assert dry.deleted.packs == 1
    freed = place.open().prune(NOW)
    assert (freed.locked.packs, freed.deleted.packs) == (0, 1)
    assert freed.freed.packs >= 1
    assert freed.relocked == 2  # the snapshot and the pack that are needed
    assert place.versions(f"snapshots/{short}") == []
    (gone,) = packs - {one.id for one in place.open().repository.index.packs.values()}
    assert [one for one in place.versions("packs/") if one.name.endswith(gone)] == []
    assert {one.id for one in place.open().snapshots()} == {old}
    assert place.open().verify(level=Level.DATA).passed
    assert place.open().lock_status().passed
    assert place.recover().recovered == ()


class Dies:
    """A progress bar at whose n-th advance the process ends."""

    def __init__(self, stage: str, left: int) -> None:
        self.stage, self.left, self.now = stage, left, ""

    def begin(self, stage: str, total: int | None, unit: str) -> None:
        self.now = stage

    def advance(self, amount: int) -> None:
        self.left -= self.now == self.stage
        if self.left < 0:
            raise KeyboardInterrupt


def test_an_extension_is_gone_on_with_and_then_has_nothing_to_do(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "_AT_ONCE", 1)
    place.back_up(1)
    room = place.open()
    with pytest.raises(KeyboardInterrupt):
        room.set_lock(3 * DAY, progress=Dies("locking", 2))
    room = place.open()
    assert room.lock_status().rule.period == 3 * DAY  # type: ignore[union-attr]
    planned = room.extend_locks(dry_run=True)
    assert 0 < planned.extended < planned.objects
    assert room.extend_locks(dry_run=True).extended == planned.extended
    report = room.extend_locks()
    assert report.passed
    assert planned.extended <= report.extended
    assert report.until > (datetime.now(UTC) + 3 * DAY).isoformat()
    assert place.open().extend_locks().extended == 0
    assert place.open().lock_status().passed


def test_what_is_hidden_is_found_and_locked_on(place: Place) -> None:
    """Who only hides, and waits for the locks to end, is found by the next extension; a hidden rule still holds."""
    snapshot = place.back_up(1)
    attacker = place.lock(HOST)
    pack = next(one for one in place.versions("packs/"))
    rule = next(one for one in place.versions(FOLDER))
    for name in (pack.name, rule.name, f"snapshots/{snapshot}"):
        attacker.hide(name)
    room = place.open()
    assert locking_of(room.repository.store) is not None
    assert room.set_lock(5 * DAY, dry_run=True).extended > 0  # type: ignore[union-attr]
    report = room.set_lock(5 * DAY)
    assert report is not None
    assert {one.partition(":")[0] for one in report.hidden} == {pack.name, rule.name, f"snapshots/{snapshot}"}
    kept = place.lock().retention(pack)
    assert kept is not None
    assert kept.until > datetime.now(UTC) + 5 * DAY
    env = {**place.server.environment(who=HOST), "STRONGROOM_REPOSITORY": place.url}
    told = strongroom("lock", "status", "--json", env=env)
    assert told.code == 4
    assert any(one.startswith(f"{pack.name}: hidden") for one in told.json["findings"])
    assert len(place.recover().recovered) == 3
    place.require_all_restore()


def test_a_host_that_may_only_add_destroys_nothing(place: Place) -> None:
    """Backups and extensions work with its credentials; nothing that takes away does, and a flood of snapshots expires nothing."""
    place.back_up(1)
    place.be(APPENDING)
    place.back_up(2)
    room = place.open()
    genuine = set(place.expected)
    assert room.extend_locks().passed
    assert room.lock_status().passed
    for refused in (
        lambda: room.forget(ForgetOptions(names=("latest",))),
        lambda: room.prune(NOW),
        lambda: room.remove_key(room.add_key(Secret.passphrase("x"), cost=CHEAP).id),
    ):
        with pytest.raises(StoreDenied):
            refused()
    manifest = next(one for one in place.versions("snapshots/"))
    assert place.raw(APPENDING).ask("PUT", f"{place.prefix}/{manifest.name}", body=b"junk").status == 200
    for number in range(4):
        build_index(place.index, seed=50 + number)
        room.backup(f"faiss:{place.index}", probes=0)
    place.be(HOST)
    assert [one.partition(":")[0] for one in place.open().extend_locks().hidden] == [manifest.name]
    assert place.recover().recovered == (manifest.name,)
    place.open().forget(ForgetOptions(rules=Rules(daily=7, last=2), trust=Trust(a_day=2)))
    assert {one.id for one in place.open().snapshots()} >= genuine
    place.open().prune(NOW)
    place.require_all_restore()


def test_junk_that_is_nobodys_keeps_nothing_from_working(place: Place) -> None:
    place.back_up(1)
    raw = place.raw(APPENDING)
    for folder in ("locks", "snapshots", "tombstones/forgotten", "index", "holds"):
        assert raw.ask("PUT", f"{place.prefix}/{folder}/{'ab' * 32}", body=b"junk").status == 200
    room = place.open()
    report = room.extend_locks()
    assert len(report.problems) == 4  # an index object that can't be read tells of nothing
    assert place.recover().strange
    status = room.lock_status()
    assert {one.partition("/")[0] for one in status.findings} == {"locks", "snapshots", "tombstones", "holds"}


def test_a_replica_is_locked_by_its_own_rule(place: Place) -> None:
    """The primary's directory knows no locks; what is copied later is locked as it arrives."""
    primary = init_repository(str(place.folder / "primary"), password=PASSWORD, cost=CHEAP)
    build_index(place.index, seed=1)
    primary.backup(f"faiss:{place.index}", probes=0)
    place.url = f"s3://{BUCKET}/{place.prefix}/replica"
    primary.copy(place.url)
    place.open().set_lock(DAY)
    build_index(place.index, seed=2)
    primary.backup(f"faiss:{place.index}", probes=0)
    before = len(list(primary.repository.store.list("locks/")))
    primary.copy(place.url)
    assert before == 0
    status = place.open().lock_status()
    assert status.passed, status.findings
    assert next(one.objects for one in status.folders if one.folder == "snapshots/") == 2


def test_pages_make_no_difference(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.back_up(1)
    place.lock().hide("config")
    place.lock().bucket.ask("PUT", f"{place.prefix}/config", body=b"x")
    whole = place.versions()
    monkeypatch.setattr(object_lock, "_PAGE", 2)
    assert place.versions() == whole
    config = [one for one in whole if one.name == "config"]
    assert [one.is_marker for one in config] == [False, True, False]
    assert place.lock().read(config[2]).startswith(b"{")
    assert place.lock().read(config[2], 3, 5) == place.lock().read(config[2])[3:8]


def test_old_keys_are_given_up_once_no_lock_holds_a_pack_of_theirs(
    seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written anew or carried is what is needed, what is hidden for it is not, and attackers gain nothing by it."""
    place = Place(seaweed, tmp_path, monkeypatch)
    init_repository(place.url, password=PASSWORD, cost=CHEAP).set_lock(DAY, Mode.GOVERNANCE)
    first, second = place.back_up(1), place.back_up(2)
    place.open().forget(ForgetOptions(names=(second,)))
    del place.expected[second]
    place.open().rotate_keys(Secret.passphrase(PASSWORD))
    at_once = ReencryptOptions(grace=timedelta())
    for _ in range(4):
        place.open().reencrypt(at_once)
        place.open().prune(NOW)
    assert any(MARK in one.name for one in place.versions("snapshots/"))
    assert any(one.is_marker for one in place.versions(f"snapshots/{first}"))
    assert place.open().lock_status().findings == ()
    assert place.recover().recovered == ()
    with pytest.raises(Refused, match="still needs older keys"):
        place.open().close_epochs(timedelta())
    let_time_pass(place, ("packs/",))
    place.open().prune(NOW)
    for _ in range(2):
        closed = place.open().close_epochs(timedelta()).closed
    assert closed
    assert place.open().extend_locks().problems == ()
    assert place.open().lock_status().findings == ()
    assert place.recover().recovered == ()
    place.require_all_restore()
    host = place.lock(HOST)
    for name in {one.name for one in place.versions() if not one.is_marker}:
        host.hide(name)
    assert place.recover().passed
    place.require_all_restore()
    assert place.open().verify(level=Level.DATA).passed


@pytest.mark.parametrize("kind", ["directory", "bucket"])
def test_a_store_without_object_lock_is_refused(
    seaweed: SeaweedFS, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seaweed.make_bucket("nolock")
    url = str(tmp_path / "repo") if kind == "directory" else f"s3://nolock/{next(NUMBERS)}"
    env = {**seaweed.environment(), "STRONGROOM_REPOSITORY": url}
    strongroom("init", "--lock-for", "30d", env=env).failed(1, "object lock")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    room = init_repository(url, password=PASSWORD, cost=CHEAP)  # nothing was made by the first
    for asked in (lambda: room.set_lock(DAY), room.extend_locks, room.lock_status):
        with pytest.raises(UnsafeStore, match="object lock") as refused:
            asked()
        assert "copy --to" in str(refused.value.hint)
    if kind == "directory":
        with pytest.raises(UnsafeStore, match="no versions"):
            recover_repository(url, password=PASSWORD)
    room.prune()


def test_on_the_command_line(seaweed: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Place(seaweed, tmp_path, monkeypatch)
    monkeypatch.setenv("STRONGROOM_REPOSITORY", made.url)
    monkeypatch.setenv("STRONGROOM_PASSWORD", PASSWORD)
    begun = CliRunner().invoke(every_command(), ["init", "--lock-for", "2d", "--lock-mode", "governance"])
    assert begun.exit_code == 0, begun
    secret = Secret.passphrase(PASSWORD)
    made.open().change_passphrase(secret, secret, cost=CHEAP)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(every_command(), ["lock", *arguments, "--quiet"])

    told = json.loads(run("status", "--json").stdout)
    assert (told["rule"]["mode"], told["rule"]["period"], told["passed"]) == ("governance", 172_800, True)
    assert "2 days, governance" in run("status").stdout
    assert run("extend", "--dry-run").stdout.startswith("✓ 0 of ")
    assert json.loads(run("recover", "--dry-run", "--json").stdout)["recovered"] == []
    slot = made.open().key_slots()[0].name  # there was another, which was removed: that stays away
    made.lock().hide("config")
    made.lock().hide(slot)
    assert run("recover").stdout.startswith("✓ 2 objects, ")
    for wrong in (("set",), ("set", "--for", "2d", "--off"), ("set", "--for", "1m"), ("recover", "--since", "soon")):
        assert isinstance(run(*wrong).exception, WrongRequest)
    assert "locked stays so" in run("set", "--off").stdout
    ended = run("status")
    assert ended.exit_code == 4
    assert "no rule for object lock holds" in ended.stderr


@given(hours=st.integers(1, 3_000), gaps=st.lists(st.floats(0, 0.1), min_size=1, max_size=30))
def test_extended_every_tenth_of_its_time_an_object_is_always_locked_long_enough(hours: int, gaps: list[float]) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    rule = Rule("", Mode.COMPLIANCE, timedelta(hours=hours), now, "")
    held = rule.at(now)
    for gap in gaps:
        now += rule.period * gap
        assert rule.is_kept(held, now)
        if rule.renews(held, now):
            held = rule.at(now)
        assert held.until >= now + rule.period * 1.1
