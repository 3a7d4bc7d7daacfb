"""Does a restore that needs two people happen only with two, once, and for exactly what was asked?"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from commands import build_index

from strongroom.access import approvals, audit
from strongroom.access.approvals import FOLDER, State
from strongroom.access.gate import Requested
from strongroom.clock import Clock
from strongroom.errors import Damaged, NotFound, Refused, StrongroomError, WrongKey, WrongRequest
from strongroom.library import Strongroom, init_repository, open_repository
from strongroom.operations.forget import ForgetOptions
from strongroom.repository import Argon2Cost, Secret
from strongroom.repository.framing import Kind
from strongroom.repository.identity import AccessRole
from strongroom.repository.signed_records import seal_record

sys.path.append(str(Path(__file__).parents[1] / "faults"))
from faulty_store import FaultyStore, SimulatedCrash, at, first_create

CHEAP = Argon2Cost(1, 1, 64)
_NAMES = itertools.count()


@dataclass
class Office:
    """Two restorers, an administrator and an operator over one repository with two snapshots; restores need two people."""

    url: str
    folder: Path
    clock: Clock
    time: list[float]

    def of(self, name: str) -> Strongroom:
        return open_repository(self.url, password=name, clock=self.clock)

    @property
    def target(self) -> str:
        return f"faiss://{self.folder}/out/x.faiss"

    def asked(self, room: Strongroom, what: Callable[[Strongroom], Any]) -> approvals.Request:
        room.access.requesting = True
        try:
            with pytest.raises(Requested) as raised:
                what(room)
        finally:
            room.access.requesting = False
        return raised.value.request

    def request(self, room: Strongroom, **wish: Any) -> str:
        asked = self.asked(room, lambda one: one.restore("latest", self.target, **wish))
        room.access.approval = asked.id
        return asked.id


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_index(tmp_path_factory.mktemp("approved") / "x.faiss", rows=200)


@pytest.fixture
def office(index: Path, tmp_path: Path) -> Office:
    time = [1_800_000_000.0]
    clock = Clock(lambda: time[0])
    url = f"memory://office-{next(_NAMES)}"
    admin = init_repository(url, password="admin", cost=CHEAP, clock=clock)
    for name, role in (("anna", "restorer"), ("bert", "restorer"), ("carl", "restorer"), ("otto", "operator")):
        admin.add_key(Secret.passphrase(name), name, role=AccessRole(role), cost=CHEAP)
    for _ in range(2):
        admin.backup(f"faiss://{index}", probes=0)
        time[0] += 1
    admin.require_approval(["restore", "forget"], people=2, expires=timedelta(hours=24))
    return Office(url, tmp_path, clock, time)


def restored(office: Office) -> bool:
    return (office.folder / "out" / "x.faiss").exists()


def test_alone_nobody_restores(office: Office) -> None:
    for name in ("anna", "admin"):
        with pytest.raises(Refused, match="restore needs 2 people") as raised:
            office.of(name).restore("latest", office.target)
        assert raised.value.exit_code == 5
    assert not restored(office)


def test_two_people_restore_once(office: Office, index: Path) -> None:
    anna, bert = office.of("anna"), office.of("bert")
    request = office.request(anna)
    with pytest.raises(Refused, match="is pending"):
        anna.restore("latest", office.target)
    assert bert.grant_approval(request[:8], "saw it").state is State.GRANTED
    assert not restored(office)
    anna.restore("latest", office.target)
    assert (office.folder / "out" / "x.faiss").read_bytes() == index.read_bytes()
    with pytest.raises(Refused, match="is used"):
        anna.restore("latest", office.target)
    assert approvals.find(bert.repository, request).state is State.USED
    told = [one for one in audit.operations(anna.repository) if one.verb == "restore"]
    assert [one.result for one in told] == ["refused", "done", "refused"]
    assert told[1].approval == request
    assert office.of("admin").verify_audit().problems == ()


@pytest.mark.parametrize("other", ["target", "snapshot", "collection", "overwrite", "verb"])
def test_it_is_for_exactly_what_was_asked(other: str, office: Office) -> None:
    anna = office.of("anna")
    office.of("bert").grant_approval(office.request(anna))
    with pytest.raises(Refused):
        if other == "target":
            anna.restore("latest", f"faiss://{office.folder}/elsewhere/x.faiss")
        elif other == "snapshot":
            anna.restore("latest~1", office.target)
        elif other == "collection":
            anna.restore("latest", office.target, collections=["x"])
        elif other == "overwrite":
            anna.restore("latest", office.target, overwrite=True)
        else:
            admin = office.of("admin")
            admin.access.approval = anna.access.approval
            admin.forget(ForgetOptions(("latest",)))
    assert not list(office.folder.rglob("x.faiss"))


def test_latest_is_the_one_that_was_asked_for(office: Office, index: Path) -> None:
    """A backup comes between: 'latest' is another one now."""
    anna, otto = office.of("anna"), office.of("otto")
    request = office.request(anna)
    asked = anna.snapshot().id
    office.of("bert").grant_approval(request)
    otto.backup(f"faiss://{index}", probes=0)
    with pytest.raises(Refused, match="something else"):
        anna.restore("latest", office.target)
    assert anna.restore(asked, office.target).plan.snapshot == asked


def test_a_moment_is_the_one_that_was_meant(office: Office) -> None:
    anna = office.of("anna")
    asked = office.asked(anna, lambda room: room.restore("latest", office.target, at="10 minutes ago"))
    assert asked.arguments["at"] == "2027-01-15T07:50:02+00:00"


def test_nobody_grants_their_own(office: Office) -> None:
    """Not under another password either, nor with a token."""
    anna = office.of("anna")
    request = office.request(anna)
    token = anna.create_token(AccessRole.OBSERVER, timedelta(hours=1))
    anna.change_passphrase(Secret.passphrase("anna"), Secret.passphrase("anna again"), cost=CHEAP)
    (office.folder / "token").write_text(token.text)
    for room in (
        anna,
        office.of("anna again"),
        open_repository(office.url, key_file=office.folder / "token", clock=office.clock),
    ):
        with pytest.raises(Refused):
            room.grant_approval(request)


def test_a_token_of_an_administrator_counts_as_that_administrator(office: Office) -> None:
    """Two tokens that one person made are no two people."""
    admin = office.of("admin")
    rooms = []
    for name in ("one", "two"):
        (office.folder / name).write_text(admin.create_token(AccessRole.RESTORER, timedelta(hours=1), name).text)
        rooms.append(open_repository(office.url, key_file=office.folder / name, clock=office.clock))
    request = office.request(rooms[0])
    with pytest.raises(Refused, match="of their own"):
        rooms[1].grant_approval(request)


def test_who_may_not_do_it_may_not_grant_it(office: Office) -> None:
    request = office.request(office.of("anna"))
    with pytest.raises(Refused, match="role operator"):
        office.of("otto").grant_approval(request)


def test_a_denial_is_final(office: Office) -> None:
    anna = office.of("anna")
    request = office.request(anna)
    office.of("carl").grant_approval(request)
    assert office.of("bert").deny_approval(request, "no").state is State.DENIED
    with pytest.raises(Refused, match="is denied"):
        anna.restore("latest", office.target)
    with pytest.raises(Refused, match="is denied"):
        office.of("admin").grant_approval(request)


def test_an_answer_is_given_once(office: Office) -> None:
    request = office.request(office.of("anna"))
    bert = office.of("bert")
    bert.grant_approval(request)
    with pytest.raises(Refused, match="answered this request already"):
        bert.deny_approval(request)


def test_it_expires(office: Office) -> None:
    anna = office.of("anna")
    request = office.request(anna)
    office.of("bert").grant_approval(request)
    office.time[0] += 24 * 3600
    with pytest.raises(Refused, match="is expired"):
        anna.restore("latest", office.target)
    with pytest.raises(Refused, match="is expired"):
        office.of("carl").grant_approval(request)


def test_who_is_gone_has_approved_nothing(office: Office) -> None:
    anna = office.of("anna")
    request = office.request(anna)
    bert = office.of("bert")
    bert.grant_approval(request)
    office.of("admin").remove_key(bert.repository.identity.slot)
    with pytest.raises(Refused, match="is pending"):
        anna.restore("latest", office.target)
    ((asked,), rule) = office.of("admin").approvals()[1], office.of("admin").approvals()[0]
    assert rule is not None
    assert [one.counts for one in asked.answers] == [False]


def test_another_one_can_not_use_it(office: Office) -> None:
    anna, carl = office.of("anna"), office.of("carl")
    office.of("bert").grant_approval(office.request(anna))
    carl.access.approval = anna.access.approval
    with pytest.raises(Refused, match="another person's"):
        carl.restore("latest", office.target)


def test_three_people_are_three(office: Office) -> None:
    admin = office.of("admin")
    change = lambda room: room.require_approval(["restore"], people=3)  # noqa: E731 - done twice
    asked = office.asked(admin, change)
    admin.access.approval = asked.id
    with pytest.raises(Refused, match="role restorer may not"):
        office.of("anna").grant_approval(asked.id)
    admin.add_key(Secret.passphrase("second admin"), "second", cost=CHEAP)
    office.of("second admin").grant_approval(asked.id)
    assert change(admin).people == 3
    anna = office.of("anna")
    request = office.request(anna)
    assert office.of("bert").grant_approval(request).state is State.PENDING
    assert office.of("carl").grant_approval(request).state is State.GRANTED
    anna.restore("latest", office.target)


def test_a_forged_answer_counts_for_nothing(office: Office) -> None:
    """Made with the repository's keys, in another one's name, under the name where it belongs."""
    anna = office.of("anna")
    request = office.request(anna)
    bert = office.of("bert").repository.identity
    name = f"{FOLDER}{request}/answers/{bert.slot}"
    said = {"request": request, "granted": True, "reason": "", "at": anna.repository.clock.now().isoformat()}
    said |= {"slot": bert.slot, "person": bert.person, "label": bert.label}
    for signer in (anna.repository.signer, None):
        anna.repository.store.delete(name)
        record = {"strongroom_approval": 1, "answer": said}
        anna.repository.store.create(name, seal_record(anna.repository.keys, Kind.APPROVAL, name, record, signer))
        with pytest.raises(Refused, match="is pending"):
            anna.restore("latest", office.target)


def test_an_answer_to_another_request_counts_for_nothing(office: Office) -> None:
    anna = office.of("anna")
    first = office.request(anna, overwrite=True)
    office.of("bert").grant_approval(first)
    second = office.request(anna)
    store, slot = anna.repository.store, office.of("bert").repository.identity.slot
    store.create(f"{FOLDER}{second}/answers/{slot}", store.read(f"{FOLDER}{first}/answers/{slot}"))
    with pytest.raises(Refused, match="is pending"):
        anna.restore("latest", office.target)


def test_a_rule_that_was_taken_away_opens_nothing(office: Office) -> None:
    """On a machine that has seen it."""
    anna = office.of("anna")
    anna.repository.store.delete(f"{FOLDER}rules/000001")
    with pytest.raises(Damaged, match="this machine saw this rule"):
        anna.restore("latest", office.target)
    assert not restored(office)


def test_who_is_no_administrator_makes_no_rule(office: Office) -> None:
    anna = office.of("anna")
    with pytest.raises(Refused, match="the role restorer may not approval require"):
        anna.require_approval([])
    approvals.require(anna.repository, [])  # past the gate, as another program could
    with pytest.raises(Damaged, match="no administrator signed it"):
        anna.restore("latest", office.target)


def test_a_rule_guards_itself(office: Office) -> None:
    with pytest.raises(Refused, match="approval require needs 2 people"):
        office.of("admin").require_approval([])


def test_dry_runs_and_backups_need_nobody(office: Office, index: Path) -> None:
    office.of("anna").plan_restore("latest", office.target)
    office.of("otto").backup(f"faiss://{index}", probes=0)
    assert len(office.of("admin").forget(ForgetOptions(("latest",), dry_run=True)).forgotten) == 1
    with pytest.raises(Refused, match="forget needs 2 people"):
        office.of("admin").forget(ForgetOptions(("latest",)))


def test_a_request_for_what_needs_nobody_does_nothing(office: Office, index: Path) -> None:
    otto = office.of("otto")
    otto.access.requesting = True
    with pytest.raises(WrongRequest, match="needs no approval"):
        otto.backup(f"faiss://{index}", probes=0)
    assert len(otto.repository.manifest_ids()) == 2


@pytest.mark.parametrize("fault", ["crash before", "crash after", "unreachable before", "unreachable after", "denied"])
def test_a_restore_that_failed_goes_on_with_its_approval(fault: str, office: Office, index: Path) -> None:
    """At any operation of the store; and in the end it is used up."""
    anna = office.of("anna")
    request = office.request(anna)
    office.of("bert").grant_approval(request)
    plain = anna.repository.store
    for number in itertools.count():
        anna = office.of("anna")
        anna.access.approval = request
        faulty = FaultyStore(plain, at(number * 3, fault))
        anna.repository.store = faulty
        try:
            anna.restore(anna.snapshot().id, office.target)
        except (StrongroomError, SimulatedCrash):
            if approvals.find(office.of("anna").repository, request).state is State.USED:
                break
            continue
        break
    assert restored(office)
    assert (office.folder / "out" / "x.faiss").read_bytes() == index.read_bytes()
    last = office.of("anna")
    last.access.approval = request
    if approvals.find(last.repository, request).state is not State.USED:
        last.restore(last.snapshot().id, office.target)
    with pytest.raises(Refused, match="is used"):
        last.restore(last.snapshot().id, office.target)


def test_another_machine_does_not_go_on_with_it(office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    anna = office.of("anna")
    request = office.request(anna)
    office.of("bert").grant_approval(request)
    plain = anna.repository.store
    anna.repository.store = FaultyStore(plain, first_create(f"{FOLDER}{request}/used", "crash after"))
    with pytest.raises(SimulatedCrash):
        anna.restore("latest", office.target)
    monkeypatch.setenv("STRONGROOM_STATE_DIR", str(tmp_path / "another machine"))
    again = office.of("anna")
    again.access.approval = request
    with pytest.raises(Refused, match="is used already"):
        again.restore("latest", office.target)


def test_a_reason_can_be_asked_for(office: Office) -> None:
    office.of("admin").access.reason = ""
    url = f"memory://office-{next(_NAMES)}"
    admin = init_repository(url, password="admin", cost=CHEAP)
    admin.require_approval([], people=1, reasons=["forget", "remove_key"])
    with pytest.raises(Refused, match="key remove needs a reason"):
        admin.remove_key("x")
    admin.access.reason = "he left"
    with pytest.raises(NotFound):
        admin.remove_key("x")
    assert audit.operations(admin.repository)[-1].reason == "he left"


@pytest.mark.parametrize("verbs", [["backup"], ["no such verb"], ["snapshots"]])
def test_what_can_not_be_governed_is_a_wrong_request(verbs: list[str], office: Office) -> None:
    admin = init_repository(f"memory://office-{next(_NAMES)}", password="admin", cost=CHEAP)
    with pytest.raises(WrongRequest, match="no second person"):
        admin.require_approval(verbs)


# -- tokens ------------------------------------------------------------------------------------------------------------------


def with_token(office: Office, text: str) -> Strongroom:
    path = office.folder / f"token-{next(_NAMES)}"
    path.write_text(text)
    return open_repository(office.url, key_file=path, clock=office.clock)


def test_a_token_opens_until_it_ends(office: Office) -> None:
    token = office.of("admin").create_token(AccessRole.RESTORER, timedelta(hours=8), "night")
    room = with_token(office, token.text)
    assert (room.repository.identity.role, room.repository.identity.label) == (AccessRole.RESTORER, "night")
    assert room.snapshots()
    office.time[0] += 8 * 3600
    with pytest.raises(WrongKey, match="ended at"):
        room.snapshots()  # one that was open all the time
    with pytest.raises(WrongKey, match="ended at"):
        with_token(office, token.text)


def test_prune_takes_away_what_has_ended(office: Office) -> None:
    admin = office.of("admin")
    token = admin.create_token(AccessRole.OBSERVER, timedelta(hours=8))
    admin.prune()
    assert [slot.id for slot in admin.tokens()] == [token.slot.id]
    office.time[0] += 9 * 3600 + 1
    admin.prune()
    assert admin.tokens() == []


@pytest.mark.parametrize(
    ("maker", "role"),
    [("anna", "restorer"), ("anna", "operator"), ("otto", "auditor"), ("admin", "admin"), ("otto", "admin")],
)
def test_nobody_makes_a_token_that_may_do_more(maker: str, role: str, office: Office) -> None:
    with pytest.raises(Refused, match="can't make a token"):
        office.of(maker).create_token(AccessRole(role), timedelta(hours=1))


def test_a_token_makes_no_token(office: Office) -> None:
    token = office.of("admin").create_token(AccessRole.RESTORER, timedelta(hours=1))
    with pytest.raises(Refused, match="a token makes no tokens"):
        with_token(office, token.text).create_token(AccessRole.OBSERVER, timedelta(hours=2))


def test_a_token_is_revoked_by_who_made_it_or_an_administrator(office: Office) -> None:
    anna, bert = office.of("anna"), office.of("bert")
    token = anna.create_token(AccessRole.OBSERVER, timedelta(hours=1))
    with pytest.raises(Refused, match="somebody else's"):
        bert.revoke_token(token.slot.id)
    anna.revoke_token(token.slot.id[:12])
    with pytest.raises(WrongKey):
        with_token(office, token.text)
    with pytest.raises(NotFound):  # a key is no token
        office.of("admin").revoke_token(anna.repository.identity.slot)


@pytest.mark.parametrize("time", [timedelta(0), timedelta(days=32), timedelta(seconds=-1)])
def test_a_token_lasts_a_while_and_no_longer(time: timedelta, office: Office) -> None:
    with pytest.raises(WrongRequest, match="at most 31 days"):
        office.of("admin").create_token(AccessRole.OBSERVER, time)


def test_the_last_administrators_key_stays_though_tokens_and_other_keys_are_there(office: Office) -> None:
    """They end, or may not make keys: the repository could never be managed again."""
    admin = office.of("admin")
    admin.create_token(AccessRole.RESTORER, timedelta(hours=1))
    with pytest.raises(Refused, match="last key slot of an administrator"):
        admin.remove_key(admin.repository.identity.slot)


def test_a_new_password_keeps_role_and_person(office: Office) -> None:
    anna = office.of("anna")
    before = anna.repository.identity
    anna.change_passphrase(Secret.passphrase("anna"), Secret.passphrase("new"), cost=CHEAP)
    after = office.of("new").repository.identity
    assert (after.role, after.person, after.label) == (before.role, before.person, before.label)
    assert after.slot != before.slot
