"""What does a drill answer? The report, and how it is written as JSON that is the same bytes wherever it is written."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from strongroom.errors import Damaged
from strongroom.operations.drill.objectives import Outcome

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checked:
    """One step of a drill: a verification level, or what comes between them. `reached` is False if an earlier one stopped it."""

    name: str
    passed: bool
    looked_at: Mapping[str, int]
    findings: tuple[str, ...]
    reached: bool = True

    @property
    def looked(self) -> str:
        """'1 snapshot, 32 probes'."""
        return ", ".join(f"{count:,} {what.removesuffix('s') if count == 1 else what}" for what, count in self.looked_at.items())


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds for one query of a field, of the restored index: `laps` in the order in which they were asked. `recorded_p50` and
    `recorded_p95` are what the live index took at backup, None if nobody measured it."""

    p50: float
    p95: float
    laps: tuple[float, ...]
    recorded_p50: float | None = None
    recorded_p95: float | None = None


@dataclass(frozen=True, slots=True)
class RecoveryPoint:
    """What was restored: `at` is its moment (ISO 8601, UTC). `choice` is how it was chosen; with the same `seed` a random one is
    the same among the same snapshots. `operations` of the journal were applied to the snapshot."""

    choice: str
    seed: int | None
    source: str
    engine: str
    snapshot: str
    at: str
    rows: int
    operations: int
    journal: bool
    newest: str
    """The newest moment that could be restored, by which the RPO is reckoned; it is `at` if this very one was."""


@dataclass(frozen=True, slots=True)
class DrillReport:
    """What was restored, checked and measured. Times in seconds. `rto` is from the start to the first correct answer after the
    restart, `rpo` from the newest recovery point to the start; None if it came to none. `recall` is recall@k of each field against
    exact search in the rows that came back. `id` names the report in the repository, '' if it could not be kept (`unkept` says
    why). `document` is the signed JSON."""

    repository: str
    started: str
    host: str
    version: str
    point: RecoveryPoint | None
    target_engine: str
    rung: str
    restart: str
    steps: tuple[Checked, ...]
    stages: Mapping[str, float]
    rto: float | None
    rpo: float | None
    k: int | None
    recall: Mapping[str, float]
    latency: Mapping[str, Latency]
    objectives: tuple[Outcome, ...]
    passed: bool
    coverage: Mapping[str, float] = field(default_factory=dict)
    """Share of the bytes of all live snapshots that was proven within so many days, and 'never', once this drill was done."""
    id: str = ""
    unkept: str = ""
    document: bytes = b""

    @property
    def lowest_recall(self) -> float | None:
        return min(self.recall.values(), default=None)

    @property
    def highest_p95(self) -> float | None:
        return max((one.p95 for one in self.latency.values()), default=None)

    @property
    def failures(self) -> tuple[str, ...]:
        """Why it failed, a line each."""
        found = [f"{one.name}: {finding}" for one in self.steps for finding in one.findings]
        return (*found, *(str(one) for one in self.objectives if not one.passed))


_NOT_SAID = ("id", "unkept", "document")


def as_body(report: DrillReport) -> dict[str, Any]:
    """What is signed."""
    body = dataclasses.asdict(report)
    return {"strongroom_drill": FORMAT, **{name: _rounded(value) for name, value in body.items() if name not in _NOT_SAID}}


def canonical(body: Any) -> bytes:
    """JSON with sorted keys, without spaces, ASCII only; numbers as Python writes them. Raises ValueError for NaN and infinity."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _rounded(value: Any) -> Any:
    """Microseconds are enough."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {str(name): _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def from_body(name: str, body: Any) -> DrillReport:
    """The inverse of `as_body`. Raises Damaged if it is no report."""
    try:
        values = dict(body)
        if values.pop("strongroom_drill") != FORMAT:
            raise Damaged(name, "a newer Strongroom wrote this report", hint="use a newer Strongroom")
        values["point"] = RecoveryPoint(**values["point"]) if values["point"] else None
        values["steps"] = tuple(Checked(**{**one, "findings": tuple(one["findings"])}) for one in values["steps"])
        values["latency"] = {key: Latency(**{**one, "laps": tuple(one["laps"])}) for key, one in values["latency"].items()}
        values["objectives"] = tuple(Outcome(**one) for one in values["objectives"])
        return DrillReport(**values)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise Damaged(name, "it is no report of a drill") from error
