"""Did somebody take a new epoch's keys away? This machine remembers the newest that it saw.

A store that loses what begins an epoch would have everybody go on writing with old keys, which a removed slot may open. The
file holds no secret: a number, the tag that is in each object of the epoch, and its public key, from which later ones must go on.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from strongroom.errors import Damaged
from strongroom.repository.keyring import name_of
from strongroom.repository.keys import Keys
from strongroom.repository.state import alone_at, state_directory


def check(keys: Keys) -> None:
    """Raises Damaged unless the newest epoch that this machine saw is there, as it was, or was closed by a later one that goes on
    from it; else remembers the newest now."""
    path = state_directory() / f"{keys.repository_id.hex()}-epoch.json"
    number, tag, public = _remembered(path)
    epochs = keys.public
    known = next((one for one in epochs if one.number == number), None) if number else None
    vouched = keys.lineage.get(number)
    same = known.tag.hex() == tag if known is not None else vouched is not None and vouched.public.hex() == public
    if number and (number >= epochs[0].number or vouched is not None) and not same:
        there = known is not None or vouched is not None
        what = "it is another one than this machine has seen" if there else "this machine has seen it, and it is not there"
        hint = f"the repository was rolled back, or keys forged: bring it back from a copy; if you meant it, delete {path}"
        raise Damaged(name_of(number), what, hint=hint)
    newest = epochs[-1]
    if newest.number > number or (newest.number and not public):
        seen = {"epoch": newest.number, "tag": newest.tag.hex(), "public": newest.verifying.hex()}
        with suppress(OSError), alone_at(path, wait=False):
            fresh = path.with_suffix(".fresh")
            fresh.write_text(json.dumps(seen))
            fresh.replace(path)


def _remembered(path: Path) -> tuple[int, str, str]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_bytes())
        return int(kept["epoch"]), str(kept["tag"]), str(kept.get("public", ""))
    return 0, "", ""
