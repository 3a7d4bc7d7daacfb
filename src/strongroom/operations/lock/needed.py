"""Which objects must a repository have, whatever its bucket shows? Told from what was first stored under each name.

A name is needed if it is there, or if it was and nothing explains why it went: tombstones say which snapshots were forgotten, which
key slots were removed and from where on a journal is kept; an object of a newer epoch carries what an older one sealed; a closing
gives up the epochs before it, of which nothing was needed then; packs and index objects are needed by what snapshots need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from strongroom.errors import Damaged, NotFound
from strongroom.journal.retention import trimmed
from strongroom.journal.segments import number_in
from strongroom.repository import INDEX, PACKS, SNAPSHOTS, Pack, Repository
from strongroom.repository.blob_index import BlobIndex
from strongroom.repository.carrying import START_BYTES, carrier_of, plain_name, start_of, take_out
from strongroom.repository.closing import FOLDER as KEYRING
from strongroom.repository.closing import closing_name, closings, decode_closing, require_proven
from strongroom.repository.first_versions import FirstVersions
from strongroom.repository.framing import MAGIC, Kind, unseal
from strongroom.repository.key_slots import FOLDER as KEYS
from strongroom.repository.keyring import name_of, numbers
from strongroom.repository.lock_rules import FREE
from strongroom.repository.pack_uses import uses_of
from strongroom.repository.tombstones import FOLDER as TOMBSTONES
from strongroom.repository.tombstones import What, earliest, read_tombstone
from strongroom.snapshots import history

_AT_ONCE = 8
_JOURNAL = "journal/"
_OF_THEIR_OWN = (SNAPSHOTS, INDEX, PACKS, TOMBSTONES, KEYS, _JOURNAL, *FREE)
_KINDS = {SNAPSHOTS: Kind.SNAPSHOT, "holds/": Kind.HOLD, "erasures/": Kind.ERASURE, "locks/": Kind.LOCK}


@dataclass(frozen=True, slots=True)
class Needed:
    """`names` of objects; `missing` are blobs (hex) that snapshots need and no pack has."""

    names: frozenset[str]
    missing: tuple[str, ...] = ()


def needed(view: Repository, first: FirstVersions, since: datetime | None = None) -> Needed:
    """`view` is the repository over `first`. What tombstones say that were stored after `since` doesn't count: it may be an
    attacker's who had the repository's key as well. Objects that are nobody's are left out of `first`, and said there."""
    return _Telling(view, first, since).read()


