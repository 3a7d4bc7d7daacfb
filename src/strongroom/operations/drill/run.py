"""How does a drill go? Restore, restart, ask: that is the RTO. Then everything is checked, and measured against the objectives."""

from __future__ import annotations

import importlib.metadata
import json
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from strongroom import engines
from strongroom.engines.protocol import ScratchElsewhere
from strongroom.errors import Damaged, Refused, StrongroomError
from strongroom.model import Selection
from strongroom.operations.backup.run import without_password
from strongroom.operations.coverage import coverage
from strongroom.operations.drill import objectives, restarted, signing
from strongroom.operations.drill.came_back import CameBack, Judged, judge
from strongroom.operations.drill.point import Chosen, choose, unrestorable
from strongroom.operations.drill.report import Checked, DrillReport, Latency, RecoveryPoint
from strongroom.operations.drill.restarted import Question, Reply
from strongroom.operations.restore.plan import plan_restore
from strongroom.operations.restore.run import RestoreOptions, RestoreReport, restore
from strongroom.operations.verify.data import check_data
from strongroom.operations.verify.examination import Examination
from strongroom.operations.verify.journals import check_journals
from strongroom.operations.verify.objects import check_history, check_key_slots, check_objects
from strongroom.operations.verify.report import Level, VerifyOptions
from strongroom.operations.verify.restored import check_segments
from strongroom.progress import Progress
from strongroom.repository import PACKS, SNAPSHOTS, Repository, drills
from strongroom.snapshots import history, latency, probes
from strongroom.snapshots.tenant_parts import opened

STEPS = ("recovery point", "objects", "data", "restore", "restart", "answers")


@dataclass(frozen=True, slots=True)
class DrillOptions:
    """`moment` is 'newest', 'random' or 'at=TIME'; `objectives` maps what is wanted to its limit (`objectives.parse`). `scratch` is
    the directory below which files are restored; `target` is a URL to restore to instead, which must be free and is left as it is.
    `budget` bounds the bytes that level DATA reads, besides what the restore needs."""

    source: str | None = None
    moment: str = "newest"
    seed: int | None = None
    objectives: Mapping[str, float] = field(default_factory=dict)
    scratch: Path | None = None
    target: str | None = None
    budget: int | None = None


