"""How are all rows of a collection read, none twice and none left out? By ascending primary key: each page is what comes after the
last one, and the last page is the one that is empty.

pymilvus's own iterator isn't used: it puts text keys between quotes as they are, so that one with a quote in it ends the reading.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from blake3 import blake3

from strongroom.engines.milvus.columns import batch_of
from strongroom.engines.milvus.connection import Server, TooLarge
from strongroom.engines.milvus.listing import Listed
from strongroom.engines.milvus.shape import META, Column
from strongroom.engines.protocol import rows_per_block
from strongroom.errors import EngineFailed, NotFound, StrongroomError, Unreachable, Unreadable
from strongroom.progress import Progress

_MOST_ROWS = 8192
"""Of one answer: servers give 16,384 at most."""
_LOADED = 3
_WAITED_SECONDS = 3600.0
_LEAST_INT64 = -(1 << 63)
_NOT_IN_TEXT = re.compile(r'[\\"\x00-\x1f]')


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a collection in a file of this machine. `prints` tell what they are, a piece each; `hidden` is how many entities
    the server counts that no query shows; `pinned` the server's time at which it was asked, 0 if it can't be asked so."""

    listed: Listed
    path: Path
    count: int
    hidden: int
    pinned: int
    prints: tuple[bytes, ...]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """In blocks; none if there are no rows."""
        if self.count:
            with pa.memory_map(str(self.path)) as file:
                yield from pa.ipc.open_stream(file)


def read_rows(server: Server, listed: Listed, path: Path, pinned: int, progress: Progress) -> Rows:
    """All rows, by partition, then by key. Raises NotFound if it was dropped meanwhile, Unreadable if it can't be read."""
    progress.begin(f"rows of {listed.name}", None, "rows")
    if is_empty_without_index(server, listed):
        return Rows(listed, path, 0, 0, pinned, ())
    shape, prints, count = listed.shape, [], 0
    block = rows_per_block(shape.row_bytes)
    with pa.ipc.new_stream(str(path), shape.schema) as writer:
        for partition in listed.partitions or ("",):
            pages = _Pages(server, listed, partition, pinned, min(block, _MOST_ROWS))
            gathered: list[pa.RecordBatch] = []
            for batch in pages.all():
                prints.append(blake3(memoryview(batch.serialize())).digest(16))
                count += batch.num_rows
                gathered.append(batch)
                progress.advance(batch.num_rows)
                if sum(one.num_rows for one in gathered) >= block:
                    writer.write_batch(pa.concat_batches(gathered))
                    gathered = []
            if gathered:
                writer.write_batch(pa.concat_batches(gathered))
            pinned = pinned or pages.pinned
    hidden = 0 if pinned else max(0, _counted(server, listed) - count)  # it is counted now, and not at that time
    return Rows(listed, path, count, hidden, pinned, tuple(prints))


class _Pages:
    """The rows of a collection, or of a partition of it, a page each."""

    def __init__(self, server: Server, listed: Listed, partition: str, pinned: int, step: int) -> None:
        self._server, self._listed, self._partition, self._step = server, listed, partition, step
        self._shape = listed.shape
        self.pinned = pinned

    def all(self) -> Iterator[pa.RecordBatch]:
        last: int | str | None = None
        while True:
            batch = batch_of(self._shape, self._page(last), self._partition)
            if not batch.num_rows:
                return
            keys = batch.column(self._shape.id.name).to_pylist()
            order = [_order(one) for one in ([] if last is None else [last]) + keys]
            if any(one >= following for one, following in pairwise(order)):
                raise Unreadable(f"collection {self._listed.name}: the server's pages aren't in the order of their keys")
            last = keys[-1]
            yield batch

    def _page(self, last: int | str | None) -> Any:
        while True:
            try:
                return self._ask(last)
            except TooLarge as error:
                if self._step == 1:
                    raise Unreadable(f"collection {self._listed.name}: a row is longer than the server can send") from error
                self._step //= 2

    def _ask(self, last: int | str | None) -> Any:
        _, _, common = self._server.messages
        said = {"limit": str(self._step), "iterator": "True", "reduce_stop_for_best": "True"}
        names = [one.name for one in self._shape.columns] + ([META] if self._shape.payload else [])
        answer = self._server.ask(
            "Query",
            database=self._listed.database,
            collection_name=self._listed.own,
            expr=after(self._shape.id, last),
            output_fields=names,
            partition_names=[self._partition] if self._partition else [],
            guarantee_timestamp=self.pinned,
            query_params=[common.KeyValuePair(key=key, value=value) for key, value in said.items()],
        )
        self.pinned = self.pinned or int(answer.session_ts)
        return answer


