"""May this be done, and who did it? Every verb of the library passes through here: role, reason, approval, audit log.

An entry is written before anything that can't be taken back (the intent) and one after it (the result), so that a process that is
killed leaves an intent without a result. Verbs that only look leave one entry, afterwards.
"""

from __future__ import annotations

import functools
import inspect
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from strongroom.access import approvals
from strongroom.access.recorded import arguments_of, outcome_of, without_secrets
from strongroom.access.roles import WRITING, Verb, command_of, may, needed_for, row_of, verb_of
from strongroom.clock import Clock
from strongroom.errors import Damaged, Refused, StoreDenied, StrongroomError, WrongRequest
from strongroom.journal.times import parse_time
from strongroom.repository import Repository, Secret, Store
from strongroom.repository.audit_log import AuditLog
from strongroom.repository.host_keys import HINT
from strongroom.repository.turned_away import user
from strongroom.repository.unlocking import require_valid
from strongroom.snapshots import history

Kind = TypeVar("Kind", bound=type)
_LOOK_EVERY = 3600.0
"""Seconds within which a process that looks again at the same thing leaves no new entry."""
_INTERRUPTED = 130
_within: ContextVar[bool] = ContextVar("within", default=False)
_asking: ContextVar[bool] = ContextVar("asking", default=False)


class Requested(Exception):
    """Instead of being done, the operation was written down as a request for approval."""

    def __init__(self, request: approvals.Request) -> None:
        super().__init__(request.id)
        self.request = request


@dataclass
class Deed:
    """One operation under way. What came of it is put into `outcome`."""

    verb: str
    arguments: dict[str, Any]
    outcome: dict[str, Any] = field(default_factory=dict)