class Drill:
    """One drill. `run` gives its report, whatever came of it; raises what stands in the way of having one at all: a wrong request,
    no snapshot, a store or engine that can't be reached."""

    def __init__(self, repository: Repository, options: DrillOptions, progress: Progress) -> None:
        self._repository = repository
        self._options = options
        self._progress = progress
        self._look = Examination(repository, VerifyOptions(Level.ANSWERS, options.budget, options.scratch), progress)
        self._started = repository.clock.now()
        self._begun = repository.clock.timer()
        self._stages: dict[str, float] = {}
        self._steps: dict[str, Checked] = {}
        self._restored: RestoreReport | None = None
        self._restart = ""
        self._rto: float | None = None
        self._judged: list[Judged] = []
        self._k: int | None = None

    def run(self) -> DrillReport:
        chosen, point = self._choose()
        if chosen is not None:
            with self._look.keeping_proofs(), self._place(chosen) as url:
                self._exercise(chosen, url)
        return self._kept(self._report(point))

    def _choose(self) -> tuple[Chosen | None, RecoveryPoint | None]:
        options = self._options
        self._repository.distrust_cache()  # a machine that takes over has none
        with self._step("recovery point"):
            try:
                chosen = choose(self._repository, options.source, options.moment, options.seed)
                chosen = replace(chosen, snapshot=opened(self._repository, chosen.snapshot))
            except StrongroomError as error:
                if not unrestorable(error):
                    raise
                self._look.find("recovery point", f"{options.moment} can't be restored: {error}")
                return None, None
            self._look.count("snapshots", 1)
        return chosen, chosen.point

    @contextmanager
    def _place(self, chosen: Chosen) -> Iterator[str]:
        """The URL to restore to."""
        if self._options.target is not None:
            _require_free(chosen, self._options.target)
            yield self._options.target
            return
        with tempfile.TemporaryDirectory(prefix="strongroom-drill-", dir=self._options.scratch) as place, ExitStack() as leaving:
            engine = engines.find(chosen.snapshot.manifest.engine)
            url = engine.scratch(Path(place), [one.name for one in chosen.snapshot.manifest.collections])
            if isinstance(engine, ScratchElsewhere):
                leaving.callback(engine.drop_scratch, url)
            yield url

    def _exercise(self, chosen: Chosen, url: str) -> None:
        questions = self._restore(chosen, url)
        replies = self._ask_again(url, questions) if questions is not None else None
        with self._step("objects"), self._stage("objects"):
            sizes = self._check_objects(chosen)
        with self._step("data"), self._stage("data"):
            check_data(self._look, [chosen.snapshot], sizes)
            if chosen.moment is not None:
                check_journals(self._look, data=True)
        if questions is None:
            return
        came_back = CameBack(self._look, chosen.snapshot, questions, _roots(url) if chosen.moment else None)
        with self._step("restore"), self._stage("reading back"), self._finding(chosen, "what was restored can't be read"):
            if chosen.snapshot.manifest.rows_plane == "segments":
                for collection in chosen.snapshot.manifest.collections:
                    check_segments(self._look, chosen.snapshot, collection)
            with engines.source_of(url).freeze(self._progress) as frozen:
                came_back.read(frozen)
        if replies is not None:
            with self._step("answers"):
                self._judge(chosen, came_back, replies)

    # -- the recovery ------------------------------------------------------------------------------------------------------------

    def _restore(self, chosen: Chosen, url: str) -> dict[tuple[str, str], Question] | None:
        """Restore, and fetch the sealed queries. None if that failed, which is noted."""
        with self._step("restore"), self._stage("restore"), self._finding(chosen, "it can't be restored"):
            options = RestoreOptions(replay=False, moment=chosen.moment)
            self._restored = restore(self._repository, chosen.snapshot.id, url, options, self._progress)
            if self._restored.already_there:
                raise Refused(f"{without_password(url)} held this state already: nothing was restored")
            return {
                (collection.name, one.field): Question(
                    collection.name, one.field, probes.decode(self._repository.read_blob(bytes.fromhex(one.blob)))
                )
                for collection in chosen.snapshot.manifest.collections
                for one in collection.probes
            }
        return None

    def _ask_again(self, url: str, questions: Mapping[tuple[str, str], Question]) -> list[Reply] | None:
        """Restart, and have another process ask. None if it doesn't come up, which is noted."""
        clock = self._repository.clock
        self._progress.begin("restart", None, "objects")
        with self._step("restart"), self._stage("restart"):
            try:
                self._restart = restarted.stop_and_start(url, scratch=self._options.target is None)
                replies = restarted.opened_again(url, list(questions.values()))
            except StrongroomError as error:
                self._look.find("restart", f"it doesn't open again: {error}")
                return None
            self._ended = clock.timer()
            self._look.count("restarts", 1)
            return replies

    # -- the checks --------------------------------------------------------------------------------------------------------------

    def _check_objects(self, chosen: Chosen) -> dict[str, int]:
        look = self._look
        snapshots, damaged = history.read_all(self._repository)
        check_history(look, snapshots, damaged)
        check_key_slots(look)
        sizes = {listed.name: listed.size for listed in self._repository.store.list(PACKS)}
        check_objects(look, [chosen.snapshot], sizes)
        return sizes

    def _judge(self, chosen: Chosen, came_back: CameBack, replies: list[Reply]) -> None:
        came_back.check_probed()
        came_back.check_sealed()
        self._judged = judge(came_back, replies)
        self._k = max((one.sealed.k for one in came_back.questions.values()), default=None)
        for one in self._judged:
            if one.problem:
                subject = f"{SNAPSHOTS}{chosen.snapshot.id}, collection {one.reply.collection}, probes of {one.reply.field}"
                self._look.find(subject, one.problem, [chosen.snapshot])
            if one.reply.answers is not None:
                self._look.count("probes", len(one.reply.answers))
        if not self._look.looked_at.get("probes"):
            unknown = "not one probe could be replayed: nobody knows whether the answers are right"
            self._look.find("probes", unknown, [chosen.snapshot])
        right = [self._ended - one.reply.before_end for one in self._judged if not one.problem]
        self._rto = min(right) - self._begun if right else None

    # -- the report --------------------------------------------------------------------------------------------------------------

    def _report(self, point: RecoveryPoint | None) -> DrillReport:
        recall = {_name(one): one.recall for one in self._judged if one.recall is not None}
        timed = [one for one in self._judged if one.reply.laps and one.recall is not None]
        taken = {_name(one): _latency(one.reply, self._recorded(one)) for one in timed}
        rpo = (self._started - datetime.fromisoformat(point.newest)).total_seconds() if point else None
        measured = {
            "rto": self._rto,
            "rpo": rpo,
            "recall": min(recall.values(), default=None) if len(recall) == len(self._judged) else None,
            "p50": max((one.p50 for one in taken.values()), default=None) if len(taken) == len(self._judged) else None,
            "p95": max((one.p95 for one in taken.values()), default=None) if len(taken) == len(self._judged) else None,
            "envelope": _envelope(taken) if len(taken) == len(self._judged) else None,
        }
        met = objectives.judge(self._options.objectives, measured)
        steps = tuple(self._steps.get(name, Checked(name, False, {}, (), reached=False)) for name in STEPS)
        covered = coverage(self._repository).covered
        shares = {str(days): covered.share(days) for days in covered.within}
        if covered.total.bytes:
            shares["never"] = covered.never.bytes / covered.total.bytes
        return DrillReport(
            repository=self._repository.config.repository_id.hex(),
            started=self._started.isoformat(),
            host=socket.gethostname(),
            version=importlib.metadata.version("strongroom"),
            point=point,
            target_engine=self._restored.plan.engine if self._restored else "",
            rung=self._restored.plan.rung.value if self._restored else "",
            restart=self._restart,
            steps=steps,
            stages=self._stages,
            rto=self._rto,
            rpo=rpo,
            k=self._k,
            recall=recall,
            latency=taken,
            objectives=met,
            passed=all(one.passed for one in steps) and all(one.passed for one in met),
            coverage=shares,
        )

    def _kept(self, report: DrillReport) -> DrillReport:
        report = signing.signed(report, self._repository.keys)
        try:
            kept = drills.write(self._repository.store, self._repository.keys, report.document)
        except (StrongroomError, OSError) as error:
            return replace(report, unkept=str(error))
        return replace(report, id=kept)

    def _recorded(self, one: Judged) -> Mapping[str, float]:
        return self._latencies.get((one.reply.collection, one.reply.field), {})

    @property
    def _latencies(self) -> dict[tuple[str, str], Mapping[str, float]]:
        if self._restored is None:
            return {}
        record = history.read(self._repository, self._restored.plan.snapshot).manifest
        return {(one.name, name): said for one in record.collections for name, said in one.latency.items()}

    # -- bookkeeping -------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        """How long it took."""
        started = self._repository.clock.timer()
        try:
            yield
        finally:
            self._stages[name] = self._stages.get(name, 0.0) + self._repository.clock.timer() - started

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """What was looked at and found meanwhile belongs to this step; a step that is entered again goes on."""
        looked = dict(self._look.looked_at)
        before = self._steps.get(name, Checked(name, True, {}, ()))
        with self._look.apart() as fresh:
            yield
        total = dict(before.looked_at)
        for what, count in self._look.looked_at.items():
            if count != looked.get(what, 0):
                total[what] = total.get(what, 0) + count - looked.get(what, 0)
        findings = (*before.findings, *(f"{one.subject}: {one.problem}" for one in fresh))
        self._steps[name] = Checked(name, not findings, total, findings)

    @contextmanager
    def _finding(self, chosen: Chosen, what: str) -> Iterator[None]:
        """Failures are found, not raised: they are what a drill is for."""
        try:
            yield
        except Damaged as error:
            self._look.find(error.subject, error.problem, [chosen.snapshot])
        except StrongroomError as error:
            self._look.find(SNAPSHOTS + chosen.snapshot.id, f"{what}: {error}", [chosen.snapshot])


