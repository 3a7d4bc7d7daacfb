"""Chroma in the proof of the journal, writing its index and purging its log all the time. Its writer isn't killed: Chroma 1.5.9
doesn't survive that while it writes its index, whether anybody follows or not ("Failed to apply logs to the hnsw segment ...")."""

from __future__ import annotations

from proof_chroma import Chroma


def open_database(place: str) -> Chroma:
    opened = Chroma(place, sync=200)
    opened.prepare()
    return opened
