"""How does a restore look: what it will do, and what it did?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from strongroom.cli.bars import amount
from strongroom.cli.render import MARKS, OK, counted, line, listed, paragraph, rows
from strongroom.model import Status, Verdict

if TYPE_CHECKING:
    from strongroom.model import Conversion
    from strongroom.operations.journal.moment import PlannedMoment
    from strongroom.operations.restore.plan import RestorePlan
    from strongroom.operations.restore.run import RestoreReport

_VERDICTS = {Verdict.KEPT: "green", Verdict.WIDENED: "green", Verdict.CHANGED: "yellow", Verdict.LOST: "red"}


def show_plan(plan: RestorePlan) -> None:
    line(("plan", "bold"), f"  snapshot {plan.snapshot[:12]} → {plan.target}")
    paragraph("  rung      ", (plan.rung.value, "bold"), f": {'; '.join(plan.reasons)}", indent=12)
    paragraph("  cost      ", f"{amount(plan.bytes, 'bytes')}, {rows(plan.rows)}; {plan.cost}", indent=12)
    if plan.moment is not None:
        _show_moment(plan.moment)
    for one in plan.collections:
        renamed = f" as {one.target_name}" if one.target_name != one.name else ""
        line(f"  restores  {one.name}{renamed}, {rows(one.rows)}")
    show_conversions(plan.conversions)
    for loss in plan.losses:
        paragraph(("  changes   ", "yellow"), loss, indent=12)
    for taken in plan.occupied:
        line(("  occupied  ", "yellow"), f"{taken}: needs --overwrite")


def show_conversions(conversions: Sequence[Conversion]) -> None:
    """A line a part; columns that are kept share one, and collections of which the same becomes."""
    tables: dict[str, list[Conversion]] = {}
    for one in conversions:
        tables.setdefault(one.collection, []).append(dataclasses.replace(one, collection=""))
    alike: dict[tuple[Conversion, ...], list[str]] = {}
    for name, table in tables.items():
        alike.setdefault(tuple(table), []).append(name)
    width = max((len(one.part) for parts in alike for one in parts if not _is_kept_column(one)), default=0)
    for parts, names in alike.items():
        line("  becomes   ", (listed(names), "bold"))
        for one in parts:
            if not _is_kept_column(one):
                style = _VERDICTS[one.verdict]
                becomes = f"{one.was}" if one.was == one.becomes else f"{one.was} → {one.becomes}"
                line("    ", (f"{one.verdict:<8}", style), f" {one.part:<{width}}  {becomes}", f" ({one.note})" if one.note else "")
        if columns := [one.part.removeprefix("column ") for one in parts if _is_kept_column(one)]:
            kept = f" {counted(len(columns), 'columns')}: {listed(columns)}"
            line("    ", (f"{Verdict.KEPT:<8}", _VERDICTS[Verdict.KEPT]), kept)


def _is_kept_column(one: Conversion) -> bool:
    return one.verdict is Verdict.KEPT and one.part.startswith("column ") and not one.note


def _show_moment(moment: PlannedMoment) -> None:
    takes = "how long it takes isn't known here yet" if moment.seconds is None else f"about {moment.seconds:.0f} s"
    size = amount(moment.bytes, "bytes")
    if moment.undo is not None:
        from strongroom.cli.undoing import show_undo

        show_undo(moment.undo)
    text = f": the snapshot and {moment.operations:,} operations of the journal ({moment.segments} segments, {size}), {takes}"
    paragraph("  moment    ", (moment.time, "bold"), text, indent=12)
    if moment.scanned:
        paragraph(
            "  scanned   ", "the state that the last scan before found: what happened between two scans isn't told", indent=12
        )


def show_restore(report: RestoreReport) -> None:
    plan = report.plan
    did = "is there already" if report.already_there else "restored"
    line(OK, " snapshot ", (plan.snapshot[:12], "bold"), f" {did}: {plan.target}")
    what = plan.rung.value if plan.moment else f"{plan.rung.value}, {rows(plan.rows)}"  # of a moment the checks say how many
    line(f"  {what} in {report.seconds:.2f} s")
    if plan.moment is not None:
        line("  moment ", (plan.moment.time, "bold"), f", {plan.moment.operations:,} operations after the snapshot")
    for check in report.checks:
        paragraph("  ", OK, " ", check)
    for verdict in (Verdict.CHANGED, Verdict.LOST):
        parts = list(dict.fromkeys(one.part for one in plan.conversions if one.verdict is verdict))
        parts = [one for one in parts if not one.startswith("null vectors")]  # a row without its vector would have stopped it
        if parts:
            paragraph("  ", MARKS[Status.NOT_CAPTURED], " ", f"{verdict.value}: {listed(parts)}")
    for loss in plan.losses:
        paragraph("  ", MARKS[Status.NOT_CAPTURED], " ", loss)
