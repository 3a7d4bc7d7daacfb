"""Is it found whatever is done to the audit log, and is nothing done that it doesn't tell?"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import shutil
import signal
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from faulty_store import FaultyStore, Operation, SimulatedCrash, at, felt
from processes import program
from worlds import CHEAP, build_source

from strongroom.access import audit
from strongroom.access.audit import Findings, check_export
from strongroom.clock import Clock
from strongroom.errors import Refused, StoreDenied, StrongroomError, WrongKey, WrongRequest
from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.operations.erase.run import EraseOptions
from strongroom.operations.forget import ForgetOptions
from strongroom.operations.hold import HoldOptions
from strongroom.operations.replicate import ReplicateOptions
from strongroom.operations.verify import Level
from strongroom.repository import Repository, Secret
from strongroom.repository.audit_log import entry_name
from strongroom.repository.framing import Kind
from strongroom.repository.holds import Scope
from strongroom.repository.identity import AccessRole, Bearer
from strongroom.repository.signed_records import SignedRecord, open_record, seal_record
from strongroom.repository.turned_away import noted

_NAMES = itertools.count()
WORDS = {role: f"password of the {role.value}" for role in AccessRole}


class Town:
    """A repository in memory with a key for each role, and a source."""

    def __init__(self, source: Path) -> None:
        self.url = f"memory://audit-{next(_NAMES)}"
        self.source = f"faiss://{source}"
        self.admin = init_repository(self.url, password=WORDS[AccessRole.ADMIN], cost=CHEAP)
        for role, word in WORDS.items():
            if role is not AccessRole.ADMIN:
                self.admin.add_key(Secret.passphrase(word), role.value, role=role, cost=CHEAP)

    def of(self, role: AccessRole, clock: Clock | None = None) -> Strongroom:
        return open_repository(self.url, password=WORDS[role], clock=clock or Clock())

    def findings(self, expected: str | None = None) -> Findings:
        """Without an entry of its own."""
        return audit.verify(self.of(AccessRole.ADMIN).repository, expected)

    def numbers(self) -> list[int]:
        return [one.number for one in self.admin.access.log.read()]

    def entry(self, number: int) -> SignedRecord:
        name = entry_name(number)
        return open_record(self.admin.repository.keys, Kind.AUDIT, name, self.admin.repository.store.read(name))

    def put(self, number: int, content: bytes) -> None:
        self.take(number)
        self.admin.repository.store.create(entry_name(number), content)

    def take(self, *numbers: int) -> None:
        for number in numbers:
            self.admin.repository.store.delete(entry_name(number))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_source(tmp_path_factory.mktemp("audited"), "x", seed=3, rows=100)


@pytest.fixture
def town(source: Path) -> Town:
    return Town(source)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on this is a machine that never saw the repository."""
    return lambda: monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / f"elsewhere-{next(_NAMES)}"))


def last(room: Strongroom) -> audit.Operation:
    return audit.operations(room.repository)[-1]


# -- nothing is done that it doesn't tell ----------------------------------------------------------------------------------


