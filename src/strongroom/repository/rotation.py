"""How do a repository's keys change so that who copied an old key slot can't read what is written from then on?

One conditional create begins the new epoch: before it every slot opens the old one, after it every slot that it is sealed to the
new one. Nothing that was written is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from strongroom.errors import AlreadyExists, NotFound, Overtaken, Refused, Unreachable, UnsafeStore, WrongKey
from strongroom.repository import epoch_memory
from strongroom.repository.crypto import Argon2Cost
from strongroom.repository.key_slots import KeySlot, Secret, opening, signed_part
from strongroom.repository.keyring import begin_epoch, members, name_of
from strongroom.repository.repository import Repository
from strongroom.repository.slot_making import add_slot
from strongroom.repository.tombstones import What, earliest


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A key slot that a new epoch isn't sealed to, and why."""

    id: str
    label: str
    why: str


@dataclass(frozen=True, slots=True)
class Rotation:
    """What was done: the new epoch's number and beginning (ISO 8601), the slots that open it, and those that don't."""

    epoch: int
    created: str
    slots: tuple[KeySlot, ...]
    left_out: tuple[LeftOut, ...]
    removed: tuple[str, ...]


def upgrade(repository: Repository, secret: Secret, *, cost: Argon2Cost | None = None) -> list[KeySlot]:
    """Put a slot of version 2 in the place of each of version 1 that the secret opens: later epochs can be sealed to it without the
    secret. The new one is durable before the old one goes. Raises WrongKey if the secret opens none."""
    fresh: list[KeySlot] = []
    slots, _ = repository.key_slots()
    mine = [slot for slot, _ in opening(slots, secret)]
    if not mine:
        raise WrongKey(f"no key slot of {repository.store.url} opens with {secret.called}", hint="see 'strongroom key list'")
    for slot in mine:
        if slot.version == 1:
            created = repository.clock.now().isoformat()
            new = add_slot(
                repository.store,
                repository.keys,
                secret,
                slot.label,
                created,
                cost or Argon2Cost(),
                public=True,
                bearer=slot.bearer,
            )
            repository.remove_key(slot.id)
            fresh.append(new)
    return fresh


def rotate(
    repository: Repository,
    secret: Secret,
    *,
    without: Iterable[str] = (),
    drop: bool = False,
    cost: Argon2Cost | None = None,
) -> Rotation:
    """Begin a new epoch, sealed to every slot of version 2 but those whose ids begin as in `without`, which are removed; slots that
    it can't be sealed to are removed too if `drop`. `secret` is that of a slot, which is upgraded.

    Raises Refused (slots that would be left out, without `drop`), NotFound (`without` names none), Overtaken (another rotation
    came first), UnsafeStore, WrongKey. After a crash at any point the repository opens with the old epoch or the new one.
    """
    if repository.config.overwriting:
        raise UnsafeStore("this store has no conditional creates: of two rotations at once one would destroy the other's keys")
    repository.require_safe_store()
    repository.keys.look_again()
    leaving = _named(repository, without)
    _require_drop(_sort(repository, secret, leaving)[1], drop=drop)
    upgrade(repository, secret, cost=cost)
    sealed, left_out = _sort(repository, secret, leaving)
    if not any(True for _ in opening(sealed, secret)):
        raise Refused(
            "the key that you rotate with would not open the new epoch", hint="use one that stays, and that signs: a newer one"
        )
    created = repository.clock.now().isoformat()
    epoch, content = begin_epoch(repository.keys, sealed, created)
    _begin(repository, name_of(epoch.number), content)
    repository.keys.begin(epoch)
    epoch_memory.check(repository.keys)
    removed = [slot.id for slot in _removable(repository, left_out, leaving)]
    for slot_id in removed:
        repository.remove_key(slot_id)
    late = [slot for slot in repository.key_slots()[0] if slot.epoch < epoch.number and slot.id not in {one.id for one in sealed}]
    missed = [LeftOut(slot.id, slot.label, "it was added while the keys were rotated: add it again") for slot in late]
    known = {one.id for one in left_out}
    return Rotation(
        epoch.number, created, tuple(sealed), (*left_out, *(one for one in missed if one.id not in known)), tuple(removed)
    )


