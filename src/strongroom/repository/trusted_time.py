"""What time is it, if neither the clock of a machine nor what a writer says of himself is trusted alone?

An object store says when it stored each object: no writer can choose that. So a time has come once both this machine's clock
and the store's stamp of some object say so; and a snapshot is as old as it says only if its manifest was stored about then.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from strongroom.repository.store import Store


def stored_at(store: Store, folder: str) -> dict[str, datetime]:
    """When each object of a folder was stored, by the store's clock and the object's name without the folder. Empty for a store
    that doesn't say."""
    listed = store.list(folder)
    return {one.name.removeprefix(folder): datetime.fromtimestamp(one.modified, UTC) for one in listed if one.modified is not None}


def agreed_now(now: datetime, stamps: Iterable[datetime]) -> datetime:
    """The earlier of this machine's clock and the newest stamp: a clock that jumped ahead makes nothing expire. Where there is no
    stamp the clock alone counts."""
    return min(now, max(stamps, default=now))
