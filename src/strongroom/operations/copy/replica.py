"""One copy, from one store into another, of all or of some snapshots of a repository."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from strongroom.errors import AlreadyExists, Damaged, NoRepository, NotFound, Overtaken, Refused, WrongRequest
from strongroom.operations.copy.audit import send_audit
from strongroom.operations.copy.journals import send_journals
from strongroom.operations.copy.packs import send_packs
from strongroom.operations.copy.plan import CopyOptions, Plan, plan_copy
from strongroom.operations.copy.tenant_keys import send_tenant_keys
from strongroom.operations.copy.transport import Pace, Transport
from strongroom.operations.forget import ForgetOptions, forget
from strongroom.operations.machine.replicas import remember
from strongroom.operations.policy.residence import Residence
from strongroom.progress import SILENT, Progress
from strongroom.repository import (
    PACKS,
    REPAIRS,
    SNAPSHOTS,
    Pack,
    Repository,
    Store,
    audit_log,
    config,
    key_slots,
    leaving,
    tenants,
    tombstones,
)
from strongroom.repository import region as regions
from strongroom.repository.closing import closing_name, closings
from strongroom.repository.declarations import declarations
from strongroom.repository.evacuation import secure, still_hold
from strongroom.repository.framing import Kind
from strongroom.repository.keyring import name_of
from strongroom.repository.pack_listing import INDEX
from strongroom.repository.reading_back import as_written
from strongroom.repository.store import PROBES, Listed, as_locked, try_conditional_create
from strongroom.repository.tombstones import Tombstone, What, earliest
from strongroom.snapshots.history import Snapshot

_KEYRING = "keyring/"
_OF_THE_STORE = (
    PROBES,
    REPAIRS,
    leaving.FOLDER,
    regions.FOLDER,
    "locks/",
    INDEX,
    PACKS,
    SNAPSHOTS,
    key_slots.FOLDER,
    _KEYRING,
    "journal/",
    tombstones.FOLDER,
    tenants.FOLDER,
)
"""What isn't copied as it is: it belongs to one store, or has an order of its own."""
_DECLARED = {"holds/": Kind.HOLD, "erasures/": Kind.ERASURE}
"""What names what was declared before it."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What was copied to `target`.

    `left_out`    by residency; or forgotten there; or not forgotten there, for a hold; or of an audit log that went its own way
    `damaged`     at the source, so not copied
    `incomplete`  snapshots of which a blob is nowhere whole
    `different`   other bytes are at the replica under that name: it went its own way
    `forgotten`   at the replica because they were at the source
    """

    target: str
    snapshots: int
    objects: int
    bytes: int
    left_out: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    incomplete: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    forgotten: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """All that was to be copied is there."""
        return not (self.damaged or self.incomplete or self.different)


def copy(
    primary: Repository,
    target: Store,
    options: CopyOptions | None = None,
    progress: Progress = SILENT,
    *,
    stop: threading.Event | None = None,
) -> CopyReport:
    """Make or complete a replica of the repository in another store. Repeatable after any failure.

    Raises Refused before anything is sent if residency forbids it or another repository is there, UnsafeStore, Unreachable;
    Stopped soon after `stop` is set: what had arrived is listed, and isn't sent again.
    """
    locked = as_locked(target, primary.keys)
    return _Copy(primary, locked, options or CopyOptions(), progress, stop or threading.Event()).run()


def open_replica(primary: Repository, store: Store) -> Repository:
    """A store that holds a replica of an opened repository, with its keys. Raises NoRepository, or Refused if it is another one."""
    try:
        settings = config.decode(store.read(config.NAME))
    except NotFound as error:
        raise NoRepository(f"there is no repository at {store.url}") from error
    if settings != primary.config:
        hint = "give an empty place; a replica has the id and the keys of its primary"
        raise Refused(f"{store.url} is another repository: nothing was sent", hint=hint)
    return Repository(as_locked(store, primary.keys), settings, primary.keys, primary.identity, primary.clock)


