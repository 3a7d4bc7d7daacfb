"""How results look to people, and as JSON to programs. No logic: reports in, text out."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from strongroom.cli.bars import amount
from strongroom.model import LedgerItem, Status, Verdict

if TYPE_CHECKING:
    from strongroom.model import Conversion
    from strongroom.operations.backup.run import BackupReport
    from strongroom.operations.journal.moment import PlannedMoment
    from strongroom.operations.journal.status import Hole, StreamStatus
    from strongroom.operations.repair import RepairReport
    from strongroom.operations.restore.plan import RestorePlan
    from strongroom.operations.restore.run import RestoreReport
    from strongroom.operations.verify import VerifyReport
    from strongroom.repository import KeySlot
    from strongroom.snapshots.history import Snapshot
    from strongroom.snapshots.manifest import ProbeSet, StoredArtifact, StoredCollection


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on: be silent, and leave it to the exit code to say what was done."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


out = _Console()
err = _Console(stderr=True)

Part = str | tuple[str, str]
"""A piece of a line: a text as it is, or a text and its style."""

_OK, _BAD = ("✓", "green"), ("✗", "red")
_MARKS = {Status.CAPTURED: _OK, Status.NOT_OFFERED: ("–", "dim"), Status.NOT_CAPTURED: ("!", "yellow")}

_MOST_ITEMS = 12
_MOST_FILES = 24
"""Shown to people: an engine may have thousands."""


def as_json(value: Any) -> str:
    """Indented JSON of reports, plans and lists of them."""
    return json.dumps(plain(value), indent=2, sort_keys=True)


def plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value if isinstance(value.value, str) else value.name.lower()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def snapshot_list(snapshots: Sequence[Snapshot], journals: Sequence[StreamStatus]) -> list[dict[str, Any]]:
    """What `snapshots --json` says: of each, oldest first, also the holes in its source's journal that came before it."""
    holes = {one.source: list(one.holes) for one in journals}
    found = []
    for snapshot in snapshots:
        left = holes.get(snapshot.manifest.source, [])
        before = [hole for hole in left if hole.since[:19] < snapshot.manifest.created[:19]]
        holes[snapshot.manifest.source] = [hole for hole in left if hole not in before]
        found.append({**snapshot_summary(snapshot), "holes_before": plain(before)})
    return found


def snapshot_summary(snapshot: Snapshot) -> dict[str, Any]:
    """What `backup --json` says of a snapshot."""
    record = snapshot.manifest
    return {
        "id": snapshot.id,
        "created": record.created,
        "source": record.source,
        "engine": record.engine,
        "engine_version": record.engine_version,
        "rows": record.rows,
        "collections": {one.name: one.count for one in record.collections},
        "source_bytes": record.source_bytes,
        "stored_bytes": record.stored_bytes,
        "root": record.root,
        "tags": dict(record.tags),
        "models": sorted({one.catalog.lineage.model for one in record.collections if one.catalog.lineage.model}),
        "complete": not any(item.status == Status.NOT_CAPTURED for item in record.ledger),
        **({"made_by": snapshot.host} if snapshot.host else {}),
    }


def snapshot_detail(snapshot: Snapshot) -> dict[str, Any]:
    """What `show --json` says: the manifest without the lists of blobs."""
    record = snapshot.manifest
    return {
        **snapshot_summary(snapshot),
        "host": record.host,
        "strongroom_version": record.strongroom_version,
        "position": plain(record.position),
        "rows_plane": record.rows_plane,
        "parents": list(record.parents),
        "seconds": dict(record.seconds),
        "processor": record.processor,
        "catalog": record.catalog,
        "ledger": plain(record.ledger),
        "artifacts": [
            {"path": one.path, "size": one.size, "collection": one.collection, "cut": one.cut} for one in record.artifacts
        ],
        "collections": [
            {
                **{key: value for key, value in plain(one.catalog).items() if key != "feed"},
                "rows_root": one.rows_root,
                "found_by": one.found_by,
                "slots_read": one.slots_read,
                "segments": len(one.segments),
                "tenant_column": one.tenant_column,
                "tenants": {part.tenant: part.rows for part in one.tenants},
                "probes": [{key: value for key, value in plain(probe).items() if key != "blob"} for probe in one.probes],
            }
            for one in record.collections
        ],
    }


def line(*parts: Part, to: Console | None = None) -> None:
    """Print one line, left whole whatever the width of the terminal is. Names are shown as they are, never taken for markup."""
    (to or out).print(_text(*parts), soft_wrap=True)


def show_done(what: str) -> None:
    line(_OK, f" {what}")


