"""How is each kind of work of a policy done? Gives a sentence and facts, or raises what went wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol

from strongroom.errors import NotFound, VerificationFailed, WrongRequest
from strongroom.operations.backup.run import without_password
from strongroom.operations.forget import ForgetOptions
from strongroom.operations.policy.publishing import require_region
from strongroom.operations.prune.run import is_locking
from strongroom.operations.run import backing, holding
from strongroom.operations.run.replicating import Replicas
from strongroom.operations.run.room import Drills, Room
from strongroom.operations.verify import Level
from strongroom.policy.document import Document
from strongroom.policy.quantities import said, seconds, size
from strongroom.policy.retention import Trust
from strongroom.policy.tasks import Seen, Task, Work, reason, rules_of, scheduled_a_day, tasks_of

Done = tuple[str, dict[str, object]]
"""A sentence, and the facts."""


class Opens(Protocol):
    """What is needed of the surroundings."""

    @property
    def open(self) -> Callable[[str], Room]: ...

    @property
    def url(self) -> Callable[[str], str]: ...

    @property
    def hidden(self) -> frozenset[str]: ...


class Duties:
    """What tasks are done by. Each opens the repository for itself: with the password that holds now."""

    def __init__(
        self,
        document: Document,
        around: Opens,
        stop: threading.Event,
        tell: Callable[[Task, str, str], None],
        seen: Callable[[], Mapping[str, Seen]],
    ) -> None:
        self._document, self._around, self.stop, self._tell, self._seen = document, around, stop, tell, seen
        self.replicas = Replicas(document, around.open, around.url, seen, tell)

    def do(self, task: Task) -> Done | None:
        """None if there was nothing to do. Raises what the work raises."""
        if task.work is Work.REPLICATE:
            return self.replicas.keep(task, self.stop)
        if task.work.reads_source:
            return self._back_up(task)
        return {Work.RETENTION: self._retain, Work.VERIFY: self._verify, Work.DRILL: self._drill}[task.work](task)

    def _back_up(self, task: Task) -> Done:
        url = self._around.url(task.source)

        def tell(text: str) -> None:
            self._tell(task, "held_back" if "answers slower" in text else "hook", text)

        def opened() -> Room:
            room = self._around.open(task.repository)
            require_region(room.repository, self._document, task.repository)
            self._hold(room, task.source)
            return room

        return backing.make(self._document, task, url, opened, self.stop, tell, self._around.hidden)

    def _hold(self, room: Room, source: str) -> None:
        """The holds of all policies of a source, in whichever of their repositories this is."""
        seen, one = self._seen().get(source), self._document.sources[source]
        wanted = [
            hold
            for policy in self._document.policies.values()
            if reason(source, one, policy.match, seen) is not None
            for hold in policy.holds
        ]
        holding.ensure(room, without_password(self._around.url(source)), wanted)

    def _retain(self, task: Task) -> Done:
        """By the rules of all policies of the source together: what one keeps no other may forget."""
        retention = self._document.policies[task.policy].retention
        assert retention is not None  # noqa: S101 - it is what the task is of
        room = self._around.open(task.repository)
        self._hold(room, task.source)
        seen, source = self._seen(), without_password(self._around.url(task.source))
        rules = rules_of(self._document, task.source, task.repository, seen.get(task.source))
        scheduled = scheduled_a_day(tasks_of(self._document, seen), task.source, task.repository, datetime.now(UTC))
        try:
            report = room.forget(ForgetOptions(rules=rules, source=source, trust=Trust(scheduled=scheduled)))
        except NotFound:
            return f"nothing is kept of {task.source} yet", {"forgotten": 0}
        facts: dict[str, object] = {"forgotten": len(report.forgotten), "kept": len(report.fates) - len(report.forgotten)}
        self._maintain(room, prune=retention.prune)
        return f"{len(report.forgotten)} snapshots of {task.source} forgotten, {facts['kept']} kept", facts

    def _maintain(self, room: Room, *, prune: bool) -> None:
        """Free what nobody needs, and keep locked what somebody does. Raises VerificationFailed for what isn't as it must be."""
        if prune:
            problems: tuple[str, ...] = room.prune().problems
        elif is_locking(room.repository):
            report = room.extend_locks()
            problems = (*report.problems, *report.hidden)
        else:
            problems = ()
        if problems:
            hint = "'strongroom prune' and 'strongroom lock status' show all of it"
            raise VerificationFailed(f"{len(problems)} problems, the first: {problems[0]}", hint=hint)

    def _verify(self, task: Task) -> Done:
        verification = self._document.policies[task.policy].verification
        assert verification is not None  # noqa: S101 - it is what the task is of
        check = verification.checks[task.number]
        budget = size(check.budget) if check.budget else None
        report = self._around.open(task.repository).verify(level=Level[check.level.upper()], budget=budget)
        if not report.passed:
            raise VerificationFailed(
                f"{len(report.findings)} findings at level {check.level}, the first: {report.findings[0]}",
                hint="run 'strongroom verify' to see all of them",
            )
        return f"verified at level {check.level}", {"looked_at": dict(report.looked_at), "healthy": len(report.healthy)}

    def _drill(self, task: Task) -> Done:
        room = self._around.open(task.repository)
        if not isinstance(room, Drills):
            raise WrongRequest("this version has no drills", hint="leave 'drills' out of the policy")
        promised = self._document.policies[task.policy].objectives
        limits = {name: seconds(text) for name, text in (("rpo", promised.rpo), ("rto", promised.rto)) if text is not None}
        report = room.drill(source=without_password(self._around.url(task.source)), moment=task.other, objectives=limits)
        if not report.passed:
            more = f" (and {len(report.failures) - 1} more)" if len(report.failures) > 1 else ""
            raise VerificationFailed(f"the drill failed: {report.failures[0]}{more}", hint="see 'strongroom drill history'")
        measured = {"rto": report.rto, "rpo": report.rpo, "recall": report.lowest_recall}
        facts = {"passed": True, **{name: None if one is None else round(one, 4) for name, one in measured.items()}}
        return f"{task.source} came back, with right answers after {said(report.rto or 0.0)}", {**facts, "report": report.id}
