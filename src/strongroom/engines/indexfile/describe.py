"""What is said about an index file and what lies beside it: its collection, and which of its parts a snapshot has. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from strongroom.engines.indexfile.content import Content
from strongroom.engines.indexfile.held import Held
from strongroom.engines.indexfile.join import IdSource, Join
from strongroom.engines.indexfile.order import Order
from strongroom.engines.indexfile.sidecar import Sidecar
from strongroom.model import Collection, Description, Field, LedgerItem, Lineage, Status


def description(
    engine: str, engine_version: str, name: str, held: Held, content: Content, plan: Join, sidecars: Sequence[Sidecar]
) -> Description:
    """The one collection of an index file."""
    own = Field("vector", content.dtype, content.dimension, content.metric, dict(content.parameters), decoded=content.decoded)
    beside = tuple(
        Field(plan.columns[name], "float32", content.dimension, content.metric, {"kind": "none", "sidecar": True})
        for name in plan.vectors
    )
    catalog = {"index_file": held.index.path.name, "ids": plan.ids.value, "sidecars": [file.path.name for file in held.sidecars]}
    collection = Collection(name, content.order.live, (own, *beside), catalog, _lineage(sidecars))
    ledger = (*content.ledger(plan), *_sidecar_ledger(held, plan, content.order), *_array_ledger(held))
    return Description(engine, engine_version, (collection,), {}, ledger)


def _lineage(sidecars: Sequence[Sidecar]) -> Lineage:
    said = next((s.lineage for s in sidecars if s.lineage.get("model")), None)
    if said is None:
        return Lineage()
    return Lineage(said["model"], said.get("version") or None, "engine")


def ids_note(order: Order, plan: Join) -> str:
    """Whose ids the rows carry, in words."""
    if plan.ids is IdSource.SIDECAR:
        own = " (those of the id map are in the index file only)" if order.ids is not None else ""
        return f"from the sidecar{own}"
    if plan.ids is IdSource.INDEX:
        return "from the index"
    if not plan.unique_ids:
        return "the index has ids that occur more than once: rows are numbered, the index file keeps the ids"
    return "positions"


def _sidecar_ledger(held: Held, plan: Join, order: Order) -> tuple[LedgerItem, ...]:
    if plan.sidecar is None:
        return (LedgerItem("documents and metadata", Status.NOT_OFFERED, "no sidecar of the index's name lies beside it"),)
    name = plan.sidecar.file.path.name
    if not plan.joined:
        note = f"{name} is kept as a file, but nothing says which record belongs to which vector"
        return (LedgerItem("documents and metadata", Status.NOT_CAPTURED, note),)
    parts = [f"from {name}"]
    if plan.sidecar.count > order.live:
        parts.append(f"{plan.sidecar.count - order.live:,} records of rows that the index doesn't have are kept in the file only")
    if plan.repeated:
        parts.append(f"{', '.join(plan.repeated)} repeats the index's vectors")
    if plan.vectors:
        parts.append(f"{', '.join(plan.vectors)} are other vectors than the index's, a field of their own without an index")
    if plan.sidecar.halves:
        parts.append("halves of characters (lone surrogates) are U+FFFD in the rows, and in the file as they were")
    others = [file.path.name for file in held.sidecars[1:]]
    if others:
        parts.append(f"{', '.join(others)} is kept as a file only")
    return (LedgerItem("documents and metadata", Status.CAPTURED, "; ".join(parts)), *_pair_ledger(held))


def _pair_ledger(held: Held) -> tuple[LedgerItem, ...]:
    if held.locked:
        return ()
    note = f"nobody holds {held.index.path.name}.lock while saving: only equal counts and ids show that the files are a pair"
    return (LedgerItem("consistency of index and sidecar", Status.NOT_OFFERED, note),)


def _array_ledger(held: Held) -> tuple[LedgerItem, ...]:
    if held.array is None:
        return ()
    note = f"{held.array.path.name} is kept as a file; where it repeats the index's vectors in their order it takes no room"
    return (LedgerItem("array of vectors", Status.CAPTURED, note),)
