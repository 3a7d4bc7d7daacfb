"""How differences between two snapshots look to people, and as JSON to programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from strongroom.cli.bars import amount
from strongroom.cli.render import line, plain, show_problem
from strongroom.model import Json
from strongroom.operations.diff.rows import ChangedRow, Id, RowDifferences
from strongroom.operations.diff.run import CollectionDifferences, DiffReport
from strongroom.snapshots.changes import Change, FileChange
from strongroom.snapshots.history import Snapshot

_LONGEST = 48
"""Characters of an id or a value that are shown to people."""

_MOST_LINES = 24
"""Files, and things in the catalog, that are shown to people."""


def diff_summary(report: DiffReport) -> dict[str, Any]:
    """What `diff --json` says: all of it."""
    return {
        "before": _which(report.before),
        "after": _which(report.after),
        "differs": report.differs,
        "collections": [{**plain(one), "differs": one.differs} for one in report.collections],
        "catalog": plain(report.catalog),
        "files": plain(report.files),
    }


def show_diff(report: DiffReport) -> None:
    line(("diff", "bold"), f"  {_headline(report.before)}  →  {_headline(report.after)}")
    if not report.differs:
        line("  no difference")
        return
    _show_counts(report.collections)
    changes = [(f"{_name(one)}: {change.path}", change) for one in report.collections for change in one.catalog]
    _show_catalog([*((change.path, change) for change in report.catalog), *changes])
    _show_files(report.files)
    for problem in report.problems:
        show_problem(problem)


def _which(snapshot: Snapshot) -> dict[str, str]:
    return {"id": snapshot.id, "created": snapshot.manifest.created, "source": snapshot.manifest.source}


def _headline(snapshot: Snapshot) -> str:
    return f"{snapshot.id[:12]} of {snapshot.manifest.created[:19].replace('T', ' ')}"


def _show_counts(collections: Sequence[CollectionDifferences]) -> None:
    names = [_name(one) for one in collections]
    width = max(10, *(len(name) for name in names)) if names else 10
    line((f"  {'collection':<{width}}  {'before':>11}  {'after':>11}  {'added':>11}  {'changed':>11}  {'removed':>11}", "bold"))
    for name, one in zip(names, collections, strict=True):
        rows = (one.rows.added, one.rows.changed, one.rows.removed) if one.rows else (None, None, None)
        line(f"  {name:<{width}}", *(f"  {_count(number):>11}" for number in (one.rows_before, one.rows_after, *rows)))
        for title, shown in _details(one.rows) if one.rows else ():
            line((f"    {title:<9}", "dim"), shown)


def _name(one: CollectionDifferences) -> str:
    return " → ".join(dict.fromkeys(name for name in (one.before, one.after) if name is not None))


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


def _details(rows: RowDifferences) -> Iterator[tuple[str, str]]:
    """A line on the columns, and one a sample that has rows."""
    columns = [f"{name} in {count:,}" for name, count in rows.columns.items()]
    if rows.untold:
        columns.append(f"not told in {rows.untold:,}: the engine's files hold the rows")
    if columns:
        yield "columns", ", ".join(columns)
    yield from _sample("added", rows.sample_added, rows.added)
    yield from _sample("changed", rows.sample_changed, rows.changed)
    yield from _sample("removed", rows.sample_removed, rows.removed)


def _sample(title: str, rows: Sequence[Id | ChangedRow], count: int) -> Iterator[tuple[str, str]]:
    if rows:
        yield title, ", ".join([*map(_shown, rows), *(["..."] if count > len(rows) else [])])


def _shown(row: Id | ChangedRow) -> str:
    if not isinstance(row, ChangedRow):
        return _short(str(row))
    return _short(str(row.id)) + (f" ({', '.join(row.columns)})" if row.columns else "")


def _show_catalog(changes: Sequence[tuple[str, Change]]) -> None:
    if changes:
        line(("catalog", "bold"))
    for title, change in changes[:_MOST_LINES]:
        line(f"  {title}  {_value(change.before)} → {_value(change.after)}")
    _show_rest(len(changes))


def _show_files(files: Sequence[FileChange]) -> None:
    if files:
        line(("files", "bold"))
    for one in files[:_MOST_LINES]:
        line(f"  {one.path}  {_file(one)}")
    _show_rest(len(files))


def _show_rest(count: int) -> None:
    if count > _MOST_LINES:
        line(f"  and {count - _MOST_LINES:,} more: --json lists all")


def _file(one: FileChange) -> str:
    if one.before is None or one.after is None:
        return f"new, {amount(one.after, 'bytes')}" if one.after is not None else f"gone, {amount(one.before or 0, 'bytes')}"
    if one.before != one.after:
        return f"{amount(one.before, 'bytes')} → {amount(one.after, 'bytes')}"
    return f"{amount(one.after, 'bytes')}, {'changed' if one.certain else 'stored otherwise: it may have changed'}"


def _value(value: Json) -> str:
    return "nothing" if value is None else _short(json.dumps(value, ensure_ascii=False, default=str))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
