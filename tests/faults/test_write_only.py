"""A host that backs up and can't read: do others read what it wrote, can it, and what does it do to the snapshots of others?"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from faulty_store import FaultyStore, Operation, SimulatedCrash, at
from hosts import ADMIN, HOST, OPERATOR, PAST, Site, machine, new_site
from towns import empty_store, files_in
from worlds import CHEAP, Sources, build_source, files_of, restored

from strongroom.errors import Damaged, Overtaken, Refused, StrongroomError, WrongKey, WrongRequest
from strongroom.library import Strongroom, open_repository
from strongroom.operations.backup.run import BackupOptions, backup
from strongroom.operations.copy import copy
from strongroom.operations.keys.close_epochs import close_epochs
from strongroom.operations.keys.reencrypt import ReencryptOptions, reencrypt
from strongroom.operations.prune.run import PruneOptions, prune
from strongroom.operations.verify import Level, VerifyOptions, verify
from strongroom.repository import Repository, Secret, Store, blob_index, leaving, sessions
from strongroom.repository.crypto import NotAuthentic, Signer, new_exchange_key, open_sealed
from strongroom.repository.framing import Kind, seal, unseal
from strongroom.repository.host_keys import HostKeys
from strongroom.repository.host_notes import HostNotes
from strongroom.repository.key_slots import unwrapping
from strongroom.repository.packs import CodedBlob
from strongroom.repository.rotation import rotate
from strongroom.repository.writer import create_once
from strongroom.snapshots import history


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return new_site(tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small source, and the same after a change."""
    folder = tmp_path_factory.mktemp("small")
    return build_source(folder / "a", "small", 3, rows=120), build_source(folder / "b", "small", 3, changed=6, rows=120)


def in_place(source: Path, place: Path) -> Path:
    """The same files under one path, so that a changed source is the same source."""
    place.parent.mkdir(exist_ok=True)
    for suffix in (".faiss", ".parquet"):
        place.with_suffix(suffix).write_bytes(source.with_suffix(suffix).read_bytes())
    return place


# -- what it is for --------------------------------------------------------------------------------------------------------


def test_a_host_backs_up_in_full_and_by_what_changed_and_others_restore_it(site: Site, sources: Sources, tmp_path: Path) -> None:
    place = tmp_path / "source" / "index.faiss"
    first = site.report(in_place(sources.first, place), probes=8).snapshot.id
    whole = site.bytes_of_packs()
    second = site.report(in_place(sources.changed, place), probes=8)
    changed = site.bytes_of_packs() - whole
    assert second.snapshot.manifest.parents == (first,)
    assert [one.found_by for one in second.snapshot.manifest.collections] == ["fingerprints"]
    assert second.snapshot.manifest.stored_bytes == changed < whole / 4
    for number, (snapshot, source) in enumerate(((first, sources.first), (second.snapshot.id, sources.changed))):
        folder = tmp_path / f"restored-{number}"
        folder.mkdir()
        assert restored(site.admin(OPERATOR), snapshot, folder) == files_of(source)
    report = verify(site.admin(), None, VerifyOptions(Level.ANSWERS))
    assert report.passed
    assert report.looked_at["probes"] > 0
    assert {history.read(site.admin(), one).host for one in (first, second.snapshot.id)} == {"web-1"}


def test_it_costs_little_more_than_an_operators_backup_of_the_same_change(site: Site, sources: Sources, tmp_path: Path) -> None:
    """What differs: a part of the index that changed is stored as it is, since the host has nothing to take a difference of."""
    spent = {}
    for name, by in (("host", site.host), ("operator", lambda: site.admin(OPERATOR))):
        place = tmp_path / name / "index.faiss"
        for source in (sources.first, sources.changed):
            before = site.bytes_of_packs()
            with machine(tmp_path / f"state-{name}"):
                backup(by(), f"faiss://{in_place(source, place)}", BackupOptions(probes=4))
            spent[name] = site.bytes_of_packs() - before
    links = 2_000 * 8 * 2 * 4
    assert spent["host"] <= spent["operator"] + links


def test_an_unchanged_source_costs_no_pack(site: Site, sources: Sources) -> None:
    site.back_up(sources.first)
    whole = site.bytes_of_packs()
    site.back_up(sources.first)
    assert site.bytes_of_packs() == whole
    site.is_whole()


