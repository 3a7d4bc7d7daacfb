"""How are the replicas of a policy file kept in step, and how far behind is each? A quiet look costs one listing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from strongroom.errors import PartlyDone, Stopped, StrongroomError
from strongroom.operations.backup.run import without_password
from strongroom.operations.copy import CopyOptions, Selection
from strongroom.operations.machine.replicas import remember
from strongroom.operations.policy.publishing import require_region
from strongroom.operations.replicate import Lag, ReplicateOptions, behind, write_metrics
from strongroom.operations.run.room import Room
from strongroom.policy.document import Document
from strongroom.policy.quantities import said, size
from strongroom.policy.tasks import Seen, Task, replicas_of, replicated
from strongroom.repository import open_store

Done = tuple[str, dict[str, object]]
Pair = tuple[str, str]
"""The names of a repository and of its replica."""
_AUDIT = "audit/"
_WHOLE_LOOK_SECONDS = 3600.0
"""So often the replica itself is looked at, though nothing changed at the primary, and gets what is new of the audit log."""


class Replicas:
    """All replicas of a document. `keep` is called from a thread for each replica, the rest from one thread."""

    def __init__(
        self,
        document: Document,
        open_: Callable[[str], Room],
        url: Callable[[str], str],
        seen: Callable[[], Mapping[str, Seen]],
        tell: Callable[[Task, str, str], None],
    ) -> None:
        self._document, self._open, self._url, self._seen, self._tell = document, open_, url, seen, tell
        self.lags: dict[Pair, Lag] = {}
        self._rooms: dict[Pair, Room] = {}
        self._complete: dict[Pair, tuple[float, dict[str, int]]] = {}

    def keep(self, task: Task, stop: threading.Event) -> Done | None:
        """Copy what is missing; None if there was nothing to do. Raises what keeps the replica from being complete, and Stopped."""
        pair = (task.repository, task.other)
        selection = self._selection(pair)
        if selection is None:
            return None
        target, known = open_store(self._document.repositories[task.other].url), self._rooms.get(pair)
        if known is not None and self._is_quiet(known, target.url, pair):
            self.lags[pair] = Lag(target.url, 0.0)
            return None
        room = self._rooms[pair] = self._open(task.repository)  # with the keys that hold now
        self._tell(task, "started", f"copies to {task.other}, {task.why}")
        try:
            require_region(room.repository, self._document, task.repository)
            lag = self._copy(room, target.url, pair, selection, stop)
        except Stopped:
            raise
        except StrongroomError as error:
            self._complete.pop(pair, None)
            self.lags[pair] = behind(room.repository, target.url, str(error), selection)
            raise
        return f"{task.other}: {_said(lag)}", facts_of(lag)

    def _copy(self, room: Room, url: str, pair: Pair, selection: Selection, stop: threading.Event) -> Lag:
        place = self._document.repositories[pair[1]]
        wish = place.replication
        bandwidth = size(wish.bandwidth) if wish.bandwidth else 0
        copying = CopyOptions(selection, place.region, wish.leave_out, wish.follow_forget, bandwidth=bandwidth)
        now, here = room.repository.clock.now().timestamp(), _objects(room)
        [lag] = room.replicate([url], ReplicateOptions(copying, once=True), stop=stop)
        self.lags[pair] = lag
        if stop.is_set() and (lag.snapshots or lag.segments):
            raise Stopped(f"stopped in the middle of the copy to {pair[1]}: {_said(lag)}")
        if lag.problem:
            raise PartlyDone(lag.problem, hint="'strongroom copy' tells all of it")
        self._complete[pair] = (now, here)
        return lag

    def _is_quiet(self, room: Room, url: str, pair: Pair) -> bool:
        """Has nothing changed since it was complete? What its own copies wrote into the audit log doesn't count."""
        since, seen = self._complete.get(pair, (0.0, {}))
        now = room.repository.clock.now().timestamp()
        if now - since > _WHOLE_LOOK_SECONDS or seen != _objects(room):
            return False
        remember(room.repository.store.url, url, now)
        return True

    def _selection(self, pair: Pair) -> Selection | None:
        """None if there is no source of which it is to get anything."""
        names = replicated(self._document, *pair, self._seen())
        if names is None:
            return Selection()
        return Selection(sources=tuple(without_password(self._url(one)) for one in names)) if names else None

    def look(self, rooms: Mapping[str, Room]) -> dict[Pair, Lag]:
        """How far behind is each now? By what is known here: a replica that is away isn't waited for. Keeps the metrics file."""
        found = dict[Pair, Lag]()
        for pair in replicas_of(self._document):
            room, selection = rooms.get(pair[0]), self._selection(pair)
            if room is not None and selection is not None and (last := self.lags.get(pair)) is not None:
                found[pair] = behind(room.repository, last.target, last.problem, selection)
        if self._document.metrics_file is not None and found:
            write_metrics(Path(self._document.metrics_file).expanduser(), found.values())
        return found


def facts_of(lag: Lag) -> dict[str, object]:
    """What an event says of a lag."""
    found = asdict(lag)
    return {"lag_seconds": round(lag.seconds, 3)} | {
        f"missing_{name}": found[name] for name in ("snapshots", "segments", "objects", "bytes")
    }


def _said(lag: Lag) -> str:
    if not lag.seconds:
        return "in step"
    return f"{said(lag.seconds)} behind, it lacks {lag.snapshots} snapshots and {lag.segments} journal segments"


def _objects(room: Room) -> dict[str, int]:
    return {one.name: one.size for one in room.repository.store.list("") if not one.name.startswith(_AUDIT)}
