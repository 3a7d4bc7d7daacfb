"""What does a command of the replication stream do to rows? Decoded where the command says it all; else it is said what to read.

A command never changes a key that it doesn't name (but for those that empty a database), and the server tells where each command
names its keys: so of one that isn't known here, every key of ours is read from the server. Where keys may lie anywhere, every
word is taken for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from strongroom.engines.changes import Act
from strongroom.engines.redis import rdb
from strongroom.engines.redis.definitions import HASH, Definition
from strongroom.engines.redis.names import OWN, raw_of, text_of
from strongroom.engines.redis.replica import Command
from strongroom.engines.redis.rows import EXPIRES, Row, hash_row
from strongroom.engines.redis.server import library
from strongroom.engines.redis.values import VECTOR_SET, module_of
from strongroom.errors import Gap

_SET = (b"HSET", b"HMSET", b"HSETNX")
_DELETE = (b"DEL", b"UNLINK")
_EMPTY = (b"FLUSHDB", b"FLUSHALL")
_IGNORED = (b"HPEXPIREAT", b"HPERSIST", b"PUBLISH", b"SPUBLISH", b"SCRIPT", b"FUNCTION", b"SELECT", b"MULTI", b"EXEC")
_SETS = (b"VADD", b"VREM", b"VSETATTR")
_MOVES = (b"RENAME", b"RENAMENX", b"COPY", b"MOVE", b"RESTORE")
_QUIET_INDEX = (b"FT.ALIAS", b"FT._ALIAS", b"FT.SYN", b"FT.DICT", b"FT.SUG", b"FT.CONFIG", b"_FT.CONFIG", b"FT.CURSOR")


@dataclass(frozen=True, slots=True)
class RowEffect:
    """What happens to one row of a collection."""

    collection: str
    act: Act
    row: Row


@dataclass(frozen=True, slots=True)
class Gone:
    """Collections that are no more; all of them, if it is `everything`."""

    collections: tuple[str, ...] = ()
    everything: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """A key, or an element of a vector set, of which only the server can tell what it is now."""

    key: bytes
    element: bytes | None = None


Effect = RowEffect | Gone | Unknown


@dataclass
class Known:
    """What there is in the database that is followed: indexes with vectors, and the keys of vector sets."""

    database: int
    indexes: tuple[Definition, ...] = ()
    sets: set[bytes] = field(default_factory=set)
    positions: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    """Of each command whose keys have places: the first, the last (negative: from the end), and the step."""

    def keys_in(self, command: Command) -> tuple[bytes, ...]:
        """What of a command may be a key."""
        first, last, step = self.positions.get(command[0].decode(errors="replace").lower(), (1, -1, 1))
        return command[first : last + 1 if last >= 0 else len(command) + 1 + last : step]

    def name_of_set(self, key: bytes) -> str:
        """What the collection of a vector set is called: a key may be called as an index is."""
        name = text_of(key)
        return f"key {name}" if any(one.name == name for one in self.indexes) else name

    def covering(self, key: bytes, kind: str = "") -> list[Definition]:
        if key.startswith(OWN.encode()):
            return []
        return [one for one in self.indexes if one.covers(key) and kind in ("", one.kind)]

    def without(self, name: str) -> None:
        self.indexes = tuple(one for one in self.indexes if one.name != name)


def forbidden(command: Command, database: int, known: Known) -> str | None:
    """Why the stream can't be followed over this command, None if it can."""
    word = command[0].upper()
    shown = word.decode(errors="replace")
    if word == b"SWAPDB" and str(known.database).encode() in command[1:3]:
        return "databases were swapped (SWAPDB)"
    if word.startswith((b"FT.", b"_FT.")) and known.database == 0:
        if word.startswith(_QUIET_INDEX) or b"DROP" in word:
            return None
        return f"an index was created or altered ({shown} {text_of(command[1]) if len(command) > 1 else ''})".replace(" )", ")")
    if database != known.database and word not in (b"MOVE", b"COPY"):
        return None
    if word == b"RESTORE" and module_of(command[3]) == VECTOR_SET:
        return f"a vector set was restored ({text_of(command[1])})"
    if word not in (*_SETS, *_DELETE, *_IGNORED) and any(one in known.sets for one in known.keys_in(command)):
        return f"a vector set was changed by {shown}"
    return None