def show_problem(problem: str) -> None:
    """On standard error."""
    line(_BAD, f" {problem}", to=err)


def show_backup(report: BackupReport) -> None:
    record = report.snapshot.manifest
    line(_OK, " snapshot ", (report.snapshot.id[:12], "bold"), f"  {_rows(record.rows)} in {_collections(len(record.collections))}")
    line(f"  {_size(report.snapshot)} in {record.seconds.get('total', 0):.2f} s")
    for one in record.collections[:_MOST_FILES]:
        line(f"  {one.name}: {_found(one)}")
    for item in report.not_captured:
        line("  ", _MARKS[item.status], f" {item.item}: {item.status.value} ({item.note})")
    captured = sum(item.status == Status.CAPTURED for item in record.ledger)
    rest = [item.item for item in record.ledger if item.status != Status.CAPTURED]
    more = f" and {len(rest) - _MOST_ITEMS} more" if len(rest) > _MOST_ITEMS else ""
    left = f"; not in it: {', '.join(rest[:_MOST_ITEMS])}{more} (see 'strongroom show')" if rest else ""
    _paragraph("  ", f"completeness: {captured} captured{left}")


def show_snapshots(snapshots: Sequence[Snapshot], journals: Sequence[StreamStatus] = ()) -> None:
    """One line a snapshot where the terminal is wide enough for all of them, else two; and each hole in a journal, below the
    snapshots of before."""
    lines = [(_numbers(one), _details(one)) for one in snapshots]
    holes = sorted((hole.since, hole, one.source) for one in journals for hole in one.holes)
    head = f"{'snapshot':<12}  {'created (UTC)':<19}  {'rows':>11}  {'size':>9}  {'stored':>9}"
    wide = all(len(numbers) + 2 + len(details) <= out.width for numbers, details in lines)
    line((head + ("  source, model, tags" if wide else ""), "bold"))
    for snapshot, (numbers, details) in zip(snapshots, lines, strict=True):
        while holes and holes[0][0][:19] < snapshot.manifest.created[:19]:
            _show_hole(*holes.pop(0)[1:])
        shown: tuple[Part, ...] = ((numbers[:12], "bold"), numbers[12:])
        if wide:
            line(*shown, f"  {details}")
        else:
            line(*shown)
            line(f"  {details}")
    for _, hole, source in holes:
        _show_hole(hole, source)


def _show_hole(hole: Hole, source: str) -> None:
    times = f"{hole.since[:19]} to {hole.until[:19]}".replace("T", " ")
    line(("-- hole", "yellow"), f"      {times}: no moment of {source} can be restored ({hole.reason})")


def _numbers(snapshot: Snapshot) -> str:
    record = snapshot.manifest
    created = record.created[:19].replace("T", " ")
    sizes = f"{amount(record.source_bytes, 'bytes'):>9}  {amount(record.stored_bytes, 'bytes'):>9}"
    return f"{snapshot.id[:12]}  {created:<19}  {record.rows:>11,}  {sizes}"


def _details(snapshot: Snapshot) -> str:
    record = snapshot.manifest
    models = {_model(one) for one in record.collections if one.catalog.lineage.model}
    tags = " ".join(f"{key}={value}" for key, value in record.tags.items())
    by = f"by {snapshot.host}" if snapshot.host else ""
    return "  ".join(filter(None, (record.source, ", ".join(sorted(models)), tags, by)))


def show_snapshot(snapshot: Snapshot) -> None:
    record = snapshot.manifest
    line((f"snapshot {snapshot.id}", "bold"))
    for name, value in (
        ("created", f"{record.created[:19].replace('T', ' ')} UTC on {record.host}"),
        *([("made by", f"{snapshot.host}, proven by its key slot, which can't read")] if snapshot.host else []),
        ("source", record.source),
        ("engine", f"{record.engine} {record.engine_version}, captured by Strongroom {record.strongroom_version}"),
        ("position", f"{record.position.kind} {record.position.value}"),
        ("rows plane", record.rows_plane),
        ("root", record.root),
        ("size", _size(snapshot)),
        ("seconds", "  ".join(f"{key} {value:.2f}" for key, value in record.seconds.items())),
        ("tags", " ".join(f"{key}={value}" for key, value in record.tags.items()) or "none"),
    ):
        line(f"  {name:<11}{value}")
    line(("collections", "bold"))
    for one in record.collections:
        line("  ", (one.name, "bold"), f"  {_rows(one.count)}  model {_model(one)}")
        if one.found_by:
            line(f"    {_found(one)}")
        if one.tenant_column:
            line(f"    {_counted(len(one.tenants), 'tenants')} by {one.tenant_column}, each with a key of its own")
        for field in one.catalog.fields:
            decoded = " (decoded)" if field.decoded else ""
            index = str(field.index.get("kind", "no index"))
            probes = _probes(next((probe for probe in one.probes if probe.field == field.name), None))
            line(f"    {field.name}  {field.dimension} x {field.dtype}{decoded}  {field.metric}  {index}  {probes}")
    _show_files(record.artifacts)
    show_ledger(record.ledger)