def after(key: Column, last: int | str | None) -> str:
    """The expression of all rows with a key beyond `last`; of all rows if that is None."""
    if key.kind == "Int64":
        if last == _LEAST_INT64:  # which the server can't parse
            return f"{key.name} >= {_LEAST_INT64 + 1}"
        return "" if last is None else f"{key.name} > {last}"
    if last is None:
        return f'{key.name} >= ""'
    escaped = _NOT_IN_TEXT.sub(lambda found: json.dumps(found[0])[1:-1], str(last))
    return f'{key.name} > "{escaped}"'


def _order(key: int | str) -> Any:
    return key.encode() if isinstance(key, str) else key


def _counted(server: Server, listed: Listed) -> int:
    answer = server.ask("Query", database=listed.database, collection_name=listed.own, output_fields=["count(*)"])
    return int(answer.fields_data[0].scalars.long_data.data[0])


# -- what isn't loaded can't be read ------------------------------------------------------------------------------------------


@contextmanager
def loaded(server: Server, listed: Listed) -> Iterator[None]:
    """While this is open all of the collection can be queried; what wasn't loaded before is released in the end."""
    where = {"database": listed.database, "collection_name": listed.own}
    if is_empty_without_index(server, listed):
        yield
        return
    partitions = listed.partitions or ("",)
    missing = [one for one in partitions if _state(server, listed, one) != _LOADED]
    some: dict[str, Any] = {"partition_names": missing} if len(missing) < len(partitions) else {}
    if missing:
        server.ask("LoadPartitions" if some else "LoadCollection", **where, **some)
        wait_until_loaded(server, listed, partitions)
    try:
        yield
    finally:
        if missing:
            with suppress(StrongroomError):  # it was dropped, or the server is gone
                server.ask("ReleasePartitions" if some else "ReleaseCollection", **where, **some)


def wait_until_loaded(server: Server, listed: Listed, partitions: Sequence[str] = ("",)) -> None:
    """Returns at once if it has no index, since Milvus doesn't load it then. Raises Unreachable if it takes hours."""
    until = time.monotonic() + _WAITED_SECONDS
    while listed.said["indexes"] and any(_state(server, listed, one) != _LOADED for one in partitions):
        if time.monotonic() > until:
            raise Unreachable(f"collection {listed.name} isn't loaded after {_WAITED_SECONDS:.0f} s", hint="see the server's log")
        time.sleep(0.05)


def is_empty_without_index(server: Server, listed: Listed) -> bool:
    """Milvus loads no collection without an index. Raises Unreadable if there are rows in it all the same."""
    if listed.said["indexes"] or listed.said["loaded"]:
        return False
    try:
        server.ask("LoadCollection", database=listed.database, collection_name=listed.own)
        server.ask("ReleaseCollection", database=listed.database, collection_name=listed.own)
        return False
    except (NotFound, Unreadable, EngineFailed):
        flush(server, listed.database, listed.own)
        said = server.ask("GetCollectionStatistics", database=listed.database, collection_name=listed.own)
        rows = next((int(one.value) for one in said.stats if one.key == "row_count"), 0)
        if rows:
            raise Unreadable(
                f"collection {listed.name} has {rows:,} rows and no index: Milvus lets nobody read them",
                hint="create an index on its vectors, then run the backup again",
            ) from None
        return True


def flush(server: Server, database: str, own: str) -> None:
    """All rows are in sealed segments, of which the server knows how many they are. Raises Unreachable if it takes hours."""
    answer = server.ask("Flush", database=database, collection_names=[own])
    said = {"collection_name": own, "segmentIDs": answer.coll_segIDs[own].data, "flush_ts": answer.coll_flush_ts[own]}
    until = time.monotonic() + _WAITED_SECONDS
    while not server.ask("GetFlushState", database=database, **said).flushed:
        if time.monotonic() > until:
            raise Unreachable(f"collection {own} isn't flushed after {_WAITED_SECONDS:.0f} s", hint="see the server's log")
        time.sleep(0.05)


def _state(server: Server, listed: Listed, partition: str) -> int:
    some: dict[str, Any] = {"partition_names": [partition]} if partition else {}
    return int(server.ask("GetLoadState", database=listed.database, collection_name=listed.own, **some).state)
