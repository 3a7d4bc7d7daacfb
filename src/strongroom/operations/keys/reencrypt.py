"""How does what older keys seal come under the newest? Packs are written anew, everything else is carried along as it is.

A pack of an older epoch is emptied as one that is to be pruned: what is needed is copied, read back, and then it is condemned.
What is signed, chained or named by its bytes keeps all of that, inside of an object of the newest epoch (`repository.carrying`).
Both stay where they were for a time of grace. It takes no lock, may be cut off anywhere, and goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from strongroom.errors import AlreadyExists, Damaged, NotFound, Refused, Unreachable
from strongroom.journal.segments import decode_changes, decode_front
from strongroom.operations.copy.transport import Pace
from strongroom.operations.keys.epochs_left import EpochLeft, Sealed, by_epoch, sealed_by
from strongroom.operations.machine.witness import Witness
from strongroom.operations.prune.run import GRACE, Amount
from strongroom.operations.prune.sweep import Needs, sweep
from strongroom.progress import SILENT, Progress
from strongroom.repository import REPAIRS, SNAPSHOTS, Pack, Repository
from strongroom.repository.carrying import MARK, START_BYTES, Carried, carried_name, carry, plain_name, start_of, take_out
from strongroom.repository.crypto import NotAuthentic, content_hash
from strongroom.repository.evacuation import Standing, copy, unproven
from strongroom.repository.framing import HEADER_BYTES, Kind, unseal
from strongroom.repository.pack_listing import INDEX
from strongroom.repository.rewriting import renew_index
from strongroom.repository.signed_records import open_record
from strongroom.repository.store import require_deletes
from strongroom.repository.tenant_renewal import reseal
from strongroom.repository.tombstones import What, earliest

_NONE = Amount()
_BATCH_BYTES = 256 << 20
"""Packs are condemned after so many bytes of them were copied and read back: what is done is done if it is cut off."""


@dataclass(frozen=True, slots=True)
class ReencryptOptions:
    """`budget`: bytes to write in this run at most, but for what one pack needs (None: no limit). `bandwidth`: bytes a second (0:
    no limit). `grace` must be longer than any backup, restore or listing takes."""

    budget: int | None = None
    bandwidth: int = 0
    grace: timedelta = GRACE
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ReencryptReport:
    """What was done, and what is left.

    `epoch`     the newest            `left`       what older epochs still seal
    `emptied`   packs of older epochs, condemned now; `copied_bytes` were needed of them
    `carried`   other objects, taken along now          `deleted`   what lay under older keys and is gone
    `written`   is all written under the newest key, so that what is left only waits for the time of grace?
    """

    dry_run: bool
    epoch: int
    emptied: Amount = _NONE
    copied_bytes: int = 0
    carried: Amount = _NONE
    deleted: Amount = _NONE
    left: tuple[EpochLeft, ...] = ()
    written: bool = False
    problems: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Does no older epoch seal anything any more?"""
        return not self.left


def reencrypt(repository: Repository, options: ReencryptOptions | None = None, progress: Progress = SILENT) -> ReencryptReport:
    """Write under the newest keys what older ones seal, within the budget; run it again for the rest, and after the time of grace.

    Raises Refused if the keys were never rotated; Damaged if a manifest or tombstone can't be read: then nobody knows what is
    needed. Safe beside backups, restores, prunes and itself. An object goes only after what took its place was read back.
    """
    repository.keys.look_again()
    if not repository.keys.newest.number:
        raise Refused(
            "the keys were never rotated: there is nothing to encrypt anew", hint="'strongroom key rotate' begins new keys"
        )
    return _Reencryption(repository, options or ReencryptOptions(), progress).run()


