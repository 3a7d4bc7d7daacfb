"""What does the audit log say, and is it whole, in order, and written by who it says?"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from strongroom.access.roles import named
from strongroom.errors import Damaged, WrongRequest
from strongroom.repository import Repository
from strongroom.repository.audit_log import FORMAT, NOTHING, AuditLog, Stored, entry_name
from strongroom.repository.crypto import content_hash, signed_by
from strongroom.repository.signed_records import UNPROVEN, SignedRecord, signed_message

_LEEWAY = timedelta(minutes=1)
_MAKING = {"add_key", "change_passphrase", "create_token", "rewrap_keys", "upgrade_key", "rotate_keys"}
"""Verbs whose outcome may be a new key slot."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What somebody did. `result` is done, failed, refused or unfinished: under way, or killed. `proven` if a key of the slot's own
    signed it; else it is only said to be this slot's."""

    number: int
    at: str
    ended: str
    verb: str
    who: Mapping[str, Any]
    arguments: Mapping[str, Any]
    result: str
    outcome: Mapping[str, Any]
    error: str
    reason: str
    approval: str
    proven: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """What was looked at and found: `problems` are signs of tampering, `notes` are not. `hash` is that of the last entry: kept
    somewhere else, it proves later that nothing of this log was taken away."""

    entries: int
    operations: int
    unfinished: int
    hash: str
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Export:
    """The lines of an exported log, and how many entries they hold."""

    entries: int
    lines: tuple[str, ...] = field(repr=False)


def log_of(repository: Repository) -> AuditLog:
    return AuditLog(repository.store, repository.keys, repository.signer)


# -- what it says ------------------------------------------------------------------------------------------------------------


def operations(repository: Repository) -> list[Operation]:
    """All that can be read, oldest first."""
    return operations_in(record for _, record in _records(log_of(repository).read()))


def operations_in(records: Iterable[SignedRecord]) -> list[Operation]:
    """The operations of entries in their order. Entries that make no sense are left out: `verify` tells of them."""
    found: dict[int, Operation] = {}
    for record in records:
        said = record.said
        try:
            if "of" in said:
                begun = found.get(said["of"])
                if begun is not None and begun.result == "unfinished" and begun.who["slot"] == said["who"]["slot"]:
                    found[said["of"]] = _ended(begun, said)
                continue
            found[said["number"]] = _operation(record)
        except (KeyError, TypeError, AttributeError):
            continue
    return list(found.values())


def _operation(record: SignedRecord) -> Operation:
    said = record.said
    result = {"begun": "unfinished"}.get(said["what"], said["what"])
    return Operation(
        number=said["number"],
        at=said["at"],
        ended="" if result == "unfinished" else said["at"],
        verb=said["verb"],
        who=said["who"],
        arguments=said.get("arguments", {}),
        result=result,
        outcome=said.get("outcome", {}),
        error=said.get("error", ""),
        reason=said.get("reason", ""),
        approval=said.get("approval", ""),
        proven=record.signer != UNPROVEN,
    )


def _ended(begun: Operation, said: Mapping[str, Any]) -> Operation:
    kept = {name: getattr(begun, name) for name in Operation.__dataclass_fields__}
    outcome, error = said.get("outcome", {}), said.get("error", "")
    return Operation(**{**kept, "ended": said["at"], "result": said["what"], "outcome": outcome, "error": error})


def select(
    found: Sequence[Operation], *, since: datetime | None = None, who: str = "", verb: str = "", result: str = ""
) -> list[Operation]:
    """Those of or after a time, of whoever's slot, person, label, role, user or host is (or whose ids begin with) `who`."""
    wanted = named(verb)
    return [
        one
        for one in found
        if (since is None or _time(one.at) >= since)
        and (not wanted or one.verb == wanted)
        and (not result or one.result == result)
        and (not who or _is(one.who, who))
    ]


def _is(somebody: Mapping[str, Any], who: str) -> bool:
    ids = (str(somebody.get(name, "")).startswith(who) for name in ("slot", "person"))
    return any(ids) or who in (somebody.get(name) for name in ("label", "role", "user", "host"))


# -- whether it is whole -----------------------------------------------------------------------------------------------------


def verify(repository: Repository, expected: str | None = None) -> Findings:
    """Look at every entry. Finds what was taken away, put in another order, altered, or written in another one's name; and what was
    taken off the end, if this machine ever saw it or somebody wrote after it."""
    log = log_of(repository)
    stored = log.read()
    problems, notes = [*_chained(stored), *_witnessed(log, stored)], list(_stepped_back(stored))
    forged, told = _forged(repository, stored)
    problems += forged
    if expected is not None and expected not in {one.hash for one in stored}:
        problems.append(f"the entry {expected[:16]}, which was the last one once, is gone")
    problems += _planted(repository, stored, told)
    found = operations_in(record for _, record in _records(stored))
    problems += _returned(repository, found)
    unfinished = [one for one in found if one.result == "unfinished" and one.verb != "verify_audit"]
    notes += [f"entry {one.number}: {one.verb.replace('_', ' ')} was begun and has no result" for one in unfinished]
    last = stored[-1].hash if stored else NOTHING
    return Findings(len(stored), len(found), len(unfinished), last, tuple(problems), tuple(notes))


