"""How is all of a server read so that it is one moment?

Servers that tell the time of an answer (`session_ts`, from 2.4 on) are asked for all rows as of that time. Others can't be: there,
and to prove that it is so, all is read again until two readings in a row are the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from strongroom.engines.agreement import read_until_same
from strongroom.engines.milvus import listing
from strongroom.engines.milvus.connection import Server
from strongroom.engines.milvus.listing import Access, Listed
from strongroom.engines.milvus.reading import Rows, loaded, read_rows
from strongroom.errors import NotFound
from strongroom.model import Json
from strongroom.progress import Progress


@dataclass(frozen=True, slots=True)
class Moment:
    """All rows of one moment, how often they were read, and which collections of restores were left out; `whole` is
    False if something was dropped meanwhile."""

    rows: tuple[Rows, ...]
    databases: dict[str, Json]
    version: str
    readings: int
    left: tuple[str, ...]
    access: Access
    whole: bool = True

    def print(self) -> str:
        """The same for the same rows and catalog."""
        if not self.whole:
            return f"broken off, {self.readings}"
        said = [(one.listed.name, json.dumps(one.listed.said, sort_keys=True), one.hidden, one.prints) for one in self.rows]
        return blake3(repr((self.databases, said)).encode()).hexdigest(16)

    def forget(self) -> None:
        """Let go of the files."""
        for one in self.rows:
            one.path.unlink(missing_ok=True)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(one.listed.id for one in self.rows)

    @property
    def pinned(self) -> int:
        """The server's time at which it was read, 0 if it isn't known."""
        return next((one.pinned for one in self.rows if one.pinned), 0)

    @property
    def how(self) -> str:
        """For the ledger."""
        twice = f"all rows were read {self.readings} times, and were the same twice running"
        return f"as of {self.pinned}, the server's time; {twice}" if self.pinned else twice


def read_moment(server: Server, found: Sequence[Listed] | None, folder: Path, progress: Progress) -> Moment:
    """Read what there is (the collections `found`, which nobody else writes to, are read once) into files in `folder`. Raises
    NotFound if the place isn't there, SourceChanged if it never was the same twice."""
    if found is not None:
        return read_once(server, found, folder, 1, progress)
    listing.databases(server)
    with ExitStack() as stack:
        held, last = _Held(server, stack), [Moment((), {}, "", 0, (), Access())]

        def read(number: int) -> Moment:
            try:
                present = held.collections()
                pinned = last[0].pinned if last[0].ids == tuple(one.id for one in present) else 0
                last[0] = read_once(server, present, folder, number, progress, pinned, everything=True)
            except NotFound:  # something was dropped just then
                last[0] = Moment((), {}, "", number, (), Access(), whole=False)
            return last[0]

        return read_until_same(read, server.place.shown)


class _Held:
    """The collections of a server, all of them loaded for as long as `stack` is open."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self._server, self._stack = server, stack
        self._loaded: dict[int, bool] = {}

    def collections(self) -> list[Listed]:
        """Those that there are now, as loaded as they were when seen first. Raises NotFound if one is dropped just then."""
        found = listing.collections(self._server)
        for one in found:
            if one.id not in self._loaded:
                self._stack.enter_context(loaded(self._server, one))
                self._loaded[one.id] = bool(one.said["loaded"])
        return [replace(one, said={**one.said, "loaded": self._loaded[one.id]}) for one in found]


def read_once(
    server: Server,
    present: Sequence[Listed],
    folder: Path,
    reading: int,
    progress: Progress,
    pinned: int = 0,
    *,
    everything: bool = False,
) -> Moment:
    """The rows of these collections, which others may change meanwhile, into files of a new folder in `folder`; with `everything`
    what else there is too. Raises NotFound if one is dropped meanwhile."""
    own = folder / str(reading)
    own.mkdir(mode=0o700, parents=True)
    rows: list[Rows] = []
    for number, one in enumerate(present):
        rows.append(read_rows(server, one, own / str(number), pinned, progress))
        pinned = pinned or rows[-1].pinned
    databases = {one: listing.properties(server, one) for one in listing.databases(server)}
    left = listing.left_by_restores(server) if everything else ()
    access = listing.access(server) if everything else Access(offered=False)
    return Moment(tuple(rows), databases, listing.version_of(server), reading, tuple(left), access)
