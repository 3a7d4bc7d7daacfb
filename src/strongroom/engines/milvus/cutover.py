"""How do staged collections get their places? By renames, written down before the first; the old ones go when all are in place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from strongroom.engines.milvus import listing
from strongroom.engines.milvus.connection import Server
from strongroom.engines.milvus.staged import Staged, StagedCollections
from strongroom.engines.staging import write_durably
from strongroom.errors import NotFound, Refused


@dataclass(frozen=True, slots=True)
class Move:
    """A collection gets its name and aliases; the one that has it is called `aside` first. `old` is the server's number of that
    one, 0 if there is none."""

    id: int
    database: str
    own: str
    wanted: str
    old: int
    aside: str
    aliases: Sequence[str]
    loaded: bool


def holder(server: Server, database: str, name: str) -> tuple[str, int] | None:
    """Which collection has this name or alias: what it is called, and the server's number of it."""
    try:
        said = server.ask("DescribeCollection", database=database, collection_name=name)
    except NotFound:
        return None
    return str(said.schema.name or said.collection_name), int(said.collectionID)


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
        """All are in place: what stood there before goes, and what wasn't loaded is released."""
        for move in self._moves():
            found = holder(self._server, move.database, move.aside) if move.old else None
            if found == (move.aside, move.old):
                for alias in listing.aliases(self._server, move.database, move.aside):
                    self._server.ask("DropAlias", database=move.database, alias=alias)
                self._server.ask("DropCollection", database=move.database, collection_name=move.aside)
            if not move.loaded:
                with suppress(NotFound):
                    self._server.ask("ReleaseCollection", database=move.database, collection_name=move.wanted)

    def _moves(self) -> list[Move]:
        return [Move(**one) for one in json.loads(self._intent.read_bytes())]

    def _plan(self, number: int, staged: Staged, *, overwrite: bool) -> Move:
        there = holder(self._server, staged.database, staged.wanted)
        if there is not None and there[0] != staged.wanted:
            raise Refused(f"{staged.wanted} is an alias of {there[0]}", hint="restore under another name with --rename")
        if there is not None and not overwrite:
            raise Refused(
                f"collection {staged.wanted} of {self._server.place.shown} is already there",
                hint="restore to another place, or give --overwrite to replace it once the new state is verified",
            )
        old = there[1] if there is not None else 0
        free = [one for one in staged.aliases if (holder(self._server, staged.database, one) or ("", old))[1] == old]
        aside = self._staged.aside(number)
        return Move(staged.id, staged.database, staged.own, staged.wanted, old, aside, free, staged.loaded)

    def _move(self, move: Move) -> None:
        there = holder(self._server, move.database, move.wanted)
        if there is None or there[1] != move.id:
            if there is not None and there != (move.wanted, move.old):
                raise Refused(
                    f"somebody made {move.wanted} of {self._server.place.shown} just now",
                    hint="rename or drop it, then run the same command again: it goes on where it stopped",
                )
            if there is not None:
                self._rename(move.database, move.wanted, move.aside)
            self._rename(move.database, move.own, move.wanted)
        for alias in move.aliases:
            found = holder(self._server, move.database, alias)
            if found is None or found[1] == move.old:
                method = "CreateAlias" if found is None else "AlterAlias"
                self._server.ask(method, database=move.database, collection_name=move.wanted, alias=alias)

    def _rename(self, database: str, own: str, name: str) -> None:
        self._server.ask("RenameCollection", database=database, oldName=own, newName=name)