@dataclass
class _Telling:
    view: Repository
    first: FirstVersions
    since: datetime | None = None
    _missing: list[str] = field(default_factory=list)
    _carriers: dict[str, list[str]] = field(default_factory=dict)
    """What carries an object, by its name, oldest first."""
    _given_up: Set[str] = frozenset()
    """Names of objects that went, and whose keys went too."""

    def read(self) -> Needed:
        self._take_out_carried()
        self._given_up = frozenset(self._of_closed_epochs())
        self._leave_out_strange()
        names = {*self._tombstones(), *self._snapshots(), *self._slots(), *self._journals(), *self._others()}
        packs = self._packs({plain_name(name).removeprefix(SNAPSHOTS) for name in names if name.startswith(SNAPSHOTS)})
        names |= {pack.name for pack in packs} | self._index({pack.id for pack in packs})
        return Needed(frozenset(names), tuple(self._missing))

    def _take_out_carried(self) -> None:
        """From then on what they carry can be read wherever else it still is, though its own epoch is closed."""
        newest_first = sorted(self.first.names(), key=lambda name: -(carrier_of(name) or 0))
        for name in newest_first:
            if carrier_of(name) is None:
                return
            try:
                take_out(self.view.keys, name, self.first.read(name))
            except (Damaged, NotFound) as error:
                if not (self._went(name) and self._carriers.get(plain_name(name))):
                    self.first.leave_out(name, str(error))
                continue
            self._carriers.setdefault(plain_name(name), []).insert(0, name)

    def _of_closed_epochs(self) -> Iterator[str]:
        oldest = self.view.keys.epochs[0].number
        loose = (PACKS, INDEX, KEYS, KEYRING, *FREE)
        went = [name for name in self.first.names() if not name.startswith(loose) and self._went(name)] if oldest else []
        for name in went:
            start = start_of(self.first.read(name, 0, START_BYTES))
            if start is not None and self.view.keys.number_of(start[1]) < oldest:
                yield name

    def _went_on(self, name: str) -> bool:
        """Was it deleted because a newer object carries what is in it?"""
        epoch = carrier_of(name) or 0
        newer = any((carrier_of(one) or 0) > epoch for one in self._carriers.get(plain_name(name), ()))
        return newer and self._went(name)

    def _names(self, prefix: str = "") -> list[str]:
        return [name for name in self.first.names(prefix) if name not in self._given_up and not self._went_on(name)]

    def _places(self, name: str) -> list[str]:
        """Where an object stands: under its own name, and in what carries it."""
        own = [name] if name in self.first.history and name not in self.first.strange else []
        return [one for one in (*own, *self._carriers.get(name, ())) if not self._went_on(one)]

    def _stored(self, name: str) -> datetime:
        """When it came, by itself or carried."""
        own = [name] if name in self.first.history and name not in self.first.strange else []
        return min(self.first.first(one).stored for one in (*own, *self._carriers.get(name, ())))

    def _leave_out_strange(self) -> None:
        """What can't be read of the small objects that tell what is needed; and whatever is hidden and not ours."""
        first = self.first
        names = [name for name in self._names() if carrier_of(name) is None]
        small = [name for name in names if name.startswith((TOMBSTONES, *_KINDS))]
        loose = (PACKS, INDEX, TOMBSTONES, *_KINDS, *FREE)
        hidden = [name for name in names if not name.startswith(loose) and self._went(name)]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for name, why in zip([*small, *hidden], pool.map(self._strangeness, [*small, *hidden]), strict=True):
                if why:
                    first.leave_out(name, why)

    def _strangeness(self, name: str) -> str:
        try:
            if name.startswith(TOMBSTONES):
                read_tombstone(self.view.store, self.view.keys, name)
                return ""
            content = self.view.store.read(name)
            kind = next((kind for folder, kind in _KINDS.items() if name.startswith(folder)), None)
            if kind is not None:
                unseal(self.view.keys, kind, name, content)
        except NotFound:
            return ""
        except Damaged as error:
            return error.problem
        return "" if content.startswith((MAGIC, b"{")) else "it is no object of a repository"

    def _went(self, name: str) -> bool:
        return not self.first.is_current(name)

    def _said(self, what: What) -> Set[str]:
        """Ids that tombstones name, but for those that don't count."""
        found = self.view.tombstones(what)
        if self.since is not None:
            found = [one for one in found if self._stored(one.name) < self.since]
        return earliest(found).keys()

    def _tombstones(self) -> Iterator[str]:
        """Those that are shown, and of what went what no other says."""
        for what in (What.FORGOTTEN, What.REVOKED, What.ENDED, What.TRIMMED, What.ABSENT, What.CONDEMNED, What.UNLISTED):
            all_of = self.view.tombstones(what)
            shown = [one for one in all_of if not all(map(self._went, self._places(one.name)))]
            needed_ = list(shown)
            if what not in (What.CONDEMNED, What.UNLISTED):
                said = earliest(shown).keys()
                needed_ += [one for one in all_of if one not in shown and not one.since.keys() <= said]
            yield from (place for one in needed_ for place in self._places(one.name))

    def _snapshots(self) -> Iterator[str]:
        forgotten = self._said(What.FORGOTTEN)
        for name in self._names(SNAPSHOTS):
            if not self._went(name) or plain_name(name).removeprefix(SNAPSHOTS) not in forgotten:
                yield name

    def _slots(self) -> Iterator[str]:
        removed = self._said(What.REVOKED)
        yield from (name for name in self.first.names(KEYS) if not self._went(name) or name.removeprefix(KEYS) not in removed)

    def _journals(self) -> Iterator[str]:
        kept_from = trimmed(self.view) if self.since is None else {}
        for name in self._names(_JOURNAL):
            found = number_in(plain_name(name))
            if not self._went(name) or found is None or found[1] >= kept_from.get(found[0], 0):
                yield name

    def _others(self) -> Iterator[str]:
        closed = self._closed()
        for name in self._names():
            if not name.startswith(_OF_THEIR_OWN) and not (name in closed and self._went(name)):
                yield name

    def _closed(self) -> set[str]:
        """The objects of epochs that a newer one has closed, by its own signature."""
        names = set(self.first.names(KEYRING))
        for number in reversed(closings(names)):
            epoch = self.view.keys.epoch(number)
            with suppress(Damaged):
                closing = decode_closing(number, self.first.read(closing_name(number)))
                if epoch is not None:
                    require_proven(closing, number, epoch.verifying, self.view.keys.repository_id)
                    return names - {closing_name(one) for one in closings(names) if one >= number} - self._begun_after(number)
        return set()

    def _begun_after(self, number: int) -> set[str]:
        return {name_of(one) for one in numbers(self.first) if one > number}

    def _packs(self, snapshots: Iterable[str]) -> list[Pack]:
        """Of each needed blob one pack, one that isn't condemned if there is any; of hosts that can't read all that say they hold
        one: it may not be true."""
        blobs: set[bytes] = set()
        theirs: set[bytes] = set()
        for one in snapshots:
            found = history.read(self.view, one)
            (theirs if found.host else blobs).update(bytes.fromhex(blob) for blob in found.manifest.blobs())
        condemned = self._said(What.CONDEMNED)
        of_hosts = [pack for pack in self._listed().packs.values() if pack.name in self.first.history and self._is_theirs(pack)]
        chosen = [pack for pack in of_hosts if any(blob.id in theirs for blob in pack.blobs)]
        blobs |= theirs - {blob.id for pack in chosen for blob in pack.blobs}
        for listed in (self._listed, self._unlisted):
            there = [pack for pack in listed().packs.values() if pack.name in self.first.history and not self._is_theirs(pack)]
            for packs in ([one for one in there if one.id not in condemned], [one for one in there if one.id in condemned]):
                uses = [use for use in uses_of(packs, blobs) if use.needed] if blobs else []
                chosen += [use.pack for use in uses]
                blobs -= {blob for use in uses for blob in use.needed}
            if not blobs:
                break
        self._missing = sorted(blob.hex() for blob in blobs)
        return chosen

    def _is_theirs(self, pack: Pack) -> bool:
        return self.view.keys.by_host(pack.salt)

    def _listed(self) -> BlobIndex:
        return self.view.index

    def _unlisted(self) -> BlobIndex:
        self.view.read_directories()
        return self.view.unlisted

    def _index(self, packs: set[str]) -> set[str]:
        """Index objects that are shown, and of those that went what is needed to find a pack."""
        listing: dict[str, set[str]] = {}
        for name in self.first.names(INDEX):
            read = self.view.read_index_object(name)
            if not isinstance(read, Damaged):
                listing[name] = {pack.id for pack in read}
        shown = {name for name in listing if not self._went(name)}
        left = packs - {pack for name in shown for pack in listing[name]}
        for name in sorted(listing.keys() - shown):
            if listing[name] & left:
                shown.add(name)
                left -= listing[name]
        return shown
