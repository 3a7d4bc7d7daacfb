"""How do built collections take the places of those that users see? A server renames one at a time: what is to be done is noted
before, so that it is gone on with after a crash, and what is replaced is removed when all are in place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from strongroom.engines.chroma.server import listing
from strongroom.engines.chroma.server.connection import Server
from strongroom.engines.chroma.server.staged import Staged, StagedCollections
from strongroom.engines.staging import write_durably
from strongroom.errors import NotFound, Refused


@dataclass(frozen=True, slots=True)
class Move:
    """A collection gets its name; the one that has it is called `aside` first. `old` is the server's id of that one, '' if none."""

    id: str
    database: str
    wanted: str
    old: str
    aside: str


class CutOver:
    """Renames what is staged. `intent` is the file that says what is under way."""

    def __init__(self, server: Server, staged: StagedCollections, intent: Path) -> None:
        self._server = server
        self._staged = staged
        self._intent = intent

    def run(self, *, overwrite: bool) -> None:
        """Each collection is the new one, or the old one, or (between two requests) not there. Repeatable. Raises Refused if
        something is in the way: before anything is done, or, if somebody made it meanwhile, in the middle."""
        if not self._intent.exists():
            present = self._staged.all()
            if not present:
                raise Refused("nothing is staged, so nothing is published", hint="run the restore again from the start")
            moves = [self._plan(number, one, overwrite=overwrite) for number, one in enumerate(present.values())]
            write_durably(self._intent, json.dumps([asdict(one) for one in moves]).encode())
        for move in self._moves():
            self._move(move)

    def remove_replaced(self) -> None:
        """All are in place: what stood there before goes."""
        for move in self._moves():
            found = listing.find(self._server, move.database, move.aside) if move.old else None
            if found is not None and found["id"] == move.old:
                with suppress(NotFound):
                    self._server.ask("DELETE", *self._server.collections(move.database, move.aside))

    def _moves(self) -> list[Move]:
        return [Move(**one) for one in json.loads(self._intent.read_bytes())]

    def _plan(self, number: int, staged: Staged, *, overwrite: bool) -> Move:
        there = listing.find(self._server, staged.database, staged.wanted)
        if there is not None and not overwrite:
            raise Refused(
                f"collection {staged.wanted} of {self._server.place.shown} is already there",
                hint="restore to another place, or give --overwrite to replace it once the new state is verified",
            )
        old = str(there["id"]) if there is not None else ""
        return Move(staged.id, staged.database, staged.wanted, old, self._staged.aside(number))

    def _move(self, move: Move) -> None:
        there: Mapping[str, object] | None = listing.find(self._server, move.database, move.wanted)
        if there is not None and there["id"] == move.id:
            return
        if there is not None and there["id"] != move.old:
            raise Refused(
                f"somebody made collection {move.wanted} of {self._server.place.shown} just now",
                hint="rename or delete it, then run the same command again: it goes on where it stopped",
            )
        if there is not None:
            self._rename(move, move.old, move.aside)
        self._rename(move, move.id, move.wanted)

    def _rename(self, move: Move, identity: str, name: str) -> None:
        self._server.ask("PUT", *self._server.collections(move.database, identity), new_name=name)
