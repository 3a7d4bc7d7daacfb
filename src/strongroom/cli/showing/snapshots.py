"""How do snapshots look: a backup that was made, a list of them, one in full?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from strongroom.cli.bars import amount
from strongroom.cli.render import MARKS, MOST_ITEMS, OK, Part, counted, line, out, paragraph, plain, rows
from strongroom.model import LedgerItem, Status

if TYPE_CHECKING:
    from strongroom.operations.backup.run import BackupReport
    from strongroom.operations.journal.status import Hole, StreamStatus
    from strongroom.snapshots.history import Snapshot
    from strongroom.snapshots.manifest import ProbeSet, StoredArtifact, StoredCollection

_MOST_FILES = 24
"""Shown to people: an engine may have thousands."""


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


def show_backup(report: BackupReport) -> None:
    record = report.snapshot.manifest
    line(OK, " snapshot ", (report.snapshot.id[:12], "bold"), f"  {rows(record.rows)} in {_collections(len(record.collections))}")
    line(f"  {_size(report.snapshot)} in {record.seconds.get('total', 0):.2f} s")
    for one in record.collections[:_MOST_FILES]:
        line(f"  {one.name}: {_found(one)}")
    for item in report.not_captured:
        line("  ", MARKS[item.status], f" {item.item}: {item.status.value} ({item.note})")
    captured = sum(item.status == Status.CAPTURED for item in record.ledger)
    rest = [item.item for item in record.ledger if item.status != Status.CAPTURED]
    more = f" and {len(rest) - MOST_ITEMS} more" if len(rest) > MOST_ITEMS else ""
    left = f"; not in it: {', '.join(rest[:MOST_ITEMS])}{more} (see 'strongroom show')" if rest else ""
    paragraph("  ", f"completeness: {captured} captured{left}")


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
        line("  ", (one.name, "bold"), f"  {rows(one.count)}  model {_model(one)}")
        if one.found_by:
            line(f"    {_found(one)}")
        if one.tenant_column:
            line(f"    {counted(len(one.tenants), 'tenants')} by {one.tenant_column}, each with a key of its own")
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
    read = "no row was read" if not collection.slots_read else f"{rows(collection.slots_read)} read"
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
        paragraph("  ", MARKS[item.status], " ", f"{item.item}, {item.status.value}{note}")


def _collections(count: int) -> str:
    return counted(count, "collections")


def _size(snapshot: Snapshot) -> str:
    record = snapshot.manifest
    return f"{amount(record.source_bytes, 'bytes')} read, {amount(record.stored_bytes, 'bytes')} stored"
