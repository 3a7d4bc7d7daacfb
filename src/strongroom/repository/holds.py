"""What may not go, whatever is asked for: holds, each an object of its own, and their releases.

holds/<id>   a hold, or the release of one: signed, never edited, never deleted
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from strongroom.errors import Damaged, NotFound, Refused, WrongRequest
from strongroom.repository.declarations import Declaration, declarations, declare
from strongroom.repository.framing import Kind
from strongroom.repository.repository import Repository

FOLDER = "holds/"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Subject:
    """What a hold looks at: of a snapshot its id (64 hex digits), source, tags' tenant and collections with their tenants."""

    snapshot: str
    source: str
    collections: frozenset[str]
    tenants: frozenset[str]


@dataclass(frozen=True, slots=True)
class Scope:
    """Snapshots by their ids; or all, made or to be made, that have one of these collections or belong to this tenant, of `source`
    only if it is given; or all of `source`."""

    snapshots: tuple[str, ...] = ()
    collections: tuple[str, ...] = ()
    tenant: str = ""
    source: str = ""

    @property
    def is_broad(self) -> bool:
        """Does it cover more than snapshots that it names?"""
        return bool(self.collections or self.tenant or self.source)

    def covers(self, subject: Subject) -> bool:
        if subject.snapshot in self.snapshots:
            return True
        if not self.is_broad or (self.source and self.source != subject.source):
            return False
        if not self.collections and not self.tenant:
            return True
        return bool(subject.collections.intersection(self.collections)) or self.tenant in subject.tenants

    def __str__(self) -> str:
        parts = [f"snapshot {one[:12]}" for one in self.snapshots] + [f"collection {one}" for one in self.collections]
        parts += [f"tenant {self.tenant}"] if self.tenant else []
        whole = ", ".join(parts)
        return f"{whole or 'everything'} of {self.source}" if self.source else whole


@dataclass(frozen=True, slots=True)
class Hold:
    """Why, on whose authority, until when (None: until it is released), when and by which key slot it was placed."""

    id: str
    scope: Scope
    reason: str
    authority: str
    until: datetime | None
    placed: datetime
    by: str

    @property
    def why(self) -> str:
        """As it is told to who wants to take something away."""
        until = f" until {self.until.isoformat()[:16]}Z" if self.until else ""
        return f"legal hold {self.id[:12]} by {self.authority}{until}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Release:
    """The end of a hold: why, on whose authority, when and by which key slot."""

    id: str
    hold: str
    reason: str
    authority: str
    released: datetime
    by: str


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """A hold, its release if there is one, and whether its time is over."""

    hold: Hold
    release: Release | None
    expired: bool

    @property
    def is_active(self) -> bool:
        return self.release is None and not self.expired


def read_holds(repository: Repository) -> tuple[list[Hold], dict[str, Release], list[Declaration]]:
    """All holds, oldest first, the first release of each that has one, and both as they were read. Raises Damaged."""
    found = declarations(repository.store, repository.keys, Kind.HOLD, FOLDER)
    holds: dict[str, Hold] = {}
    releases: dict[str, Release] = {}
    for one in found:
        try:
            if one.body["strongroom_hold"] != FORMAT:
                raise Damaged(FOLDER + one.id, "a newer Strongroom placed this hold", hint="use a newer Strongroom")
            if one.body["what"] == "hold":
                holds[one.id] = _hold(one.id, one.body)
            elif one.body["what"] == "release":
                release = _release(one.id, one.body)
                releases.setdefault(release.hold, release)
            else:
                raise ValueError("neither a hold nor a release")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Damaged(FOLDER + one.id, "it is neither a hold nor a release") from error
    return list(holds.values()), releases, found


def place(repository: Repository, scope: Scope, reason: str, authority: str, until: datetime | None) -> Hold:
    """Store a hold, durably. Raises WrongRequest without a reason, an authority or anything to hold."""
    _require(reason, "--reason")
    _require(authority, "--authority")
    if not scope.snapshots and not scope.is_broad:
        raise WrongRequest("nothing says what to hold", hint="name snapshots, or give --collection, --tenant or --source")
    placed, by = repository.clock.now(), repository.identity.slot
    if until is not None and until <= placed:
        raise WrongRequest("the hold would be over already", hint="--until must lie in the future")
    body = {
        "strongroom_hold": FORMAT,
        "what": "hold",
        "scope": asdict(scope),
        "reason": reason,
        "authority": authority,
        "until": until.isoformat() if until else None,
        "placed": placed.isoformat(),
        "by": by,
    }
    seen = read_holds(repository)[2]
    return Hold(_declare(repository, body, seen), scope, reason, authority, until, placed, by)


def release(repository: Repository, prefix: str, reason: str, authority: str) -> Release:
    """End the hold whose id begins so, by an object of its own. Raises WrongRequest, NotFound, or Refused if it was released."""
    _require(reason, "--reason")
    _require(authority, "--authority")
    holds, releases, seen = read_holds(repository)
    found = [one for one in holds if prefix and one.id.startswith(prefix.lower())]
    if len(found) != 1:
        raise NotFound(f"{len(found)} holds' ids begin with {prefix!r}", hint="see 'strongroom hold list'")
    if (before := releases.get(found[0].id)) is not None:
        raise Refused(
            f"hold {found[0].id[:12]} was released by {before.authority} already: {before.reason}", hint="nothing is to do"
        )
    now, by = repository.clock.now(), repository.identity.slot
    body = {
        "strongroom_hold": FORMAT,
        "what": "release",
        "hold": found[0].id,
        "reason": reason,
        "authority": authority,
        "released": now.isoformat(),
        "by": by,
    }
    return Release(_declare(repository, body, seen), found[0].id, reason, authority, now, by)


def _declare(repository: Repository, body: dict[str, Any], seen: Sequence[Declaration]) -> str:
    repository.require_safe_store()
    return declare(repository.store, repository.keys, Kind.HOLD, FOLDER, body, seen)


def _require(text: str, option: str) -> None:
    if not text.strip():
        raise WrongRequest(f"{option} is empty", hint=f"say it: {option} TEXT")


def _hold(object_id: str, body: Any) -> Hold:
    scope = body["scope"]
    return Hold(
        object_id,
        Scope(tuple(scope["snapshots"]), tuple(scope["collections"]), str(scope["tenant"]), str(scope["source"])),
        str(body["reason"]),
        str(body["authority"]),
        None if body["until"] is None else datetime.fromisoformat(body["until"]).astimezone(UTC),
        datetime.fromisoformat(body["placed"]).astimezone(UTC),
        str(body["by"]),
    )


def _release(object_id: str, body: Any) -> Release:
    released = datetime.fromisoformat(body["released"]).astimezone(UTC)
    return Release(object_id, str(body["hold"]), str(body["reason"]), str(body["authority"]), released, str(body["by"]))
