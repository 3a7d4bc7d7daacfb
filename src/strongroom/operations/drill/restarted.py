"""Does a restored database open again in a process that had no part in making it, and what does it answer there?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from strongroom import engines
from strongroom.engines import isolation, stopwatch
from strongroom.engines.protocol import Engine, ScratchRestarts
from strongroom.errors import StrongroomError
from strongroom.model import Answers
from strongroom.operations.restore.replay import actual_name, ask
from strongroom.progress import SILENT
from strongroom.snapshots.probes import Probes


@dataclass(frozen=True, slots=True)
class Question:
    """The sealed queries of one field."""

    collection: str
    field: str
    sealed: Probes


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered, or why nothing was. `laps` are the seconds of each query, `before_end` those from the answers until the
    process was done."""

    collection: str
    field: str
    answers: Answers | None
    problem: str
    laps: tuple[float, ...]
    before_end: float


def stop_and_start(url: str, *, scratch: bool) -> str:
    """Stop the server of a scratch target and start it again, where it has one of its own. Gives what was done, and what will be.
    Raises EngineFailed."""
    engine: Engine = engines.engine_of(url)
    if scratch and isinstance(engine, ScratchRestarts):
        engine.restart_scratch(url)
        return "the server was stopped and started, and asked by another process"
    if urlsplit(url).netloc and not Path(urlsplit(url).path).exists():
        return "another process connected; the server itself ran on"
    return "another process opened the files"


def opened_again(url: str, questions: Sequence[Question]) -> list[Reply]:
    """What a new process, which opens the target by its URL alone, answers. Raises what opening it raises."""
    replies: list[Reply] = isolation.call("strongroom.operations.drill.restarted:answer", url, list(questions))
    return replies


def answer(url: str, questions: Sequence[Question]) -> list[Reply]:
    """Runs in the new process."""
    answered: list[tuple[Question, Answers | None, str, tuple[float, ...], float]] = []
    with engines.prepared(url), engines.source_of(url).freeze(SILENT) as frozen:
        for one in questions:
            found, problem = None, ""
            with stopwatch.timing() as laps:
                try:
                    found = ask(frozen, actual_name(frozen, one.collection), one.field, one.sealed)
                except (StrongroomError, StopIteration, KeyError) as error:
                    problem = str(error) or f"{one.collection} can't be asked"
            answered.append((one, found, problem, tuple(laps), time.perf_counter()))
    end = time.perf_counter()
    return [Reply(one.collection, one.field, found, why, laps, end - at) for one, found, why, laps, at in answered]
