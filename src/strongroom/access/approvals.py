"""Two people for what can't be taken back: a rule, a request, its answers, and one use.

    approvals/rules/<number, 6 digits>          what needs how many people; the highest number counts
    approvals/<request>/request                 exactly what is asked for, by whom, until when
    approvals/<request>/answers/<slot>          granted or denied, once an identity
    approvals/<request>/used                    who uses it: the first to create it, alone
    approvals/<request>/done                    it was used up

Each is signed by the slot that wrote it (`signed_records`), whose public key stands in the slot: nobody can answer for another one,
and an answer counts only as long as its slot is there.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from strongroom.access.roles import VERBS, command_of, may, named, verb_of
from strongroom.errors import AlreadyExists, Damaged, NotFound, Refused, Unreachable, WrongRequest
from strongroom.repository import Repository
from strongroom.repository.crypto import random_bytes
from strongroom.repository.framing import Kind
from strongroom.repository.identity import AccessRole, Identity
from strongroom.repository.signed_records import UNPROVEN, SignedRecord, open_record, seal_record
from strongroom.repository.state import alone_at, state_directory

FOLDER = "approvals/"
_RULES = f"{FOLDER}rules/"
_FORMAT = 1
_RULE = re.compile(rf"{_RULES}(\d{{6}})")
_REQUEST = re.compile(rf"{FOLDER}([0-9a-f]{{32}})/(.+)")
Permit = AbstractContextManager[None]
FREE: Permit = nullcontext()
"""Of what needs no approval."""


class State(StrEnum):
    """How it stands with a request."""

    PENDING = "pending"
    GRANTED = "granted"
    DENIED = "denied"
    EXPIRED = "expired"
    USED = "used"


@dataclass(frozen=True, slots=True)
class Rule:
    """`verbs` need `people` people, who asks for it being one of them, within `seconds` of the request; `reasons` need a reason."""

    number: int
    verbs: tuple[str, ...]
    people: int
    seconds: int
    reasons: tuple[str, ...]
    by: str = ""

    def governs(self, verb: str) -> bool:
        """A rule guards itself: one person can't do away with what needs two."""
        return self.people > 1 and (verb in self.verbs or (bool(self.verbs) and verb == "require_approval"))


