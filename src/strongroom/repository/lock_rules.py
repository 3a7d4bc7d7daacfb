"""For how long is each object of a repository locked by its store? The newest rule that was declared holds.

    locks/<id>   a rule: how long, and in which mode (`declarations`)

A rule is read as it was first stored: hiding it, or writing over it, ends nothing. One that is nobody's is passed over, for whoever
may only add objects must not keep the repository from being opened.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from strongroom.errors import Damaged, WrongRequest
from strongroom.repository.carrying import Carrying, carrier_of, plain_name, take_out
from strongroom.repository.declarations import Declaration, declare, read_declaration
from strongroom.repository.framing import Kind
from strongroom.repository.keys import Keys
from strongroom.repository.lock_mode import Mode
from strongroom.repository.object_lock import Retention
from strongroom.repository.store import PROBES, Store

FOLDER = "locks/"
FORMAT = 1
FREE = (PROBES, "leaving/", "proofs/", "repairs/", "tenants/")
"""What isn't locked: what says nothing that isn't found anew, marks, and the keys of tenants, whose destruction must be final."""
_LONGEST = timedelta(days=36_500)


@dataclass(frozen=True, slots=True)
class Rule:
    """Objects that are needed are locked for `period` at least, counted from the last `strongroom lock extend`. Each gets a fifth
    more, and gets it again once half of that has passed, so that an extension every day has little to do."""

    id: str
    mode: Mode
    period: timedelta
    declared: datetime
    by: str

    @property
    def is_on(self) -> bool:
        return self.period > timedelta()

    def covers(self, name: str) -> bool:
        return self.is_on and not name.startswith(FREE)

    def at(self, now: datetime) -> Retention:
        """What an object gets now."""
        return Retention(self.mode, (now + self.period * 1.2).replace(microsecond=0) + timedelta(seconds=1))

    def renews(self, found: Retention | None, now: datetime) -> bool:
        """Must an object that is locked so be locked anew?"""
        if found is None or (found.mode is Mode.GOVERNANCE and self.mode is Mode.COMPLIANCE):
            return True
        return found.until < now + self.period * 1.1

    def is_kept(self, found: Retention | None, now: datetime) -> bool:
        """Is what is locked so locked as the rule promises?"""
        return (
            found is not None
            and found.until >= now + self.period
            and not (found.mode is Mode.GOVERNANCE and self.mode is Mode.COMPLIANCE)
        )


def rules(store: Store, keys: Keys) -> list[Rule]:
    """All that were ever declared and can be read, oldest first; of carried ones the first version may still be there as well."""
    names = [listed.name for listed in store.list(FOLDER)]
    for name in names:
        if carrier_of(name) is not None:
            with suppress(Damaged):
                take_out(keys, name, store.read(name))
    carrying = Carrying(store, keys)
    found = [one for one in (_rule(carrying, keys, name) for name in sorted(set(map(plain_name, names)))) if one is not None]
    return sorted(found, key=lambda rule: (rule.declared, rule.id))


def declare_rule(store: Store, keys: Keys, mode: Mode, period: timedelta, now: datetime, by: str) -> Rule:
    """From now on this rule holds; no time at all: none does. Raises WrongRequest."""
    if not timedelta() <= period <= _LONGEST:
        raise WrongRequest(f"nothing can be locked for {period.days} days", hint="write --for 30d, or --off")
    seen = rules(store, keys)
    declared = max([now, *(one.declared + timedelta(microseconds=1) for one in seen)])
    body = {
        "strongroom_lock": FORMAT,
        "mode": mode.value,
        "seconds": int(period.total_seconds()),
        "declared": declared.isoformat(),
        "by": by,
    }
    known = [Declaration(one.id, {"after": []}, None) for one in seen]
    return Rule(declare(store, keys, Kind.LOCK, FOLDER, body, known), mode, period, declared, by)


def _rule(store: Store, keys: Keys, name: str) -> Rule | None:
    try:
        body = read_declaration(store, keys, Kind.LOCK, name)
        if body["strongroom_lock"] != FORMAT:
            raise Damaged(name, "a newer Strongroom declared this rule", hint="use a newer Strongroom")
        period = timedelta(seconds=int(body["seconds"]))
        declared = datetime.fromisoformat(body["declared"]).astimezone(UTC)
        return Rule(name.removeprefix(FOLDER), Mode(body["mode"]), period, declared, str(body["by"]))
    except Damaged as error:
        if "newer" in error.problem:
            raise
        return None
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