@dataclass
class _Copy:
    primary: Repository
    target: Store
    options: CopyOptions
    progress: Progress
    stop: threading.Event
    incomplete: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def run(self) -> CopyReport:
        if self.target.url == self.primary.store.url:
            raise WrongRequest(f"{self.target.url} is the repository itself", hint="give another place with --to")
        replica = self._present()
        self._require_own_region(replica)
        there = {one.name: one.size for one in (replica.store if replica else self.target).list("")}
        here = {one.name: one.size for one in self.primary.store.list("")}
        plan = self._plan(replica, here, there)
        replica = replica or self._found(there)
        transport = self._transport(replica)
        self._send_slots(replica, transport, here, there)
        rest = [name for name in here if not name.startswith(_OF_THE_STORE) and name not in there and name != config.NAME]
        self._send_declarations(transport, here, there)
        send_tenant_keys(self.primary, replica, transport, here, there, plan)
        self._send(transport, here, [name for name in rest if not name.startswith((audit_log.FOLDER, *_DECLARED))])
        self._explain_absence(replica)
        made = self._send_snapshots(replica, transport, plan)
        send_journals(self.primary, replica, transport, plan.streams)
        own_log = send_audit(self.primary, replica, transport, here, there)
        remember(self.primary.store.url, self.target.url)
        forgotten = self._follow_forget(replica) if self.options.follow_forget else ()
        return CopyReport(
            self.target.url,
            made,
            transport.moved,
            transport.moved_bytes,
            (*plan.left_out, *self.kept, *own_log),
            (*plan.damaged, *(f"{name}: {problem}" for name, problem in sorted(transport.damaged.items()))),
            tuple(self.incomplete),
            tuple(sorted(transport.different)),
            forgotten,
        )

    # -- before a byte moves ---------------------------------------------------------------------------------------------------

    def _present(self) -> Repository | None:
        """The replica that is there. Raises Refused if something else is."""
        try:
            return open_replica(self.primary, self.target)
        except NoRepository:
            ours = {one.name for one in self.primary.store.list(key_slots.FOLDER)}
            revoked = set(self._revoked(self.primary))
            for listed in self.target.list(""):
                begun = listed.name in ours or listed.name.removeprefix(key_slots.FOLDER) in revoked
                if not begun and not listed.name.startswith(PROBES):
                    hint = "give an empty place, or 'strongroom verify --repair --from' that mends a broken replica"
                    raise Refused(f"{self.target.url} is no replica, and not empty: nothing was sent", hint=hint) from None
            return None

    def _said_of(self, replica: Repository | None) -> regions.Region | None:
        """Of a store that was lost and is seeded anew --region says it: that it was named once doesn't count."""
        anew = replica is None or (self.options.region and not any(True for _ in replica.store.list(regions.FOLDER)))
        return None if anew or replica is None else regions.declared(replica)

    def _require_own_region(self, replica: Repository | None) -> None:
        """Raises Refused if the word about the region came with other objects, copied by other means."""
        if self.options.region is not None:
            regions.require_name(self.options.region)
        said = self._said_of(replica)
        if said is None:
            return
        if (own := regions.declared(self.primary)) is not None and own.id == said.id:
            hint = f"say where it lies: strongroom region set -r {self.target.url} REGION"
            raise Refused(f"the region of {self.target.url} is a copy of the primary's: nothing was sent", hint=hint)
        if self.options.region not in (None, said.name):
            hint = "leave --region out, or correct it with 'strongroom region set'"
            raise Refused(f"{self.target.url} is in {said.name}, not in {self.options.region}", hint=hint)

    def _plan(self, replica: Repository | None, here: dict[str, int], there: dict[str, int]) -> Plan:
        said = self._said_of(replica)
        residence = Residence.at(self.primary, self.target.url, said.name if said else self.options.region)
        present = {name for name, size in there.items() if here.get(name) == size}
        fresh = {name.removeprefix(SNAPSHOTS) for name in here if name.startswith(SNAPSHOTS) and name not in present}
        forgotten = frozenset(earliest(replica.tombstones(What.FORGOTTEN))) if replica else frozenset()
        plan = plan_copy(self.primary, residence, self.options, frozenset(fresh) - forgotten)
        again = tuple(f"snapshot {one[:12]}: it was forgotten at the replica" for one in sorted(forgotten & fresh))
        return replace(plan, left_out=(*plan.left_out, *again))

    # -- the steps, in their order ---------------------------------------------------------------------------------------------

    def _found(self, there: dict[str, int]) -> Repository:
        """A new replica: slots first, then `config`, which makes it one, then its region. Raises UnsafeStore, Refused."""
        if not self.primary.config.overwriting:
            try_conditional_create(self.target)
        store = as_written(self.target, self.primary.config)
        for folder in (_KEYRING, key_slots.FOLDER):
            self._transport_to(store).send(one for one in self.primary.store.list(folder) if one.name not in there)
        with suppress(AlreadyExists):  # two copiers at once, or a lost answer: which one it is, is looked at next
            store.create(config.NAME, self.primary.config.encode())
        return open_replica(self.primary, self.target)

    def _transport(self, replica: Repository) -> Transport:
        if self.options.region is not None and not any(True for _ in replica.store.list(regions.FOLDER)):
            with suppress(Overtaken):  # two copiers at once
                regions.name_region(replica, self.options.region)
        replica.require_safe_store()
        return self._transport_to(replica.store)

    def _transport_to(self, store: Store) -> Transport:
        options = self.options
        return Transport(
            self.primary.store, store, options.memory, Pace(options.bandwidth, self.stop), self.progress, options.read_back
        )

    def _send(self, transport: Transport, here: dict[str, int], names: Iterable[str]) -> set[str]:
        return transport.send(Listed(name, here[name]) for name in names)

    @staticmethod
    def _revoked(repository: Repository) -> dict[str, object]:
        return dict(earliest(repository.tombstones(What.REVOKED)))

    def _send_slots(self, replica: Repository, transport: Transport, here: dict[str, int], there: dict[str, int]) -> None:
        """A key that was taken away at either side doesn't come back, and goes at the replica, too."""
        buried, known = earliest(self.primary.tombstones(What.REVOKED)), self._revoked(replica)
        present = {name.rpartition("/")[2] for name in here}
        revoked = {one: at for one, at in buried.items() if one not in present}
        self._send_endings(replica)
        fresh = {one: at for one, at in revoked.items() if one not in known}
        if fresh:
            tombstones.bury(replica.store, replica.keys, Tombstone(What.REVOKED, fresh))
        self._send(transport, here, _epochs_to_send(here, there))
        slots = [name for name in here if name.startswith(key_slots.FOLDER) and name not in there]
        self._send(transport, here, [name for name in slots if name.removeprefix(key_slots.FOLDER) not in known])
        own = self.primary.identity.slot  # whoever took it away since it opened this must not lock the replica, too
        for name in (key_slots.FOLDER + one for one in revoked if one != own):
            if name in there:
                replica.store.delete(name)

    def _send_endings(self, replica: Repository) -> None:
        """Which snapshots of a host that was removed count: before it is said there that it was."""
        known = earliest(replica.tombstones(What.ENDED))
        fresh = {one: at for one, at in earliest(self.primary.tombstones(What.ENDED)).items() if one not in known}
        if fresh:
            tombstones.bury(replica.store, replica.keys, Tombstone(What.ENDED, fresh))

    def _send_declarations(self, transport: Transport, here: dict[str, int], there: dict[str, int]) -> None:
        """One after another, none before those that it names: a replica would miss them. Where one is missing here, none goes."""
        for folder, kind in _DECLARED.items():
            if not any(name.startswith(folder) and name not in there for name in here):
                continue
            try:
                found = declarations(self.primary.store, self.primary.keys, kind, folder)
            except Damaged as error:
                transport.damaged[error.subject] = error.problem
                continue
            for name in (folder + one.id for one in found):
                if name in here and name not in there and not self._send(transport, here, [name]):
                    break

    def _explain_absence(self, replica: Repository) -> None:
        """What was forgotten, and is gone at the primary, before it came here is no theft; what is at either stays. A tombstone
        alone orders nothing: who may only add objects at the primary must not keep a snapshot from its replicas."""
        known, present = earliest(replica.tombstones(What.FORGOTTEN)), {*replica.manifest_ids(), *self.primary.manifest_ids()}
        buried = self.primary.tombstones(What.FORGOTTEN)
        absent = {one: at for one, at in earliest(buried).items() if one not in known and one not in present}
        if absent:
            parents = {one for tombstone in buried if absent.keys() & tombstone.since.keys() for one in tombstone.parents}
            tombstones.bury(replica.store, replica.keys, Tombstone(What.FORGOTTEN, absent, tuple(sorted(parents))))

    def _send_snapshots(self, replica: Repository, transport: Transport, plan: Plan) -> int:
        """Packs, then the blob index, then manifests. A prune at the source may take packs away meanwhile: looked for again."""
        missing = {snapshot.id: {bytes.fromhex(blob) for blob in snapshot.manifest.blobs()} for snapshot in plan.snapshots}
        goes = set().union(*missing.values())
        ready: list[Snapshot] = []
        secured: list[tuple[str, set[bytes]]] = []
        packs: list[Pack] = []
        for host in sorted({one.signer for one in plan.snapshots}):
            theirs = [one for one in plan.snapshots if one.signer == host]
            needs = set().union(*(missing[one.id] for one in theirs))
            lost = send_packs(self.primary, replica, transport, needs, goes=goes, whole=plan.whole, host=host)
            whole = [one for one in theirs if not missing[one.id] & lost]
            self.incomplete += [one.id for one in theirs if missing[one.id] & lost]
            secured.append((host, set().union(*(missing[one.id] for one in whole))))
            packs += secure(replica, secured[-1][1], host) if whole else []
            ready += whole
        made = self._send_manifests(replica, transport, [*ready], plan.withheld)
        if ready and not still_hold(replica, packs):
            for host, needs in secured:  # the manifests are there: what a prune took before it could see them is sent once more
                send_packs(self.primary, replica, transport, needs, goes=goes, whole=plan.whole, host=host)
                secure(replica, needs, host)
        return made

    def _send_manifests(self, replica: Repository, transport: Transport, ready: list[Snapshot], withheld: frozenset[str]) -> int:
        """None before those that it names as its predecessors: else their absence would look like theft."""
        self._withhold(replica, withheld)
        made, started = 0, len(ready)
        while ready:
            ids = {one.id for one in ready}
            wave = [one for one in ready if ids.isdisjoint(one.parents)] or ready
            sizes = {SNAPSHOTS + one.id: self._size(SNAPSHOTS + one.id) for one in wave}
            made += len(transport.send([Listed(name, size) for name, size in sizes.items() if size is not None]))
            ready = [one for one in ready if one not in wave]
        if made < started:
            self._explain_absence(replica)  # they may have been forgotten meanwhile
        return made

    def _withhold(self, replica: Repository, withheld: frozenset[str]) -> None:
        """Say of what this replica isn't given that it isn't missing."""
        known = earliest(replica.tombstones(What.ABSENT)) if withheld else {}
        if fresh := withheld - known.keys():
            replica.bury(What.ABSENT, sorted(fresh))

    def _size(self, name: str) -> int | None:
        """None if it was forgotten since it was listed."""
        with suppress(NotFound):
            return self.primary.store.size(name)
        return None

    def _follow_forget(self, replica: Repository) -> tuple[str, ...]:
        """By the same rules as at the primary: what a hold keeps stays."""
        gone = frozenset(earliest(self.primary.tombstones(What.FORGOTTEN))) - frozenset(self.primary.manifest_ids())
        done: list[str] = []
        for name in sorted(gone.intersection(replica.manifest_ids())):
            try:
                done += forget(replica, ForgetOptions((name,))).forgotten
            except Refused as error:
                self.kept.append(f"{error}, at the replica too")
        return tuple(done)


def _epochs_to_send(here: Iterable[str], there: Iterable[str]) -> list[str]:
    """What begins epochs, in order, but not those that the replica has closed. It closes by itself: it may need longer."""
    closed = closings(there)
    lacking = sorted({name for name in here if name.startswith(_KEYRING)} - set(there) - {*map(closing_name, closings(here))})
    return [name for name in lacking if not closed or name > name_of(closed[-1])]