def test_without_its_notes_it_stores_more_and_nothing_wrong(site: Site, sources: Sources, tmp_path: Path) -> None:
    """Lost, cut, and altered."""
    place = tmp_path / "source" / "index.faiss"
    site.back_up(in_place(sources.first, place))
    whole = site.bytes_of_packs()
    (notes,) = site.state.glob("*.host")
    content = notes.read_bytes()
    for number, harm in enumerate((b"", content[:-9], content[:50] + bytes([content[50] ^ 1]) + content[51:])):
        notes.write_bytes(harm) if harm else notes.unlink()
        site.back_up(in_place(sources.changed if number % 2 == 0 else sources.first, place))
        assert site.bytes_of_packs() > 1.9 * whole * (1 + number / 2)
    site.is_whole()
    assert "small" not in notes.read_bytes().decode("latin-1")


# -- that it can't read ----------------------------------------------------------------------------------------------------

_PURPOSES = ("pack", "index", "snapshot", "audit", "journal", "tombstone", "keyring", "epoch", "drill", "proof", "blob id")


def everything(store: Store) -> dict[str, bytes]:
    return {listed.name: store.read(listed.name) for listed in store.list("")}


def windows(content: bytes) -> Iterator[bytes]:
    """All runs of 32 bytes."""
    return (content[start : start + 32] for start in range(max(0, len(content) - 31)))


def opened_by(candidates: Iterable[bytes], objects: dict[str, bytes], repository_id: bytes) -> set[str]:
    """The sealed objects that one of these 32 bytes opens, as it is, or as a master key, an epoch's secret or a session's, or as a
    private key to which one of those was sealed: by `cryptography` alone, as docs/FORMAT.md says it."""
    tries = {one for one in candidates if len(one) == 32}
    for name in sorted(objects):  # epochs before sessions
        if name.startswith(("keyring/", "sessions/")):
            sealed, info = _sealed_in(objects[name], repository_id)
            privates = tries | {_hkdf(one, "receiving", repository_id) for one in tries}
            tries |= {found for one in privates for each in sealed if (found := _unsealed(one, each, info))}
    return {name for name, content in objects.items() if any(_opens(one, name, content, repository_id) for one in tries)}


def _sealed_in(content: bytes, repository_id: bytes) -> tuple[list[bytes], bytes]:
    """What is sealed in the object of an epoch or a session, and what that is bound to."""
    body = json.loads(content[10 : 10 + int.from_bytes(content[6:10], "little")])
    number = int(body["epoch"]).to_bytes(4, "little")
    if "strongroom_keyring" in body:
        return [_bytes(one) for one in body["sealed"].values()], b"strongroom/1/epoch" + repository_id + number
    return [_bytes(body["sealed"])], b"strongroom/1/session" + repository_id + number + _bytes(body["slot"]["signer"])


def _unsealed(private: bytes, sealed: bytes, info: bytes) -> bytes | None:
    try:
        return open_sealed(private, sealed, info)
    except NotAuthentic:
        return None


def _opens(secret: bytes, name: str, content: bytes, repository_id: bytes) -> bool:
    kind, head, salt = content[5], content[:6], content[6:38]
    sealed, bound = content[38:], head + repository_id
    if name.startswith("packs/"):
        length = int.from_bytes(content[-4:], "little")
        sealed = content[-4 - length : -4]
    elif name.startswith("audit/"):
        bound += name.encode()
    purpose = Kind(kind).purpose
    for key in (secret, *(_hkdf(secret, one, salt + repository_id) for one in (purpose, f"session {purpose}"))):
        try:
            AESGCM(key).decrypt(bytes(12), sealed, bound)
        except InvalidTag:
            continue
        return True
    return False


def _hkdf(key: bytes, purpose: str, salt: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt or None, info=b"strongroom/1/" + purpose.encode()).derive(key)


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def held_by(site: Site, secret: Secret, state: Path) -> set[bytes]:
    """All 32 bytes that are in what a slot wraps, in its JSON and in the base64 of that, in what derives from them, and on disk."""
    repository = site.admin()
    ((_, wrapped, _),) = list(unwrapping(repository.key_slots()[0], secret))
    found = set(windows(wrapped))
    found |= {one for one in _texts_in(_maybe_json(wrapped)) if len(one) == 32}
    found |= {_hkdf(one, purpose, repository.config.repository_id) for one in list(found)[:64] for purpose in _PURPOSES}
    for path in state.rglob("*"):
        if path.is_file():
            found |= set(windows(path.read_bytes()[:64]))
    if (notes := {one for one in _texts_in(_maybe_json(wrapped)) if len(one) == 32}) and list(state.glob("*.host")):
        for key in notes:
            plain = HostNotes(repository.config.repository_id, key).read()
            found |= {bytes.fromhex(one) for one in plain.packs} | {pack.salt for pack in plain.packs.values()}
            found |= {blob.id for pack in plain.packs.values() for blob in pack.blobs}
            found |= {window for made in plain.snapshots.values() for window in windows(made.manifest[:64])}
    return found