def _records(stored: Iterable[Stored]) -> Iterator[tuple[Stored, SignedRecord]]:
    return ((one, one.record) for one in stored if isinstance(one.record, SignedRecord))


def _chained(stored: Sequence[Stored]) -> Iterator[str]:
    """Each entry is there, can be read, and names the one before as it is."""
    if not stored:
        yield f"{entry_name(0)[:6]}: the log is gone"
    number, previous = 0, NOTHING
    for one in stored:
        if one.number != number:
            what = f"entry {number}" if one.number == number + 1 else f"entries {number} to {one.number - 1}"
            yield f"{what}: missing"
        if isinstance(one.record, Damaged):
            yield f"entry {one.number}: {one.record.problem}"
        elif one.record.said.get("number") != one.number or one.record.said.get("strongroom_audit") != FORMAT:
            yield f"entry {one.number}: it says that it is another one, or of a newer Strongroom"
        elif one.number == number and one.record.said.get("previous") != previous:
            yield f"entry {one.number}: it was written after another entry {number - 1} than the one that is there"
        number, previous = one.number + 1, one.hash


def _witnessed(log: AuditLog, stored: Sequence[Stored]) -> Iterator[str]:
    """What this machine saw last is still there."""
    seen = log.witnessed()
    if seen is None:
        return
    there = {one.number: one.hash for one in stored}
    if seen.number not in there:
        if not stored or stored[-1].number < seen.number:
            yield f"entry {seen.number}: missing at the end, this machine has seen it"
    elif there[seen.number] != seen.hash:
        yield f"entry {seen.number}: it is another one than this machine has seen"


def _stepped_back(stored: Sequence[Stored]) -> Iterator[str]:
    before = ""
    for one, record in _records(stored):
        at = str(record.said.get("at", ""))
        try:
            if before and _time(at) < _time(before) - _LEEWAY:
                yield f"entry {one.number}: its clock says {at}, the one before {before}"
        except ValueError:
            continue
        before = at


def _forged(repository: Repository, stored: Sequence[Stored]) -> tuple[list[str], set[str]]:
    """Entries that aren't signed by the slot that they name, and the slots of which the log tells. A slot's key is known from the
    slot itself, or, if it is gone, from the entry of whoever made or removed it."""
    slots = {slot.id: slot.identity.signer for slot in repository.key_slots()[0]}
    found = [(record.said.get("verb"), *one) for _, record in _records(stored) for one in _slots_told(record.said)]
    known = {slot: signer for _, slot, signer in found} | slots
    told = {slot: signer for verb, slot, signer in found if verb in _MAKING}
    told |= {slot: signer for _, record in _records(stored[:1]) for slot, signer in _slots_told(record.said)}
    problems: list[str] = []
    for one, record in _records(stored):
        who = record.said.get("who")
        slot = str(who.get("slot", "")) if isinstance(who, Mapping) else ""
        if slot not in known:
            problems.append(f"entry {one.number}: its slot {slot[:12]} is gone, and no entry tells of it")
        elif record.signer != (known[slot] or UNPROVEN):
            problems.append(f"entry {one.number}: slot {slot[:12]}, in whose name it is, didn't sign it")
        elif told.get(slot, known[slot]) != known[slot]:
            problems.append(f"entry {one.number}: slot {slot[:12]} has another key than the log tells")
    return problems, set(told)