@dataclass
class _Reencryption:
    repository: Repository
    options: ReencryptOptions
    progress: Progress
    problems: list[str] = field(default_factory=list)
    carried: list[int] = field(default_factory=list)
    emptied: list[int] = field(default_factory=list)
    deleted: list[int] = field(default_factory=list)
    spent: int = 0
    unwritten: bool = False

    def __post_init__(self) -> None:
        self.newest = self.repository.keys.newest.number
        self.pace = Pace(self.options.bandwidth)

    def run(self) -> ReencryptReport:
        if self.options.dry_run:
            return ReencryptReport(True, self.newest, left=by_epoch(self._old()))
        require_deletes(self.repository.store)
        reseal(self.repository)
        old = self._old()
        copied = self._empty_packs()
        listed = self._renew_index()
        self._carry_all([one for one in old if one.kind not in (Kind.PACK, Kind.INDEX, Kind.TENANT)])
        if listed:  # else the store can't be trusted to say where things are: what is condemned stays
            self._sweep()
        return ReencryptReport(
            dry_run=False,
            epoch=self.newest,
            emptied=Amount.of(self.emptied),
            copied_bytes=copied,
            carried=Amount.of(self.carried),
            deleted=Amount.of(self.deleted),
            left=by_epoch(self._old()),
            written=not (self.unwritten or self.problems),
            problems=tuple(self.problems),
        )

    def _old(self) -> list[Sealed]:
        found = sealed_by(self.repository, believe_index=True, progress=self.progress)
        return [one for one in found if one.epoch < self.newest]

    def _may_spend(self, amount: int) -> bool:
        """Is there room in the budget? The first piece always has it: a run must get on."""
        if self.options.budget is not None and self.spent and self.spent + amount > self.options.budget:
            self.unwritten = True
            return False
        self.spent += amount
        return True

    # -- packs -----------------------------------------------------------------------------------------------------------------

    def _empty_packs(self) -> int:
        """Copy what is needed of packs of older epochs into new ones, and condemn them. Gives the bytes that were copied."""
        repository, keys = self.repository, self.repository.keys
        needs = Needs(repository)
        needs.read()
        standing = Standing.now(repository, Witness(repository).damaged)
        packs = repository.index.packs.values()
        old = [pack for pack in packs if keys.number_of(pack.salt) < self.newest and pack.id not in standing.condemned]
        old = sorted((pack for pack in old if standing.exists(pack.id)), key=lambda pack: (keys.number_of(pack.salt), pack.id))
        self.progress.begin("encrypting packs anew", sum(pack.size for pack in old), "bytes")
        copied = 0
        distrusted = {pack.id for pack in old} | standing.damaged
        for batch, needed, amount in self._batches(old, needs.blobs, replace(standing, damaged=frozenset(distrusted))):
            lost = self._moved(needed, distrusted)
            whole = [pack for pack in batch if lost.isdisjoint(blob.id for blob in pack.blobs)]
            left = [pack for pack in batch if pack not in whole]
            self.problems += [f"pack {pack.id[:12]}: something that is needed of it can't be read" for pack in left]
            if whole:
                repository.bury(What.CONDEMNED, [pack.id for pack in whole])
            self.emptied += [pack.size for pack in whole]
            copied += amount
            self.progress.advance(sum(pack.size for pack in batch))
        return copied

    def _moved(self, needed: dict[bytes, bool], distrusted: set[str]) -> set[bytes]:
        """Copy those of these blobs of which it isn't so (True) that a pack of the newest epoch has them; read all back, and copy
        what that finds broken. Gives those that are in no such pack whole."""
        repository = self.repository
        lost = set(copy(repository, [blob for blob, there in needed.items() if not there], self.pace.take))
        broken = set(unproven(repository, needed.keys() - lost, Standing.now(repository, distrusted)))
        lost |= set(copy(repository, [blob for blob in broken if needed[blob]], self.pace.take))
        return lost | set(unproven(repository, broken - lost, Standing.now(repository, distrusted)))

    def _batches(
        self, packs: Sequence[Pack], needed: set[bytes], fresh: Standing
    ) -> Iterable[tuple[list[Pack], dict[bytes, bool], int]]:
        """Packs, what is needed of them (does a pack of the newest epoch have it?), and the bytes to be copied. `fresh` relies on
        such packs alone."""
        batch: list[Pack] = []
        wanted: dict[bytes, bool] = {}
        amount = 0
        for pack in packs:
            own = {blob.id: fresh.pack_of(blob.id) is not None for blob in pack.blobs if blob.id in needed}
            cost = sum(blob.stored for blob in pack.blobs if not own.get(blob.id, True) and blob.id not in wanted)
            if not self._may_spend(cost):
                break
            batch.append(pack)
            wanted |= own
            amount += cost
            if amount >= _BATCH_BYTES:
                yield batch, wanted, amount
                batch, wanted, amount = [], {}, 0
        if batch:
            yield batch, wanted, amount

    def _renew_index(self) -> bool:
        """Is all of the blob index under the newest keys, and does it read back?"""
        store, keys = self.repository.store, self.repository.keys
        old = []
        for listed in store.list(INDEX):
            start = start_of(store.read(listed.name, 0, START_BYTES))
            if start is not None and keys.number_of(start[1]) < self.newest:
                old.append(listed.name)
        left = renew_index(self.repository, old)
        self.problems += [f"{name}: it, or what was to take its place, can't be read" for name in left]
        return not left

    def _sweep(self) -> None:
        swept = sweep(
            Needs(self.repository),
            self.options.grace,
            self.progress,
            damaged=frozenset(Witness(self.repository).damaged),
            dry_run=False,
        )
        self.deleted += swept.deleted.values()
        self.problems += swept.problems

    # -- everything else -------------------------------------------------------------------------------------------------------

    def _carry_all(self, old: Sequence[Sealed]) -> None:
        self.progress.begin("taking objects along", sum(one.size for one in old), "bytes")
        for one in old:
            try:
                self._carry(one)
            except NotFound:  # it went since it was listed
                pass
            except Damaged as error:
                self.problems.append(str(error))
            self.progress.advance(one.size)

    def _carry(self, old: Sealed) -> None:
        """See to it that the newest epoch carries what is in an object; delete the object if that has been so for long enough."""
        repository, keys, inner = self.repository, self.repository.keys, self.repository.store.inner
        if old.name.startswith(REPAIRS):
            raise Damaged(old.name, "a repair was cut off", hint="run 'strongroom verify --repair' again")
        name, place = plain_name(old.name), carried_name(plain_name(old.name), self.newest)
        content = inner.read(old.name)
        whole = take_out(keys, old.name, content).content if MARK in old.name else content
        there = self._there(place)
        if there is None:
            if not self._may_spend(len(whole)):
                return
            key = self._proven_key(name, whole)
            self.pace.take(len(whole))
            now = int(repository.clock.now().timestamp() * 1_000_000)
            try:
                inner.create(place, carry(keys, name, whole, key, now))
            except (AlreadyExists, Unreachable):  # another one's, or ours: looked at next
                there = self._there(place)
                if there is None:
                    raise
            else:
                self.carried.append(len(whole))
                there = self._there(place)
                if self._was_forgotten(old.name, name):
                    inner.delete(place)
                    return
        if there is None or there.content != whole:
            raise Damaged(place, "what it carries isn't what is there", hint="look which of the two is right, and delete the other")
        if there.when + self.options.grace / timedelta(microseconds=1) <= repository.clock.now().timestamp() * 1_000_000:
            inner.delete(old.name)
            self.deleted.append(old.size)

    def _there(self, place: str) -> Carried | None:
        try:
            return take_out(self.repository.keys, place, self.repository.store.inner.read(place))
        except NotFound:
            return None

    def _was_forgotten(self, old: str, name: str) -> bool:
        """Was a snapshot forgotten and deleted while it was taken along? Then it must not come back."""
        try:
            self.repository.store.inner.size(old)
        except NotFound:
            return name.startswith(SNAPSHOTS) and name.removeprefix(SNAPSHOTS) in earliest(
                self.repository.tombstones(What.FORGOTTEN)
            )
        return False

    def _proven_key(self, name: str, content: bytes) -> bytes:
        """The key of an object, which opens it. Raises Damaged."""
        start = start_of(content)
        if start is None:
            raise Damaged(name, "it is no object of a repository")
        keys, (kind, salt) = self.repository.keys, start
        try:
            if kind == Kind.JOURNAL:
                front = decode_front(keys, name, content)
                if content_hash(content[front.length :]).hex() != front.head.body:
                    list(decode_changes(keys, front, content))
            elif kind in (Kind.AUDIT, Kind.APPROVAL):
                open_record(keys, kind, name, content)
            elif kind == Kind.EPOCH:
                keys.box(kind.purpose, salt).open(0, content[START_BYTES:], content[:HEADER_BYTES] + keys.repository_id)
            else:
                unseal(keys, kind, name, content)
        except NotAuthentic as error:
            raise Damaged(name, "it was not written with this repository's key") from error
        key = keys.key_of(kind.purpose, salt)
        if key is None:
            raise Damaged(name, "it was not written with this repository's key")
        return key