def calls(town: Town, tmp_path: Path) -> dict[str, Callable[[Strongroom], Any]]:
    """Each verb of the library once, so that it does something or at least tries."""
    place = f"faiss://{tmp_path}/{next(_NAMES)}/x.faiss"
    spare, replica = Secret.passphrase("spare"), f"memory://replica-{next(_NAMES)}"
    return {
        "backup": lambda room: room.backup(town.source, probes=0),
        "snapshots": lambda room: room.snapshots(),
        "damaged_snapshots": lambda room: room.damaged_snapshots(),
        "snapshot": lambda room: room.snapshot(),
        "diff": lambda room: room.diff("latest", "latest"),
        "plan_restore": lambda room: room.plan_restore("latest", place),
        "restore": lambda room: room.restore("latest", place),
        "follow": lambda room: room.follow(town.source),
        "release": lambda room: room.release(town.source),
        "journal_status": lambda room: room.journal_status(),
        "journal_batches": lambda room: room.journal_batches(),
        "verify": lambda room: room.verify(level=Level.OBJECTS),
        "forget": lambda room: room.forget(ForgetOptions(("latest",), dry_run=True)),
        "erase": lambda room: room.erase(EraseOptions(ids=("no such row",), reason="asked", dry_run=True)),
        "certificate": lambda room: room.certificate("no such erasure"),
        "copy": lambda room: room.copy(replica),
        "replicate": lambda room: room.replicate([replica], ReplicateOptions(once=True)),
        "prune": lambda room: room.prune(),
        "set_lock": lambda room: room.set_lock(timedelta(days=1)),
        "extend_locks": lambda room: room.extend_locks(),
        "lock_status": lambda room: room.lock_status(),
        "coverage": lambda room: room.coverage(),
        "drill": lambda room: room.drill(source="no such source"),
        "drill_history": lambda room: room.drill_history(),
        "hold": lambda room: room.hold(HoldOptions(Scope(snapshots=("latest",)), "case 1", "court", dry_run=True)),
        "holds": lambda room: room.holds(),
        "release_hold": lambda room: room.release_hold("no such hold", reason="r", authority="a"),
        "rewrap_keys": lambda room: room.rewrap_keys(Secret.passphrase("no such secret")),
        "rotate_keys": lambda room: room.rotate_keys(Secret.passphrase("no such secret")),
        "upgrade_key": lambda room: room.upgrade_key(Secret.passphrase("no such secret")),
        "reencrypt": lambda room: room.reencrypt(),
        "close_epochs": lambda room: room.close_epochs(),
        "key_status": lambda room: room.key_status(),
        "name_region": lambda room: room.name_region("eu-central-1"),
        "publish_policy": lambda room: room.publish_policy({}),
        "published_policy": lambda room: room.published_policy(),
        "key_slots": lambda room: room.key_slots(),
        "add_key": lambda room: room.add_key(spare, "spare", cost=CHEAP),
        "remove_key": lambda room: room.remove_key("no such slot"),
        "change_passphrase": lambda room: room.change_passphrase(spare, Secret.passphrase("fresh"), cost=CHEAP),
        "create_token": lambda room: room.create_token(AccessRole.OBSERVER, timedelta(hours=1)),
        "tokens": lambda room: room.tokens(),
        "revoke_token": lambda room: room.revoke_token("no such token"),
        "require_approval": lambda room: room.require_approval(["restore"], people=1),
        "approvals": lambda room: room.approvals(),
        "grant_approval": lambda room: room.grant_approval("no such request"),
        "deny_approval": lambda room: room.deny_approval("no such request"),
        "audit": lambda room: room.audit(),
        "verify_audit": lambda room: room.verify_audit(),
        "export_audit": lambda room: room.export_audit(),
    }


def test_every_verb_leaves_an_entry(town: Town, tmp_path: Path) -> None:
    """Enumerated by looking at the library: a new verb must be called here too."""
    made = calls(town, tmp_path)
    assert made.keys() == {name for name, _ in inspect.getmembers(Strongroom, inspect.isfunction) if not name.startswith("_")}
    room = town.of(AccessRole.ADMIN)
    for name, call in made.items():
        try:
            call(room)
            result = "done"
        except StrongroomError as error:
            result = "refused" if isinstance(error, Refused) else "failed"
        told = last(room)
        assert (told.verb, told.result, told.proven) == (name, result, True)
        assert told.who["role"] == "admin"
        assert told.ended >= told.at
    assert town.findings().problems == ()


@pytest.mark.parametrize("role", [role for role in AccessRole if role is not AccessRole.ADMIN])
def test_what_a_role_may_not_do_is_refused_and_told(role: AccessRole, town: Town, tmp_path: Path) -> None:
    from strongroom.access.roles import may

    town.admin.backup(town.source, probes=0)
    room = town.of(role)
    before = {listed.name for listed in room.repository.store.list("snapshots/")}
    refused = [name for name in calls(town, tmp_path) if not may(role, name)]
    assert {"forget", "prune", "add_key", "remove_key", "require_approval"} <= set(refused)
    for name in refused:
        with pytest.raises(Refused, match=f"the role {role.value} may not") as raised:
            calls(town, tmp_path)[name](room)
        assert raised.value.exit_code == 5
        assert raised.value.hint.startswith("it needs the role ")
        told = last(room)
        assert (told.verb, told.result, told.who["role"]) == (name, "refused", role.value)
    assert {listed.name for listed in room.repository.store.list("snapshots/")} == before
    assert not list(tmp_path.rglob("x.faiss"))


