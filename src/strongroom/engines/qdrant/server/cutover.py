"""How do built collections take the places of those that users see? All aliases are switched by one request. A collection that has
the name itself, and no alias, must go before: what is to be done is noted, so that it is gone on with after a crash."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from strongroom.engines.qdrant.server.connection import Server
from strongroom.engines.qdrant.server.definitions import aliases_of, names_of
from strongroom.engines.qdrant.server.place import public_name
from strongroom.engines.staging import write_durably
from strongroom.errors import NotFound, Refused


@dataclass(frozen=True, slots=True)
class Switch:
    """`name` and `aliases` shall mean the collection `actual`; `old` is what `name` means, '' if nothing."""

    name: str
    actual: str
    aliases: tuple[str, ...]
    old: str


class CutOver:
    """Switches what is staged. `intent` is the file that says what is under way."""

    def __init__(self, server: Server, intent: Path) -> None:
        self._server = server
        self._intent = intent

    def run(self, wanted: Mapping[str, tuple[str, Sequence[str]]], *, overwrite: bool) -> None:
        """Users see all old collections or all new ones; one that has no alias isn't there meanwhile. Repeatable. Raises Refused
        if something is in the way, before anything is done."""
        if not self._intent.exists():
            if not wanted:
                raise Refused("nothing is staged, so nothing is published", hint="run the restore again from the start")
            switches = self._plan(wanted, overwrite=overwrite)
            self._note(switches)
        self._switch()

    def remove_replaced(self) -> None:
        """All are in place: what earlier restores had built for these names goes."""
        meant = set(aliases_of(self._server).values())
        for one in self._switches():
            own = public_name(one.old)
            if own is not None and own[0] == one.name and one.old not in meant:
                with suppress(NotFound):
                    self._server.ask("delete_collection", one.old)

    def _note(self, switches: Sequence[Switch]) -> None:
        write_durably(self._intent, json.dumps([asdict(one) for one in switches]).encode())

    def _switches(self) -> list[Switch]:
        return [Switch(**{**one, "aliases": tuple(one["aliases"])}) for one in json.loads(self._intent.read_bytes())]

    def _plan(self, wanted: Mapping[str, tuple[str, Sequence[str]]], *, overwrite: bool) -> list[Switch]:
        present, aliases = set(names_of(self._server)), aliases_of(self._server)
        switches = []
        for name, (actual, others) in wanted.items():
            old = name if name in present else aliases.get(name, "")
            if old and not overwrite:
                raise Refused(
                    f"collection {name} of {self._server.shown} is already there",
                    hint="restore to another place, or give --overwrite to replace it once the new state is verified",
                )
            for alias in others:
                if alias in present or aliases.get(alias, old) != old:
                    raise Refused(
                        f"alias {alias} of {name} means something else on {self._server.shown}",
                        hint="drop that alias, or restore with --rename, which leaves aliases out",
                    )
            switches.append(Switch(name, actual, tuple(others), old))
        return switches

    def _switch(self) -> None:
        from qdrant_client import models

        switches, aliases = self._switches(), aliases_of(self._server)
        meant = {alias: one.actual for one in switches for alias in (one.name, *one.aliases)}
        if meant.items() <= aliases.items():
            return
        for alias in meant.keys() & aliases.keys():
            if aliases[alias] not in (meant[alias], *(one.old for one in switches if alias in (one.name, *one.aliases))):
                hint = "drop that alias, then run the same command again: it goes on where it stopped"
                raise Refused(f"somebody gave alias {alias} of {self._server.shown} another meaning just now", hint=hint)
        present = set(names_of(self._server))
        for number, one in enumerate(switches):
            if one.name in present and one.old == one.name:
                self._server.ask("delete_collection", one.name)
                switches[number] = replace(one, old="")  # what is called so from now on is somebody else's
                self._note(switches)
        gone = [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=one)) for one in meant if one in aliases]
        made = [
            models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=actual, alias_name=alias))
            for alias, actual in meant.items()
        ]
        self._server.ask("update_collection_aliases", [*gone, *made])