@dataclass(frozen=True, slots=True)
class Answer:
    """One identity's answer; it `counts` if its slot is still there, signed it, may do so and is another person's."""

    slot: str
    person: str
    label: str
    granted: bool
    reason: str
    at: str
    counts: bool


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, by whom, and how it stands. Times are UTC."""

    id: str
    verb: str
    arguments: Mapping[str, Any]
    reason: str
    slot: str
    person: str
    label: str
    at: str
    until: str
    people: int
    state: State = State.PENDING
    answers: tuple[Answer, ...] = field(default=())

    @property
    def summary(self) -> dict[str, Any]:
        return {"request": self.id, "of": dict(self.arguments)}


# -- the rule ----------------------------------------------------------------------------------------------------------------


def rule_of(repository: Repository) -> Rule | None:
    """The rule that is in force, None if there never was one. Raises Damaged if it can't be read, or was taken away since this
    machine last saw it: then nothing that it may govern is done."""
    numbers = [int(found[1]) for one in repository.store.list(_RULES) if (found := _RULE.fullmatch(one.name))]
    newest = max(numbers, default=0)
    known = _known_rule(repository)
    if newest < known:
        hint = "somebody deleted it: an administrator sets it anew with 'strongroom approval require'"
        raise Damaged(f"{_RULES}{known:06d}", "this machine saw this rule, and it is not there", hint=hint)
    if newest == 0:
        return None
    record = _read(repository, f"{_RULES}{newest:06d}")
    by = [who.role for who in _identities(repository).values() if who.signer == record.signer]
    if any(role is not AccessRole.ADMIN for role in by):
        raise Damaged(record.name, "no administrator signed it")
    try:
        said = record.said["rule"]
        rule = Rule(newest, tuple(said["verbs"]), int(said["people"]), int(said["seconds"]), tuple(said["reasons"]), said["by"])
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(record.name, "it is no rule") from error
    _remember_rule(repository, newest)
    return rule


def require(
    repository: Repository,
    verbs: Iterable[str],
    people: int = 2,
    expires: timedelta = timedelta(hours=24),
    reasons: Iterable[str] = (),
) -> Rule:
    """Put a rule in force in the place of the one before. Raises WrongRequest, or Refused if another one was faster."""
    names, why = tuple(sorted({_governed(one) for one in verbs})), tuple(sorted({_governed(one) for one in reasons}))
    if people < 1 or expires <= timedelta(0):
        raise WrongRequest("a rule needs at least one person, and some time", hint="--people 2 --expires 24h")
    numbers = [int(found[1]) for one in repository.store.list(_RULES) if (found := _RULE.fullmatch(one.name))]
    number = max([*numbers, _known_rule(repository)], default=0) + 1
    rule = Rule(number, names, people, int(expires.total_seconds()), why, repository.identity.slot)
    said = {name: value for name, value in asdict(rule).items() if name != "number"}
    try:
        _write(repository, f"{_RULES}{number:06d}", {"rule": said, "at": _now(repository)})
    except AlreadyExists as error:
        raise Refused("another administrator set a rule at the same time", hint="see 'strongroom approval list'") from error
    _remember_rule(repository, number)
    return rule


def _governed(verb: str) -> str:
    name = named(verb)
    if name not in VERBS or not verb_of(name).governed:
        governed = ", ".join(command_of(one) for one, what in VERBS.items() if what.governed)
        raise WrongRequest(f"no second person can be asked for to {verb!r}", hint=f"there are {governed}")
    return name


# -- requests and answers ----------------------------------------------------------------------------------------------------


def request(repository: Repository, rule: Rule, verb: str, arguments: Mapping[str, Any], reason: str) -> Request:
    """Ask for exactly this. Raises Refused for an identity that can't sign."""
    who, now = _signing(repository), repository.clock.now()
    until = now + timedelta(seconds=rule.seconds)
    asked = Request(
        id=random_bytes(16).hex(),
        verb=verb,
        arguments=arguments,
        reason=reason,
        slot=who.slot,
        person=who.person,
        label=who.label,
        at=now.isoformat(),
        until=until.isoformat(),
        people=rule.people,
    )
    said = {name: value for name, value in asdict(asked).items() if name not in ("state", "answers")}
    _write(repository, f"{FOLDER}{asked.id}/request", {"request": said})
    return asked


def answer(repository: Repository, prefix: str, *, granted: bool, reason: str = "") -> Request:
    """Grant or deny a request. Raises NotFound, or Refused: one's own, one that has ended, a second answer."""
    asked, who = find(repository, prefix), _signing(repository)
    if who.person == asked.person and granted:
        raise Refused("nobody approves a request of their own", hint="ask somebody who has another key")
    if not may(who.role, asked.verb):
        raise Refused(f"the role {who.role.value} may not {command_of(asked.verb)}, nor grant it", hint="ask an administrator")
    if asked.state not in (State.PENDING, State.GRANTED):
        raise Refused(f"request {asked.id[:12]} is {asked.state.value}", hint="ask for it anew: 'strongroom approval request'")
    said = {"request": asked.id, "granted": granted, "reason": reason, "at": _now(repository)}
    said |= {"slot": who.slot, "person": who.person, "label": who.label}
    name = f"{FOLDER}{asked.id}/answers/{who.slot}"
    try:
        _write(repository, name, {"answer": said})
    except AlreadyExists as error:
        raise Refused("this key has answered this request already", hint="see 'strongroom approval list'") from error
    return find(repository, asked.id)


def requests(repository: Repository) -> list[Request]:
    """All that can be read, oldest first."""
    found: dict[str, set[str]] = {}
    for listed in repository.store.list(FOLDER):
        named = _REQUEST.fullmatch(listed.name)
        if named:
            found.setdefault(named[1], set()).add(named[2])
    slots = _identities(repository)
    read = [_request(repository, one, parts, slots) for one, parts in found.items() if "request" in parts]
    return sorted(read, key=lambda one: one.at)


