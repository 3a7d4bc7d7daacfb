"""What runs now? The daemon: what is due is begun, never two of one source at once, and what happened is told.

One thread decides. What is due is found by the same rules (policy/schedule) whether it runs on (`serve`) or once (`once`); that
something is done with is recorded after it, so that a killed daemon begins it again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite

from strongroom.clock import SYSTEM_CLOCK, Clock
from strongroom.errors import PartlyDone, Stopped, StrongroomError
from strongroom.operations.run import backing, following, standing
from strongroom.operations.run.duties import Duties
from strongroom.operations.run.events import Event
from strongroom.operations.run.replicating import facts_of
from strongroom.operations.run.room import Room
from strongroom.operations.run.state import RunState, alone_with
from strongroom.operations.run.telling import Teller
from strongroom.policy.document import Document, Smtp
from strongroom.policy.objectives import Standing, turned
from strongroom.policy.quantities import seconds
from strongroom.policy.schedule import Due
from strongroom.policy.tasks import Seen, Task, Work, begins, due_now, replicas_of, tasks_of

_TICK_SECONDS = 0.5
_LOOK_SECONDS = 60.0
_STAGES = ({Work.FULL, Work.INCREMENTAL}, {Work.REPLICATE, Work.RETENTION}, {Work.VERIFY}, {Work.DRILL})


@dataclass(frozen=True)
class Surroundings:
    """What comes from above: opening a repository by its name, a source's URL with its password, a mail server's password, the
    surroundings of a process that opens a repository itself, and how `strongroom` is called. `hidden` are the names of variables
    that hold secrets: no command gets them."""

    open: Callable[[str], Room]
    url: Callable[[str], str]
    mail_password: Callable[[Smtp], str | None]
    environment: Callable[[str], Mapping[str, str]]
    program: Sequence[str]
    hidden: frozenset[str] = frozenset()


@dataclass
class _Running:
    task: Task
    future: Future[str]
    dues: list[datetime] = field(default_factory=list)


class Service:
    """One policy file at work. `tell` hears every event, from any thread."""

    def __init__(
        self,
        document: Document,
        state: RunState,
        around: Surroundings,
        tell: Callable[[Event], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._document, self._state, self._around, self._clock = document, state, around, clock
        self._log = tell
        self._stop = threading.Event()
        self._running: dict[str, _Running] = {}
        self._rooms: dict[str, Room] = {}
        self._seen: dict[str, Seen] = {}
        self._duties = Duties(document, around, self._stop, self._say_of, lambda: self._seen)
        self._tellers: dict[str, Teller] = {}
        self._worst = 0

    # -- how it is used ----------------------------------------------------------------------------------------------------

    def once(self, stop: threading.Event) -> int:
        """Do what is due, and end; nothing more is begun once `stop` is set. Gives the exit code: 0, else that of the first failure
        (3: something could not be read), 5 if an objective is broken. Raises Locked."""
        self._accept(stop)
        with self._state.alone(), self._telling(), self._pools():
            self._look()
            for works in _STAGES:
                self._begin_due(works)
                if self._await(works - {Work.REPLICATE}):  # a replica that is away holds up nothing
                    self._look()
            self._await(set(Work))
            self._compare()
        return self._worst

    def serve(self, stop: threading.Event) -> int:
        """Until `stop` is set: then what runs is finished, and followers seal what is pending. Raises Locked."""
        self._accept(stop)
        with self._state.alone(), self._telling(), self._pools():
            self._say("started", f"{len(self._tasks())} tasks of {len(self._document.policies)} policies")
            followers = self._follow()
            try:
                self._serve()
            finally:
                for one in followers:
                    one.stop()
                self._await(set(Work))
                for one in followers:
                    one.join()
            self._say("stopped", "nothing runs any more")
        return 0

    def _accept(self, stop: threading.Event) -> None:
        self._stop = self._duties.stop = stop
        if self._state.lost:
            self._say("unknown", f"{self._state.path} could not be read: what was done before isn't known")

    @contextmanager
    def _pools(self) -> Iterator[None]:
        """Threads for what runs at once; each replica has one of its own."""
        replicas = len(replicas_of(self._document))
        with ThreadPoolExecutor(self._document.parallel) as self._pool, ThreadPoolExecutor(max(1, replicas)) as self._copying:
            yield

    def _serve(self) -> None:
        looked = -_LOOK_SECONDS
        while not self._stop.is_set():
            if time.monotonic() - looked >= _LOOK_SECONDS:
                self._look()
                self._compare()
                looked = time.monotonic()
            self._begin_due(set(Work))
            if self._reap():
                looked = -_LOOK_SECONDS
            self._stop.wait(_TICK_SECONDS)
        if self._running:
            self._say("stopping", f"{len(self._running)} tasks are finished first; a second signal stops at once")

    # -- what is due -------------------------------------------------------------------------------------------------------

    def _tasks(self) -> list[Task]:
        return sorted(tasks_of(self._document, self._seen), key=lambda one: list(Work).index(one.work))

    def _begin_due(self, works: set[Work]) -> None:
        now = self._clock.now()
        for task in self._tasks():
            if task.work not in works or task.timing is None or self._stop.is_set():
                continue
            if any(running.task.name == task.name for running in self._running.values()):
                self._still_running(task, now)
                continue
            due = self._due(task, now) if self._has_something(task) else None
            if due is not None:
                self._take(task, due, now)

    def _has_something(self, task: Task) -> bool:
        """What looks at snapshots waits for the first one. That a repository can't be opened is found by trying."""
        if task.work not in (Work.DRILL, Work.VERIFY) or task.repository not in self._rooms:
            return True
        sources = [task.source] if task.source else [one.source for one in self._tasks() if one.repository == task.repository]
        return any(self._seen.get(one, Seen()).collections for one in sources)

    def _due(self, task: Task, now: datetime) -> Due | None:
        last = self._state.last(task.name)
        if last is None:
            began = begins(task, now, self._newest(task))
            if began is not None:
                self._state.begin(task.name, began)
                last = began
        due = due_now(task, last, now)
        return Due((last,), 0, False) if due is None and last is not None and self._state.retry(task.name, now) else due

    def _take(self, task: Task, due: Due, now: datetime) -> None:
        if due.missed:
            self._say_of(task, "missed", f"due {due.newest.isoformat()}, too late for its grace", passed_over=due.passed_over)
            self._state.ended(task.name, due.newest, now, "missed")
            return
        other = self._running.get(task.alone)
        if other is None:
            if due.passed_over and task.work is not Work.REPLICATE:
                self._say_of(task, "coalesced", f"{due.passed_over} missed runs and this one are one", passed_over=due.passed_over)
            pool = self._copying if task.work is Work.REPLICATE else self._pool
            future = pool.submit(self._perform, task, due)
            self._running[task.alone] = _Running(task, future)
        elif task.work is Work.INCREMENTAL or other.task.work is Work.FULL:  # a full one waits until an incremental is done
            self._say_of(task, "skipped", f"{other.task.name} runs, never two of one source at once")
            self._state.ended(task.name, due.newest, now, "skipped")

    def _still_running(self, task: Task, now: datetime) -> None:
        """It is due again while it runs: said once, and skipped."""
        running = self._running[task.alone]
        last = self._state.last(task.name)
        due = due_now(task, last, now) if last is not None else None
        if due is not None and running.dues and due.newest > running.dues[-1] and task.work is not Work.REPLICATE:
            self._say_of(task, "skipped", f"due {due.newest.isoformat()} while it still runs")
        if due is not None:
            running.dues.append(due.newest)

    def _newest(self, task: Task) -> datetime | None:
        room = self._rooms.get(task.repository)
        return standing.newest(room, self._around.url(task.source)) if room and task.work.reads_source else None

    # -- doing it ----------------------------------------------------------------------------------------------------------

    def _perform(self, task: Task, due: Due) -> str:
        """In a thread of the pool; gives the outcome. Never raises: what went wrong is told and counted."""
        if task.work is not Work.REPLICATE:  # it says so itself, if there is something to copy
            self._say_of(task, "started", f"{task.work.value}, {task.why}")
        outcome, code = "done", 0
        for _ in due.moments:
            outcome, code = self._perform_one(task)
            self._worst = self._worst or code
            if outcome == "stopped":  # not done with: it is begun again
                return outcome
            if outcome == "failed":
                break
        running = self._running.get(task.alone)
        last = max((due.newest, *(running.dues if running and running.task is task else ())))
        self._state.ended(task.name, last, self._clock.now(), outcome)
        return outcome

    def _perform_one(self, task: Task) -> tuple[str, int]:
        try:
            with alone_with(self._document.sources[task.source].url if task.work.reads_source else task.name) as alone:
                if not alone:
                    self._say_of(task, "skipped", "another process of this machine does it")
                    return "skipped", 11
                done = self._duties.do(task)
        except Stopped as error:
            self._say_of(task, "stopping", str(error))
            return "stopped", error.exit_code
        except StrongroomError as error:
            self._failed(task, error)
            return "partly" if isinstance(error, PartlyDone) else "failed", error.exit_code
        except Exception as error:  # noqa: BLE001 - one task that breaks must not end the daemon; it is told
            self._say_of(task, "failed", f"{type(error).__name__}: {error}", exit_code=1)
            return "failed", 1
        if done is None:
            return "quiet", 0
        text, facts = done
        self._say_of(task, "done", text, **facts)
        return "done", 0

    def _failed(self, task: Task, error: StrongroomError) -> None:
        """Of a replica each try is in the log, and people hear once that it is broken."""
        lag = self._duties.replicas.lags.get((task.repository, task.other)) if task.work is Work.REPLICATE else None
        if lag is None:
            self._say_of(task, "failed", backing.failed(error), exit_code=error.exit_code)
        else:
            self._say_of(task, "behind", f"{task.other}: {backing.failed(error)}", exit_code=error.exit_code, **facts_of(lag))

    def _reap(self) -> bool:
        """Did anything end that may have changed something?"""
        ended = {name: one for name, one in self._running.items() if one.future.done()}
        for name in ended:
            del self._running[name]
        return any(one.future.exception() or one.future.result() != "quiet" for one in ended.values())

    def _await(self, works: set[Work]) -> bool:
        """As `_reap`, once all of these have ended."""
        wait([one.future for one in self._running.values() if one.task.work in works])
        return self._reap()

    def _follow(self) -> list[following.Follower]:
        return [self._follower(task) for task in self._tasks() if task.work is Work.JOURNAL]

    def _follower(self, task: Task) -> following.Follower:
        scheduled = self._document.policies[task.policy].schedule[task.number]
        every = seconds(scheduled.every) if scheduled.every else None
        place = self._document.repositories[task.repository]
        command = [
            *self._around.program,
            *following.arguments(self._document.sources[task.source].url, place.url, scheduled, every),
        ]
        return following.Follower(
            command, self._around.environment(task.repository), lambda what, text: self._say_of(task, what, text)
        )

    # -- objectives --------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Open the repositories that aren't open yet, and see which collections the sources have. Replicas aren't asked."""
        for name in self._document.primaries():
            try:
                room = self._rooms.get(name) or self._around.open(name)
                self._rooms[name] = room
                for task in tasks_of(self._document):
                    if task.source and task.repository == name:
                        found = standing.seen_of(room, self._around.url(task.source))
                        self._seen[task.source] = found if found.collections else self._seen.get(task.source, found)
            except StrongroomError as error:
                self._say("unknown", f"repository {name} can't be looked at: {error}", repository=name)

    def _compare(self) -> None:
        found = standing.standings(self._document, self._rooms, self._seen, lambda text: self._say("unknown", text))
        found += self._standings_of_replicas()
        broken, met = turned(found, self._state.broken)
        for kind, ones in (("broken", broken), ("recovered", met)):
            for one in ones:
                aim = {"objective": one.objective, "wanted": one.wanted if isfinite(one.wanted) else None, "achieved": one.achieved}
                self._say(kind, str(one), one.policy, "", one.source, one.replica, **aim)
        looked_at = {one.name for one in found}
        still = {one for one in self._state.broken if one not in looked_at}
        self._state.say_broken(still | {one.name for one in found if not one.met})
        if any(not one.met for one in found):
            self._worst = self._worst or 5

    def _standings_of_replicas(self) -> list[Standing]:
        try:
            return standing.of_replicas(self._document, self._duties.replicas.look(self._rooms))
        except StrongroomError as error:
            self._say("unknown", f"how far behind the replicas are can't be told: {error}")
            return []

    # -- telling -----------------------------------------------------------------------------------------------------------

    def _telling(self) -> _Telling:
        return _Telling(self._tellers, self._document, self._around, lambda text: self._say("not_told", text))

    def _say_of(self, task: Task, what: str, text: str, **facts: object) -> None:
        self._say(what, text, task.policy, task.work.value, task.source, task.repository, **facts)

    def _say(
        self, what: str, text: str, policy: str = "", work: str = "", source: str = "", repository: str = "", **facts: object
    ) -> None:
        event = Event(what, self._clock.now().isoformat(timespec="milliseconds"), text, policy, work, source, repository, facts)
        self._log(event)
        names = self._document.policies[policy].notifications if policy else ()
        for name in names:
            if name in self._tellers:
                self._tellers[name].tell(event)


class _Telling:
    """The channels, open for a while; what waits is delivered at the end."""

    def __init__(self, tellers: dict[str, Teller], document: Document, around: Surroundings, failed: Callable[[str], None]) -> None:
        self._tellers, self._document, self._around, self._failed = tellers, document, around, failed

    def __enter__(self) -> None:
        for name, channel in self._document.notifications.items():
            self._tellers[name] = Teller(name, channel, self._around.mail_password, self._failed, self._around.hidden)

    def __exit__(self, *_: object) -> None:
        for teller in self._tellers.values():
            teller.close()
        self._tellers.clear()