def test_an_observer_does_not_verify_by_restoring(town: Town) -> None:
    town.admin.backup(town.source, probes=0)
    room = town.of(AccessRole.OBSERVER)
    assert room.verify(level=Level.DATA).passed
    with pytest.raises(Refused, match="verify --level restore"):
        room.verify(level=Level.RESTORE)


def test_what_was_asked_and_what_came_of_it_stand_in_it(town: Town) -> None:
    room = town.of(AccessRole.OPERATOR)
    room.access.reason = "nightly"
    made = room.backup(town.source, probes=0, tags={"env": "prod"}).snapshot.id
    told = last(room)
    assert told.arguments == {"source": town.source, "probes": 0, "tags": {"env": "prod"}}
    assert told.outcome["snapshot"] == made
    assert (told.reason, told.who["label"], told.who["slot"]) == ("nightly", "operator", room.repository.identity.slot)
    assert {"user", "host", "process", "person"} <= told.who.keys()


def test_no_secret_is_written_down(town: Town) -> None:
    room = town.admin
    room.add_key(Secret.passphrase("hunter2-hunter2"), "label", cost=CHEAP)
    token = room.create_token(AccessRole.OBSERVER, timedelta(hours=1))
    with pytest.raises(StrongroomError):
        room.backup("qdrant://anna:hunter2-hunter2@127.0.0.1:1/?api_key=hunter2-hunter2")
    text = b"".join(one.record.plain for one in room.access.log.read() if isinstance(one.record, SignedRecord))
    assert b"hunter2" not in text
    assert token.text.strip().rpartition(":")[2].encode() not in text


def test_a_look_is_told_once_an_hour(town: Town) -> None:
    time = [1_800_000_000.0]
    room = town.of(AccessRole.AUDITOR, Clock(lambda: time[0], lambda: time[0]))
    counts = []
    for wait in (0, 1, 1800, 3600):
        time[0] += wait
        room.snapshots()
        counts.append(sum(one.verb == "snapshots" for one in audit.operations(room.repository)))
    assert counts == [1, 1, 1, 2]


def test_a_wrong_secret_is_noted_on_this_machine(town: Town) -> None:
    with pytest.raises(WrongKey):
        open_repository(town.url, password="guess")
    (one,) = noted(town.admin.repository.config.repository_id)
    assert (one["secret"], one["store"]) == ("passphrase", town.admin.repository.store.url)
    assert "guess" not in json.dumps(one)


# -- what can't be told isn't done -----------------------------------------------------------------------------------------


def no_entries(operation: Operation) -> str | None:
    return "denied" if operation.verb == "create" and operation.name.startswith("audit/") else None


def test_what_can_not_be_told_is_not_done(town: Town, tmp_path: Path) -> None:
    town.admin.backup(town.source, probes=0)
    room = town.of(AccessRole.ADMIN)
    store = FaultyStore(room.repository.store, no_entries)
    room.repository.store = store
    for name in ("backup", "restore", "prune", "add_key", "diff", "export_audit", "follow"):
        with pytest.raises(StoreDenied):
            calls(town, tmp_path)[name](room)
    assert not list(tmp_path.rglob("x.faiss"))
    assert {one.name for one in store.operations if one.verb in ("create", "delete") and not one.name.startswith("audit/")} == set()
    assert len(room.snapshots()) == 1
    assert room.snapshot().id


def test_a_role_is_refused_even_if_that_can_not_be_told(town: Town) -> None:
    room = town.of(AccessRole.OBSERVER)
    room.repository.store = FaultyStore(room.repository.store, no_entries)
    with pytest.raises(Refused):
        room.backup(town.source)


def test_two_small_objects_an_operation(town: Town) -> None:
    """And no other request, where this machine wrote last."""
    town.admin.backup(town.source, probes=0)
    room = town.of(AccessRole.OPERATOR)
    room.repository.store = store = FaultyStore(room.repository.store)
    room.backup(town.source, probes=0)
    told = [one for one in store.operations if one.name.startswith("audit/")]
    assert [one.verb for one in told] == ["create", "create"]
    assert all(room.repository.store.size(one.name) < 1500 for one in told)
    assert next(one.name.partition("/")[0] for one in store.operations if one.verb == "create") == "audit"