def _slots_told(said: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The slots that an entry tells of, and their public keys."""
    outcome = said.get("outcome")
    given: list[Any] = list(said.get("slots") or []) if isinstance(said.get("slots"), list) else []
    if isinstance(outcome, Mapping):
        inner = [one for value in outcome.values() for one in (value if isinstance(value, list) else [value])]
        given += [outcome, *inner]
    for one in given:
        if isinstance(one, Mapping) and isinstance(one.get("slot"), str) and isinstance(one.get("signer"), str):
            with suppress(ValueError):
                yield one["slot"], bytes.fromhex(one["signer"])


def _planted(repository: Repository, stored: Sequence[Stored], told: set[str]) -> Iterator[str]:
    """Slots of which no entry tells; and a log that begins later than it should."""
    slots = repository.key_slots()[0]
    yield from (f"key slot {slot.id[:12]} ({slot.label}): no entry tells who made it" for slot in slots if slot.id not in told)
    first = next((record for _, record in _records(stored)), None)
    if first is not None and first.said.get("verb") != "init":
        began = _time(str(first.said.get("at")))
        older = [slot for slot in slots if slot.identity.signer and _time(slot.created) < began - _LEEWAY]
        yield from (
            f"the log begins at {began:%Y-%m-%d %H:%M}, after key slot {slot.id[:12]}: it was begun anew" for slot in older[:1]
        )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _returned(repository: Repository, found: Sequence[Operation]) -> Iterator[str]:
    """Slots that were taken away, by the log, and are there: somebody kept a copy and put it back."""
    gone: dict[str, Operation] = {}
    renewed: dict[str, Operation] = {}
    for one in found:
        if one.result == "done" and one.verb in ("remove_key", "revoke_token"):
            gone[str(one.outcome.get("slot"))] = one
        if one.result == "done" and one.verb == "change_passphrase":
            renewed[str(one.outcome.get("person"))] = one
    for slot in repository.key_slots()[0]:
        later = renewed.get(slot.identity.person)
        replaced = later if later is not None and not slot.identity.is_token and later.outcome.get("slot") != slot.id else None
        by = gone.get(slot.id) or replaced
        if by is not None:
            yield f"key slot {slot.id[:12]} ({slot.label}): it was taken away (entry {by.number}), and is there again"


# -- out of the repository ---------------------------------------------------------------------------------------------------


def export(repository: Repository) -> Export:
    """A first line that says whose log it is, a line an entry, and a last one, signed, that says what all lines before are."""
    keys, stored = repository.keys, log_of(repository).read()
    public = keys.public_key.hex()
    public_keys = [epoch.verifying.hex() for epoch in keys.epochs]
    head = {"strongroom_audit_export": FORMAT, "repository": keys.repository_id.hex(), "public_keys": public_keys}
    lines = [_line(head), *(_line(_exported(one)) for one in stored)]
    sealed = content_hash("".join(lines).encode())
    signer = repository.signer.public.hex() if repository.signer else public
    signature = repository.signer.sign(sealed) if repository.signer else keys.sign(sealed)
    last = {"entries": len(stored), "blake3": sealed.hex(), "signer": signer, "signature": signature.hex()}
    return Export(len(stored), (*lines, _line(last)))


def _exported(one: Stored) -> dict[str, Any]:
    said: dict[str, Any] = {"number": one.number, "name": entry_name(one.number), "hash": one.hash}
    if isinstance(one.record, Damaged):
        return {**said, "damaged": one.record.problem}
    signer = "" if one.record.signer == UNPROVEN else one.record.signer.hex()
    signed = {"signer": signer, "signature": one.record.signature.hex(), "text": base64.b64encode(one.record.text).decode()}
    return {**said, **signed, "entry": one.record.said}


def _line(said: Mapping[str, Any]) -> str:
    return json.dumps(said, sort_keys=True) + "\n"


def check_export(text: str) -> list[str]:
    """What is wrong with an exported log, by its own lines alone. Raises WrongRequest if it is none."""
    lines = text.splitlines(keepends=True)
    try:
        head, *entries, last = (json.loads(line) for line in lines)
        public = [bytes.fromhex(one) for one in head["public_keys"]]
        sealed = content_hash("".join(lines[:-1]).encode())
        problems = [] if last["blake3"] == sealed.hex() else ["the lines are not the ones that were exported"]
        if not signed_by(bytes.fromhex(last["signer"]), bytes.fromhex(last["signature"]), sealed):
            problems.append("the last line isn't signed by the key that it names")
        return problems + list(_checked(entries, public))
    except (ValueError, KeyError, TypeError) as error:
        raise WrongRequest("that is no exported audit log", hint="'strongroom audit export' makes one") from error


def _checked(entries: Sequence[Mapping[str, Any]], public: Sequence[bytes]) -> Iterator[str]:
    number, previous = 0, NOTHING
    for one in entries:
        if one["number"] != number:
            yield f"entry {number}: missing"
        number = one["number"] + 1
        if "damaged" in one:
            yield f"entry {one['number']}: {one['damaged']}"
        else:
            said, signature = base64.b64decode(one["text"]), bytes.fromhex(one["signature"])
            allowed = [bytes.fromhex(one["signer"])] if one["signer"] else public
            if not any(signed_by(key, signature, signed_message(one["name"], said)) for key in allowed):
                yield f"entry {one['number']}: altered, or not signed by the key that it names"
            if json.loads(said) != one["entry"] or one["entry"]["number"] != one["number"]:
                yield f"entry {one['number']}: what is shown isn't what was signed"
            if one["entry"]["previous"] != previous:
                yield f"entry {one['number']}: it doesn't follow on the line before"
        previous = one["hash"]
