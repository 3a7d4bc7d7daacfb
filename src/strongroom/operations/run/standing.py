"""Are the objectives of the policies met now? Asked of the repositories: what a restore would really find there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from strongroom.errors import StrongroomError
from strongroom.operations.backup.run import without_password
from strongroom.operations.replicate import Lag
from strongroom.operations.run.room import Drills, Room
from strongroom.policy.document import Document
from strongroom.policy.objectives import Standing
from strongroom.policy.quantities import seconds
from strongroom.policy.tasks import Seen, Work, replicas_of, tasks_of
from strongroom.snapshots import history


def newest(room: Room, url: str) -> datetime | None:
    """When the newest snapshot of a source was made, None if there is none."""
    known, _ = history.headlines(room.repository)
    found = [one.created for one in known if one.source == without_password(url)]
    return _moment(found[-1]) if found else None


def seen_of(room: Room, url: str) -> Seen:
    """The collections of the newest snapshot of a source."""
    known, _ = history.headlines(room.repository)
    snapshot = history.newest_of(room.repository, known, without_password(url))
    return Seen(tuple(one.name for one in snapshot.manifest.collections) if snapshot else ())


def standings(
    document: Document, rooms: Mapping[str, Room], seen: Mapping[str, Seen], unknown: Callable[[str], None]
) -> list[Standing]:
    """Each objective of each source, by what the repositories that could be opened hold; `unknown` hears what can't be told."""
    found: dict[str, Standing] = {}
    for task in tasks_of(document, seen):
        objectives = document.policies[task.policy].objectives
        room = rooms.get(task.repository)
        if room is None or not task.source:
            continue
        url = document.sources[task.source].url
        try:
            if objectives.rpo and (task.work.reads_source or task.work is Work.JOURNAL):
                standing = Standing(task.policy, task.source, "RPO", seconds(objectives.rpo), _age(room, url))
                found[standing.name] = standing
            if objectives.rto and task.work is Work.DRILL and isinstance(room, Drills):
                standing = Standing(task.policy, task.source, "RTO", seconds(objectives.rto), _rto(room, url))
                found[standing.name] = standing
        except StrongroomError as error:
            unknown(f"whether {task.source} meets its objectives can't be told: {error}")
    return list(found.values())


def of_replicas(document: Document, lags: Mapping[tuple[str, str], Lag]) -> list[Standing]:
    """Of each replica for each policy that asks for it: can it be kept, and is it near enough? By what was seen of it last."""
    found = []
    for pair, policies in replicas_of(document).items():
        lag = lags.get(pair)
        if lag is None:
            continue
        for name in policies:
            kept = None if lag.problem else lag.seconds
            found.append(Standing(name, "", "replica", math.inf, kept, pair[1], lag.problem))
            if (wanted := document.policies[name].objectives.lag) is not None:
                found.append(Standing(name, "", "lag", seconds(wanted), lag.seconds, pair[1]))
    return found


def _age(room: Room, url: str) -> float | None:
    """Seconds since the newest moment that could be restored: a snapshot's, or the end of a whole journal."""
    moments = [newest(room, url)]
    moments += [_moment(one.until) for one in room.journal_status(without_password(url)) if one.until and not one.problems]
    known = [one for one in moments if one is not None]
    return max(0.0, (room.repository.clock.now() - max(known)).total_seconds()) if known else None


def _rto(room: Drills, url: str) -> float | None:
    """Seconds of the newest drill of the source that passed."""
    measured = [one.rto for one in room.drill_history(without_password(url)).reports if one.passed and one.rto is not None]
    return measured[-1] if measured else None


def _moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
