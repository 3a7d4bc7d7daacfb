"""Are the legal holds of a policy in the repository? Placed once each; one that was released by a person stays released."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from strongroom.operations.hold import HoldOptions
from strongroom.operations.run.room import Room
from strongroom.policy.document import Hold
from strongroom.repository.holds import Scope


def ensure(room: Room, source: str, wanted: Sequence[Hold]) -> int:
    """Place those that the repository never had: on all snapshots of a source (its URL without password), made or to be made. Gives
    how many were placed. Before anything is forgotten. Raises what `hold` raises."""
    if not wanted:
        return 0
    scope = Scope(source=source)
    known = {(one.hold.scope, one.hold.reason, one.hold.authority) for one in room.holds()}
    missing = [one for one in wanted if (scope, one.reason, one.authority) not in known]
    for one in missing:
        room.hold(HoldOptions(scope, one.reason, one.authority, _moment(one.until)))
    return len(missing)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
