"""An index file and what lies beside it as a source: held open, so that one moment of all of them is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom.engines.indexfile.frozen import IndexFrozen
from strongroom.engines.indexfile.held import Held, hold
from strongroom.engines.indexfile.position import unchanged_since
from strongroom.errors import StrongroomError
from strongroom.model import Position
from strongroom.progress import Progress

if TYPE_CHECKING:
    from strongroom.engines.oplog.feed import OplogFeed


@dataclass(frozen=True, slots=True)
class IndexSource:
    """`beside` are the files that may belong to the index; `understand` says what the held files are."""

    path: Path
    beside: tuple[Path, ...]
    understand: Callable[[Held], IndexFrozen]

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """By the files' stamps, or by what their capture knows of them."""
        return unchanged_since(self.path, self.beside, position, moment)

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[IndexFrozen]:
        """Hold the files open until the end: whoever saves atomically, by rename, or deletes them doesn't disturb us."""
        with hold(self.path, self.beside) as held:
            progress.begin("open", held.index.size, "bytes")
            try:
                frozen = self.understand(held)
            except StrongroomError:
                held.check()  # half a write looks like damage: say what it was
                raise
            yield frozen

    def feed(self, holder: str, batch_key: str | None) -> AbstractContextManager[OplogFeed]:
        """What the capture of the index recorded; a batch has the name that the capture was told."""
        from strongroom.engines.indexfile import feed

        return feed.following(self.path, holder)

    def release(self, holder: str) -> bool:
        from strongroom.engines.indexfile import feed

        return feed.release(self.path, holder)
