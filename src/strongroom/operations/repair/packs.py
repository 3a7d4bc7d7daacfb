"""How the blobs of damaged and missing packs are made whole: from other packs, from replicas, from the live source.

A damaged pack goes last, and only when every blob of it was read whole from another pack, or is damaged and needed by nothing.
So a crash anywhere leaves all that was readable before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

from strongroom.errors import Damaged, NotFound
from strongroom.model import Bytes
from strongroom.operations.machine.witness import Witness
from strongroom.operations.repair.derived import derive
from strongroom.operations.repair.live import LiveSource
from strongroom.operations.repair.replacing import is_object, is_whole, read_if_there
from strongroom.operations.repair.replicas import Replica, blobs_at
from strongroom.operations.repair.report import Notes, RepairOptions
from strongroom.operations.verify.examination import Examination, Needs, needs_of, users_of
from strongroom.repository import INDEX, BlobWriter, Pack, leaving
from strongroom.repository.blob_index import BlobIndex
from strongroom.repository.evacuation import Standing, condemn, copy, unproven
from strongroom.repository.packs import CodedBlob
from strongroom.repository.rewriting import rewrite_index
from strongroom.repository.tombstones import What, earliest
from strongroom.repository.writer import create_once
from strongroom.snapshots import history
from strongroom.snapshots.commit import forgotten
from strongroom.snapshots.history import Snapshot


@dataclass
class PackRepair:
    """Repairs what an examination found of packs, blobs and the blob index."""

    look: Examination
    replicas: Sequence[Replica]
    options: RepairOptions
    notes: Notes
    _bad: dict[str, Pack] = field(default_factory=dict)
    _there: set[str] = field(default_factory=set)
    _hurt: dict[str, set[bytes]] = field(default_factory=dict)
    _relied: set[str] = field(default_factory=set)
    _listed: bool = False
    _carried: set[bytes] = field(default_factory=set)
    _wanted: dict[bytes, int | None] = field(default_factory=dict)
    _origin: dict[bytes, str] = field(default_factory=dict)
    _derived: dict[bytes, bytes] = field(default_factory=dict)
    _reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._repository = self.look.repository
        self._store = self._repository.store
        self._condemned = earliest(self._repository.tombstones(What.CONDEMNED)).keys()

    def run(self) -> None:
        lost_index = [problem.subject for problem in self._repository.problems if problem.subject.startswith(INDEX)]
        if not (self.look.bad or self.look.unplaced or self.look.unlisted or lost_index):
            return
        snapshots = history.read_all(self._repository)[0]
        self._repository.read_directories()
        with BlobWriter(self._store, self._repository.keys, BlobIndex()) as writer:
            for pack in [pack for pack in self.look.packs() if pack.id in self.look.bad]:
                self._judge(pack, writer)
            self._wanted = {
                blob: plain for blob, plain in self._wanted.items() if blob not in self._carried and not self._is_elsewhere(blob)
            }
            self._wanted.update(dict.fromkeys(self.look.unplaced))
            self._carry_out_of_condemned(needs_of(snapshots), writer)
            self._ask_replicas(writer)
            packs = writer.close()
        self._repository.add_index([*packs, *self._packs_to_list(all_of_them=bool(lost_index))])
        self._derive(snapshots)
        self._ask_sources(snapshots)
        self._derive(snapshots)
        if not self.options.dry_run:
            self._prove()
        self._settle()
        self._remove_index_objects(lost_index)

    # -- what is lost, and what is not -------------------------------------------------------------------------------------

    def _judge(self, pack: Pack, writer: BlobWriter) -> None:
        """Read a pack once more. What is whole in it is stored again at once, what isn't is wanted."""
        content = read_if_there(self._store, pack.name)
        whole = {} if content is None else self._whole_in(pack, content)
        sound = content is not None and len(whole) == len(pack.blobs) and is_whole(pack.name, content)
        if sound or (content is None and self._put_back(pack)):
            self.look.bad.discard(pack.id)
            return
        self._bad[pack.id] = pack
        if content is not None:
            self._there.add(pack.id)
        self._hurt[pack.id] = {blob.id for blob in pack.blobs if blob.id not in whole}
        for coded in whole.values():
            if not self._is_elsewhere(coded.id):
                self._carried.add(coded.id)
                writer.submit_coded(coded)
        self._wanted.update((blob.id, blob.plain) for blob in pack.blobs if blob.id not in whole)

    def _carry_out_of_condemned(self, needs: Needs, writer: BlobWriter) -> None:
        """What only condemned packs have whole is copied out of them, for a prune will delete them; one that no index object lists
        isn't listed again."""
        unlisted = [one for one in self._repository.unlisted.packs.values() if one.id in self._condemned]
        endangered = [blob.id for pack in unlisted for blob in pack.blobs if blob.id in needs]
        for blob in [one for one in dict.fromkeys([*self._wanted, *endangered]) if one not in self._carried]:
            places = (*self._repository.index.places(blob), *self._repository.unlisted.places(blob))
            condemned = [place for place in places if place.pack.id in self._condemned - self.look.bad]
            if condemned and not self._is_elsewhere(blob):
                for coded in islice(blobs_at(self._repository, condemned), 1):
                    self._carried.add(blob)
                    self._wanted.pop(blob, None)
                    writer.submit_coded(coded)
        for pack in unlisted:
            self.notes.did(pack.name, "it is condemned: what is needed of it was copied")

    def _whole_in(self, pack: Pack, content: bytes) -> dict[bytes, CodedBlob]:
        reader, whole = self._repository.reader(pack), dict[bytes, CodedBlob]()
        for blob in pack.blobs:
            with suppress(Damaged):
                whole[blob.id] = reader.coded(blob, content[blob.offset : blob.offset + blob.stored])[0]
        return whole

    def _put_back(self, pack: Pack) -> bool:
        """A pack that is missing here comes back as it was, if a copy of the repository has it."""
        for replica in self.replicas:
            try:
                content = replica.object(pack.name)
            except (NotFound, Damaged):
                continue
            create_once(self._store, pack.name, content)
            self.notes.did(pack.name, f"put back from {replica.name}")
            return True
        return False

    def _is_elsewhere(self, blob: bytes) -> bool:
        """Can it be read from a pack that is not to be repaired, and that no prune means to delete? One that no index object lists
        will be listed for it, or doesn't count."""
        places = [*self._repository.index.places(blob), *(() if self._listed else self._repository.unlisted.places(blob))]
        for place in places:
            sound = place.pack.id not in self.look.bad and place.pack.id not in self._condemned
            if sound and any(True for _ in blobs_at(self._repository, [place])):
                self._relied.add(place.pack.id)
                return True
        return False

    # -- where it may come from --------------------------------------------------------------------------------------------

    def _left(self) -> dict[bytes, int | None]:
        return {blob: plain for blob, plain in self._wanted.items() if blob not in self._origin}

    def _ask_replicas(self, writer: BlobWriter) -> None:
        for replica in self.replicas:
            left = self._left()
            self.look.progress.begin(f"blobs of {replica.name}", len(left), "objects")
            for coded in replica.find(left) if left else ():
                writer.submit_coded(coded)
                self._origin[coded.id] = replica.name
                self.look.progress.advance(1)
            if self._left():
                self._reasons.append(f"{replica.name} doesn't have {_counted(len(self._left()))} whole")

    def _derive(self, snapshots: Sequence[Snapshot]) -> None:
        left = self._left()
        with BlobWriter(self._store, self._repository.keys, BlobIndex()) as writer:
            for blob, content in derive(self._repository, snapshots, left) if left else ():
                writer.submit(content, "bytes")
                self._origin[blob] = "what is known of the rows"
                self._derived[blob] = content
            self._repository.add_index(writer.close())

    def _ask_sources(self, snapshots: Sequence[Snapshot]) -> None:
        needs = needs_of(snapshots)
        for url, probes in self._sources(needs):
            left = [blob for blob in self._left() if blob in needs]
            if not left:
                return
            source = LiveSource(self._repository, url, snapshots, probes, self.look.progress)
            found = source.give(left, self._read)
            self._origin.update(dict.fromkeys(found, url))
            self._reasons += [f"{url}: {reason}" for reason in source.reasons]
            if len(found) < len(left) and not source.reasons:
                self._reasons.append(f"{url} doesn't give {_counted(len(left) - len(found))} any more")
        self._repository.look_again()

    def _read(self, blob: bytes) -> Bytes:
        """In a dry run nothing is stored, and what follows from what would be is wanted too."""
        return self._derived.get(blob) or self._repository.read_blob(blob)

    def _sources(self, needs: Needs) -> list[tuple[str, int]]:
        """The URLs to read again, and how many probes the broken snapshots have."""
        broken = users_of((blob for blob in self._left() if blob in needs), needs)
        broken.sort(key=lambda snapshot: snapshot.manifest.created, reverse=True)
        sets = [probe.count for one in broken for collection in one.manifest.collections for probe in collection.probes]
        own = [one.manifest.source for one in broken] if self.options.own_sources else []
        return [(url, max(sets, default=0)) for url in dict.fromkeys([*self.options.sources, *own])]

    # -- the end of the damaged --------------------------------------------------------------------------------------------

    def _packs_to_list(self, *, all_of_them: bool) -> list[Pack]:
        """Those that serve by their own directories alone."""
        fit = [one for one in self._repository.unlisted.packs.values() if one.id not in self.look.bad | self._condemned]
        packs = [one for one in fit if all_of_them or one.id in self.look.unlisted | self._relied]
        self._listed = True
        for pack in packs:
            self.notes.did(pack.name, "listed in the blob index again")
        return packs

    def _prove(self) -> None:
        """What was stored must read back before anything goes."""
        self._repository.look_again()
        for blob, origin in self._origin.items():
            if not self._is_elsewhere(blob):
                raise Damaged(f"blob {blob.hex()[:16]}", f"it was stored from {origin} and doesn't read back")

    def _settle(self) -> None:
        snapshots, unreadable = history.read_all(self._repository)
        certain = not unreadable and not self._is_one_missing(snapshots)
        needs = needs_of(snapshots)
        going = [pack for pack in self._bad.values() if self._may_go(pack, needs, certain=certain)]
        if going and not self.options.dry_run:
            self._remove(going, needs)
        for blob in self.look.unplaced:
            self._note_blob(blob)

    def _is_one_missing(self, snapshots: Sequence[Snapshot]) -> bool:
        """Was a snapshot taken away, of which nobody knows what it needs? One that was forgotten wasn't."""
        try:
            gone, named = forgotten(self._repository)
        except Damaged:
            return True
        gone |= earliest(self._repository.tombstones(What.ABSENT)).keys()
        return bool(history.missing_parents(snapshots, (), gone) or named - {one.id for one in snapshots})

    def _remove(self, going: Sequence[Pack], needs: Needs) -> None:
        """They are condemned, and only then it is certain that what was read elsewhere stays: a prune that condemned that before is
        seen here, one that does so later sees that it can't count on these."""
        repository = self._repository
        mark = condemn(repository, [pack.id for pack in going])
        standing = Standing.now(repository, self.look.bad)
        kept = {blob.id for pack in going for blob in pack.blobs if blob.id in needs or blob.id not in self._hurt[pack.id]}
        left = [blob for blob in kept if not self._stays(blob, standing)]
        lost = set(copy(repository, left))
        lost |= set(unproven(repository, set(left) - lost, Standing.now(repository, self.look.bad)))
        gone = [pack for pack in going if lost.isdisjoint(blob.id for blob in pack.blobs)]
        for pack in going:
            if pack not in gone:
                self.notes.could_not(pack.name, "what other packs had of it went meanwhile")
        for pack in gone:
            self._store.delete(pack.name)
        rewrite_index(repository, {pack.id for pack in gone})
        Witness(repository).judged(0.0, gone=[pack.id for pack in gone])
        if len(gone) == len(going):  # else it is for a prune
            self._store.delete(mark.name)
        leaving.unsay(self._store, leaving.said(self._store).intersection(pack.id for pack in gone))

    def _stays(self, blob: bytes, standing: Standing) -> bool:
        """Does a pack from which it was read hold it still?"""
        packs = [place.pack for place in self._repository.index.places(blob)]
        return any(pack.id in self._relied and standing.holds(pack) for pack in packs)

    def _may_go(self, pack: Pack, needs: Needs, *, certain: bool) -> bool:
        """Every blob of the pack lies elsewhere by now, or it is damaged and no snapshot needs it."""
        hurt = self._hurt[pack.id]
        if self.options.dry_run:
            kept = [blob for blob in hurt & self._wanted.keys() if blob not in self._origin]
        else:
            kept = [blob.id for blob in pack.blobs if not self._is_elsewhere(blob.id)]
        for origin, count in Counter(self._origin[blob] for blob in hurt if blob in self._origin).items():
            self.notes.did(pack.name, f"{_counted(count)} from {origin}")
        self._note_kept(pack)
        needed = [blob for blob in kept if blob in needs or blob not in hurt]
        if needed or (kept and not certain):
            unsure = "" if needed else ", and a manifest that can't be read may need them"
            self.notes.could_not(pack.name, f"{_counted(len(needed or kept))} could not be had{unsure}" + self._why())
            return False
        if kept:
            self.notes.did(pack.name, f"{_counted(len(kept))} dropped that no snapshot needs")
        if pack.id in self._there:
            self.notes.did(pack.name, "the damaged pack removed")
        return True

    def _note_kept(self, pack: Pack) -> None:
        hurt = self._hurt[pack.id]
        if len(hurt) < len(pack.blobs):
            self.notes.did(pack.name, f"{_counted(len(pack.blobs) - len(hurt))} still whole in it kept")
        if hurt - self._wanted.keys():
            self.notes.did(pack.name, f"{_counted(len(hurt - self._wanted.keys()))} whole in other packs")

    def _note_blob(self, blob: bytes) -> None:
        subject = f"blob {blob.hex()[:16]}"
        if blob in self._origin:
            self.notes.did(subject, f"from {self._origin[blob]}")
        else:
            self.notes.could_not(subject, "it could not be had" + self._why())

    def _why(self) -> str:
        return f" ({'; '.join(self._reasons)})" if self._reasons else " (no replica was given)"

    def _remove_index_objects(self, damaged: Iterable[str]) -> None:
        """Their packs are listed by another one now."""
        for name in damaged:
            content = read_if_there(self._store, name)
            if not is_object(name) or (content is not None and is_whole(name, content)):
                self.notes.could_not(name, "it is not this repository's: remove it if nobody knows it")
                continue
            self._store.delete(name)
            self.notes.did(name, "its packs listed anew from their own directories")


def _counted(blobs: int) -> str:
    return f"{blobs:,} blob" + ("s" if blobs != 1 else "")
