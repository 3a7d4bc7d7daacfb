"""Is every object that a snapshot needs there with its length, and was no snapshot taken away?"""

from __future__ import annotations

from collections.abc import Sequence

from strongroom.errors import Damaged, NotFound
from strongroom.operations.machine.witness import Witness
from strongroom.operations.verify.examination import Examination, Needs, needs_of, users_of
from strongroom.repository import REPAIRS, SNAPSHOTS, Pack, Repository
from strongroom.repository.closing import closing_name, require_proven
from strongroom.repository.keyring import name_of, read_beginning, read_closing, require_signed
from strongroom.repository.tombstones import What, earliest
from strongroom.snapshots import history
from strongroom.snapshots.commit import forgotten
from strongroom.snapshots.consistency import contradictions
from strongroom.snapshots.history import Snapshot


def check_history(look: Examination, snapshots: Sequence[Snapshot], damaged: Sequence[Damaged]) -> None:
    for problem in damaged:
        look.find(problem.subject, problem.problem, ids=(problem.subject.rpartition("/")[2],))
    gone, witnessed = _forgotten(look)
    gone |= earliest(look.repository.tombstones(What.ABSENT)).keys()
    for missing, namers in history.missing_parents(snapshots, damaged, gone).items():
        look.find(SNAPSHOTS + missing, f"missing: snapshot {namers[0][:12]} names it as its predecessor", ids=(missing,))
    witness = Witness(look.repository)
    present = {snapshot.id for snapshot in snapshots} | {problem.subject.rpartition("/")[2] for problem in damaged}
    for missing in sorted(witnessed - present):
        look.find(SNAPSHOTS + missing, "missing: a snapshot that was forgotten named it as its predecessor", ids=(missing,))
    present |= gone
    for remembered in witness.newest:
        if remembered not in present:
            rolled_back = "missing: this machine saw it as the newest one (rolled back?)"
            look.find(SNAPSHOTS + remembered, rolled_back, ids=(remembered,))
    witness.saw(history.heads(snapshots), present)
    if not snapshots:
        look.find("snapshots/", "there is no readable snapshot: nothing could be checked")


def _forgotten(look: Examination) -> tuple[frozenset[str], frozenset[str]]:
    """Which snapshots were forgotten, and which ones these named. Those of packs are read too: backups go by them."""
    for what in (What.UNLISTED, What.CONDEMNED):
        try:
            look.repository.tombstones(what)
        except Damaged as error:
            look.find(error.subject, error.problem)
    try:
        return forgotten(look.repository)
    except Damaged as error:
        look.find(error.subject, error.problem)
        return frozenset(), frozenset()


def check_repairs(look: Examination) -> None:
    """What a repair had in hand when it was cut off: its damaged object may have gone already."""
    for listed in look.repository.store.list(REPAIRS):
        name = listed.name.removeprefix(REPAIRS)
        try:
            look.repository.store.size(name)
        except NotFound:
            look.find(name, "missing: a repair was cut off before it put it back, and 'verify --repair' goes on with it")


def check_key_slots(look: Examination) -> None:
    _, damaged = look.repository.key_slots()
    for problem in damaged:
        look.find(problem.subject, problem.problem)
    _check_epochs(look.repository, look)


def _check_epochs(repository: Repository, look: Examination) -> None:
    """A slot that wraps newer keys opens without these objects; others need them."""
    if repository.keys.lineage:
        _check_closing(repository, look)
    for epoch in repository.keys.epochs[1:]:
        before = repository.keys.epoch(epoch.number - 1)
        try:
            beginning = read_beginning(repository.store, epoch.number)
            if before is not None:
                require_signed(beginning, before.verifying, repository.config.repository_id)
        except NotFound:
            look.find(
                name_of(epoch.number), "missing: key slots that don't wrap this epoch's keys themselves open nothing without it"
            )
        except Damaged as error:
            look.find(error.subject, error.problem)


def _check_closing(repository: Repository, look: Examination) -> None:
    first = repository.keys.epochs[0]
    try:
        closing = read_closing(repository.store, first.number)
        require_proven(closing, first.number, first.verifying, repository.config.repository_id)
    except NotFound:
        look.find(closing_name(first.number), "missing: key slots of closed epochs open nothing without it")
    except Damaged as error:
        look.find(error.subject, error.problem)


def check_objects(look: Examination, chosen: Sequence[Snapshot], sizes: dict[str, int]) -> None:
    needs = needs_of(chosen)
    look.progress.begin("objects", len(needs), "objects")
    look.repository.look_again()
    if not all(look.repository.index.places(blob) for blob in needs):
        look.repository.read_directories()
    for problem in look.repository.problems:
        if not problem.subject.startswith("keys/"):
            look.find(problem.subject, problem.problem)
    for snapshot in chosen:
        _check_manifest(look, snapshot)
    for blob, snapshots in needs.items():
        _check_place(look, blob, snapshots, sizes)
        look.progress.advance(1)
    look.count("blobs", len(needs))
    for pack in look.packs():
        if sizes.get(pack.name) != pack.size:
            _check_loss(look, pack, needs, sizes)
    if not needs and chosen:
        look.find("blobs", "the snapshots need not one blob: nothing could be checked", chosen)


def _check_manifest(look: Examination, snapshot: Snapshot) -> None:
    for part, problem in contradictions(snapshot.manifest):
        look.find(f"{SNAPSHOTS}{snapshot.id}" + (f", {part}" if part else ""), problem, [snapshot])


def _check_place(look: Examination, blob: bytes, snapshots: list[Snapshot], sizes: dict[str, int]) -> None:
    places = look.repository.index.places(blob)
    if not places:
        places = look.repository.unlisted.places(blob)
        for place in places[:1]:
            look.find(place.pack.name, "no index object lists it any more; its own directory serves instead")
            look.unlisted.add(place.pack.id)
    if not places:
        look.find(f"blob {blob.hex()[:16]}", "no index object lists it", snapshots)
        look.unplaced.add(blob)
    elif not any(sizes.get(place.pack.name) == place.pack.size for place in places):
        pack = places[0].pack
        _check_size(look, pack, sizes.get(pack.name), snapshots)


def _check_loss(look: Examination, pack: Pack, needs: Needs, sizes: dict[str, int]) -> None:
    """A pack that isn't there as it was breaks what lies nowhere else. One that is gone is no loss if nobody needs that: it may
    have been pruned while we looked."""

    def lies_elsewhere(blob: bytes) -> bool:
        there = (place.pack for place in look.repository.index.places(blob) if place.pack.id != pack.id)
        return any(sizes.get(other.name) == other.size for other in there)

    lost = [blob.id for blob in pack.blobs if blob.id in needs and not lies_elsewhere(blob.id)]
    if lost or pack.name in sizes:
        _check_size(look, pack, sizes.get(pack.name), users_of(lost, needs))


def _check_size(look: Examination, pack: Pack, size: int | None, snapshots: Sequence[Snapshot]) -> None:
    if size != pack.size:
        look.bad.add(pack.id)
    if size is None:
        look.find(pack.name, "missing", snapshots)
    elif size != pack.size:
        look.find(pack.name, f"truncated or altered: {size:,} bytes are there instead of {pack.size:,}", snapshots)
