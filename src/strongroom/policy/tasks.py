"""What has to be done for which source, and why? Policies meet sources. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase

from strongroom.policy.document import Document, Match, Policy, Source, Timing
from strongroom.policy.retention import Duration, Rules, together
from strongroom.policy.schedule import Due, a_day, coming, due


class Work(StrEnum):
    """What is done. The order is that in which what is due at once begins."""

    JOURNAL = "journal"
    FULL = "full"
    INCREMENTAL = "incremental"
    REPLICATE = "replicate"
    RETENTION = "retention"
    VERIFY = "verify"
    DRILL = "drill"

    @property
    def reads_source(self) -> bool:
        return self in (Work.FULL, Work.INCREMENTAL)


@dataclass(frozen=True, slots=True)
class Task:
    """One thing that is done again and again. `number` is its place in its list of the policy; a journal has no timing."""

    policy: str
    work: Work
    repository: str
    source: str
    timing: Timing | None
    why: str
    number: int = 0
    other: str = ""
    """The replica's name, or a verification's level, or which moment a drill takes."""

    @property
    def name(self) -> str:
        """What its state is kept by: the same as long as the policy says the same. A replica is one whichever policy names it."""
        policy = "" if self.work is Work.REPLICATE else self.policy
        return "/".join(one for one in (policy, self.work.value, self.source, self.repository, self.other, str(self.number)) if one)

    @property
    def steady(self) -> bool:
        """Does it go on all the time: a journal, or a replica that is looked at every so often?"""
        return self.timing is None or (self.work is Work.REPLICATE and self.timing.interval is not None)

    @property
    def alone(self) -> str:
        """Two tasks of which this is the same never run at once."""
        if self.work.reads_source:
            return f"source {self.source}"
        return f"{self.work.value} {self.repository} {self.other if self.work is Work.REPLICATE else ''}".strip()


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a source besides what the document says: the collections that its newest snapshot holds."""

    collections: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """Something that will be run: when it is due and when it starts (UTC), what, on what, and why."""

    at: datetime
    due: datetime
    task: Task


def reason(name: str, source: Source, match: Match, seen: Seen | None = None) -> str | None:
    """Why a source is matched, None if it isn't: every part that is given must match."""
    reasons = []
    collections = (*source.collections, *(seen.collections if seen else ()))
    for what, patterns, values in (
        ("source", match.source, (name,)),
        ("collection", match.collection, collections),
        ("tenant", match.tenant, tuple(source.tenants)),
    ):
        if patterns is not None:
            hit = next((value for value in values if any(fnmatchcase(value, one) for one in patterns)), None)
            if hit is None:
                return None
            reasons.append(f"{what} {hit}")
    for key, pattern in (match.tag or {}).items():
        if key not in source.tags or not fnmatchcase(source.tags[key], pattern):
            return None
        reasons.append(f"tag {key}={source.tags[key]}")
    return ", ".join(reasons) or "every source"


def tasks_of(document: Document, seen: Mapping[str, Seen] | None = None) -> list[Task]:
    """All that is to be done, policy by policy."""
    found: dict[str, Task] = {}
    for name, policy in document.policies.items():
        matched = {
            one: why
            for one, source in document.sources.items()
            if (why := reason(one, source, policy.match, (seen or {}).get(one))) is not None
        }
        for task in _of_policy(name, policy, matched):
            found.setdefault(task.name, task)
    found |= {task.name: task for task in _replicating(document)}
    return list(found.values())


def _of_policy(name: str, policy: Policy, matched: Mapping[str, str]) -> Iterator[Task]:
    for source, why in matched.items():
        said = f"policy {name}: {why}"
        for number, one in enumerate(policy.schedule):
            timing = None if one.kind == "journal" else one.timing()
            yield Task(name, Work(one.kind), policy.repository, source, timing, said, number)
        if policy.retention is not None:
            yield Task(name, Work.RETENTION, policy.repository, source, policy.retention.when, said)
        for number, drill in enumerate(policy.drills):
            yield Task(name, Work.DRILL, policy.repository, source, drill.when, said, number, drill.moment)
    for number, check in enumerate(policy.verification.checks if policy.verification and matched else ()):
        yield Task(name, Work.VERIFY, policy.repository, "", check.when, f"policy {name}", number, check.level)