def _require_free(chosen: Chosen, url: str) -> None:
    taken = plan_restore(chosen.snapshot, url, Selection(), moment=chosen.moment).occupied
    if taken:
        hint = "give a target that is free: what is there isn't touched, and a restore that is there already measures nothing"
        raise Refused(f"{without_password(url)} is not empty ({taken[0]})", hint=hint)


def _roots(url: str) -> Mapping[str, str]:
    """Those of the collections of a moment, as the restore noted them."""
    receipt = engines.target_of(url).receipt()
    roots: Mapping[str, str] = {}
    with suppress(ValueError, KeyError):
        roots = json.loads(receipt or b"{}")["collections"]
    return roots


def _name(one: Judged) -> str:
    return f"{one.reply.collection}, {one.reply.field}"


def _latency(reply: Reply, recorded: Mapping[str, float]) -> Latency:
    taken = latency.summary(reply.laps)
    return Latency(taken["p50"], taken["p95"], reply.laps, recorded.get("p50"), recorded.get("p95"))


def _envelope(taken: Mapping[str, Latency]) -> float | None:
    """How many times the recorded p95 the worst field's p95 is; None if one has no record."""
    factors = [one.p95 / one.recorded_p95 for one in taken.values() if one.recorded_p95]
    return max(factors) if factors and len(factors) == len(taken) else None