def _maybe_json(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return {}


def _texts_in(body: object) -> set[bytes]:
    if isinstance(body, dict | list):
        inner = body.values() if isinstance(body, dict) else body
        return {one for value in inner for one in _texts_in(value)}
    if isinstance(body, str):
        try:
            return {_bytes(body)}
        except ValueError:
            return set()
    return set()


def test_nothing_that_a_host_has_opens_anything_that_is_stored(site: Site, small: tuple[Path, Path], tmp_path: Path) -> None:
    """With its secret, its disk, and every byte of the store, after its process ended: what it wrote itself, and what others did.
    The same search with an ordinary slot opens all of it, so it would find a key."""
    place = tmp_path / "source" / "index.faiss"
    for source in small:
        site.back_up(in_place(source, place))
        rotate(site.admin(), ADMIN, drop=True, cost=CHEAP)
    room = Strongroom(site.admin())
    room.backup(f"faiss://{in_place(small[0], tmp_path / 'another' / 'index.faiss')}")
    objects = everything(site.store)
    sealed = {name: one for name, one in objects.items() if name.split("/")[0] in ("packs", "index", "snapshots", "audit")}
    assert {name.split("/")[0] for name in sealed} == {"packs", "index", "snapshots", "audit"}
    told = {name: one for name, one in objects.items() if name.startswith(("keyring/", "sessions/"))} | sealed
    repository_id = site.admin().config.repository_id
    mine = held_by(site, HOST, site.state)
    assert len(mine) > 500
    assert opened_by(mine, told, repository_id) == set()
    assert opened_by(held_by(site, ADMIN, tmp_path / "nothing"), told, repository_id) >= set(sealed)


def test_a_new_process_of_the_host_cant_open_what_the_one_before_wrote(site: Site, small: tuple[Path, Path]) -> None:
    """Nor the same process what it wrote in its backup before."""
    host = site.host()
    snapshot = site.back_up(small[0], by=host)
    content = site.store.read(f"snapshots/{snapshot}")
    assert unseal(host.keys, Kind.SNAPSHOT, f"snapshots/{snapshot}", content)
    site.back_up(small[1], by=host)
    for one in (host, site.host()):
        with pytest.raises(Refused, match="can only back up"):
            unseal(one.keys, Kind.SNAPSHOT, f"snapshots/{snapshot}", content)


def test_each_verb_but_backup_is_refused_and_says_why(small: tuple[Path, Path], tmp_path: Path) -> None:
    from test_audit_log import Town, calls

    town = Town(small[1])
    admin = town.admin
    admin.add_key(Secret.passphrase("host"), "web-1", cost=CHEAP, write_only=True)
    admin.backup(f"faiss://{small[0]}")
    host = open_repository(town.url, password="host")
    for name, call in calls(town, tmp_path).items():
        if name == "backup":
            continue
        with pytest.raises(Refused, match="can only back up") as refusal:
            call(host)
        assert refusal.value.exit_code == 5
    host.backup(f"faiss://{small[1]}")
    findings = admin.verify_audit()
    assert findings.passed
    mine = [one for one in admin.audit() if one.who["label"] == "web-1"]
    assert all(one.proven for one in mine)
    assert [one.verb for one in mine if one.result == "done"] == ["backup"]
    assert len([one for one in mine if one.result == "refused"]) > 30


# -- a host that means harm ------------------------------------------------------------------------------------------------


def test_who_made_a_snapshot_is_the_hosts_key_slot_whatever_the_manifest_says(site: Site, small: tuple[Path, Path]) -> None:
    operators = backup(site.admin(OPERATOR), f"faiss://{small[0]}").snapshot
    host = site.host()
    site.back_up(small[1], by=host)
    with machine(site.state):
        forged = host.add_manifest(site.admin().read_manifest(operators.id))
    found = history.read(site.admin(), forged)
    assert found.manifest == operators.manifest
    assert (found.host, history.read(site.admin(), operators.id).host) == ("web-1", "")


def test_it_can_speak_for_no_other_host_and_not_for_the_repository(site: Site, small: tuple[Path, Path]) -> None:
    site.admin().add_key(Secret.passphrase("other"), "web-2", cost=CHEAP, write_only=True)
    other = Repository.open(site.store, Secret.passphrase("other"))
    host = site.host()
    manifest = backup(other, f"faiss://{small[0]}").snapshot.id
    plain = site.admin().read_manifest(manifest)
    name, content = seal(host.keys, Kind.SNAPSHOT, Signer(bytes(32)).sign(plain) + plain)
    create_once(site.store, f"snapshots/{name}", content)
    with pytest.raises(Damaged, match="isn't that of the host in whose name it is"):
        history.read(site.admin(), name)
    assert isinstance(host.keys, HostKeys)
    theirs = sessions.encode(
        host.keys.session, other.key_slots()[0][-1].body, host.keys.public[-1], host.keys.repository_id, host.signer
    )  # type: ignore[arg-type]
    with pytest.raises(NotAuthentic, match=r"didn't sign it|isn't of this repository"):
        sessions.decode(site.admin().keys, host.keys.session.tag, theirs)
    for kind in (Kind.TOMBSTONE, Kind.POLICY, Kind.HOLD, Kind.PROOF):
        forged, content = seal(host.keys, kind, bytes(64) + b"{}")
        with pytest.raises(Damaged):
            unseal(site.admin().keys, kind, forged, content)


def test_nobody_relies_on_what_a_host_claims_to_have_stored(site: Site, small: tuple[Path, Path], tmp_path: Path) -> None:
    """It knows the contents, so it knows the ids of their blobs: it lists all of them in a pack of rubbish."""
    operator = site.admin(OPERATOR)
    host = site.host()
    ids = _blobs_of(operator, small[0])
    with machine(site.state), host.writer() as writer:
        for blob_id in ids:
            writer.submit_coded(CodedBlob(blob_id, 0, 7, b"rubbish"))
        host.add_index(writer.close())
    site.back_up(small[1], by=host)
    with machine(site.state):
        record = json.loads(zstandard.decompress(site.admin().read_manifest(site.back_up(small[1], by=host))))
        record["collections"][0]["segments"][0]["rest"] = min(ids).hex()
        host.add_manifest(zstandard.compress(json.dumps(record).encode()))
    lies = {listed.name for listed in site.store.list("index/")}
    made = backup(site.admin(OPERATOR), f"faiss://{small[0]}").snapshot.id
    assert files_in(site.admin(), made) == files_of(small[0])
    store, replica = FaultyStore(site.store), empty_store()
    store.hidden = {listed.name for listed in site.store.list("index/")} - lies  # it hears the lies first
    repository = site.admin(store=store)
    repository.look_again()
    store.hidden = set()
    copy(repository, replica)
    assert files_in(Repository.open(replica, ADMIN), made) == files_of(small[0])
    site.seconds += PAST
    for _ in range(2):
        site.prune()
        site.seconds += PAST
    assert files_in(site.admin(), made) == files_of(small[0])


def _blobs_of(repository: Repository, source: Path) -> set[bytes]:
    """Those of a backup, which is taken away again with all that it stored."""
    before = set(everything(repository.store))
    made = backup(repository, f"faiss://{source}").snapshot
    for name in set(everything(repository.store)) - before:
        repository.store.delete(name)
    return {bytes.fromhex(blob) for blob in made.manifest.blobs()}


@pytest.mark.parametrize("own", [True, False], ids=["under its own salt", "under theirs"])
def test_a_host_that_lists_packs_of_others_misleads_nobody(site: Site, small: tuple[Path, Path], *, own: bool) -> None:
    """Nor whoever hears the lie before the truth; and no prune makes the lie one of the repository's own."""
    made = backup(site.admin(OPERATOR), f"faiss://{small[0]}").snapshot.id
    host, told = site.host(), {listed.name for listed in site.store.list("index/")}
    for pack in list(site.admin().index.packs.values()):
        salt = host.keys.new_salt() if own else pack.salt
        name, content = seal(host.keys, Kind.INDEX, blob_index.encode([type(pack)(pack.id, salt, pack.size, b"")]))
        create_once(site.store, f"index/{name}", content)
    for number in range(3):
        with machine(site.state / f"admin-{number}"):
            store = FaultyStore(site.store)
            store.hidden = set(told)
            repository = site.admin(store=store)
            repository.look_again()
            assert number or bool(repository.index.packs) == own
            store.hidden = set()
            prune(repository, PruneOptions(max_unused=0.0))
            assert files_in(repository, made) == files_of(small[0])
            assert files_in(site.admin(), made) == files_of(small[0])
        site.seconds += PAST


# -- when it is removed ----------------------------------------------------------------------------------------------------


def test_what_a_removed_host_made_stays_and_what_it_makes_later_is_none(site: Site, small: tuple[Path, Path]) -> None:
    """Who has a copy of the slot and its secret, and put by sessions before: no snapshot of his counts, here or at a replica."""
    thief = site.host()
    made = site.back_up(small[0])
    with machine(site.state):
        assert thief.keys.new_salt()
    admin = site.admin()
    site.admin().remove_key(site.slot.id)
    with pytest.raises(WrongKey):
        site.host()
    with machine(site.state):
        late = backup(thief, f"faiss://{small[1]}").snapshot.id
    for repository in (admin, site.admin()):
        assert files_in(repository, made) == files_of(small[0])
        with pytest.raises(Damaged, match=r"web-1.*removed before it was made"):
            history.read(repository, late)
    replica = empty_store()
    copy(site.admin(), replica)
    assert files_in(Repository.open(replica, ADMIN), made) == files_of(small[0])
    assert [one.manifest.parents for one in history.read_all(Repository.open(replica, ADMIN))[0]] == [()]


def test_a_hosts_slot_gets_no_secret_when_keys_are_rotated_and_it_goes_on(site: Site, sources: Sources, tmp_path: Path) -> None:
    place = tmp_path / "source" / "index.faiss"
    site.back_up(in_place(sources.first, place))
    before, old = site.bytes_of_packs(), site.admin().keys
    running = site.host()
    done = rotate(site.admin(), ADMIN, drop=True, cost=CHEAP)
    assert site.slot.id not in {slot.id for slot in done.slots}
    assert site.slot.id not in done.removed
    assert site.slot.id.encode() not in site.store.read("keyring/000001")
    old.newer = lambda _: ()
    for by in (None, running):
        new = site.back_up(in_place(sources.changed, place), by=by)
        with pytest.raises(Damaged):
            unseal(old, Kind.SNAPSHOT, new, site.store.read(f"snapshots/{new}"))
    assert site.bytes_of_packs() - before < before / 2, "what was stored before is known and not stored again"
    site.is_whole()
    site.store.delete("keyring/000001")
    with pytest.raises(Damaged, match="keyring/000001"), machine(site.state):
        Repository.open(site.store, HOST)


def test_what_it_wrote_is_read_after_all_else_is_encrypted_anew_and_no_key_is_given_up(
    site: Site, small: tuple[Path, Path], tmp_path: Path
) -> None:
    place = tmp_path / "source" / "index.faiss"
    site.back_up(in_place(small[0], place))
    rotate(site.admin(), ADMIN, drop=True, cost=CHEAP)
    site.back_up(in_place(small[1], place))
    for _ in range(3):
        assert reencrypt(site.admin(), ReencryptOptions(grace=timedelta())).problems == ()
    with pytest.raises(Refused, match="hosts that can't read"):
        close_epochs(site.admin(), grace=timedelta())
    site.is_whole()


def test_the_store_cant_give_a_host_a_key_of_its_own_to_seal_to(site: Site) -> None:
    rotate(site.admin(), ADMIN, drop=True, cost=CHEAP)
    content = site.store.read("keyring/000001")
    body = json.loads(content[10 : 10 + int.from_bytes(content[6:10], "little")])
    mine = base64.b64encode(new_exchange_key()[1])
    site.store.delete("keyring/000001")
    site.store.create("keyring/000001", content.replace(body["public"]["receiving"].encode(), mine))
    with pytest.raises(Damaged, match="its signature isn't this repository's"):
        site.host()


def test_it_has_no_way_to_change_its_own_key_slot(site: Site) -> None:
    with pytest.raises(WrongRequest, match="can't make a key slot"):
        site.admin().change_passphrase(HOST, Secret.passphrase("new"))


# -- beside prunes, and when things break ----------------------------------------------------------------------------------


def test_what_was_forgotten_and_pruned_is_stored_again(site: Site, sources: Sources, tmp_path: Path) -> None:
    """Its notes say that blobs are there which were condemned, or are gone."""
    place = tmp_path / "source" / "index.faiss"
    first = site.back_up(in_place(sources.first, place))
    for wait in (0.0, PAST):
        site.forget(first)
        site.prune()
        site.seconds += wait
        if wait:
            site.prune()
            assert leaving.said(site.store) == frozenset()
        first = site.back_up(in_place(sources.first, place))
        site.is_whole()
    second = site.back_up(in_place(sources.changed, place))
    site.forget(first)
    for _ in range(3):
        site.prune()
        site.seconds += PAST
    assert set(site.kept) == {second}
    stored = site.bytes_of_packs()
    third = site.back_up(in_place(sources.changed, place))
    assert site.bytes_of_packs() == stored, "what a host still needs stays where it knows it"
    site.is_whole()
    assert third != second


@pytest.mark.parametrize("grace", [timedelta(hours=24), timedelta(0)], ids=["marked", "gone"])
def test_a_prune_that_overtakes_a_backup_is_noticed(site: Site, small: tuple[Path, Path], tmp_path: Path, grace: timedelta) -> None:
    """What the backup relies on is forgotten, and condemned, or deleted at once, at any of its operations from the first listing of
    packs on."""
    place = tmp_path / "source" / "index.faiss"
    made = site.back_up(in_place(small[0], place))
    objects, notes = everything(site.store), {path: path.read_bytes() for path in site.state.rglob("*") if path.is_file()}
    counted = FaultyStore(site.store)
    site.back_up(place, counted)
    overtaken = 0
    begins = next(one.number for one in counted.operations if one.verb == "list" and one.name == "packs/")
    for number in range(begins, len(counted.operations)):
        store = empty_store()
        for name, content in objects.items():
            store.create(name, content)
        for path, content in notes.items():
            path.write_bytes(content)
        town = Site(store, site.state, site.slot, {made: files_of(place)}, site.seconds)

        def prunes(operation: Operation, number: int = number, town: Site = town) -> None:
            if operation.number == number:
                town.forget(made)
                town.prune(grace=grace)

        with machine(tmp_path / f"admin-{number}"):
            try:
                town.back_up(place, FaultyStore(store, prunes))
            except Overtaken:
                overtaken += 1
                assert not list(store.list("snapshots/"))
                town.back_up(place)
            town.is_whole()
            for _ in range(2):
                town.prune()
                town.seconds += PAST
            town.is_whole()
    assert overtaken > 2


def test_a_crash_at_any_operation_leaves_all_snapshots_whole_and_the_next_backup_does_it(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    place = tmp_path / "source" / "index.faiss"
    begun = new_site(tmp_path)
    first = begun.back_up(in_place(small[0], place))
    objects, notes = everything(begun.store), {path: path.read_bytes() for path in begun.state.rglob("*") if path.is_file()}
    in_place(small[1], place)
    counted = FaultyStore(begun.store)
    begun.back_up(place, counted)
    assert len(counted.operations) > 10
    for operation in counted.operations:
        for fault in ("crash before", "unreachable after") if operation.verb == "create" else ("crash before",):
            store = empty_store()
            for name, content in objects.items():
                store.create(name, content)
            for path, content in notes.items():
                path.write_bytes(content)
            site = Site(store, begun.state, begun.slot, {first: begun.kept[first]}, begun.seconds)
            with suppress(SimulatedCrash, StrongroomError):
                site.back_up(place, FaultyStore(store, at(operation.number, fault)))
            site.back_up(place)
            with machine(tmp_path / f"admin-{operation.number}-{fault}"):
                site.is_whole()


def test_a_lost_session_comes_back_from_a_replica(site: Site, small: tuple[Path, Path]) -> None:
    from strongroom.operations.repair import repair

    made = site.back_up(small[0])
    replica = empty_store()
    copy(site.admin(), replica)
    for listed in list(site.store.list("sessions/")):
        site.store.delete(listed.name)
    with pytest.raises(Damaged):
        history.read(site.admin(), made)
    assert repair(site.store, ADMIN, replicas=[Repository.open(replica, ADMIN)]).passed
    site.is_whole()