def _replicating(document: Document) -> Iterator[Task]:
    """One task a replica, whoever names it."""
    for (repository, replica), policies in replicas_of(document).items():
        timing, why = document.repositories[replica].replication.when, f"policy {', '.join(policies)}"
        yield Task(policies[0], Work.REPLICATE, repository, "", timing, why, other=replica)


def replicas_of(document: Document) -> dict[tuple[str, str], list[str]]:
    """Each repository with each of its replicas, and the policies that ask for it: all of a repository that names it itself."""
    found = dict[tuple[str, str], list[str]]()
    for name, policy in document.policies.items():
        for replica in dict.fromkeys((*policy.replicas, *document.repositories[policy.repository].replicas)):
            found.setdefault((policy.repository, replica), []).append(name)
    return found


def replicated(document: Document, repository: str, replica: str, seen: Mapping[str, Seen]) -> tuple[str, ...] | None:
    """The names of the sources that a replica gets of a repository; None: all that it has."""
    if replica in document.repositories[repository].replicas:
        return None
    found = set[str]()
    for policy in document.policies.values():
        if policy.repository == repository and replica in policy.replicas:
            if policy.match == Match():
                return None
            found |= {
                one for one, source in document.sources.items() if reason(one, source, policy.match, seen.get(one)) is not None
            }
    return tuple(sorted(found))


def rules_of(document: Document, source: str, repository: str, seen: Seen | None = None) -> Rules:
    """What all policies together keep of a source: none may forget what another keeps."""
    rules = Rules()
    for policy in document.policies.values():
        if policy.repository == repository and reason(source, document.sources[source], policy.match, seen) is not None:
            rules = together(rules, policy.retention.rules() if policy.retention else Rules())
            rules = together(rules, Rules(pitr=Duration.parse(policy.pitr.window) if policy.pitr else None))
    return rules


def scheduled_a_day(tasks: Iterable[Task], source: str, repository: str, now: datetime) -> int:
    """How many snapshots of a source a day its schedules make there, and two more: somebody makes one before an upgrade, and a day
    that is cut at another hour has one more."""
    due = (one for one in tasks if one.work.reads_source and (one.source, one.repository) == (source, repository))
    return sum(a_day(one.timing, now) for one in due if one.timing is not None) + 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs until a moment, by time, and what goes on all the time."""

    planned: tuple[Planned, ...]
    always: tuple[Task, ...] = field(default=())


def plan(tasks: list[Task], last: Mapping[str, datetime], now: datetime, until: datetime, most: int = 20_000) -> Plan:
    """What runs from `now` until then. `last` is when each task was due last; one that isn't there is due at once."""
    found: list[Planned] = []
    for task in tasks:
        if task.steady or task.timing is None:
            continue
        began = last.get(task.name)
        waiting = due_now(task, began, now)
        if waiting is not None and not waiting.missed:
            found += [Planned(now, one, task) for one in waiting.moments]
        after = now if began is None else began
        for moment, at in coming(task.name, task.timing, after, until):
            if at > now:
                found.append(Planned(at, moment, task))
            if len(found) > most:
                break
    ordered = sorted(found, key=lambda one: (one.at, list(Work).index(one.task.work), one.task.name))
    return Plan(tuple(ordered), tuple(one for one in tasks if one.steady))


def due_now(task: Task, last: datetime | None, now: datetime) -> Due | None:
    """What is due of a task that was last due at `last`; at once if it never was."""
    if task.timing is None:
        return None
    return Due((now,), 0, False) if last is None else due(task.name, task.timing, last, now)


def begins(task: Task, now: datetime, newest: datetime | None) -> datetime | None:
    """From when on a task counts that this machine never ran: a backup from the newest snapshot of its source. None: it is due at
    once, a backup because there is none, another because its interval begins. Cron waits for its time."""
    if task.work.reads_source:
        return newest
    return now if task.timing is not None and task.timing.cron is not None else None