def test_a_crash_at_any_operation_leaves_no_untold_deed(town: Town, elsewhere: Callable[[], None]) -> None:
    """What is in the store was begun in the log before; and the log is whole."""
    town.admin.backup(town.source, probes=0)

    def back_up(room: Strongroom) -> None:
        room.backup(town.source, probes=0, reread=True)

    counting = town.of(AccessRole.OPERATOR)
    counting.repository.store = store = FaultyStore(counting.repository.store)
    back_up(counting)
    assert len(store.operations) > 5
    for moment in ("crash before", "crash after"):
        for number in felt(moment, store.operations):
            elsewhere()
            room = town.of(AccessRole.OPERATOR)
            before = len(audit.operations(room.repository))
            snapshots = len(room.repository.manifest_ids())
            faulty = FaultyStore(room.repository.store, at(number, moment))
            room.repository.store = faulty
            with pytest.raises(SimulatedCrash):
                back_up(room)
            told = audit.operations(town.admin.repository)[before:]
            assert [one.verb for one in told] in ([], ["backup"])
            if len(town.admin.repository.manifest_ids()) > snapshots:
                assert told
            assert all(one.result in ("unfinished", "done") for one in told)
            assert town.findings().problems == ()


@pytest.mark.parametrize("fault", ["unreachable after", "exists after", "unreachable before", "exists before"])
def test_a_lost_answer_is_no_second_entry(fault: str, town: Town) -> None:
    room = town.of(AccessRole.OPERATOR)
    before = len(town.numbers())
    met: list[int] = []

    def once(operation: Operation) -> str | None:
        if operation.verb != "create" or met:
            return None
        met.append(operation.number)
        return fault

    room.repository.store = FaultyStore(room.repository.store, once)
    try:
        room.backup(town.source, probes=0)
    except StrongroomError:
        assert fault.endswith("before")
        room.backup(town.source, probes=0)
    assert len(town.numbers()) == before + 2
    assert town.findings().problems == ()


KILLED = textwrap.dedent("""
    import os, signal, sys
    from strongroom.library import open_repository

    room = open_repository(sys.argv[1], password=sys.argv[2])
    room.restore("latest", sys.argv[3], tell=lambda plan: os.kill(os.getpid(), signal.SIGKILL))
""")


def test_a_killed_process_leaves_an_intent(source: Path, tmp_path: Path) -> None:
    room = init_repository(str(tmp_path / "repository"), password="x", cost=CHEAP)
    room.backup(f"faiss://{source}", probes=0)
    arguments = [str(tmp_path / "repository"), "x", f"faiss://{tmp_path}/out/x.faiss"]
    assert program("-c", KILLED, *arguments).wait() == -signal.SIGKILL
    told = last(room)
    assert (told.verb, told.result, told.ended) == ("restore", "unfinished", "")
    found = room.verify_audit()
    assert (found.problems, found.unfinished) == ((), 1)
    assert "restore" in found.notes[0]


WRITING = textwrap.dedent("""
    import sys
    from strongroom.library import open_repository

    room = open_repository(sys.argv[1], password=sys.argv[2])
    for number in range(int(sys.argv[3])):
        room.access.log.append({"at": "2026-01-01T00:00:00+00:00", "verb": "backup", "what": "done", "number of mine": number,
            "who": {"slot": room.repository.identity.slot, "label": sys.argv[4]}})
""")


def test_two_hosts_at_once_share_one_chain(tmp_path: Path) -> None:
    """Each with a key, and a state directory, of its own."""
    place, many = str(tmp_path / "repository"), 60
    room = init_repository(place, password="a", cost=CHEAP)
    room.add_key(Secret.passphrase("b"), "second", cost=CHEAP)
    states = {word: {**os.environ, "STRONGROOM_STATE_DIR": str(tmp_path / f"state of {word}")} for word in "ab"}
    hosts = [program("-c", WRITING, place, word, str(many), word, env=states[word]) for word in "ab"]
    assert [host.wait(120) for host in hosts] == [0, 0]
    found = room.verify_audit()
    assert found.problems == ()
    assert found.entries == 3 + 2 * many + 1
    for word in "ab":
        told = [one.record.said for one in room.access.log.read() if isinstance(one.record, SignedRecord)]
        mine = [one["number of mine"] for one in told if one["who"]["label"] == word and "number of mine" in one]
        assert mine == list(range(many))