def sealable(repository: Repository) -> tuple[list[KeySlot], list[LeftOut]]:
    """The slots that a new epoch could be sealed to, and the others. A slot counts that the present epoch is sealed to, or that was
    signed with its key: one that a store puts there, or puts back after it was removed, doesn't."""
    newest = repository.keys.newest
    slots, damaged = repository.key_slots()
    revoked = earliest(repository.tombstones(What.REVOKED))
    sealed_to = members(repository.store, repository.keys)
    able: list[KeySlot] = []
    unable = [LeftOut(one.subject.rpartition("/")[2], "", "it is damaged") for one in damaged]
    for slot in slots:
        own = slot.version == 2 and slot.epoch == newest.number and newest.signed(slot.signature, signed_part(slot.body))
        if slot.version == 1:
            unable.append(LeftOut(slot.id, slot.label, "it is of version 1: its holder must run 'strongroom key upgrade' first"))
        elif slot.id in revoked:
            unable.append(LeftOut(slot.id, slot.label, "it was removed, and somebody put it back"))
        elif own or slot.id in sealed_to:
            able.append(slot)
        else:
            unable.append(
                LeftOut(slot.id, slot.label, "it isn't signed with the present epoch's key: it was left out before, or forged")
            )
    return able, unable


def _sort(repository: Repository, secret: Secret, leaving: Sequence[KeySlot]) -> tuple[list[KeySlot], list[LeftOut]]:
    """As `sealable`, without those that leave; of version 1 only those that the secret doesn't open are left out."""
    gone = {slot.id for slot in leaving}
    able, unable = sealable(repository)
    mine = {slot.id for slot, _ in opening([slot for slot in repository.key_slots()[0] if slot.version == 1], secret)}
    return [slot for slot in able if slot.id not in gone], [one for one in unable if one.id not in gone | mine]


def _named(repository: Repository, prefixes: Iterable[str]) -> list[KeySlot]:
    found: list[KeySlot] = []
    for prefix in prefixes:
        named = [slot for slot in repository.key_slots()[0] if slot.id.startswith(prefix)]
        if len(named) != 1:
            raise NotFound(f"{len(named)} key slots begin with {prefix!r}", hint="see 'strongroom key list'")
        found += named
    return found


def _require_drop(left_out: Sequence[LeftOut], *, drop: bool) -> None:
    if left_out and not drop:
        names = "; ".join(f"{one.id[:12]} ({one.label or 'no label'}): {one.why}" for one in left_out)
        raise Refused(
            f"these key slots could not open what is written after a rotation: {names}",
            hint="have them upgraded, or rotate with --drop, which removes them",
        )


def _removable(repository: Repository, left_out: Sequence[LeftOut], leaving: Sequence[KeySlot]) -> list[KeySlot]:
    """Damaged ones stay: a copy may bring them back to be looked at."""
    ids = {one.id for one in left_out} | {slot.id for slot in leaving}
    return [slot for slot in repository.key_slots()[0] if slot.id in ids]


def _begin(repository: Repository, name: str, content: bytes) -> None:
    """Raises Overtaken if another process began this epoch. Ours is there too if our create landed and its answer was lost."""
    try:
        repository.store.create(name, content)
    except (AlreadyExists, Unreachable):
        if not _is_there(repository, name, content):
            raise Overtaken(
                "another rotation began the new epoch first, or this one didn't begin it: nothing was changed",
                hint="see 'strongroom key status', then rotate again if need be",
            ) from None


def _is_there(repository: Repository, name: str, content: bytes) -> bool:
    try:
        return repository.store.read(name) == content
    except NotFound:
        return False
