"""What is there to know about a frozen Lance table beyond its rows: the catalog, the fields, the lineage, and the ledger."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC
from pathlib import Path
from typing import Any

import pyarrow as pa

from strongroom.engines.lancedb import fragments
from strongroom.engines.lancedb.columns import vector_dtype
from strongroom.engines.lancedb.library import Dataset
from strongroom.engines.lancedb.versions import PinnedTable
from strongroom.model import Collection, Field, Json, LedgerItem, Lineage, Status

_METRICS = {"dot": "ip"}  # the others have the same names
_PARAMETERS = {"max_connections": "m", "construction_ef": "ef_construction", "max_level": "max_level"}


def collection(pinned: PinnedTable, table: Dataset, identifier: str | None) -> Collection:
    """The catalog of one table at its pinned version."""
    indices = [_index(table, index) for index in table.describe_indices()]
    return Collection(
        name=pinned.name,
        count=table.count_rows(),
        fields=tuple(_fields(table.schema, indices)),
        catalog=_catalog(pinned, table, identifier, indices),
        lineage=_lineage(table.schema.metadata or {}),
        feed=fragments.described(table),
    )


def outline(name: str, table: Dataset) -> Collection:
    """What the journal says of a table whose catalog changed: enough to make it, and its indices, anew."""
    indices = [_index(table, index) for index in table.describe_indices()]
    return Collection(name, 0, tuple(_fields(table.schema, indices)), _shape(table, indices), _lineage(table.schema.metadata or {}))


def _catalog(pinned: PinnedTable, table: Dataset, identifier: str | None, indices: list[dict[str, Json]]) -> dict[str, Json]:
    stamps = {entry["version"]: entry["timestamp"].astimezone(UTC).isoformat() for entry in table.versions()}
    return {
        **_shape(table, indices),
        "version": pinned.version,
        "versions": {str(version): stamp for version, stamp in sorted(stamps.items())},
        "tags": {tag.name: tag.version for tag in pinned.tags},
        "id_column": identifier,
    }


def _shape(table: Dataset, indices: list[dict[str, Json]]) -> dict[str, Json]:
    return {
        "format": "lance",
        "schema": table.schema.to_string(),
        "schema_ipc": base64.b64encode(table.schema.serialize().to_pybytes()).decode(),
        "schema_metadata": _text(table.schema.metadata or {}),
        "config": dict(table.config()),
        "metadata": dict(table.metadata),
        "indices": indices,
        "data_storage_version": table.data_storage_version,
        "stable_row_ids": bool(table.has_stable_row_ids),
    }


def _index(table: Dataset, index: Any) -> dict[str, Json]:
    try:
        statistics = table.stats.index_stats(index.name)
    except OSError:  # its files were cleaned up: what it is like is told, not how far it has come
        statistics = {}
    parts = statistics.get("segments") or statistics.get("indices") or [{}]
    return {
        "name": index.name,
        "kind": index.index_type,
        "columns": list(index.field_names),
        "uuids": [str(segment.uuid) for segment in index.segments],
        "bytes": index.total_size_bytes,
        "details": _plain(index.details),
        "rows_indexed": statistics.get("num_indexed_rows"),
        "rows_not_indexed": statistics.get("num_unindexed_rows"),
        "num_partitions": parts[0].get("num_partitions"),
        "sub_index": _plain(parts[0].get("sub_index") or {}),
    }


def _fields(schema: pa.Schema, indices: Sequence[Mapping[str, Json]]) -> Iterator[Field]:
    for column in schema:
        dtype = vector_dtype(column.type)
        if dtype:
            index = next((i for i in indices if i["columns"] == [column.name] and "metric_type" in i["details"]), None)
            usual = "hamming" if dtype == "uint8" else "l2"  # what Lance measures by if nothing is said
            metric = str(index["details"]["metric_type"]).lower() if index else usual
            yield Field(column.name, dtype, column.type.list_size, _METRICS.get(metric, metric), _parameters(index))


def _parameters(index: Mapping[str, Json] | None) -> dict[str, Json]:
    if index is None:
        return {}
    details = index["details"]
    hnsw = {ours: details["hnsw"][theirs] for theirs, ours in _PARAMETERS.items() if theirs in details.get("hnsw", {})}
    codes = {key: value for key, value in details.get("compression", {}).items() if key in ("num_bits", "num_sub_vectors")}
    return {"kind": index["kind"], "name": index["name"], "num_partitions": index["num_partitions"]} | codes | hnsw


def _lineage(metadata: Mapping[bytes, bytes]) -> Lineage:
    """The model that LanceDB's registry of embedding functions names in the schema metadata."""
    try:
        functions = json.loads(metadata[b"embedding_functions"])
        first = functions[0]
        model = first.get("model") or {}
        return Lineage(model=str(model.get("name") or first["name"]), version=model.get("revision"), origin="engine")
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):  # none, or written by something else
        return Lineage()


def ledger(database: Path, pinned: Sequence[PinnedTable], blobs: AbstractSet[str], empty: Sequence[str]) -> list[LedgerItem]:
    """What of the database is in the snapshot, what isn't, and why. `blobs` are the tables that have external ones."""
    held, missing = Status.CAPTURED, Status.NOT_CAPTURED
    items = [
        LedgerItem("rows", held, "all columns, in the engine's own files"),
        LedgerItem("indices", held, "vector, scalar and full-text, in the engine's own files"),
        LedgerItem("schema, metadata and table configuration", held),
        LedgerItem("current version of each table", held),
        LedgerItem("tagged versions", held, f"{sum(len(table.tags) for table in pinned)} tags"),
        LedgerItem("users and roles", Status.NOT_OFFERED),
    ]
    others = sum(table.other_versions for table in pinned)
    if others:
        items.append(LedgerItem("older versions that no tag names", missing, f"{others}; tag a version to have it captured"))
    if len(pinned) > 1:
        items.append(LedgerItem("one moment for all tables", Status.NOT_OFFERED, "each table at a version of its own"))
    items += [LedgerItem(f"table {name}", missing, "no version was committed yet") for name in empty]
    for table in pinned:
        items += _of_table(database / f"{table.name}.lance", table, blobs=table.name in blobs)
    if (database / "__manifest").is_dir():
        items.append(LedgerItem("tables in child namespaces", missing, "only tables of the root namespace are read"))
    return items


def _of_table(directory: Path, pinned: PinnedTable, *, blobs: bool) -> Iterator[LedgerItem]:
    missing = Status.NOT_CAPTURED
    for tag in pinned.left_out:
        why = f"it is on branch {tag.branch}" if tag.branch else f"its version {tag.version} is gone"
        yield LedgerItem(f"tag {tag.name} of table {pinned.name}", missing, why)
    for branch in sorted((directory / "_refs" / "branches").glob("*.json")):
        yield LedgerItem(f"branch {branch.stem} of table {pinned.name}", missing, "only the main branch is read")
    if (directory / "_mem_wal").is_dir():
        yield LedgerItem(f"write-ahead log of table {pinned.name}", missing, "rows that were not flushed into a version yet")
    if blobs:
        yield LedgerItem(f"external blobs of table {pinned.name}", missing, "their URIs are captured, not what they point to")


def _text(metadata: Mapping[bytes, bytes]) -> dict[str, str]:
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in metadata.items()}


def _plain(value: Any) -> Json:
    """`value` as JSON keeps it, without its long lists: those are the index itself, and in its files."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items() if not isinstance(entry, list)}
    return value if isinstance(value, str | int | float | bool | None) else str(value)
