"""A Redis database at one moment, as a backup sees it: rows, files, and what its live indexes answer."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from strongroom.engines import stopwatch
from strongroom.engines.redis import keyfile
from strongroom.engines.redis.capture import Moment, capture
from strongroom.engines.redis.definitions import Definition, definition_from
from strongroom.engines.redis.keyfile import KeyFile
from strongroom.engines.redis.names import PLAIN, Names, raw_of, text_of
from strongroom.engines.redis.rows import batch_of, element_batches, row_of
from strongroom.engines.redis.server import Address, client_of, require_server, speaking
from strongroom.engines.retrying import Retrying
from strongroom.errors import EngineFailed, NotFound
from strongroom.model import Answers, Collection, Description, LedgerItem, Position, RowBlock, Status
from strongroom.progress import Progress

if TYPE_CHECKING:
    from strongroom.engines.redis.feed import RedisFeed

KIND = "redis-offset"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATIENCE = 600.0
_EF_RUNTIME = 200
"""With RediSearch's own 10, chance alone moves the recall of a graph that is built anew by more than a check can allow (measured on
20,000 random vectors: 0.47 and 0.39)."""


class RedisSource:
    """A database of a server, to be read. `names` are those of its keys and indexes that count."""

    def __init__(self, address: Address, names: Names = PLAIN) -> None:
        self.address = address
        self._names = names

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """Only the server can tell, and to be asked costs it nothing but the stream."""
        return False

    def feed(self, holder: str, batch_key: str | None) -> AbstractContextManager[RedisFeed]:
        """Its replication stream, as a replica that holds nothing back."""
        from strongroom.engines.redis.feed import following

        return following(self.address, batch_key)

    def release(self, holder: str) -> bool:
        """A server keeps its backlog whether or not anybody follows."""
        return False

    @contextmanager
    def freeze(self, progress: Progress) -> Iterator[FrozenRedis]:
        """The state at one offset of the replication stream. Raises Unreachable, Refused, Unreadable, SourceChanged."""
        with tempfile.TemporaryDirectory(prefix="strongroom-moment-") as place:
            progress.begin("state of the server", 1, "objects")
            retrying = Retrying()
            retrying.call(lambda: require_server(self.address))
            moment = retrying.call(lambda: capture(self.address, self._names, Path(place)))
            progress.advance(1)
            frozen = FrozenRedis(self.address, self._names, moment)
            try:
                yield frozen
            finally:
                frozen.close()


class FrozenRedis:
    """See `protocol.Frozen`."""

    rows_in_artifacts = False
    search_disturbs = False

    def __init__(self, address: Address, names: Names, moment: Moment) -> None:
        self._address, self._names, self._moment = address, names, moment
        self._client = client_of(address)
        self.description = Description(
            engine="redis",
            engine_version=moment.version,
            collections=moment.collections,
            catalog={"database": address.database},
            ledger=tuple(_ledger(moment)),
        )

    def close(self) -> None:
        self._client.close()

    @property
    def position(self) -> Position:
        return Position(KIND, f"{self._moment.offset}:{self._moment.log}")

    def rows(self, collection: str) -> Iterator[RowBlock]:
        """Rows by key, those that lack a vector in blocks of their own; elements of a vector set in its own order."""
        found = self._collection(collection)
        file = next(one for one in self._moment.files if one.collection == collection)
        definition = _definition_of(found)
        for block in keyfile.read(file.file):
            if definition is None:
                for batch in element_batches(block.records[0].value, found.fields):
                    yield RowBlock(batch)
            else:
                yield RowBlock(batch_of([row_of(record, definition) for record in block.records], found.fields))

    def artifacts(self) -> Sequence[KeyFile]:
        """The catalog, the keys of each collection, all others."""
        return self._moment.files

    def search(self, collection: str, field: str, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """What the live index answers, which may have gone on."""
        found = self._collection(collection)
        definition = _definition_of(found)
        with speaking(self._address, EngineFailed):
            if definition is None:
                key = self._names.keys + self._moment.vector_sets[collection]
                asked = [self._vsim(key, query, k) for query in stopwatch.each(queries)]
            else:
                vector = next(one for one in definition.vectors if one.name == field)
                if not _NAME.fullmatch(field):
                    raise EngineFailed(f"{collection}: a field called {field!r} can't be asked for")
                wait_until_indexed(self._client, self._names.indexes + raw_of(definition.name))
                ef = max(_EF_RUNTIME, int(vector.options.get("EF_RUNTIME", 0))) if vector.algorithm == "HNSW" else 0
                each = stopwatch.each(queries)
                asked = [self._knn(definition, field, _query_bytes(query, vector.dtype), k, ef) for query in each]
        return Answers(tuple(ids for ids, _ in asked), tuple(distances for _, distances in asked))

    def _vsim(self, key: bytes, query: npt.NDArray[np.float32], k: int) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
        vector = np.ascontiguousarray(query, np.float32).tobytes()
        found = self._client.execute_command("VSIM", key, "FP32", vector, "WITHSCORES", "COUNT", k, "EF", _EF_RUNTIME)
        return _in_order((1 - float(score), text_of(name)) for name, score in zip(found[::2], found[1::2], strict=True))

    def _knn(
        self, definition: Definition, field: str, query: bytes, k: int, ef: int
    ) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
        near = f"*=>[KNN $k @{field} $q {'EF_RUNTIME $ef ' if ef else ''}AS strongroom_distance]"
        given = ["k", k, "q", query, *(["ef", ef] if ef else [])]
        words: list[Any] = [
            *("FT.SEARCH", self._names.indexes + raw_of(definition.name), near, "PARAMS", len(given), *given),
            *("SORTBY", "strongroom_distance", "RETURN", 1, "strongroom_distance", "LIMIT", 0, k, "DIALECT", 2),
        ]
        found = self._client.execute_command(*words)[1:]
        keys = (definition.id_of(key.removeprefix(self._names.keys)) for key in found[::2])
        return _in_order((float(one[1]), key) for key, one in zip(keys, found[1::2], strict=True))

    def unchanged_since(self, position: Position, moment: float) -> bool:
        """Not a byte went into the server's stream."""
        return position == self.position

    def repeatable(self, collection: str) -> bool:
        """RediSearch builds its graph anew whenever it is loaded. A vector set keeps its graph, but another of the nodes on its top
        level may be where a search begins; and live ones are asked a little later than the moment."""
        return False

    def check(self) -> None:
        """An RDB is one moment."""

    def _collection(self, name: str) -> Collection:
        found = next((one for one in self._moment.collections if one.name == name), None)
        if found is None:
            raise NotFound(f"there is no index or vector set {name!r}")
        return found