def _show_files(files: Sequence[StoredArtifact]) -> None:
    """Each file of the index plane, its size, and by what it is cut into what is stored."""
    if files:
        line(("files", "bold"))
    for one in files[:_MOST_FILES]:
        line(f"  {one.path}  {amount(one.size, 'bytes')}", f"  {one.cut}" if one.cut else "")
    if len(files) > _MOST_FILES:
        line(f"  and {len(files) - _MOST_FILES:,} more: --json lists all")


def _model(collection: StoredCollection) -> str:
    lineage = collection.catalog.lineage
    return f"{lineage.model}@{lineage.version}" if lineage.version else (lineage.model or "not given")


def _found(collection: StoredCollection) -> str:
    """How the backup knew what had changed."""
    read = "no row was read" if not collection.slots_read else f"{_rows(collection.slots_read)} read"
    return f"{collection.found_by}, {read}"


def _probes(probe: ProbeSet | None) -> str:
    if probe is None:
        return "no probes"
    recall = f", recall@{probe.k} {probe.recall:.3f}" if probe.recall is not None else ""
    return f"{probe.count} probes{recall}"


def show_ledger(ledger: Sequence[LedgerItem]) -> None:
    line(("completeness", "bold"))
    for item in ledger:
        note = f": {item.note}" if item.note else ""
        _paragraph("  ", _MARKS[item.status], " ", f"{item.item}, {item.status.value}{note}")


def show_plan(plan: RestorePlan) -> None:
    line(("plan", "bold"), f"  snapshot {plan.snapshot[:12]} → {plan.target}")
    _paragraph("  rung      ", (plan.rung.value, "bold"), f": {'; '.join(plan.reasons)}", indent=12)
    _paragraph("  cost      ", f"{amount(plan.bytes, 'bytes')}, {_rows(plan.rows)}; {plan.cost}", indent=12)
    if plan.moment is not None:
        _show_moment(plan.moment)
    for one in plan.collections:
        renamed = f" as {one.target_name}" if one.target_name != one.name else ""
        line(f"  restores  {one.name}{renamed}, {_rows(one.rows)}")
    show_conversions(plan.conversions)
    for loss in plan.losses:
        _paragraph(("  changes   ", "yellow"), loss, indent=12)
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
        line("  becomes   ", (_listed(names), "bold"))
        for one in parts:
            if not _is_kept_column(one):
                style = _VERDICTS[one.verdict]
                becomes = f"{one.was}" if one.was == one.becomes else f"{one.was} → {one.becomes}"
                line("    ", (f"{one.verdict:<8}", style), f" {one.part:<{width}}  {becomes}", f" ({one.note})" if one.note else "")
        if columns := [one.part.removeprefix("column ") for one in parts if _is_kept_column(one)]:
            listed = f" {_counted(len(columns), 'columns')}: {_listed(columns)}"
            line("    ", (f"{Verdict.KEPT:<8}", _VERDICTS[Verdict.KEPT]), listed)


def _is_kept_column(one: Conversion) -> bool:
    return one.verdict is Verdict.KEPT and one.part.startswith("column ") and not one.note


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_ITEMS} more" if len(names) > _MOST_ITEMS else ""
    return f"{', '.join(names[:_MOST_ITEMS])}{more}"


_VERDICTS = {Verdict.KEPT: "green", Verdict.WIDENED: "green", Verdict.CHANGED: "yellow", Verdict.LOST: "red"}


def _show_moment(moment: PlannedMoment) -> None:
    takes = "how long it takes isn't known here yet" if moment.seconds is None else f"about {moment.seconds:.0f} s"
    size = amount(moment.bytes, "bytes")
    if moment.undo is not None:
        from strongroom.cli.undoing import show_undo

        show_undo(moment.undo)
    text = f": the snapshot and {moment.operations:,} operations of the journal ({moment.segments} segments, {size}), {takes}"
    _paragraph("  moment    ", (moment.time, "bold"), text, indent=12)
    if moment.scanned:
        _paragraph(
            "  scanned   ", "the state that the last scan before found: what happened between two scans isn't told", indent=12
        )