def find(repository: Repository, prefix: str) -> Request:
    """The request whose id begins so. Raises NotFound or Damaged."""
    found = {
        named[1] for one in repository.store.list(FOLDER) if (named := _REQUEST.fullmatch(one.name)) and named[1].startswith(prefix)
    }
    if len(found) != 1 or not prefix:
        raise NotFound(f"{len(found)} requests begin with {prefix!r}", hint="see 'strongroom approval list'")
    (request_id,) = found
    parts = {one.name.removeprefix(f"{FOLDER}{request_id}/") for one in repository.store.list(f"{FOLDER}{request_id}/")}
    return _request(repository, request_id, parts, _identities(repository))


def _request(repository: Repository, request_id: str, parts: set[str], slots: Mapping[str, Identity]) -> Request:
    record = _read(repository, f"{FOLDER}{request_id}/request")
    try:
        asked = Request(**record.said["request"])
        datetime.fromisoformat(asked.until)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(record.name, "it is no request") from error
    asker = slots.get(asked.slot)
    if asked.id != request_id or asker is None or record.signer != asker.signer or asker.person != asked.person:
        asked = _with(asked, State.DENIED, ())  # whoever wrote it isn't, or is no longer, who it says
        return asked
    names = sorted(one for one in parts if one.startswith("answers/"))
    answers = tuple(one for one in (_answer(repository, asked, name, slots) for name in names) if one is not None)
    return _with(asked, _state(repository, asked, answers, parts), answers)


def _with(asked: Request, state: State, answers: tuple[Answer, ...]) -> Request:
    said = {name: getattr(asked, name) for name in Request.__dataclass_fields__}
    return Request(**{**said, "state": state, "answers": answers})


def _state(repository: Repository, asked: Request, answers: tuple[Answer, ...], parts: set[str]) -> State:
    counting = [one for one in answers if one.counts]
    if "done" in parts:
        return State.USED
    if any(not one.granted for one in counting):
        return State.DENIED
    if repository.clock.now() >= datetime.fromisoformat(asked.until):
        return State.EXPIRED
    return State.GRANTED if len({one.person for one in counting}) >= asked.people - 1 else State.PENDING


def _answer(repository: Repository, asked: Request, part: str, slots: Mapping[str, Identity]) -> Answer | None:
    """None if it can't be read: then it counts for nothing."""
    name = f"{FOLDER}{asked.id}/{part}"
    try:
        record = _read(repository, name)
        said = record.said["answer"]
        given = Answer(said["slot"], said["person"], said["label"], bool(said["granted"]), said["reason"], said["at"], counts=False)
    except (Damaged, NotFound, KeyError, TypeError):
        return None
    slot = slots.get(given.slot)
    counts = (
        slot is not None
        and part == f"answers/{given.slot}"
        and said.get("request") == asked.id
        and record.signer == slot.signer
        and slot.person == given.person != asked.person
        and may(slot.role, asked.verb)
        and (slot.expires is None or repository.clock.now() < slot.expires)
    )
    return Answer(given.slot, given.person, given.label, given.granted, given.reason, given.at, counts)


# -- one use -----------------------------------------------------------------------------------------------------------------


def permit(repository: Repository, rule: Rule, verb: str, arguments: Mapping[str, Any], approval: str) -> Permit:
    """What holds an approval while it is used. Raises Refused unless it was granted, to this person, for exactly this."""
    words = command_of(verb)
    if not approval:
        hint = f"ask for it: strongroom approval request --reason TEXT {words} ..., then add --approval ID"
        raise Refused(f"{words} needs {rule.people} people here", hint=hint)
    asked = find(repository, approval)
    if asked.person != repository.identity.person:
        raise Refused(f"request {asked.id[:12]} is another person's", hint="who asked for it uses it; ask for one of your own")
    if asked.verb != verb or dict(asked.arguments) != dict(arguments):
        raise Refused(f"request {asked.id[:12]} is for something else: {describe(asked)}", hint="do exactly that, or ask anew")
    if asked.state is not State.GRANTED or asked.people < rule.people:
        state = (
            asked.state.value if asked.state is not State.GRANTED else f"for {asked.people} people, and {rule.people} are needed"
        )
        raise Refused(f"request {asked.id[:12]} is {state}", hint="see 'strongroom approval list'; a new one can be asked for")
    return _used(repository, asked)


