"""What is said about a FAISS index: which of its parts a snapshot has. Pure."""

from __future__ import annotations

from strongroom.engines.faiss.layout import Layout
from strongroom.engines.indexfile.describe import ids_note
from strongroom.engines.indexfile.join import Join
from strongroom.engines.indexfile.order import Order
from strongroom.model import LedgerItem, Status


def is_exact(layout: Layout) -> bool:
    """Does the index keep the vectors as they were added?"""
    return layout.exact or bool(layout.index.get("exact"))


def ledger(layout: Layout, order: Order, plan: Join) -> tuple[LedgerItem, ...]:
    """The completeness of what the index file has."""
    kind = layout.index["kind"]
    items = [LedgerItem("rows", Status.CAPTURED, f"{layout.count:,} vectors")]
    if is_exact(layout):
        items.append(LedgerItem("vectors", Status.CAPTURED))
    else:
        note = f"a {kind} index keeps codes; the rows hold what FAISS decodes from them"
        items.append(LedgerItem("original vectors", Status.NOT_OFFERED, note))
    unknown = not layout.spans and layout.count
    note = f"{kind}; its format isn't known, so it is kept as plain bytes" if unknown else str(kind)
    items.append(LedgerItem("index", Status.CAPTURED, note))
    items.append(LedgerItem("ids", Status.CAPTURED, ids_note(order, plan)))
    items.append(LedgerItem("training data", Status.NOT_OFFERED, "the index file holds what was learnt from it only"))
    items.append(LedgerItem("search parameters of the application", Status.NOT_OFFERED, "those set in the file are kept"))
    return tuple(items)