def test_a_clock_that_jumps_is_noted_and_breaks_nothing(town: Town) -> None:
    for wall in (1_900_000_000.0, 1_700_000_000.0, 1_900_000_100.0):
        town.of(AccessRole.OPERATOR, Clock(lambda wall=wall: wall)).backup(town.source, probes=0)
    found = town.findings()
    assert found.problems == ()
    assert [note for note in found.notes if "its clock says 2023" in note]


def test_more_than_a_folder_of_entries_is_found_by_a_machine_that_knows_nothing(
    town: Town, elsewhere: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strongroom.repository.audit_log._PER_FOLDER", 3)
    fresh = Town(Path(town.source.partition("://")[2]))
    numbers = fresh.numbers()
    for count in range(20):
        elsewhere()
        assert fresh.admin.access.log.append({"count": count}) == len(numbers) + count


# -- what is done to it is found ---------------------------------------------------------------------------------------------


@pytest.fixture
def busy(town: Town) -> Town:
    """One with ten entries and more, of two keys."""
    operator = town.of(AccessRole.OPERATOR)
    for _ in range(2):
        operator.backup(town.source, probes=0)
        town.admin.verify(level=Level.OBJECTS)
    assert town.findings().problems == ()
    return town


def test_every_deletion_is_found(busy: Town) -> None:
    for number in busy.numbers():
        content = busy.admin.repository.store.read(entry_name(number))
        busy.take(number)
        assert [problem for problem in busy.findings().problems if f"entry {number}: missing" in problem]
        busy.put(number, content)
    assert busy.findings().passed


def test_every_pair_put_in_another_order_is_found(busy: Town) -> None:
    store, numbers = busy.admin.repository.store, busy.numbers()
    for one, other in itertools.pairwise(numbers):
        first, second = (store.read(entry_name(number)) for number in (one, other))
        busy.put(one, second)
        busy.put(other, first)
        problems = busy.findings().problems
        assert {f"entry {one}", f"entry {other}"} <= {problem.partition(":")[0] for problem in problems}
        busy.put(one, first)
        busy.put(other, second)


def test_every_altered_byte_is_found(busy: Town) -> None:
    number = busy.numbers()[5]
    content = busy.admin.repository.store.read(entry_name(number))
    for place in range(0, len(content), 7):
        busy.put(number, bytes([*content[:place], content[place] ^ 1, *content[place + 1 :]]))
        assert not busy.findings().passed
    for length in (0, 5, 40, 100, len(content) - 1):
        busy.put(number, content[:length])
        assert not busy.findings().passed


def rewritten(town: Town, number: int, author: Repository, *, proven: bool = True) -> bytes:
    """An entry that says something else, made with all that the author has: the repository's keys and a slot's own."""
    said = {**town.entry(number).said, "reason": "it wasn't me"}
    return seal_record(author.keys, Kind.AUDIT, entry_name(number), said, author.signer if proven else None)


def test_an_entry_that_its_own_author_rewrites_is_found(busy: Town) -> None:
    operator = busy.of(AccessRole.OPERATOR).repository
    mine = [one.number for one in audit.operations(operator) if one.who["slot"] == operator.identity.slot]
    busy.put(mine[0], rewritten(busy, mine[0], operator))
    assert busy.findings().problems == (
        f"entry {mine[0] + 1}: it was written after another entry {mine[0]} than the one that is there",
    )


@pytest.mark.parametrize("proven", [True, False])
def test_the_last_entry_rewritten_in_another_ones_name_is_found(proven: bool, busy: Town, elsewhere: Callable[[], None]) -> None:
    """By a machine that never saw the true one, and though nothing comes after it: an ordinary key can't sign for another."""
    operator, number = busy.of(AccessRole.OPERATOR).repository, busy.numbers()[-1]
    assert busy.entry(number).said["who"]["role"] == "admin"
    busy.put(number, rewritten(busy, number, operator, proven=proven))
    elsewhere()
    slot = busy.admin.repository.identity.slot[:12]
    assert busy.findings().problems == (f"entry {number}: slot {slot}, in whose name it is, didn't sign it",)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_is_taken_off_the_end_is_found_by_who_saw_it(count: int, busy: Town, elsewhere: Callable[[], None]) -> None:
    numbers, told = busy.numbers(), busy.findings().hash
    busy.take(*numbers[-count:])
    assert busy.findings().problems == (f"entry {numbers[-1]}: missing at the end, this machine has seen it",)
    elsewhere()
    assert busy.findings().passed  # it can't know: docs/SECURITY.md says so
    assert busy.findings(expected=told).problems == (f"the entry {told[:16]}, which was the last one once, is gone",)


def test_what_is_taken_off_the_end_is_found_when_somebody_writes_on(
    busy: Town, elsewhere: Callable[[], None], own_state: Path
) -> None:
    numbers = busy.numbers()
    busy.take(*numbers[-3:])
    busy.of(AccessRole.OPERATOR).backup(busy.source, probes=0)  # who saw it goes on after it
    elsewhere()
    assert busy.findings().problems == (f"entries {numbers[-3]} to {numbers[-1]}: missing",)


def test_another_end_in_the_place_of_one_that_was_seen_is_found(
    busy: Town, elsewhere: Callable[[], None], own_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = busy.numbers()
    busy.take(*numbers[-2:])
    elsewhere()
    busy.of(AccessRole.OPERATOR).backup(busy.source, probes=0)
    assert busy.findings().passed
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(own_state))
    assert busy.findings().problems == (f"entry {numbers[-1]}: it is another one than this machine has seen",)


def test_a_log_that_is_gone_is_found_also_when_it_was_begun_anew(busy: Town, elsewhere: Callable[[], None]) -> None:
    busy.take(*busy.numbers())
    elsewhere()
    assert busy.findings().problems[0] == "audit/: the log is gone"
    later = Clock(lambda: 1_900_000_000.0)
    busy.of(AccessRole.OPERATOR, later).backup(busy.source, probes=0)
    (problem,) = busy.findings().problems
    assert problem.endswith("it was begun anew")


def test_what_an_enemy_without_a_key_puts_into_it_is_found_and_stops_nobody(busy: Town) -> None:
    number = busy.numbers()[-1] + 1
    busy.admin.repository.store.create(entry_name(number), b"junk")
    busy.of(AccessRole.OPERATOR).backup(busy.source, probes=0)
    found = busy.findings()
    assert found.problems == (f"entry {number}: it is not an object of a Strongroom repository",)
    assert audit.operations(busy.admin.repository)[-1].result == "done"


def test_a_key_slot_that_was_made_past_the_log_is_found(busy: Town) -> None:
    operator = busy.of(AccessRole.OPERATOR).repository
    planted = operator.add_key(Secret.passphrase("mine"), "looks good", cost=CHEAP, bearer=Bearer(AccessRole.ADMIN))
    assert busy.findings().problems == (f"key slot {planted.id[:12]} (looks good): no entry tells who made it",)


@pytest.mark.parametrize("how", ["removed", "renewed", "revoked"])
def test_a_key_slot_that_was_taken_away_and_put_back_is_found(how: str, busy: Town) -> None:
    """Whoever kept a copy of the object, and may write to the store, can open the repository with it again."""
    store, admin = busy.admin.repository.store, busy.admin
    if how == "revoked":
        slot = admin.create_token(AccessRole.OBSERVER, timedelta(hours=1), "t").slot
    else:
        identity = busy.of(AccessRole.OPERATOR).repository.identity
        slot = next(one for one in admin.key_slots() if one.id == identity.slot)
    copy = store.read(slot.name)
    if how == "removed":
        admin.remove_key(slot.id)
    elif how == "revoked":
        admin.revoke_token(slot.id)
    else:
        word = Secret.passphrase(WORDS[AccessRole.OPERATOR])
        busy.of(AccessRole.OPERATOR).change_passphrase(word, Secret.passphrase("fresh"), cost=CHEAP)
    assert busy.findings().problems == ()
    store.create(slot.name, copy)
    (problem,) = busy.findings().problems
    assert problem.startswith(f"key slot {slot.id[:12]} ({slot.label}): it was taken away")


def test_slots_that_are_made_in_the_place_of_others_are_told_and_keep_their_role(busy: Town) -> None:
    """By a renewal, an upgrade and a rotation; what a listing tells makes no slot known."""
    word = Secret.passphrase(WORDS[AccessRole.OPERATOR])
    before = busy.of(AccessRole.OPERATOR).repository.identity
    busy.admin.rewrap_keys(word)
    for role in AccessRole:
        busy.of(role).upgrade_key(Secret.passphrase(WORDS[role]))
    busy.of(AccessRole.ADMIN).rotate_keys(Secret.passphrase(WORDS[AccessRole.ADMIN]))
    after = busy.of(AccessRole.OPERATOR).repository.identity
    assert (after.role, after.person, after.slot == before.slot) == (AccessRole.OPERATOR, before.person, False)
    assert busy.findings().problems == ()
    busy.of(AccessRole.OPERATOR).backup(busy.source, probes=0)
    assert last(busy.admin).proven
    admin = busy.of(AccessRole.ADMIN)
    assert check_export("".join(admin.export_audit().lines)) == []
    planted = admin.repository.add_key(Secret.passphrase("mine"), "planted", cost=CHEAP)
    admin.key_slots()
    assert busy.findings().problems == (f"key slot {planted.id[:12]} (planted): no entry tells who made it",)


def test_entries_of_a_slot_that_is_gone_stay_proven(busy: Town, elsewhere: Callable[[], None]) -> None:
    slot = busy.of(AccessRole.OPERATOR).repository.identity.slot
    busy.admin.remove_key(slot)
    elsewhere()
    assert busy.findings().problems == ()


def test_prune_and_forget_take_nothing_of_it(busy: Town) -> None:
    numbers = busy.numbers()
    busy.admin.forget(ForgetOptions(("latest",)))
    busy.admin.prune()
    assert busy.numbers()[: len(numbers)] == numbers
    assert busy.findings().passed


def test_a_repository_older_than_its_log_begins_one(source: Path, tmp_path: Path) -> None:
    """A golden one of format 1. Its slots have no keys of their own: who did it is claimed, and shown so, until the password is
    changed."""
    golden = Path(__file__).parents[1] / "scenarios" / "golden" / "format-1"
    shutil.copytree(golden, tmp_path / "old")
    room = open_repository(str(tmp_path / "old"), password="golden")
    room.backup(f"faiss://{source}", probes=0)
    told = last(room)
    assert (told.verb, told.who["role"], told.proven) == ("backup", "admin", False)
    assert room.verify_audit().problems == ()
    fresh = room.change_passphrase(Secret.passphrase("golden"), Secret.passphrase("new"), cost=CHEAP)
    room = open_repository(str(tmp_path / "old"), password="new")
    room.backup(f"faiss://{source}", probes=0)
    assert (last(room).who["slot"], last(room).who["person"], last(room).proven) == (fresh.id, told.who["slot"], True)
    assert room.verify_audit().problems == ()


# -- out of the repository -------------------------------------------------------------------------------------------------


def test_an_exported_log_proves_itself(busy: Town) -> None:
    made = busy.of(AccessRole.AUDITOR).export_audit()
    assert made.entries == len(made.lines) - 2
    assert check_export("".join(made.lines)) == []


@pytest.mark.parametrize("change", ["drop", "swap", "edit", "cut", "resign"])
def test_a_changed_export_is_found(change: str, busy: Town) -> None:
    lines = list(busy.of(AccessRole.AUDITOR).export_audit().lines)
    if change == "drop":
        del lines[4]
    if change == "swap":
        lines[4], lines[5] = lines[5], lines[4]
    if change == "edit":
        lines[4] = lines[4].replace("admin", "nobody")
    if change == "cut":
        del lines[-2]
    if change == "resign":
        last_line = json.loads(lines[-1])
        lines[-1] = json.dumps({**last_line, "signature": last_line["signature"][::-1]}) + "\n"
    assert check_export("".join(lines))


@pytest.mark.parametrize("text", ["", "{}", "[]\n[]\n[]", "{}\n{}\n{}", "\0"])
def test_what_is_no_export_is_a_wrong_request(text: str) -> None:
    with pytest.raises(WrongRequest):
        check_export(text)