def wait_until_indexed(client: Any, index: bytes) -> None:
    """RediSearch takes keys into a new index in the background, for hours if they are many. Raises EngineFailed if it doesn't get
    on."""
    until, before = time.monotonic() + _PATIENCE, None
    while time.monotonic() < until:
        info = client.execute_command("FT.INFO", index)
        said = dict(zip(info[::2], info[1::2], strict=False))
        if not int(float(said[b"indexing"])) and float(said[b"percent_indexed"]) >= 1:
            return
        done = said[b"percent_indexed"], said[b"num_docs"]
        if done != before:
            until, before = time.monotonic() + _PATIENCE, done
        time.sleep(0.05)
    raise EngineFailed(f"index {text_of(index)} didn't get on for {_PATIENCE:.0f} s")


def _definition_of(collection: Collection) -> Definition | None:
    """None for a vector set."""
    body = collection.catalog.get("definition")
    return definition_from(body) if body else None


def _in_order(pairs: Iterable[tuple[float, str]]) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """Ids and distances, nearest first, those of equal distance by id."""
    found = sorted(pairs)
    return tuple(key for _, key in found), np.array([distance for distance, _ in found], np.float64)


def _query_bytes(query: npt.NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "bfloat16":
        return bytes((np.ascontiguousarray(query, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return bytes(np.ascontiguousarray(query).astype(dtype).tobytes())


def _ledger(moment: Moment) -> Iterator[LedgerItem]:
    captured, missing, nothing = Status.CAPTURED, Status.NOT_CAPTURED, Status.NOT_OFFERED
    indexes = [one for one in moment.definitions.indexes if one.followed]
    others = [one.name for one in moment.definitions.indexes if not one.followed]
    yield LedgerItem("one moment", captured, "the state at one offset of the replication stream, as a replica gets it")
    yield LedgerItem("search indexes", captured, f"{len(indexes)} with vectors: definitions and all keys")
    if indexes:
        yield LedgerItem(
            "graphs of search indexes", nothing, "RediSearch builds them anew whenever it loads; answers may differ a little"
        )
        yield LedgerItem("aliases of search indexes", nothing, "no command lists them")
        yield LedgerItem("phonetic matchers, geometry of shapes", nothing, "FT.INFO doesn't tell how a field was given them")
        if not moment.definitions.tuned:
            yield LedgerItem("search parameters (EF_RUNTIME, EPSILON)", missing, "FT.DEBUG is not allowed: defaults come back")
    if others:
        yield LedgerItem("other indexes", captured, f"definition only, no rows: {', '.join(others[:5])}; their keys are plain keys")
    sets = len(moment.vector_sets)
    yield LedgerItem("vector sets", captured, f"{sets}, each with its graph")
    yield LedgerItem("other keys", captured, f"{moment.plain}, of any kind, as they are")
    yield LedgerItem(
        "expiry of keys", captured, f"{moment.expiring} keys; times are kept, what is past by then goes at the cut-over"
    )
    if moment.elsewhere:
        said = ", ".join(f"{count} keys in {number}" for number, count in sorted(moment.elsewhere.items()))
        yield LedgerItem("other databases", missing, f"{said}: back them up by their own URLs")
    yield LedgerItem("users, functions, configuration", missing, "those of the server: keep its ACL file and redis.conf")