@contextmanager
def _used(repository: Repository, asked: Request) -> Iterator[None]:
    """Once: whoever creates `used` has it, and goes on with it after a failure, on the same machine, until `done` is there."""
    name, path = f"{FOLDER}{asked.id}/used", state_directory() / f"{repository.config.repository_id.hex()}-{asked.id}.approval"
    with ExitStack() as stack:
        try:
            stack.enter_context(alone_at(path, wait=False))
        except BlockingIOError as error:
            raise Refused(f"request {asked.id[:12]} is in use", hint="wait for the other process") from error
        except OSError:  # a machine that can't remember may use it, but not go on with it
            pass
        nonce = _nonce(path)
        try:
            _write(repository, name, {"used": asked.id, "nonce": nonce, "at": _now(repository), "slot": repository.identity.slot})
        except AlreadyExists:
            if _read(repository, name).said.get("nonce") != nonce:
                raise Refused(f"request {asked.id[:12]} is used already", hint="ask for a new one") from None
        yield
        _write(repository, f"{FOLDER}{asked.id}/done", {"used": asked.id, "at": _now(repository)})
        with suppress(OSError):
            path.unlink()


def _nonce(path: os.PathLike[str]) -> str:
    """What this machine uses a request with: made once, and kept until it is done."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return random_bytes(16).hex()  # it can't be kept: the request can be used, but not gone on with
    with os.fdopen(descriptor, "r+") as file:
        kept = file.read()
        if len(kept) != 32:
            kept = random_bytes(16).hex()
            file.seek(0)
            file.write(kept)
            file.flush()
            os.fsync(file.fileno())
    return kept


# -- records -----------------------------------------------------------------------------------------------------------------


def describe(asked: Request) -> str:
    """What was asked for, in a line."""
    said = " ".join(f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in asked.arguments.items())
    return f"{command_of(asked.verb)} {said}".strip()


def _signing(repository: Repository) -> Identity:
    if repository.signer is None:
        hint = "'strongroom key passwd' makes a new slot of the same person; or add a key file and remove the old one"
        raise Refused("this key slot is of an older Strongroom and can't sign", hint=hint)
    return repository.identity


def _identities(repository: Repository) -> dict[str, Identity]:
    return {slot.id: slot.identity for slot in repository.key_slots()[0]}


def _write(repository: Repository, name: str, said: Mapping[str, Any]) -> None:
    """Raises AlreadyExists if another one's is there: a name says nothing of what it holds."""
    content = seal_record(repository.keys, Kind.APPROVAL, name, {"strongroom_approval": _FORMAT, **said}, repository.signer)
    try:
        repository.store.create(name, content)
    except (AlreadyExists, Unreachable, Damaged):  # Damaged: a store without conditions has another one's
        with suppress(NotFound):
            if repository.store.read(name) == content:
                return
            raise AlreadyExists(f"{name} is already there") from None
        raise


def _read(repository: Repository, name: str) -> SignedRecord:
    record = open_record(repository.keys, Kind.APPROVAL, name, repository.store.read(name))
    if record.signer == UNPROVEN:
        raise Damaged(name, "it isn't signed by anybody's own key")
    if record.said.get("strongroom_approval") != _FORMAT:
        raise Damaged(name, "a newer Strongroom wrote it", hint="use a newer Strongroom")
    return record


def _now(repository: Repository) -> str:
    return repository.clock.now().isoformat()


def _known_rule(repository: Repository) -> int:
    with suppress(OSError, ValueError):
        return int(_rule_path(repository).read_text())
    return 0


def _remember_rule(repository: Repository, number: int) -> None:
    path = _rule_path(repository)
    with suppress(OSError), alone_at(path):
        if number > _known_rule(repository):
            path.write_text(str(number))


def _rule_path(repository: Repository) -> Any:
    return state_directory() / f"{repository.config.repository_id.hex()}.rule"
