"""How old is each key of a repository, and is any older than it may be?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from strongroom.operations.keys.epochs_left import EpochLeft, by_epoch, sealed_by
from strongroom.policy.quantities import seconds
from strongroom.repository import KeySlot, Repository, policies
from strongroom.repository.rotation import sealable


@dataclass(frozen=True, slots=True)
class SlotAge:
    """A key slot; `days` since it was made. `behind` says why a new epoch couldn't be sealed to it; '' if it could."""

    id: str
    label: str
    kind: str
    role: str
    version: int
    created: str
    days: float
    too_old: bool
    behind: str


@dataclass(frozen=True, slots=True)
class EpochAge:
    """An epoch of the keys: `days` since it began; how many `objects` of how many `bytes` its keys seal. Only the newest, with
    which is written, can be too old. Of one that was `closed` the keys are gone."""

    number: int
    created: str
    days: float
    newest: bool
    too_old: bool
    objects: int = 0
    bytes: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """`max_age_days` is what was allowed, None if nothing was said."""

    slots: tuple[SlotAge, ...]
    epochs: tuple[EpochAge, ...]
    max_age_days: float | None
    damaged: tuple[str, ...]

    @property
    def too_old(self) -> bool:
        return any(one.too_old for one in self.slots) or any(one.too_old for one in self.epochs)


def key_status(repository: Repository, max_age: timedelta | None = None) -> KeyStatus:
    """`max_age` is that of the published policy, if none is said. Raises Damaged if what began this epoch is, or a policy."""
    now = repository.clock.now()
    slots, damaged = repository.key_slots()
    behind = {one.id: one.why for one in sealable(repository)[1]}
    keys = repository.keys
    allowed = _published_age(repository) if max_age is None else max_age
    sealed = {one.epoch: one for one in by_epoch(sealed_by(repository, believe_index=True))}

    def judge(created: str) -> tuple[float, bool]:
        age = now - _time(created)
        return round(age / timedelta(days=1), 2), allowed is not None and age > allowed

    def slot_age(slot: KeySlot) -> SlotAge:
        days, too_old = judge(slot.created)
        role = str(slot.identity.role)
        return SlotAge(slot.id, slot.label, slot.kind, role, slot.version, slot.created, days, too_old, behind.get(slot.id, ""))

    def epoch_age(number: int, created: str) -> EpochAge:
        days, too_old = judge(created)
        newest, found = number == keys.newest.number, sealed.get(number, EpochLeft(number, 0, 0, 0))
        closed = keys.epoch(number) is None
        return EpochAge(number, created, days, newest, newest and too_old, found.objects, found.bytes, closed)

    begun = {one.number: one.created for one in keys.certificates()}
    epochs = tuple(epoch_age(number, begun[number] or repository.config.created) for number in sorted(begun))
    days_allowed = None if allowed is None else allowed / timedelta(days=1)
    return KeyStatus(tuple(map(slot_age, slots)), epochs, days_allowed, tuple(str(one) for one in damaged))


def _published_age(repository: Repository) -> timedelta | None:
    """The least `encryption: {max_age: ...}` of the policies that were published; None if none says one."""
    published = policies.newest(repository)
    rules = published.document.get("policies", {}).values() if published else ()
    said = [rule["encryption"]["max_age"] for rule in rules if rule.get("encryption", {}).get("max_age")]
    return min((timedelta(seconds=seconds(one)) for one in said), default=None)


def _time(text: str) -> datetime:
    """A slot that somebody planted may say anything: it counts as very old then."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
