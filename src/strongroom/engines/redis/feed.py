"""What does a server's replication stream say, in its order, of the rows of its collections?

A mark is `OFFSET:LOG:DATABASE`: a place between two commands of the stream, and the database that is selected there; where a
segment ends, with what each vector set ever took. MULTI/EXEC
counts as one command. Most commands are decoded. Where one doesn't say what it leaves (HINCRBY, JSON.SET of a path, VADD into a
quantized set), the key is read from the server together with the offset at which that holds, and all that came up to there counts
as one transaction: at its end each key is what was read, and what was decoded of what came later. The stream has no times:
an operation's is when it was received.

VADD of an element that is there already is not in the stream (Redis 8.2): but a vector set counts what it takes. Where it took more
than was told, all of it is read, and what differs from the last time is written down.

What can't be followed so is a Gap: an index that is created (its rows are keys of long ago) or altered, databases that are swapped,
a vector set that is renamed, copied or restored; and a backlog that doesn't go back far enough.
"""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b

from strongroom.engines.changes import Act, CatalogChange, Change
from strongroom.engines.redis.changes import Present, Timed, as_changes
from strongroom.engines.redis.definitions import read_definitions
from strongroom.engines.redis.effects import Effect, Gone, Known, RowEffect, Unknown, effects_of, forbidden, positions_of
from strongroom.engines.redis.frozen import KIND
from strongroom.engines.redis.names import OWN, raw_of, text_of
from strongroom.engines.redis.reading import Answer, ask, collection_of
from strongroom.engines.redis.replica import Command, Replica
from strongroom.engines.redis.rows import Row, element_row
from strongroom.engines.redis.server import Address, client_of, library, offset_of, speaking
from strongroom.engines.redis.values import vector_set_of
from strongroom.engines.redis.window import Place, Window, is_open, transactions, unit_of
from strongroom.errors import Gap, Refused, Unreachable
from strongroom.model import Collection, Field

_ATTEMPTS = 5
_ROUNDS, _UNPAUSED, _REPEATED = 200, 24, 8
_PAUSE_MILLISECONDS = 60
"""After so many rounds in which writers were faster than we, they are held for so long at most."""
_PATIENCE = 60.0
_MOST = 4 << 20
_WHOLE_BYTES = 32 << 20
"""Larger vector sets are not read as a whole between two looks at the stream."""


@contextmanager
def following(address: Address, batch_key: str | None) -> Iterator[RedisFeed]:
    """The feed of a database. Raises Unreachable, Refused."""
    feed = RedisFeed(address, batch_key)
    try:
        yield feed
    finally:
        feed.close()