def show_restore(report: RestoreReport) -> None:
    plan = report.plan
    did = "is there already" if report.already_there else "restored"
    line(_OK, " snapshot ", (plan.snapshot[:12], "bold"), f" {did}: {plan.target}")
    what = plan.rung.value if plan.moment else f"{plan.rung.value}, {_rows(plan.rows)}"  # of a moment the checks say how many
    line(f"  {what} in {report.seconds:.2f} s")
    if plan.moment is not None:
        line("  moment ", (plan.moment.time, "bold"), f", {plan.moment.operations:,} operations after the snapshot")
    for check in report.checks:
        _paragraph("  ", _OK, " ", check)
    for verdict in (Verdict.CHANGED, Verdict.LOST):
        parts = list(dict.fromkeys(one.part for one in plan.conversions if one.verdict is verdict))
        parts = [one for one in parts if not one.startswith("null vectors")]  # a row without its vector would have stopped it
        if parts:
            _paragraph("  ", _MARKS[Status.NOT_CAPTURED], " ", f"{verdict.value}: {_listed(parts)}")
    for loss in plan.losses:
        _paragraph("  ", _MARKS[Status.NOT_CAPTURED], " ", loss)


def show_verify(report: VerifyReport) -> None:
    for finding in report.findings:
        broken = f"  breaks {', '.join(name[:12] for name in finding.snapshots)}" if finding.snapshots else ""
        line(_BAD, f" {finding.subject}: {finding.problem}{broken}")
    for name, recall in report.recall.items():
        line(f"  recall {recall:.4f}  {name}")
    verdict: Part = ("✓ passed", "green") if report.passed else (f"✗ {_counted(len(report.findings), 'findings')}", "red")
    looked = ", ".join(_counted(value, name) for name, value in report.looked_at.items())
    _paragraph(verdict, f"  level {report.level.name.lower()}: looked at {looked}", indent=2)
    for one in report.shredded:
        line(f"  tenant {one}, as was meant")
    if report.unkept:
        line(("!", "yellow"), f" what was proven could not be kept for the coverage: {report.unkept}", to=err)


def show_repair(report: RepairReport) -> None:
    for outcome in report.outcomes:
        did = "would be repaired" if report.dry_run else "repaired"
        found = f"  {outcome.finding.subject}: {outcome.finding.problem} → {outcome.how}"
        line(*((_OK, f" {did}") if outcome.repaired else (_BAD, " not repaired")), found)
    if report.dry_run:
        could = sum(one.repaired for one in report.outcomes)
        line(f"dry run: {could} of {_counted(len(report.outcomes), 'findings')} would be repaired")
    else:
        show_verify(report.verified)


def show_keys(slots: Sequence[KeySlot]) -> None:
    width = max([10, *(len(slot.kind) for slot in slots)])
    line((f"{'key slot':<12}  {'created (UTC)':<19}  {'kind':<{width}}  {'role':<8}  label", "bold"))
    for slot in slots:
        created, role = slot.created[:19].replace("T", " "), "writes" if slot.write_only else slot.identity.role.value
        service = f"  ({slot.body['service']})" if "service" in slot.body else ""
        line((slot.id[:12], "bold"), f"  {created:<19}  {slot.kind:<{width}}  {role:<8}  {slot.label}{service}")


def _text(*parts: Part) -> Text:
    """Control characters in names must not reach the terminal."""
    shown = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*(("".join(c if c.isprintable() else "�" for c in text), style) for text, style in shown))


def _paragraph(*parts: Part, indent: int = 4) -> None:
    """Prose, wrapped at the width of the terminal with a hanging indent; one line where nobody looks."""
    text = _text(*parts)
    if not out.is_terminal:
        out.print(text, soft_wrap=True)
        return
    first, *rest = text.wrap(out, out.width)
    out.print(first)
    if rest:
        folded = text[len(first) :]
        folded = folded[len(folded) - len(folded.plain.lstrip()) :]
        table = Table.grid(padding=0)
        table.add_row(" " * indent, folded)
        out.print(table)


def _counted(count: int, things: str) -> str:
    return f"{count:,} {things.removesuffix('s') if count == 1 else things}"


def _rows(count: int) -> str:
    return _counted(count, "rows")


def _collections(count: int) -> str:
    return _counted(count, "collections")


def _size(snapshot: Snapshot) -> str:
    record = snapshot.manifest
    return f"{amount(record.source_bytes, 'bytes')} read, {amount(record.stored_bytes, 'bytes')} stored"
