"""How old is each key of a repository, and is any older than it may be?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from strongroom.repository import KeySlot, Repository
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
    """An epoch of the keys: `days` since it began. Only the newest, with which is written, can be too old."""

    number: int
    created: str
    days: float
    newest: bool
    too_old: bool


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
    """Raises Damaged if what began the present epoch is."""
    now = repository.clock.now()
    slots, damaged = repository.key_slots()
    behind = {one.id: one.why for one in sealable(repository)[1]}
    keys = repository.keys

    def judge(created: str) -> tuple[float, bool]:
        age = now - _time(created)
        return round(age / timedelta(days=1), 2), max_age is not None and age > max_age

    def slot_age(slot: KeySlot) -> SlotAge:
        days, too_old = judge(slot.created)
        role = str(slot.identity.role)
        return SlotAge(slot.id, slot.label, slot.kind, role, slot.version, slot.created, days, too_old, behind.get(slot.id, ""))

    def epoch_age(number: int, created: str) -> EpochAge:
        days, too_old = judge(created)
        newest = number == keys.newest.number
        return EpochAge(number, created, days, newest, newest and too_old)

    epochs = tuple(epoch_age(one.number, one.created or repository.config.created) for one in keys.epochs)
    days_allowed = None if max_age is None else max_age / timedelta(days=1)
    return KeyStatus(tuple(map(slot_age, slots)), epochs, days_allowed, tuple(str(one) for one in damaged))


def _time(text: str) -> datetime:
    """A slot that somebody planted may say anything: it counts as very old then."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
