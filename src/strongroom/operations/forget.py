"""How snapshots go: by name, or by rules that say why each of them stays. What only they needed is freed by prune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

from strongroom.errors import Damaged, NotFound, Refused, WrongRequest
from strongroom.operations.machine.witness import Witness
from strongroom.policy.retention import Dated, Decision, Rules, Trust, decide, fullest_day
from strongroom.repository import SNAPSHOTS, Repository
from strongroom.repository.store import require_deletes
from strongroom.repository.trusted_time import stored_at
from strongroom.snapshots import history
from strongroom.snapshots.commit import withdraw
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.holding import Holding, held_by, holding


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a snapshot, and why."""

    snapshot: str
    created: str
    source: str
    keep: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """Every snapshot that was looked at, source by source and newest first. Nothing was done in a dry run."""

    fates: tuple[Fate, ...]
    dry_run: bool

    @property
    def forgotten(self) -> tuple[str, ...]:
        return tuple(fate.snapshot for fate in self.fates if not fate.keep)


@dataclass(frozen=True, slots=True)
class ForgetOptions:
    """Either names ('latest' or the beginnings of ids) or rules. Rules look at the snapshots of `source` or of every source, each
    by itself; a path is another source on each host, unless `any_host`."""

    names: tuple[str, ...] = ()
    rules: Rules = field(default_factory=Rules)
    source: str | None = None
    any_host: bool = False
    dry_run: bool = False
    trust: Trust = field(default_factory=Trust)


def forget(repository: Repository, options: ForgetOptions) -> ForgetReport:
    """Forget snapshots: a tombstone first, so that their absence is no theft, then their manifests go.

    Raises WrongRequest if neither or both of names and rules are given, NotFound, Damaged, StoreDenied before anything is done, or
    Refused if rules would leave nothing of a source or a named one is held. Repeatable: what a killed one began, the next finishes.
    """
    if bool(options.names) == bool(options.rules):
        what = "give snapshots or rules, not both" if options.names else "nothing says what to forget"
        raise WrongRequest(what, hint="name snapshots, or give a rule such as --keep-daily 7; --dry-run shows what it does")
    if options.names and (options.source or options.any_host):
        raise WrongRequest("--source and --any-host are for rules", hint="a snapshot's id says all")
    held = holding(repository)
    fates = _named(repository, options.names) if options.names else _ruled(repository, options)
    fates = [_unless_held(repository, held, fate) for fate in fates]
    refused = [fate for fate in fates if options.names and fate.keep]
    if refused and not options.dry_run:
        raise _is_held(refused[0].snapshot, refused[0].reasons[-1])
    report = ForgetReport(tuple(fates), options.dry_run)
    if report.forgotten and not options.dry_run:
        require_deletes(repository.store)
        _withdraw(repository, report.forgotten)
    return report


def _unless_held(repository: Repository, held: Holding, fate: Fate) -> Fate:
    """Kept, and why, if a hold covers it."""
    holds = held_by(repository, held, fate.snapshot) if held.holds else ()
    if not holds:
        return fate
    return replace(fate, keep=True, reasons=((*fate.reasons,) if fate.keep else ()) + tuple(one.why for one in holds))


def _is_held(snapshot_id: str, why: str) -> Refused:
    return Refused(
        f"snapshot {snapshot_id[:12]} stays: {why}", hint="'strongroom hold list' shows it, 'strongroom hold release' ends it"
    )


def _withdraw(repository: Repository, ids: Sequence[str]) -> None:
    snapshots, _ = history.read_all(repository)
    going = set(ids)
    parents = {parent for snapshot in snapshots if snapshot.id in going for parent in snapshot.manifest.parents}
    held = withdraw(repository, ids, sorted(parents.intersection(repository.manifest_ids()) - going))
    for snapshot_id, holds in held.items():  # placed meanwhile
        raise _is_held(snapshot_id, holds[0].why)


def _named(repository: Repository, names: Sequence[str]) -> list[Fate]:
    """Also of a snapshot that can't be read: else it would keep prune from its work for good."""
    fates: dict[str, Fate] = {}
    for name in names:
        try:
            snapshot = history.find(repository, name)
        except Damaged as error:
            snapshot_id = error.subject.removeprefix(SNAPSHOTS)
            if name == "latest" or not snapshot_id.startswith(name.lower()):
                raise
            fates[snapshot_id] = Fate(snapshot_id, "", "", False, (f"named; it can't be read: {error.problem}",))
        else:
            fates[snapshot.id] = _fate(snapshot, Decision(snapshot.id, False, ("named",)))
    return list(fates.values())


def _ruled(repository: Repository, options: ForgetOptions) -> list[Fate]:
    snapshots, damaged = history.read_all(repository)
    stored = stored_at(repository.store, SNAPSHOTS)
    groups: dict[tuple[str, str], list[Snapshot]] = {}
    for snapshot in snapshots:
        if options.source in (None, snapshot.manifest.source):
            groups.setdefault(_source_of(snapshot, any_host=options.any_host), []).append(snapshot)
    if options.source is not None and not groups:
        raise NotFound(f"no snapshot is of {options.source}", hint="'strongroom snapshots' shows the sources as they are written")
    fates = []
    witness = Witness(repository)
    for source, members in sorted(groups.items()):
        fates += _decided(source, members, options, stored, repository.clock.now(), witness)
    unread = (f"it can't be read: {problem.problem}" for problem in damaged)
    return fates + [
        Fate(one.subject.removeprefix(SNAPSHOTS), "", "", True, (why,)) for one, why in zip(damaged, unread, strict=True)
    ]


def _decided(
    source: tuple[str, str],
    members: Sequence[Snapshot],
    options: ForgetOptions,
    stored: Mapping[str, datetime],
    now: datetime,
    witness: Witness,
) -> list[Fate]:
    by_id = {snapshot.id: snapshot for snapshot in members}
    dated = [Dated(one.id, _moment(one), one.manifest.tags, stored.get(one.id)) for one in members]
    trust, name = options.trust, "\n".join(source)
    decisions = decide(dated, options.rules, now, replace(trust, usual=witness.usual(name)))
    if not any(decision.keep for decision in decisions):
        hint = "name them if that is meant, or add --keep-last 1, or choose others with --source"
        raise Refused(f"these rules would forget every snapshot of {source[0]}", hint=hint)
    if not options.dry_run:
        witness.saw_day(name, fullest_day(dated, decisions))
    return [_fate(by_id[decision.id], decision) for decision in decisions]


def _source_of(snapshot: Snapshot, *, any_host: bool) -> tuple[str, str]:
    """A path means something else on each machine; a URL that names a server doesn't."""
    record = snapshot.manifest
    return record.source, "" if any_host or urlsplit(record.source).netloc else record.host


def _moment(snapshot: Snapshot) -> datetime:
    at = datetime.fromisoformat(snapshot.manifest.created)
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def _fate(snapshot: Snapshot, decision: Decision) -> Fate:
    record = snapshot.manifest
    return Fate(snapshot.id, record.created, record.source, decision.keep, decision.reasons)
