"""What is said about an index: its collection, and which of its parts a snapshot has. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from strongroom.engines.faiss.held import Held
from strongroom.engines.faiss.join import IdSource, Join
from strongroom.engines.faiss.layout import Layout
from strongroom.engines.faiss.order import Order
from strongroom.engines.faiss.sidecar import Sidecar
from strongroom.model import Collection, Description, Field, LedgerItem, Lineage, Status


def description(
    name: str,
    held: Held,
    layout: Layout,
    order: Order,
    plan: Join,
    sidecars: Sequence[Sidecar],
    schema: pa.Schema,
    engine_version: str,
) -> Description:
    """The one collection of an index file."""
    own = Field("vector", "float32", layout.dimension, layout.metric, dict(layout.index), decoded=not _exact(layout))
    beside = tuple(
        Field(plan.columns[name], "float32", layout.dimension, layout.metric, {"kind": "none", "sidecar": True})
        for name in plan.vectors
    )
    catalog = {"index_file": held.index.path.name, "ids": plan.ids.value, "sidecars": [file.path.name for file in held.sidecars]}
    collection = Collection(name, layout.count, (own, *beside), catalog, _lineage(sidecars))
    ledger = (*_index_ledger(layout, order, plan), *_sidecar_ledger(held, plan))
    return Description("faiss", engine_version, (collection,), {}, ledger)


def _exact(layout: Layout) -> bool:
    return layout.exact or bool(layout.index.get("exact"))


def _lineage(sidecars: Sequence[Sidecar]) -> Lineage:
    said = next((s.lineage for s in sidecars if s.lineage.get("model")), None)
    if said is None:
        return Lineage()
    return Lineage(said["model"], said.get("version") or None, "engine")


def _index_ledger(layout: Layout, order: Order, plan: Join) -> tuple[LedgerItem, ...]:
    kind = layout.index["kind"]
    items = [LedgerItem("rows", Status.CAPTURED, f"{layout.count:,} vectors")]
    if _exact(layout):
        items.append(LedgerItem("vectors", Status.CAPTURED))
    else:
        note = f"a {kind} index keeps codes; the rows hold what FAISS decodes from them"
        items.append(LedgerItem("original vectors", Status.NOT_OFFERED, note))
    unknown = not layout.spans and layout.count
    note = f"{kind}; its format isn't known, so it is kept as plain bytes" if unknown else str(kind)
    items.append(LedgerItem("index", Status.CAPTURED, note))
    items.append(LedgerItem("ids", Status.CAPTURED, _ids_note(order, plan)))
    items.append(LedgerItem("training data", Status.NOT_OFFERED, "the index file holds what was learnt from it only"))
    items.append(LedgerItem("search parameters of the application", Status.NOT_OFFERED, "those set in the file are kept"))
    return tuple(items)


def _ids_note(order: Order, plan: Join) -> str:
    if plan.ids is IdSource.SIDECAR:
        own = " (those of the id map are in the index file only)" if order.ids is not None else ""
        return f"from the sidecar{own}"
    if plan.ids is IdSource.INDEX:
        return "from the index"
    if not plan.unique_ids:
        return "the index has ids that occur more than once: rows are numbered, the index file keeps the ids"
    return "positions"


def _sidecar_ledger(held: Held, plan: Join) -> tuple[LedgerItem, ...]:
    if plan.sidecar is None:
        return (LedgerItem("documents and metadata", Status.NOT_OFFERED, "no sidecar of the index's name lies beside it"),)
    name = plan.sidecar.file.path.name
    if not plan.joined:
        note = f"{name} is kept as a file, but nothing says which record belongs to which vector"
        return (LedgerItem("documents and metadata", Status.NOT_CAPTURED, note),)
    parts = [f"from {name}"]
    if plan.repeated:
        parts.append(f"{', '.join(plan.repeated)} repeats the index's vectors")
    if plan.vectors:
        parts.append(f"{', '.join(plan.vectors)} are other vectors than the index's, a field of their own without an index")
    others = [file.path.name for file in held.sidecars[1:]]
    if others:
        parts.append(f"{', '.join(others)} is kept as a file only")
    items = [LedgerItem("documents and metadata", Status.CAPTURED, "; ".join(parts))]
    if not held.locked:
        note = f"nobody holds {held.index.path.name}.lock while saving: only equal counts and ids show that the files are a pair"
        items.append(LedgerItem("consistency of index and sidecar", Status.NOT_OFFERED, note))
    return tuple(items)
