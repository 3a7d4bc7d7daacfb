"""Does every blob decrypt, and is it what its id says? Packs are read whole, the least recently proven first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from strongroom.errors import Damaged, NotFound
from strongroom.operations.machine.witness import Witness
from strongroom.operations.verify.examination import Examination, Needs, needs_of, users_of
from strongroom.repository import Pack, Repository
from strongroom.repository.packs import read_pack
from strongroom.snapshots.history import Snapshot

_READERS = 3
_MISSING = "missing"


def check_data(look: Examination, chosen: Sequence[Snapshot], sizes: dict[str, int], *, later: bool = False) -> None:
    """Of the packs that the chosen snapshots need, and of those that `later` ones may rely on."""
    needs = needs_of(chosen)
    needed = {pack.id for pack in look.packs() if any(blob.id in needs for blob in pack.blobs)}
    wanted = needed | (_reliable(look) if later else set())
    packs = [
        pack for pack in look.packs() if pack.id in wanted and pack.id not in look.proven and sizes.get(pack.name) == pack.size
    ]
    witness = Witness(look.repository)
    for forged in look.proving.problems:
        look.find(forged.subject, forged.problem)
    age = {pack.id: look.proving.last_proven(pack.id, _needed(pack, needs)) for pack in packs}
    packs.sort(key=lambda pack: (pack.id not in needed, age[pack.id], pack.id))
    packs = list(_within(packs, look.options.budget))
    look.progress.begin("data", sum(pack.size for pack in packs), "bytes")
    look.count("bytes", sum(look.proven.values()))
    whole, damaged = list[str](), list[str]()
    try:
        with ThreadPoolExecutor(_READERS, thread_name_prefix="strongroom-verify") as pool:
            for pack, problems in zip(packs, pool.map(partial(problems_of, look.repository), packs), strict=True):
                if problems:
                    damaged.append(pack.id)
                    _tell(look, pack, problems, needs)
                else:
                    whole.append(pack.id)
                    look.proving.whole(pack.id)
                    look.proven[pack.id] = pack.size
                look.count("bytes", pack.size)
                look.progress.advance(pack.size)
    finally:  # what was read is known, even if the rest can't be
        look.bad.update(damaged)
        witness.judged(look.repository.clock.now().timestamp(), whole=whole, damaged=damaged)
    if not packs and not look.proven:
        look.find("packs/", "not one pack could be read: nothing was checked", chosen)


def _reliable(look: Examination) -> set[str]:
    """The packs on which the next backup may rely, whoever needs them now."""
    try:
        return set(look.repository.reliable(look.bad).packs)
    except Damaged:  # a tombstone that is found elsewhere: until it is mended no backup is made
        return set()


def problems_of(repository: Repository, pack: Pack) -> list[tuple[str, str, bytes | None]]:
    """Everything that is wrong with a pack: subject, problem, and the blob if it is one blob's."""
    problems: list[tuple[str, str, bytes | None]] = []
    try:
        content = repository.store.read(pack.name)
    except NotFound:
        return [(pack.name, _MISSING, None)]
    reader = repository.reader(pack)
    for blob in pack.blobs:
        try:
            reader.open(blob, content[blob.offset : blob.offset + blob.stored])
        except Damaged as error:
            problems.append((error.subject, error.problem, blob.id))
    if problems:
        return problems
    try:
        if read_pack(repository.keys, pack.name, content).blobs != pack.blobs:
            problems.append((pack.name, "its directory isn't what the blob index says", None))
    except Damaged as error:
        problems.append((error.subject, error.problem, None))
    return problems


def _needed(pack: Pack, needs: Needs) -> list[int]:
    return [blob.number for blob in pack.blobs if blob.id in needs]


def _tell(look: Examination, pack: Pack, problems: Sequence[tuple[str, str, bytes | None]], needs: Needs) -> None:
    """Find each problem of a damaged pack, with the snapshots that it breaks."""
    there = breaks = False
    for subject, problem, blob in problems:
        hurt = [blob] if blob else [one.id for one in pack.blobs]
        lost = [one for one in hurt if one in needs and not _is_served_elsewhere(look, one)]
        there, breaks = there or problem != _MISSING, breaks or bool(lost)
        if problem != _MISSING or lost:  # else it was pruned since it was listed
            look.find(subject, problem, users_of(lost, needs))
    if there and not breaks:
        look.spare.add(pack.id)
    _note_damage(look, pack, problems)


def _note_damage(look: Examination, pack: Pack, problems: Sequence[tuple[str, str, bytes | None]]) -> None:
    """If only some of its blobs are hurt the others were found right, though not its directory: nothing is said of them."""
    hurt = {blob for _, _, blob in problems}
    look.proving.damaged(pack.id, None if None in hurt else [blob.number for blob in pack.blobs if blob.id in hurt])


def _is_served_elsewhere(look: Examination, blob: bytes) -> bool:
    """Has another pack the blob whole? Then a restore takes it from there."""
    if len(look.repository.index.places(blob)) > 1:
        with suppress(Damaged):
            look.repository.read_blob(blob)
            return True
    return False


def _within(packs: Sequence[Pack], budget: int | None) -> Iterator[Pack]:
    """As many packs as fit the budget, at least one."""
    used = 0
    for pack in packs:
        if budget is not None and used and used + pack.size > budget:
            return
        used += pack.size
        yield pack
