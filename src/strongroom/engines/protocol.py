"""What an engine must be able to do. A plug-in implements `Engine`; what it can do is what it implements.

    Engine  --source(url)-->  Source  --freeze()-->  Frozen      one consistent moment: rows, artifacts, answers
            --target(url)-->  Target  --stage()-->   Stage       a new state built beside the old one, then published

Nothing here holds a whole collection in memory: rows come in blocks, artifacts are read by offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from strongroom.engines.changes import Change
    from strongroom.model import (
        Answers,
        Collection,
        Conversion,
        Cut,
        Description,
        Fidelity,
        Position,
        Region,
        RowBlock,
        Selection,
        Stretch,
        Until,
    )
    from strongroom.progress import Progress

BLOCK_BYTES = 8 << 20
"""Upper bound of the vector bytes of one `RowBlock` and of one `Region`; the unit in which memory is counted."""


def rows_per_block(row_bytes: int) -> int:
    """How many rows of `row_bytes` vector bytes go into one block: a power of two, at least 1, at most 65,536."""
    rows = max(1, min(65_536, BLOCK_BYTES // max(1, row_bytes)))
    return 1 << (rows.bit_length() - 1)


class Artifact(Protocol):
    """One file of the index plane (or of the engine's own state) at the frozen moment."""

    @property
    def path(self) -> str:
        """Where it belongs, relative to the source, with forward slashes."""

    @property
    def collection(self) -> str | None:
        """The collection that it belongs to, None if to the source as a whole. Only files of the selected collections and
        those of None are installed."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def immutable(self) -> bool:
        """True if the engine never changes a file of this path and size, so that an earlier snapshot's copy stands for it."""

    @property
    def cut(self) -> Cut:
        """By what `regions` cuts it."""

    def regions(self) -> Iterable[Region]:
        """The file cut into regions, in order, without gap or overlap, none longer than BLOCK_BYTES where it can be helped.

        Where a region (or the vectors of a strided one) has the same bytes as the vector column of a RowBlock, they are
        stored once: cut both at the same rows.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Thread-safe. Raises SourceChanged or Unreadable if they can't be had."""


class Frozen(Protocol):
    """One consistent moment of a source. Whatever a writer does meanwhile isn't seen."""

    @property
    def description(self) -> Description: ...

    @property
    def position(self) -> Position: ...

    @property
    def rows_in_artifacts(self) -> bool:
        """True if the artifacts are the rows plane too (nothing is stored twice); `rows` can still be read."""

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """Every row once, in storage order, in blocks of at most BLOCK_BYTES of vectors. Same schema in every block."""

    def artifacts(self) -> Sequence[Artifact]:
        """Every file that an exact restore needs, in the order in which they should be installed. Stable order."""

    @property
    def search_disturbs(self) -> bool:
        """True if the engine may change the frozen files when it opens them: `search` then comes after everything else."""

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What the engine's own index answers in this state to `queries` (q x dimension). Runs the engine in a child process:
        raises EngineFailed if it crashes."""

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """Is all of it what it was at `position`, which was taken at `moment` (seconds since 1970) on this machine? False wherever
        that can't be said without reading it: it is then read, and found the same."""

    def repeatable(self, collection: str) -> bool:
        """False if the engine itself doesn't answer the same each time that it opens these files; probes are then held to their
        recall, not bit for bit."""

    def check(self) -> None:
        """Raises SourceChanged if what was read since `freeze` can't have been one moment. Called last, before anything is
        recorded."""


@runtime_checkable
class ChangeFeed(Protocol):
    """A `Frozen` whose engine can tell where rows lie as they lay at an earlier position, so that they need not be read again."""

    def unchanged(self, collection: str, then: Collection, since: Position) -> Sequence[Stretch]:
        """Stretches, in ascending order, of rows that are what they were at `since`, when the collection was described as `then`;
        their schema is the same too. Whatever isn't certain is left out: it is read, and found the same. Empty if nothing is."""

    def other_rows(self, collection: str, stretches: Sequence[Stretch]) -> Iterator[RowBlock]:
        """As `rows`, without the slots of `stretches`, which are some of those that `unchanged` gave. No block has slots from both
        sides of a stretch."""


@runtime_checkable
class MarksCollections(Protocol):
    """A `Frozen` whose position tells of each collection apart what state it is in."""

    def as_at(self, position: Position) -> Set[str]:
        """The collections whose rows, indexes and files are what they were at `position`. How they are described is compared by
        who asks."""


@runtime_checkable
class AnswersFromFiles(Protocol):
    """A `Frozen` that knows from which files `search` answers."""

    def index_files(self, collection: str) -> Sequence[str]:
        """The paths of the artifacts that, with the collection's rows and description, say what `search` answers (or may answer,
        where that isn't repeatable): while all of that is the same, the engine has nothing new to say."""


class Source(Protocol):
    def unchanged_since(self, position: Position, moment: float) -> bool:
        """As that of `Frozen`, without freezing: False where only a frozen moment can tell."""

    def freeze(self, progress: Progress) -> AbstractContextManager[Frozen]:
        """A consistent view, kept while the context is open. Raises NotFound, Unreadable or SourceChanged."""


class Feed(Protocol):
    """The changes of a source, as they come. Marks are places in the engine's own log, by scope: the parts of the source whose
    order is known ('' where all of it has one order). A snapshot whose position has these marks holds just what came before."""

    @property
    def kind(self) -> str:
        """That of the positions of the source's snapshots."""

    def begin(self) -> Mapping[str, str]:
        """From here on the engine keeps what changes. Gives the marks of here."""

    def resume(self, marks: Mapping[str, str]) -> None:
        """Go on after these marks. Raises Gap if the log doesn't go back to them, or isn't the one in which they were."""

    def read(self) -> tuple[Sequence[Change], Mapping[str, str], bool]:
        """What came since the last read, whole transactions in their order, bounded in bytes; the marks after it; and whether there
        is more. Raises Gap."""

    def behind(self, marks: Mapping[str, str]) -> tuple[int, int]:
        """How many operations came after these marks, and about how many bytes. Changes nothing. Raises Gap if it can't be told."""

    def shipped(self, marks: Mapping[str, str]) -> None:
        """All before these marks is kept: the engine may forget it."""


@runtime_checkable
class Seeing(Protocol):
    """A `Feed` whose reads don't tell of all that came before they were asked for."""

    @property
    def seen(self) -> int:
        """Until when (microseconds since 1970) all that happened was read, once a read gave that there is no more; 0 if it
        can't be told."""


@runtime_checkable
class Ending(Protocol):
    """A `Feed` whose log may end, and another one begin."""

    @property
    def ended(self) -> int | None:
        """When the last operation of the log happened (microseconds since 1970), once it was read to its end and `Gap` raised:
        until then all is known. None if it hasn't ended."""


@runtime_checkable
class Followed(Protocol):
    """A `Source` whose engine has a log that can be followed."""

    def feed(self, holder: str, batch_key: str | None) -> AbstractContextManager[Feed]:
        """`holder` is the name of who follows, the same each time; the value of payload key `batch_key` names the ingest batch that
        a row came with. Raises NotFound, Unreadable, or Refused if this process can't read it safely."""

    def release(self, holder: str) -> bool:
        """Let the engine forget again as it likes. Gives whether it held anything for `holder`. Raises NotFound."""


class Stage(Protocol):
    """A new state, built beside the target and invisible to its users until `publish`. Survives a killed process: opening the
    stage of the same token again goes on where it stopped."""

    @property
    def directory(self) -> Path:
        """A private directory (mode 0700) beside the target, on the same file system. The restore's state file lives here."""

    def artifact_path(self, path: str) -> Path:
        """Where to write the artifact `path`. Raises Damaged if the path points outside of the stage."""

    def adopt(self, description: Description, selection: Selection) -> None:
        """Artifacts are all written: drop collections that are not selected, apply renames. Idempotent."""

    def load(self, collection: Collection, batches: Iterable[pa.RecordBatch]) -> None:
        """Create the collection (its name is the one it shall have) and insert the rows; the engine builds its own index. A
        leftover of an interrupted load of the same collection is removed first."""

    def seal(self) -> None:
        """All collections are loaded or adopted: flush and make the files durable."""

    def source(self) -> Source:
        """The staged state as a source, to read it back."""

    def publish(self, receipt: bytes, *, overwrite: bool) -> None:
        """Put the staged state in the target's place, with `receipt` beside it. Old state is moved aside and removed only
        when the new one is in place. Each step may be repeated after a crash. Raises Refused if the target is taken and
        `overwrite` is False."""

    def discard(self) -> None:
        """Remove the stage."""

    def close(self) -> None:
        """Let go of the stage's lock and keep it for a later run. Harmless after `publish` or `discard`."""


@runtime_checkable
class Replaying(Protocol):
    """A `Stage` whose engine can be told what changed."""

    def identity(self, collection: Collection) -> str:
        """The lasting name of a collection: what `changes` call it."""

    def apply(self, changes: Iterable[Change], selection: Selection) -> int:
        """Apply changes in order to the adopted state; the engine updates its own index. Gives the number of operations. Not
        repeatable: after a crash begin with a new stage. Raises EngineFailed."""


@runtime_checkable
class Recovering(Protocol):
    """A `Stage` whose engine goes on to a moment by itself, by its own log, when it is started on the adopted state."""

    def recover(self, description: Description, log: Iterable[Change], until: Until) -> str:
        """Give the engine the log after the snapshot that `description` is of, and tell it how far to go; no more of `log` is
        read than that needs. Gives a line that says what was given. Raises Damaged, or Refused if it can't lead to the moment."""


@runtime_checkable
class KnownByContent(Protocol):
    """A `Replaying` stage whose changes know rows by what is in them (`changes.COPIES`), since its engine has no ids that last."""

    def named(self, collection: Collection, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows of the staged collection with the ids by which changes know them."""


class Target(Protocol):
    @property
    def holds_one(self) -> bool:
        """True if there is room for one collection only."""

    def occupied(self, collections: Sequence[str]) -> Sequence[str]:
        """What of the target exists already and would be replaced if `collections` (the names that will be written) were
        restored; empty if nothing."""

    def receipt(self) -> bytes | None:
        """The receipt that the last `publish` left, None if there is none."""

    def objections(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """Why rows of this collection (from any engine) can't be loaded here; empty if they can."""

    def losses(self, collection: Collection, schema: pa.Schema) -> Sequence[str]:
        """What loading such rows changes that `conversions` doesn't say: where things lie, what isn't made again ... Shown in the
        plan."""

    def conversions(self, collection: Collection, schema: pa.Schema) -> Sequence[Conversion]:
        """What becomes of each part of such rows, by `conversions.table`: values of each type go through what converts rows."""

    def fidelity(self, collection: Collection) -> Fidelity:
        """How the vectors of such a collection come back after `Stage.load`."""

    def stage(self, token: str, selection: Selection) -> Stage:
        """Open or re-open the stage of `token`, a name unique to one restore. Raises Locked if another process has it."""


@runtime_checkable
class Columnar(Protocol):
    """A `Target` that keeps what belongs to a row in columns rather than in one object."""

    @property
    def columnar(self) -> bool: ...


@runtime_checkable
class LearnsDimension(Protocol):
    """A `Target` that takes a collection from another engine of which nobody knows how long its vectors will be: it holds none."""

    @property
    def learns_dimension(self) -> bool: ...


@runtime_checkable
class WholeOnly(Protocol):
    """A `Target` whose engine's files can be taken over as they are and not otherwise: of a part of them, or under other names, the
    rows are loaded."""

    @property
    def whole_only(self) -> str:
        """Why, for the plan."""


class Engine(Protocol):
    """A plug-in, registered in the entry point group `strongroom.engines` under its URL scheme. One that has an attribute
    `experimental` that is true has never met what it is for: see `engines.is_experimental`. One whose URLs mean no TLS
    names the scheme that means it in an attribute `encrypted_scheme`."""

    @property
    def name(self) -> str: ...

    @property
    def loading(self) -> str:
        """The function ('module:name') that loads what `Frozen.search` runs in a child process, so that it can be had ready."""

    def version(self) -> str:
        """The version of the installed engine library. Raises WrongRequest, with the extra to install, if it isn't there."""

    def compatible(self, written_by: str) -> bool:
        """May files written by engine version `written_by` be installed for the present version and answer identically?"""

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of a new target inside an empty directory, for a restore that is only looked at."""

    def source(self, url: str) -> Source:
        """The source that `url` names. Raises WrongRequest if the URL is not of this engine's form; opens nothing."""

    def target(self, url: str) -> Target:
        """The target that `url` names. Raises WrongRequest; touches nothing."""


@runtime_checkable
class Capturing(Protocol):
    """An `Engine` whose sources have no log of their own, so that it wraps the client of one: what is changed through the wrapper
    can be followed."""

    def capture(self, client: Any, url: str, every: float, anew: bool) -> CapturedClient:
        """Record what is done to `client` from here on, in a log beside the source that `url` names. A change is durable before the
        call that makes it returns, or, if `every` isn't 0, after so many seconds at the latest. `client` must hold what the source
        does, unless the source isn't there yet or, `anew`, shall be replaced. Raises WrongRequest, Refused or Locked."""


class CapturedClient(Protocol):
    """Used as the client that it wraps."""

    def batch(self, name: str) -> AbstractContextManager[None]:
        """What this thread changes meanwhile belongs to an ingest batch."""

    def save(self) -> Any:
        """Bring the source itself up to date."""

    def flush(self) -> None:
        """All changes so far are durable."""

    def shipped_by(self, shipping: Any) -> None:
        """`shipping.stop()` is called by `close`."""

    def close(self) -> None: ...


@runtime_checkable
class ScratchElsewhere(Protocol):
    """An `Engine` whose scratch target doesn't lie in the directory that it is given, and so doesn't go with it."""

    def drop_scratch(self, url: str) -> None:
        """Take away what a restore left at the URL that `scratch` gave; what can't be is left. Repeatable."""


@runtime_checkable
class ScratchRestarts(Protocol):
    """An `Engine` whose scratch target is a server of its own, which can be stopped and started."""

    def restart_scratch(self, url: str) -> None:
        """Stop the server at the URL that `scratch` gave, and start it on what it had written to its files. Raises EngineFailed."""