def effects_of(command: Command, database: int, known: Known) -> Iterator[Effect]:
    """What a command does, in order. Raises Gap if the stream can't be followed over it."""
    why = forbidden(command, database, known)
    if why:
        raise Gap(f"{why}: what came of it is in no command")
    word = command[0].upper()
    if word.startswith((b"FT.", b"_FT.")):
        if b"DROP" in word and known.database == 0:
            yield Gone((text_of(command[1]),))
    elif word in _EMPTY:
        if database == known.database or word == b"FLUSHALL":
            yield Gone(everything=True)
    elif database != known.database:
        if word in (b"MOVE", b"COPY"):
            yield from (Unknown(one) for one in command[1:3])
    elif word in _SETS:
        yield Unknown(command[1], _element_of(command))
    elif word in _SET:
        yield from _set(command, known)
    elif word in _DELETE:
        for key in command[1:]:
            yield from _deleted(key, known)
    elif word in (b"PEXPIREAT", b"PERSIST") and len(command) <= 3:
        yield from _expires(command[1], int(command[2]) if word == b"PEXPIREAT" else None, known)
    elif word not in _IGNORED:
        probed = command[1:3] if word in _MOVES else ()
        yield from (
            Unknown(one) for one in dict.fromkeys((*probed, *known.keys_in(command))) if one in probed or known.covering(one)
        )


def _element_of(command: Command) -> bytes:
    if command[0].upper() != b"VADD":
        return command[2]
    at = 4 if command[2].upper() == b"REDUCE" else 2
    return command[at + 2] if command[at].upper() == b"FP32" else command[at + 2 + int(command[at + 1])]


def _set(command: Command, known: Known) -> Iterator[Effect]:
    fields = dict(zip(command[2::2], command[3::2], strict=True))
    for one in known.covering(command[1], HASH):
        sources = {raw_of(vector.source): vector for vector in one.vectors}
        wrong = any(len(fields[name]) != vector.bytes for name, vector in sources.items() if name in fields)
        if len(sources) > 1 or wrong:
            yield Unknown(command[1])
            continue
        vectors, payload = hash_row(dict(fields), one.vectors)
        payload |= {text_of(name): None for name in sources if name in fields}  # if it was no vector before, it was payload
        yield RowEffect(one.name, Act.UPSERT, Row(one.id_of(command[1]), vectors, payload))


def _deleted(key: bytes, known: Known) -> Iterator[Effect]:
    for one in known.covering(key):
        yield RowEffect(one.name, Act.DELETE, Row(one.id_of(key), (None,) * len(one.vectors), {}))
    if key in known.sets:
        yield Gone((known.name_of_set(key),))


def _expires(key: bytes, at: int | None, known: Known) -> Iterator[Effect]:
    for one in known.covering(key):
        if len(one.vectors) > 1:
            yield Unknown(key)
        else:
            yield RowEffect(one.name, Act.UPDATE, Row(one.id_of(key), (None,), {EXPIRES: at}))


def positions_of(client: Any) -> dict[str, tuple[int, int, int]]:
    """Where the server's commands name their keys; nothing where it may not be asked."""
    try:
        table = client.execute_command("COMMAND")
    except library().ResponseError:
        return {}
    found = {}
    for name, one in table.items():
        first, last, step = (int(one[part]) for part in ("first_key_pos", "last_key_pos", "step_count"))
        if first > 0 and step > 0 and "movablekeys" not in {_word(flag) for flag in one["flags"]}:
            found[_word(name).lower()] = first, last, step
    return found


def _word(one: Any) -> str:
    return one.decode() if isinstance(one, bytes) else str(one)


def kind_of(payload: bytes) -> str:
    """'hash', 'json', 'vectorset' or '' of a DUMP payload."""
    if payload[0] == rdb.MODULE:
        return {"ReJSON-RL": "json", VECTOR_SET: VECTOR_SET}.get(module_of(payload), "")
    return HASH if payload[0] in (rdb.HASH, rdb.HASH_LISTPACK, rdb.HASH_EXPIRES, rdb.HASH_LISTPACK_EXPIRES) else ""


def tag_of(payload: Mapping[str, object], key: str | None) -> str | None:
    """The ingest batch that a row came with."""
    value = payload.get(key) if key else None
    return str(value) if isinstance(value, str | int) else None