class RedisFeed:
    """See `protocol.Feed`. The only scope is ''."""

    kind = KIND

    def __init__(self, address: Address, batch_key: str | None) -> None:
        self._address, self._batch_key = address, batch_key
        self._client = client_of(address)
        self._replica: Replica | None = None
        self._place = Place("", 0)
        self._known = Known(address.database)
        self._collections: dict[str, Collection] | None = None
        self._fields: dict[str, Sequence[Field]] = {}
        self._told: set[str] = set()
        self._added: dict[bytes, int] = {}
        self._adds: Counter[bytes] = Counter()
        self._prints: dict[bytes, dict[bytes, bytes]] = {}
        self._gap: Gap | None = None
        self._ready: tuple[Sequence[Change], Mapping[str, str], bool] | None = None
        self._counted = -1

    def close(self) -> None:
        if self._replica is not None:
            self._replica.close()
            self._replica = None
        self._client.close()

    # -- beginning -------------------------------------------------------------------------------------------------------------

    def begin(self) -> Mapping[str, str]:
        self._added, self._prints, self._gap, self._ready = {}, {}, None, None
        for _ in range(_ATTEMPTS):
            replica = self._connected()
            replica.begin(None)
            self._place = Place(replica.log, replica.offset)
            if self._learn(replica) is None:
                self._collections = self._present()
                self._told = set(self._collections)
                self._take_count()
                return self._marks()
        raise Unreachable(f"{self._address.url}: its indexes are changed all the time")

    def resume(self, marks: Mapping[str, str]) -> None:
        self._collections = None
        self._go_on(marks)
        self._ready = self._read(marks)
        if self._gap is not None:
            raise self._gap

    def _marks(self) -> dict[str, str]:
        """With what each vector set had taken at our place."""
        return {"": f"{self._place.mark}:{_counts_text(self._added)}"}

    def _go_on(self, marks: Mapping[str, str]) -> None:
        offset, log, database, *counts = marks[""].split(":")
        self._require_backlog(log, int(offset))
        self._added = _counts_of(counts[0]) if counts else {}
        self._adds, self._counted = Counter(), -1
        self._told, self._prints = set(), {}
        replica = self._connected()
        replica.resume(log, int(offset))
        self._place = Place(replica.log, int(offset), int(database))
        why = self._learn(replica)
        if why:
            raise Gap(why)
        self._present()

    def _connected(self) -> Replica:
        if self._replica is not None:
            self._replica.close()
        with speaking(self._address):
            if self._client.info("server").get("redis_mode") == "cluster":
                raise Refused(f"{self._address.url} is a node of a cluster", hint="a cluster isn't supported yet")
        self._replica = Replica(self._address)
        return self._replica

    def _require_backlog(self, log: str, offset: int) -> None:
        """Raises Gap if the server would send us all it has, before it goes to that trouble."""
        with speaking(self._address):
            said = self._client.info("replication")
        if log == said["master_replid"]:
            last = int(said["master_repl_offset"])
        elif log == str(said["master_replid2"]):
            last = int(said["second_repl_offset"]) - 1
        else:
            raise Gap("Redis' replication log is another one: the server was started anew, or another one took its place")
        first = int(said["repl_backlog_first_byte_offset"])
        if not said["repl_backlog_active"] or offset + 1 < first or offset > last:
            raise Gap(
                f"Redis' backlog goes back to offset {first}, not to {offset + 1}:"
                f" repl-backlog-size ({int(said['repl_backlog_size']):,} bytes) is too small for such a pause"
            )

    def _learn(self, replica: Replica) -> str | None:
        """What there is, if it is what there was at our place: why not, if it isn't."""
        with speaking(self._address):
            found = read_definitions(self._client) if not self._address.database else None
            sets = set(self._client.scan_iter(count=2000, _type="vectorset"))
            positions = positions_of(self._client)
            until = offset_of(self._client, self._place.log)
        indexes = tuple(one for one in found.indexes if one.followed) if found else ()
        sets = {key for key in sets if not key.startswith(OWN.encode())} | self._added.keys()
        self._known = Known(self._address.database, indexes, sets, positions)
        self._place.queue = list(replica.through(until))
        database = self._place.database
        for _, command in self._place.queue:
            word = command[0].upper()
            if word == b"SELECT":
                database = int(command[1])
            if word.startswith((b"FT.", b"_FT.")) and b"DROP" in word:
                return f"an index was dropped ({command[1].decode(errors='replace')}) while nobody followed"
            why = forbidden(command, database, self._known)
            if why:
                return f"{why}: what came of it is in no command"
        return None

    def _present(self) -> dict[str, Collection]:
        found = {one.name: one.collection(0) for one in self._known.indexes}
        with speaking(self._address):
            for key in sorted(self._known.sets):
                name = self._known.name_of_set(key)
                try:
                    one = collection_of(name, self._client.execute_command("VINFO", key))
                except library().ResponseError:  # it is another kind of key by now
                    one = None
                if one is not None:
                    found[name] = one
        self._fields |= {name: one.fields for name, one in found.items()}
        return found

    def _take_count(self) -> None:
        """What the vector sets have taken by now counts from here on."""
        with speaking(self._address):
            answer = ask(self._client, self._place.log, [], self._known)
        assert self._replica is not None  # noqa: S101 - begun
        self._place.queue += self._replica.through(answer.offset)
        self._added, self._adds = dict(answer.added), Counter()
        self._counted = answer.offset

    # -- reading ---------------------------------------------------------------------------------------------------------------

    def read(self) -> tuple[Sequence[Change], Mapping[str, str], bool]:
        if self._ready is not None:
            (changes, ends, _), self._ready = self._ready, None
            return changes, ends, True  # it was read a while ago: more has come since
        marks, collections = self._marks(), self._collections
        try:
            return self._read(marks)
        except Unreachable:
            self._reconnect(marks)
            self._collections = collections
            return [], marks, True

    def _reconnect(self, marks: Mapping[str, str]) -> None:
        """The server went away and comes back, or a new one takes its place. Raises Unreachable if none does for a minute."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._go_on(marks)
                return
            except Unreachable:
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)

    def _read(self, marks: Mapping[str, str]) -> tuple[Sequence[Change], Mapping[str, str], bool]:
        if self._gap is not None:
            raise self._gap
        with speaking(self._address):
            until = offset_of(self._client, self._place.log)
        now = time.time_ns() // 1000
        first = self._first_changes(now)
        window = Window(marks[""])
        try:
            more = self._take(until, window)
            if window.unknown or self._known.sets:
                self._settle(window)
            ends: Mapping[str, str] = self._marks()
        except Gap as gap:  # what is certain is given first
            self._gap, more = gap, True
            *_, counts = marks[""].split(":")
            ends = {"": ":".join([*window.undo(self._place).split(":")[:3], counts])}
        changes = list(as_changes(window.timed, now, self._fields, self._batch_key))
        return [*first, *changes], ends, more

    def _first_changes(self, now: int) -> list[Change]:
        """All collections, once."""
        if self._collections is None:
            return []
        present, self._collections = self._collections, None
        return [CatalogChange(present, (), now, self._place.mark, whole=True)]

    def _take(self, until: int, window: Window, *, all_of_it: bool = False) -> bool:
        """Decode what came up to an offset, whole transactions; gives whether there is more."""
        assert self._replica is not None  # noqa: S101 - begun or resumed
        while self._place.offset < until:
            commands, self._place.queue = self._place.queue, []
            if not commands:
                commands = self._replica.commands(until, _MOST)
            reached = self._replica.offset
            while is_open(commands):  # a transaction goes on
                commands += self._replica.commands(self._replica.offset + 1)
                reached = self._replica.offset
            for end, transaction in transactions(commands):
                self._decode(end, transaction, window)
            self._place.offset = reached
            if not all_of_it:
                break
        return self._place.offset < until

    def _decode(self, end: int, transaction: Sequence[Command], window: Window) -> None:
        """Take one transaction in, or nothing of it. Raises Gap."""
        place, found, unknown = self._place, [], []
        database = place.database
        for command in transaction:
            word = command[0].upper()
            if word == b"SELECT":
                database = int(command[1])
            elif word == b"VADD" and database == self._known.database and end > self._counted:
                self._adds[command[1]] += 1
            for effect in self._effects(command, database):
                if isinstance(effect, Unknown):
                    unknown.append(effect)
                else:
                    found.append(effect)
        place.offset, place.database = end, database
        if unknown and window.start is None:
            window.start = len(window.timed)
        window.unknown.update(dict.fromkeys(unknown))
        window.timed += [Timed(place.mark, effect, unit_of(effect, self._known)) for effect in found]

    def _effects(self, command: Command, database: int) -> Iterator[Effect]:
        for effect in effects_of(command, database, self._known):
            if isinstance(effect, Gone):
                self._forget(effect)
            yield effect

    def _forget(self, gone: Gone) -> None:
        if gone.everything:
            self._known.indexes = ()
        for key in list(self._known.sets):
            if gone.everything or self._known.name_of_set(key) in gone.collections:
                self._known.sets.discard(key)
                self._added.pop(key, None)
                self._adds.pop(key, None)
                self._prints.pop(key, None)
        for name in gone.collections:
            self._known.without(name)
            self._told.discard(name)
        if gone.everything:
            self._told.clear()

    def _settle(self, window: Window) -> None:
        """Ask for what is unknown until all of it holds at one offset. Raises Gap if that doesn't come."""
        for number in range(_ROUNDS):
            if number >= _UNPAUSED:
                self._hold_writers(number)
            asked, window.unknown = window.unknown, {}
            with speaking(self._address):
                answer = ask(self._client, self._place.log, list(asked), self._known)
            self._take(answer.offset, window, all_of_it=True)
            for unit in asked:
                window.unknown.pop(unit, None)
            if window.start is not None:
                window.timed[window.start :] = [one for one in window.timed[window.start :] if one.unit not in asked]
            mark = self._place.mark
            for key, collection in answer.sets.items():
                window.timed += [Timed(mark, one) for one in self._set_is(key, collection)]
            window.timed += [Timed(mark, one, unit_of(one, self._known)) for one in answer.effects]
            for unit in asked:
                self._prints.get(unit.key, {}).pop(unit.element or b"", None)  # it is told apart from here on
            for key, payload in answer.wholes.items():
                window.timed += [Timed(mark, one, unit_of(one, self._known)) for one in self._whole(key, payload)]
            self._compare_counts(answer, window)
            if not window.unknown:
                window.close(mark)
                if number >= _UNPAUSED:
                    with speaking(self._address):
                        self._client.execute_command("CLIENT", "UNPAUSE")
                return
        raise Gap("keys are changed by commands that don't say to what, faster than they can be read")

    def _hold_writers(self, number: int) -> None:
        """Writers are too fast for us: have them wait for a few milliseconds, and at most as long as is said here."""
        with suppress(Refused), speaking(self._address, Refused):
            if (number - _UNPAUSED) % _REPEATED == 0:
                self._client.execute_command("CLIENT", "PAUSE", _PAUSE_MILLISECONDS, "WRITE")

    def _compare_counts(self, answer: Answer, window: Window) -> None:
        """A vector set that took more than the stream told of is to be read as a whole. Raises Gap if it is too large."""
        for key, count in answer.added.items():
            told = self._added.get(key, 0) + self._adds[key]
            self._added[key], self._adds[key] = count, 0
            if count == told or key in answer.wholes:
                continue
            collection = answer.sets[key]
            if collection is not None and collection.count * (4 * collection.fields[0].dimension + 200) > _WHOLE_BYTES:
                raise Gap(f"vector set {collection.name} was changed by VADD of elements that it had, which Redis tells no replica")
            window.unknown[Unknown(key)] = None
            window.start = 0

    def _whole(self, key: bytes, payload: bytes) -> Iterator[Effect]:
        """What of a vector set differs from the last time that all of it was read."""
        name, before = self._known.name_of_set(key), self._prints.get(key, {})
        now: dict[bytes, bytes] = {}
        for element in vector_set_of(payload).elements():
            row = element_row(element)
            now[element.name] = blake2b(element.vector.tobytes() + element.attributes, digest_size=16).digest()
            if before.get(element.name) != now[element.name]:
                yield RowEffect(name, Act.PUT, row)
        for gone in before.keys() - now.keys():
            yield RowEffect(name, Act.DELETE, Row(text_of(gone), (None,), {}))
        self._prints[key] = now

    def _set_is(self, key: bytes, collection: Collection | None) -> list[Gone | Present]:
        """What is new of a vector set."""
        name = self._known.name_of_set(key)
        if collection is None:
            self._forget(Gone((name,)))
            return [Gone((name,))]
        self._known.sets.add(key)
        self._fields[name] = collection.fields
        if name in self._told:
            return []
        self._told.add(name)
        return [Present(collection)]

    def behind(self, marks: Mapping[str, str]) -> tuple[int, int]:
        """Operations are estimated by the bytes that one took so far as it is known: only reading tells."""
        offset, log, *_ = marks[""].split(":")
        self._require_backlog(log, int(offset))
        with speaking(self._address):
            missing = max(0, int(self._client.info("replication")["master_repl_offset"]) - int(offset))
        replica = Replica(self._address)
        try:
            replica.resume(log, int(offset))
            count = sum(1 for _, command in replica.through(int(offset) + missing) if command[0].upper() not in _FRAMES)
        finally:
            replica.close()
        return count, missing if count else 0

    def shipped(self, marks: Mapping[str, str]) -> None:
        """The server shows in INFO replication how far we are; it holds nothing back for us."""
        if self._replica is not None:
            with suppress(Unreachable):
                self._replica.keep(int(marks[""].partition(":")[0]))


_FRAMES = (b"SELECT", b"MULTI", b"EXEC")


def _counts_text(counts: Mapping[bytes, int]) -> str:
    """How many elements each vector set ever took, as a part of a mark."""
    named = {text_of(key): count for key, count in counts.items()}
    return urlsafe_b64encode(json.dumps(named, sort_keys=True).encode()).decode() if named else "-"


def _counts_of(text: str) -> dict[bytes, int]:
    """The inverse."""
    return {raw_of(name): int(count) for name, count in json.loads(urlsafe_b64decode(text)).items()} if text != "-" else {}
