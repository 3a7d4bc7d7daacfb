"""Which objects must a repository have, whatever its bucket shows? Told from what was first stored under each name.

A name is needed if it is there, or if it was and nothing explains why it went: tombstones say which snapshots were forgotten, which
key slots were removed and from where on a journal is kept; packs and index objects are needed by what snapshots need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from strongroom.errors import Damaged, NotFound
from strongroom.journal.retention import trimmed
from strongroom.journal.segments import number_in
from strongroom.operations.prune_plan import uses_of
from strongroom.repository import INDEX, PACKS, SNAPSHOTS, Pack, Repository
from strongroom.repository.blob_index import BlobIndex
from strongroom.repository.first_versions import FirstVersions
from strongroom.repository.framing import MAGIC, Kind, unseal
from strongroom.repository.key_slots import FOLDER as KEYS
from strongroom.repository.lock_rules import FREE
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

    def read(self) -> Needed:
        self._leave_out_strange()
        names = {*self._tombstones(), *self._snapshots(), *self._slots(), *self._journals(), *self._others()}
        packs = self._packs(name.removeprefix(SNAPSHOTS) for name in names if name.startswith(SNAPSHOTS))
        names |= {pack.name for pack in packs} | self._index({pack.id for pack in packs})
        return Needed(frozenset(names), tuple(self._missing))

    def _leave_out_strange(self) -> None:
        """What can't be read of the small objects that tell what is needed; and whatever is hidden and not ours."""
        first = self.first
        small = [name for name in first.names() if name.startswith((TOMBSTONES, *_KINDS))]
        loose = (PACKS, INDEX, TOMBSTONES, *_KINDS, *FREE)
        hidden = [name for name in first.names() if not name.startswith(loose) and self._went(name)]
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
            found = [one for one in found if self.first.first(one.name).stored < self.since]
        return earliest(found).keys()

    def _tombstones(self) -> Iterator[str]:
        """Those that are shown, and of what went what no other says."""
        for what in (What.FORGOTTEN, What.REVOKED, What.ENDED, What.TRIMMED, What.ABSENT, What.CONDEMNED, What.UNLISTED):
            all_of = self.view.tombstones(what)
            shown = [one for one in all_of if not self._went(one.name)]
            yield from (one.name for one in shown)
            if what not in (What.CONDEMNED, What.UNLISTED):
                said = earliest(shown).keys()
                yield from (one.name for one in all_of if one not in shown and not one.since.keys() <= said)

    def _snapshots(self) -> Iterator[str]:
        forgotten = self._said(What.FORGOTTEN)
        for name in self.first.names(SNAPSHOTS):
            if not self._went(name) or name.removeprefix(SNAPSHOTS) not in forgotten:
                yield name

    def _slots(self) -> Iterator[str]:
        removed = self._said(What.REVOKED)
        yield from (name for name in self.first.names(KEYS) if not self._went(name) or name.removeprefix(KEYS) not in removed)

    def _journals(self) -> Iterator[str]:
        kept_from = trimmed(self.view) if self.since is None else {}
        for name in self.first.names(_JOURNAL):
            found = number_in(name)
            if not self._went(name) or found is None or found[1] >= kept_from.get(found[0], 0):
                yield name

    def _others(self) -> Iterator[str]:
        yield from (name for name in self.first.names() if not name.startswith(_OF_THEIR_OWN))

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