class Gate:
    """What stands before one opened repository. `reason` and `approval` (a request's id) go with whatever is done next; unless they
    are set, $STRONGROOM_REASON and $STRONGROOM_APPROVAL say them. With `requesting` nothing governed is done, but asked for."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.reason = os.environ.get("STRONGROOM_REASON", "")
        self.approval = os.environ.get("STRONGROOM_APPROVAL", "")
        self.requesting = _asking.get()
        self._looked: dict[str, float] = {}

    @property
    def log(self) -> AuditLog:
        return AuditLog(self.repository.store, self.repository.keys, self.repository.signer)

    @contextmanager
    def doing(self, name: str, arguments: Mapping[str, Any]) -> Iterator[Deed]:
        """While an operation is done. Raises WrongKey (a token has ended), Refused, or, for what changes or reveals something, what
        the store says to an entry that can't be written."""
        verb, deed = verb_of(row_of(name, arguments)), Deed(name, dict(arguments))
        if verb.looks and verb.lists and _within.get():
            yield deed
            return
        require_valid(self.repository.identity, self.repository.clock)
        permit = self._admitted(deed, verb)
        intent = None if verb.looks else self._intend(deed)
        within = _within.set(True)
        try:
            with permit:
                yield deed
        except BaseException as error:
            self._tell(deed, verb, intent, "refused" if isinstance(error, Refused) else "failed", error)
            raise
        finally:
            _within.reset(within)
        self._tell(deed, verb, intent, "done")

    def begun(self) -> None:
        """The first entry of a new repository: who made it, and the key slots that there are."""
        self._write(Deed("init", {"url": without_secrets(self.repository.store.url)}), "done")

    def did(self, deed: Deed) -> None:
        """What was done before there was a log to write it into."""
        self._write(deed, "done")

    def _intend(self, deed: Deed) -> int:
        """What isn't written down isn't done, be it at a replica in need."""
        try:
            return self._write(deed, "begun")
        except StoreDenied as error:
            hint = f"{error.hint}; it needs a store, or a copy of it, to which objects may be added below audit/"
            raise StoreDenied(f"{command_of(deed.verb)} must be written into the audit log first: {error}", hint=hint) from error

    def _admitted(self, deed: Deed, verb: Verb) -> approvals.Permit:
        """Raises Refused, and says so in the log if that can be written, or Requested."""
        try:
            self._require_role(deed)
            rule = self._rule_for(deed, verb)
            if rule is None or not rule.governs(deed.verb):
                return self._free(deed, verb)
            deed.arguments = self._settled(deed.arguments)
            if self.requesting:
                raise Requested(approvals.request(self.repository, rule, deed.verb, deed.arguments, self.reason))
            return approvals.permit(self.repository, rule, deed.verb, deed.arguments, self.approval)
        except Refused as error:
            with suppress(StrongroomError):
                self._write(deed, "refused", error=error)
            raise
        except Requested as asked:
            self._write(Deed("request_approval", {"verb": deed.verb, **asked.request.summary}), "done")
            raise

    def _rule_for(self, deed: Deed, verb: Verb) -> approvals.Rule | None:
        """The rule, if it can be about this. Raises Refused if it wants a reason and there is none."""
        if not verb.governed or deed.arguments.get("dry_run") or deed.arguments.get("options", {}).get("dry_run"):
            return None
        rule = approvals.rule_of(self.repository)
        if rule is not None and deed.verb in rule.reasons and not self.reason:
            raise Refused(
                f"{command_of(deed.verb)} needs a reason here", hint="give one: strongroom --reason TEXT ..., or STRONGROOM_REASON"
            )
        return rule

    def _free(self, deed: Deed, verb: Verb) -> approvals.Permit:
        """What needs no second person; it isn't done either if it was only to be asked for."""
        if self.requesting and not verb.looks:
            raise WrongRequest(
                f"{command_of(deed.verb)} needs no approval here", hint="just do it; 'strongroom approval list' shows the rule"
            )
        return approvals.FREE

    def _require_role(self, deed: Deed) -> None:
        identity = self.repository.identity
        row = row_of(deed.verb, deed.arguments)
        if not self.repository.reads and deed.verb not in WRITING:
            raise Refused(f"{command_of(row)} needs to read: this key can only back up", hint=HINT)
        if not may(identity.role, row):
            raise Refused(f"the role {identity.role.value} may not {command_of(row)}", hint=f"it needs the role {needed_for(row)}")

    def _settled(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments with each name and time that means another thing later replaced by what it means now."""
        said, now = dict(arguments), self.repository.clock.now()
        if "snapshot" in said and not {"at", "undo", "where"} & said.keys():
            said["snapshot"] = history.find(self.repository, said["snapshot"]).id
        times = [said["at"]] if "at" in said else []
        times += said.get("between", [])
        fixed = {one: time.isoformat() for one in times if (time := parse_time(one, now)) is not None}
        if "at" in said:
            said["at"] = fixed.get(said["at"], said["at"])
        if "between" in said:
            said["between"] = [fixed.get(one, one) for one in said["between"]]
        return said

    def _tell(self, deed: Deed, verb: Verb, intent: int | None, result: str, error: BaseException | None = None) -> None:
        """What came of it. It is done, or isn't, whatever becomes of this entry: an intent without one is shown as such."""
        if verb.looks and verb.lists:
            now = self.repository.clock.timer()
            if error is None and now - self._looked.get(deed.verb, -_LOOK_EVERY) < _LOOK_EVERY:
                return
            self._looked[deed.verb] = now
        with suppress(StrongroomError):
            self._write(deed, result, intent=intent, error=error)

    def _write(self, deed: Deed, what: str, *, intent: int | None = None, error: BaseException | None = None) -> int:
        identity = self.repository.identity
        who: dict[str, Any] = {
            "slot": identity.slot,
            "person": identity.person,
            "label": identity.label,
            "role": identity.role.value,
        }
        who |= {"user": user(), "host": socket.gethostname(), "process": os.getpid()}
        said: dict[str, Any] = {"at": self.repository.clock.now().isoformat(), "verb": deed.verb, "what": what, "who": who}
        if intent is None:
            said |= {"arguments": deed.arguments, "reason": self.reason, "approval": self.approval}
        else:
            said["of"] = intent
        if error is not None:
            code = error.exit_code if isinstance(error, StrongroomError) else 1 if isinstance(error, Exception) else _INTERRUPTED
            said |= {"error": without_secrets(f"{type(error).__name__}: {error}"), "exit_code": code}
        if deed.outcome:
            said["outcome"] = deed.outcome
        return self.log.append(said, self._slots)

    def _slots(self) -> dict[str, Any]:
        """What the first entry says besides: which slots there were when the log began."""
        return {"slots": [outcome_of(slot) for slot in self.repository.key_slots()[0]]}


@contextmanager
def asking() -> Iterator[None]:
    """Repositories that are opened inside are asked for approval instead of being changed: what needs it raises Requested."""
    token = _asking.set(True)
    try:
        yield
    finally:
        _asking.reset(token)


@contextmanager
def repairing(store: Store, secret: Secret, clock: Clock, arguments: Mapping[str, Any]) -> Iterator[Deed]:
    """As `Gate.doing`, of a repository that may be too damaged to be opened: then it is logged once it opens again.
    Raises WrongKey."""
    try:
        gate = Gate(Repository.open(store, secret, clock=clock))
    except Damaged:
        deed = Deed("repair", dict(arguments))
        yield deed
        with suppress(StrongroomError):
            Gate(Repository.open(store, secret, clock=clock)).did(deed)
        return
    with gate.doing("repair", arguments) as deed:
        yield deed


@contextmanager
def noted_afterwards(store: Store, secret: Secret, clock: Clock, verb: str, arguments: Mapping[str, Any]) -> Iterator[Deed]:
    """Of a repository whose log itself may be out of sight: what was done is logged once it is done, if it can be."""
    deed = Deed(verb, dict(arguments))
    yield deed
    with suppress(StrongroomError):
        Gate(Repository.open(store, secret, clock=clock)).did(deed)


def gated(kind: Kind) -> Kind:
    """A class whose every public method passes through the gate (`self.access`) under its own name."""
    for name, method in list(vars(kind).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(kind, name, _through_the_gate(name, method))
    return kind


def _through_the_gate(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        said = arguments_of(method, self, *arguments, **named)
        with self.access.doing(name, said) as deed:
            result = method(self, *arguments, **named)
            deed.outcome = outcome_of(result)
            return result

    return call
