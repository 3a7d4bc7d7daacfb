"""How does a key slot go, so that one is always left, and none comes back?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from strongroom.errors import NotFound, Refused
from strongroom.repository.key_slots import FOLDER, UNREADABLE, KeySlot
from strongroom.repository.removed_hosts import snapshots_of
from strongroom.repository.tombstones import What
from strongroom.repository.writer import create_once

if TYPE_CHECKING:
    from strongroom.repository.repository import Repository


def remove_slot(repository: Repository, prefix: str) -> KeySlot:
    """Remove the slot whose id begins so, be it a damaged one. Raises NotFound, or Refused for the last administrator's key."""
    slots, problems = repository.key_slots()
    useless = [KeySlot(problem.subject.removeprefix(FOLDER), UNREADABLE) for problem in problems]
    found = [slot for slot in (*slots, *useless) if slot.id.startswith(prefix)]
    if len(found) != 1:
        raise NotFound(f"{len(found)} key slots begin with {prefix!r}", hint="see 'strongroom key list'")
    if found[0].lasts and not any(slot.lasts for slot in slots if slot.id != found[0].id):
        raise Refused("that is the last key slot of an administrator", hint="add another one first")
    take_away(repository, found[0])
    return found[0]


def take_away(repository: Repository, slot: KeySlot) -> None:
    """Delete a slot, and put it back if meanwhile another process removed all others: one must always be left. What a host made by
    then that can't read stays; it is written down before the removal, so that none of it is doubted."""
    store = repository.store
    try:
        content = store.read(slot.name)
    except NotFound:
        return
    names = [slot.id]
    if slot.write_only:
        signer = slot.identity.signer
        names.append(signer.hex())
        made = snapshots_of(store, repository.keys, signer)
        if made:
            repository.bury(What.ENDED, made)
    repository.bury(What.REVOKED, names)
    store.delete(slot.name)
    if not any(one.lasts for one in repository.key_slots()[0]):
        create_once(store, slot.name, content)
        raise Refused("another process removed the other key slots: this one was put back", hint="see 'strongroom key list'")
