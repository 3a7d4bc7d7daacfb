"""How results look to people, and as JSON to programs. No logic: reports in, text out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from enum import Enum
from typing import Any

from rich.console import Console
from rich.table import Table

from strongroom.cli.bars import amount
from strongroom.model import LedgerItem, Status
from strongroom.operations.backup import BackupReport
from strongroom.operations.restore import RestoreReport
from strongroom.operations.restore_plan import RestorePlan
from strongroom.operations.verify import VerifyReport
from strongroom.repository import KeySlot
from strongroom.snapshots.history import Snapshot


def as_json(value: Any) -> str:
    """Indented JSON of reports, plans and lists of them."""
    return json.dumps(plain(value), indent=2, sort_keys=True)


def plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value if isinstance(value.value, str) else value.name.lower()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def snapshot_summary(snapshot: Snapshot) -> dict[str, Any]:
    """What `snapshots --json` says of each snapshot."""
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
        "catalog": record.catalog,
        "ledger": plain(record.ledger),
        "artifacts": [{"path": one.path, "size": one.size, "collection": one.collection} for one in record.artifacts],
        "collections": [
            {
                **plain(one.catalog),
                "rows_root": one.rows_root,
                "segments": len(one.segments),
                "probes": [{key: value for key, value in plain(probe).items() if key != "blob"} for probe in one.probes],
            }
            for one in record.collections
        ],
    }


def show_backup(console: Console, report: BackupReport) -> None:
    record = report.snapshot.manifest
    size = f"{amount(record.source_bytes, 'bytes')} read, {amount(record.stored_bytes, 'bytes')} stored"
    console.print(
        f"[green]✓[/] snapshot [bold]{report.snapshot.id[:12]}[/]  {record.rows:,} rows in "
        f"{len(record.collections)} collections  {size}  {record.seconds.get('total', 0):.2f} s",
        highlight=False,
    )
    for item in report.not_captured:
        console.print(f"[yellow]![/] {item.item}: {item.status.value} ({item.note})", highlight=False)
    offered = sum(item.status == Status.CAPTURED for item in record.ledger)
    rest = [item.item for item in record.ledger if item.status != Status.CAPTURED]
    left = f"; not in it: {', '.join(rest)} (see 'show')" if rest else ""
    console.print(f"  completeness: {offered} captured{left}", highlight=False, soft_wrap=True)


def show_snapshots(console: Console, snapshots: Sequence[Snapshot]) -> None:
    table = Table(box=None, header_style="bold")
    for name in ("snapshot", "created (UTC)", "source", "rows", "size", "stored", "model", "tags"):
        table.add_column(name, justify="right" if name in ("rows", "size", "stored") else "left", overflow="fold")
    for snapshot in snapshots:
        record = snapshot.manifest
        models = {one.catalog.lineage.model for one in record.collections if one.catalog.lineage.model}
        table.add_row(
            snapshot.id[:12],
            record.created[:19].replace("T", " "),
            record.source,
            f"{record.rows:,}",
            amount(record.source_bytes, "bytes"),
            amount(record.stored_bytes, "bytes"),
            ", ".join(sorted(models)),
            " ".join(f"{key}={value}" for key, value in record.tags.items()),
        )
    console.print(table)


def show_snapshot(console: Console, snapshot: Snapshot) -> None:
    record = snapshot.manifest
    console.print(f"[bold]snapshot {snapshot.id}[/]", highlight=False)
    for name, value in (
        ("created", record.created),
        ("source", f"{record.source} on {record.host}"),
        ("engine", f"{record.engine} {record.engine_version}, captured by Strongroom {record.strongroom_version}"),
        ("position", f"{record.position.kind} {record.position.value}"),
        ("rows plane", record.rows_plane),
        ("root", record.root),
        ("size", f"{amount(record.source_bytes, 'bytes')} read, {amount(record.stored_bytes, 'bytes')} stored"),
        ("seconds", "  ".join(f"{key} {value:.2f}" for key, value in record.seconds.items())),
        ("tags", " ".join(f"{key}={value}" for key, value in record.tags.items()) or "none"),
    ):
        console.print(f"  {name:<11}{value}", highlight=False, soft_wrap=True)
    _show_collections(console, snapshot)
    show_ledger(console, record.ledger)


def _show_collections(console: Console, snapshot: Snapshot) -> None:
    table = Table(box=None, header_style="bold")
    for name in ("collection", "rows", "field", "type", "metric", "index", "model", "probes", "recall"):
        table.add_column(name)
    for one in snapshot.manifest.collections:
        for field in one.catalog.fields:
            probe = next((probe for probe in one.probes if probe.field == field.name), None)
            lineage = one.catalog.lineage
            table.add_row(
                one.name,
                f"{one.count:,}",
                field.name,
                f"{field.dimension} x {field.dtype}" + (" (decoded)" if field.decoded else ""),
                field.metric,
                str(field.index.get("kind", "")),
                f"{lineage.model}@{lineage.version}" if lineage.version else (lineage.model or "not given"),
                str(probe.count) if probe else "0",
                f"{probe.recall:.4f}" if probe and probe.recall is not None else "",
            )
    console.print(table)


_MARKS = {Status.CAPTURED: "[green]✓[/]", Status.NOT_OFFERED: "[dim]–[/]", Status.NOT_CAPTURED: "[yellow]![/]"}


def show_ledger(console: Console, ledger: Sequence[LedgerItem]) -> None:
    console.print("[bold]completeness[/]")
    for item in ledger:
        note = f"  {item.note}" if item.note else ""
        console.print(f"  {_MARKS[item.status]} {item.item}: {item.status.value}{note}", highlight=False, soft_wrap=True)


def show_plan(console: Console, plan: RestorePlan) -> None:
    console.print(f"[bold]plan[/]  snapshot {plan.snapshot[:12]} → {plan.target}", highlight=False, soft_wrap=True)
    console.print(f"  rung      [bold]{plan.rung.value}[/]: {'; '.join(plan.reasons)}", highlight=False, soft_wrap=True)
    console.print(f"  cost      {amount(plan.bytes, 'bytes')}, {plan.rows:,} rows; {plan.cost}", highlight=False, soft_wrap=True)
    for one in plan.collections:
        renamed = f" as {one.target_name}" if one.target_name != one.name else ""
        console.print(f"  restores  {one.name}{renamed}, {one.rows:,} rows", highlight=False)
    for loss in plan.losses:
        console.print(f"  [yellow]changes[/]   {loss}", highlight=False, soft_wrap=True)
    for taken in plan.occupied:
        console.print(f"  [yellow]occupied[/]  {taken}: needs --overwrite", highlight=False, soft_wrap=True)


def show_restore(console: Console, report: RestoreReport) -> None:
    plan = report.plan
    did = "is there already" if report.already_there else "restored"
    console.print(
        f"[green]✓[/] snapshot [bold]{plan.snapshot[:12]}[/] {did}: {plan.target}  ({plan.rung.value}, "
        f"{plan.rows:,} rows, {report.seconds:.2f} s)",
        highlight=False,
        soft_wrap=True,
    )
    for check in report.checks:
        console.print(f"  [green]✓[/] {check}", highlight=False, soft_wrap=True)
    for loss in plan.losses:
        console.print(f"  [yellow]![/] {loss}", highlight=False, soft_wrap=True)


def show_verify(console: Console, report: VerifyReport) -> None:
    looked = ", ".join(f"{value:,} {name}" for name, value in report.looked_at.items())
    for finding in report.findings:
        broken = f"  breaks {', '.join(name[:12] for name in finding.snapshots)}" if finding.snapshots else ""
        console.print(f"[red]✗[/] {finding.subject}: {finding.problem}{broken}", highlight=False, soft_wrap=True)
    for name, recall in report.recall.items():
        console.print(f"  recall {recall:.4f}  {name}", highlight=False)
    verdict = "[green]✓ passed[/]" if report.passed else f"[red]✗ {len(report.findings)} findings[/]"
    console.print(f"{verdict}  level {report.level.name.lower()}: looked at {looked}", highlight=False, soft_wrap=True)


def show_keys(console: Console, slots: Sequence[KeySlot]) -> None:
    table = Table(box=None, header_style="bold")
    for name in ("key slot", "kind", "label", "created (UTC)"):
        table.add_column(name)
    for slot in slots:
        table.add_row(slot.id[:12], slot.kind, slot.label, slot.created[:19].replace("T", " "))
    console.print(table)
