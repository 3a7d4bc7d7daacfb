"""How a whole object takes the place of a damaged one in a store that can't overwrite.

The damaged one must go before the whole one can have its name. So that a crash in between doesn't lose the object altogether, its
bytes lie in repairs/<name> meanwhile; the next repair, and verify, look there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from strongroom.errors import Damaged, NotFound, StrongroomError
from strongroom.journal.segments import front_length, number_in
from strongroom.repository import REPAIRS, Store, config
from strongroom.repository.framing import require_whole
from strongroom.repository.writer import create_once

_NAME = re.compile("(keys|index|snapshots)/[0-9a-f]{64}")


def replace(store: Store, name: str, whole: bytes) -> None:
    """Put `whole` under `name`, where a damaged object or none is; it is read back. Does nothing if it is there already. May be
    repeated after any failure. Raises Damaged if the store gives back other bytes."""
    present = read_if_there(store, name)
    if present != whole:
        if present is not None:
            _keep(store, name, whole)
            store.delete(name)
        create_once(store, name, whole)
        if read_if_there(store, name) != whole:
            raise Damaged(name, "what was put there doesn't read back", hint="look at the store; a copy is in repairs/")
    store.delete(REPAIRS + name)


def finish(store: Store, *folders: str) -> Iterator[str]:
    """Carry on with what a repair was about when it was cut off, as far as it is below these folders. Gives the objects' names."""
    for name in unfinished(store, *folders):
        whole = read_if_there(store, REPAIRS + name)
        present = read_if_there(store, name)
        if whole is None or (present is not None and is_whole(name, present)) or not is_whole(name, whole):
            store.delete(REPAIRS + name)
            continue
        replace(store, name, whole)
        yield name


def unfinished(store: Store, *folders: str) -> list[str]:
    """The names of objects whose repair was cut off."""
    names = [listed.name.removeprefix(REPAIRS) for listed in store.list(REPAIRS)]
    return [name for name in names if name.startswith(folders)]


def is_object(name: str) -> bool:
    """May it be a manifest, an index object, a key slot or a journal segment?"""
    return _NAME.fullmatch(name) is not None or number_in(name) is not None


def is_whole(name: str, content: bytes) -> bool:
    """Are these the bytes of the object of that name? Nothing is decrypted; of a journal segment, which isn't named by its bytes,
    only a whole header can be told."""
    try:
        if number_in(name) is not None:
            front_length(name, content)
            return True
        if name == config.NAME:
            config.decode(content)
        else:
            require_whole(name, content)
    except StrongroomError:
        return False
    return True


def read_if_there(store: Store, name: str) -> bytes | None:
    """No bytes of one that is carried and can't be taken out."""
    try:
        return store.read(name)
    except NotFound:
        return None
    except Damaged:
        return b""


def _keep(store: Store, name: str, whole: bytes) -> None:
    if read_if_there(store, REPAIRS + name) not in (None, whole):
        store.delete(REPAIRS + name)
    create_once(store, REPAIRS + name, whole)
