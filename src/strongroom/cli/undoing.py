"""How people see what an undo does, and which ingest batches there are."""

from __future__ import annotations

from collections.abc import Sequence

from strongroom.cli.render import line
from strongroom.journal.undoing import Fate, RowFate, UndoPreview
from strongroom.operations.journal.batches import Batch

_MEANINGS = {
    Fate.REMOVED: "only this had made them",
    Fate.PUT_BACK: "what they were before",
    Fate.BROUGHT_BACK: "this had removed them",
    Fate.PARTLY: "what later writes said stays, the rest is taken back",
    Fate.KEPT: "a later write replaced or removed them anyway",
    Fate.UNCHANGED: "this had changed nothing in them",
}
_MOST = 15


def show_undo(undo: UndoPreview) -> None:
    """Rows by what becomes of them, a few by name, and what searches will notice."""
    rows = sum(undo.rows.values())
    times = undo.first[:19] if undo.first[:19] == undo.last[:19] else f"{undo.first[:19]}Z to {undo.last[:19]}"
    line("  takes back ", (undo.what, "bold"), f": {undo.operations:,} operations on {rows:,} rows, {times}Z")
    for fate, meaning in _MEANINGS.items():
        if undo.rows.get(fate.value):
            line(f"  {undo.rows[fate.value]:>9,}  ", (f"{fate.value:<13}", "bold"), meaning)
    for one in undo.sample[:_MOST]:
        line(f"             {_told(one)}")
    if undo.again:
        line(("  again     ", "yellow"), f"{undo.again:,} were of rows that it had changed before: later updates may be among them")
    if undo.lost_updates:
        line(("  lost      ", "yellow"), f"{undo.lost_updates:,} later updates were of rows that only this had made: they go too")
    if undo.replacements:
        line("  kept      ", f"{undo.replacements:,} later inserts took effect because this had removed their rows: they stay")
    line(f"  searches  {_searches(undo)}")


def _told(one: RowFate) -> str:
    changed = f": {', '.join(one.changed)}" if one.changed else ""
    return f"{one.collection}  {one.id}  {one.fate.value}{changed}"


def _searches(undo: UndoPreview) -> str:
    if not undo.probes:
        return "no query is sealed in the snapshot: not told"
    changed = f"{undo.probes_changed:,} of {undo.probes:,} probes change their first {undo.k} neighbours"
    return f"{changed}; {undo.neighbours:,} neighbours in all"


def show_batches(found: Sequence[Batch]) -> None:
    if not found:
        line("no row was written yet")
        return
    width = max(len("batch"), *(len(one.batch or "(none)") for one in found))
    line((f"{'batch':<{width}}  {'operations':>10}  {'rows':>9}  {'first (UTC)':<19}  {'last (UTC)':<19}  collections", "bold"))
    for one in found:
        times = "  ".join(time[:19].replace("T", " ") for time in (one.first, one.last))
        names = ", ".join(one.collections)
        line(f"{one.batch or '(none)':<{width}}  {one.operations:>10,}  {one.rows:>9,}  {times}  {names}")
