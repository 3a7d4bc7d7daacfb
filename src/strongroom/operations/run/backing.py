"""How is one backup of a policy made? Hooks before, the source spared meanwhile, hooks after."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from strongroom.errors import PartlyDone, Refused, StrongroomError
from strongroom.operations.run.programs import CommandFailed, run, surroundings
from strongroom.operations.run.room import Room
from strongroom.operations.run.throttle import Ceiling, Throttle
from strongroom.policy.document import Document, Encryption, Hook, Limits, Query
from strongroom.policy.quantities import said, seconds, size
from strongroom.policy.tasks import Task, Work

_QUERY_SECONDS = 30.0


def make(
    document: Document,
    task: Task,
    url: str,
    room: Callable[[], Room],
    stop: threading.Event,
    tell: Callable[[str], None],
    hidden: frozenset[str],
) -> tuple[str, dict[str, object]]:
    """Make a snapshot; gives a sentence and the facts. `room` is opened once the hooks before have run. Raises what they, the
    encryption rule and the backup raise; PartlyDone if something could not be read. The hooks after have run then too."""
    policy, source = document.policies[task.policy], document.sources[task.source]
    told = {
        "STRONGROOM_POLICY": task.policy,
        "STRONGROOM_SOURCE": task.source,
        "STRONGROOM_SOURCE_URL": source.url,
        "STRONGROOM_WORK": task.work.value,
    }
    facts: dict[str, object] = {}
    outcome = "failed"
    try:
        _call(policy.hooks.before, {**told, "STRONGROOM_EVENT": "before"}, hidden, tell)
        opened = room()
        require_key(opened, policy.encryption)
        with Throttle(*_limits(source.limits, hidden), stop, tell) as throttle:
            report = opened.backup(
                url,
                model=source.model,
                tags={**source.tags, "policy": task.policy},
                probes=source.probes,
                reread=task.work is Work.FULL,
                tenant_column=source.tenant_column,
                pace=throttle,
            )
        held = throttle.held
        record = report.snapshot.manifest
        facts |= {"snapshot": report.snapshot.id, "stored_bytes": record.stored_bytes, "seconds": record.seconds.get("total", 0.0)}
        if held.by_rate or held.by_latency or held.queries:
            facts |= {"waited_for_rate": held.by_rate, "waited_for_latency": held.by_latency}
            facts |= {"queries": held.queries, "slow_queries": held.slow, "slowest_query": held.slowest}
        outcome = "partly" if report.not_captured else "done"
        if report.not_captured:
            raise PartlyDone(f"snapshot {report.snapshot.id[:12]}, but not all of it: {report.not_captured[0].item}")
        return f"snapshot {report.snapshot.id[:12]} of {task.source}", facts
    finally:
        ending = {"STRONGROOM_EVENT": "after", "STRONGROOM_OUTCOME": outcome, "STRONGROOM_SNAPSHOT": str(facts.get("snapshot", ""))}
        _call_all(policy.hooks.after, {**told, **ending}, hidden, tell)


def require_key(room: Room, encryption: Encryption) -> None:
    """Raises Refused unless the repository was opened with the key that the policy says."""
    identity = room.repository.identity
    if encryption.key is not None and identity.label != encryption.key:
        raise Refused(
            f"the policy wants key {encryption.key!r}, the repository was opened with {identity.label or identity.slot[:12]!r}",
            hint="give the daemon that key, or name the other one in the policy's encryption",
        )
    if encryption.max_age is not None:
        slot = next((one for one in room.repository.key_slots()[0] if one.id == identity.slot), None)
        age = (room.repository.clock.now() - _moment(slot.created)).total_seconds() if slot else 0.0
        if age > seconds(encryption.max_age):
            raise Refused(
                f"the key is {said(age)} old, the policy allows {encryption.max_age}", hint="change it: 'strongroom key passwd'"
            )


def _moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _call(hooks: Sequence[Hook], told: Mapping[str, str], hidden: frozenset[str], tell: Callable[[str], None]) -> None:
    """In their order. Raises CommandFailed for one that stops the backup."""
    for hook in hooks:
        try:
            run(hook.command, seconds(hook.timeout), surroundings(told, hidden))
        except CommandFailed as error:
            if hook.on_failure == "stop":
                raise CommandFailed(f"the hook before failed: {error}") from error
            tell(f"a hook failed: {error}")


def _call_all(hooks: Sequence[Hook], told: Mapping[str, str], hidden: frozenset[str], tell: Callable[[str], None]) -> None:
    for hook in hooks:
        try:
            run(hook.command, seconds(hook.timeout), surroundings(told, hidden))
        except CommandFailed as error:
            tell(f"the hook after failed: {error}")


def _limits(limits: Limits, hidden: frozenset[str]) -> tuple[float | None, float | None, Ceiling | None]:
    """Rates of reading and writing in bytes a second, and the ceiling of latency."""
    latency = limits.latency
    ceiling: Ceiling | None = None
    if latency is not None:
        asking, times = _asking(latency.query, hidden), (latency.ceiling, latency.every, latency.patience)
        ceiling = Ceiling(asking, *map(seconds, times))
    return size(limits.read) if limits.read else None, size(limits.write) if limits.write else None, ceiling


def _asking(query: Query, hidden: frozenset[str]) -> Callable[[], None]:
    """What makes the query once; it raises OSError or StrongroomError if it fails."""

    def fetch() -> None:
        if query.url is not None:
            with urllib.request.urlopen(query.url, timeout=_QUERY_SECONDS) as answer:  # noqa: S310 - the model has looked
                answer.read()
        elif query.command is not None:
            run(query.command, _QUERY_SECONDS, surroundings({}, hidden))

    return fetch


def failed(error: BaseException) -> str:
    """What is said of an error: its sentence and what to do next."""
    hint = error.hint if isinstance(error, StrongroomError) and error.hint else ""
    return f"{error or type(error).__name__}{' — ' + hint if hint else ''}"
