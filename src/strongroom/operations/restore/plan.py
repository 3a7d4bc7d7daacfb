"""Which rung of the ladder a restore takes, why, and what it costs. Pure but for asking the target what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import get_type_hints

import pyarrow as pa
from blake3 import blake3

from strongroom import engines
from strongroom.engines.protocol import Engine, LearnsDimension, Target, WholeOnly
from strongroom.errors import NotFound, Refused, WrongRequest
from strongroom.journal.marks import LOGS, SCAN
from strongroom.model import ROLE, Conversion, Role, Selection
from strongroom.operations.journal.moment import MomentPlan, PlannedMoment
from strongroom.operations.restore.erased_rows import NOTHING_ERASED, Erased
from strongroom.operations.restore.reshaping import presumed, presumed_payload
from strongroom.snapshots.consistency import has_rows_alone
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import StoredArtifact, StoredCollection


class Rung(StrEnum):
    """From the best to the last resort."""

    EXACT = "exact"
    REBUILD = "rows + rebuild"
    CONVERT = "rows into another engine"


@dataclass(frozen=True, slots=True)
class PlannedCollection:
    name: str
    target_name: str
    rows: int


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """What a restore would do. `token` names its stage: the same request has the same token, so that it can be resumed."""

    snapshot: str
    target: str
    engine: str
    rung: Rung
    reasons: tuple[str, ...]
    losses: tuple[str, ...]
    conversions: tuple[Conversion, ...]
    """What becomes of each part of the collections; empty if the restore is exact."""
    collections: tuple[PlannedCollection, ...]
    bytes: int
    cost: str
    occupied: tuple[str, ...]
    token: str
    moment: PlannedMoment | None = None
    later: tuple[str, ...] = ()
    """Wanted collections that the snapshot doesn't have: the journal must make them until the moment."""

    @property
    def rows(self) -> int:
        return sum(collection.rows for collection in self.collections)


def plan_restore(
    snapshot: Snapshot,
    target_url: str,
    selection: Selection,
    *,
    require_exact: bool = False,
    rung: Rung | None = None,
    moment: MomentPlan | None = None,
    erased: Erased = NOTHING_ERASED,
) -> RestorePlan:
    """`erased` are the rows of it that may not come back: then rows are loaded, since files hold all of them. Raises NotFound (no
    such collection), WrongRequest (the target can't hold the rows) or Refused (`require_exact`)."""
    manifest = snapshot.manifest
    if moment is not None and any(one.tenant_column for one in manifest.collections):
        raise Refused("a journal is under no tenant's key: there is no moment after such a snapshot", hint="restore the snapshot")
    later = () if moment is None else missing_in(snapshot, selection)
    chosen = chosen_collections(snapshot, selection, later)
    engine = engines.engine_of(target_url)
    target = engine.target(target_url)
    best, reasons = _best_rung(snapshot, engine)
    if moment is not None and best == Rung.EXACT and (why := _unreplayable(moment, engine, target, later)):
        best, reasons = Rung.REBUILD, (why,)
    if best == Rung.EXACT and erased.why:
        best, reasons = Rung.REBUILD, (erased.why,)
    elif erased.why:
        reasons = (*reasons, erased.why)
    if best == Rung.EXACT and not selection.everything and isinstance(target, WholeOnly):
        best, reasons = Rung.REBUILD, (target.whole_only,)
    if rung is not None and list(Rung).index(rung) < list(Rung).index(best):
        raise WrongRequest(f"the rung {rung.value!r} can't be reached: {reasons[0]}", hint=f"the best one here is {best.value!r}")
    if rung is not None and rung != best:
        if engine.name == manifest.engine and rung == Rung.CONVERT:
            raise WrongRequest("source and target are the same engine", hint=f"ask for {Rung.REBUILD.value!r}")
        best, reasons = rung, ("asked for", *reasons)
    if moment is not None and moment.span.head.kind in LOGS and best != Rung.EXACT:
        raise Refused(
            f"only {manifest.engine} itself goes on by its log to a moment: {reasons[0]}",
            hint=f"restore --at to {manifest.engine}:, start it there, and back that up",
        )
    if require_exact and best != Rung.EXACT:
        raise Refused(f"the restore would not be exact: {reasons[0]}", hint="leave --require out, or restore to the same engine")
    count = len(chosen) + len(later)
    if best != Rung.EXACT and target.holds_one and count > 1:
        raise WrongRequest(f"{target_url} has room for one collection, not {count}", hint="choose one with --collection")
    losses, conversions = ((), ()) if best == Rung.EXACT else _losses(target, chosen, selection, best)
    planned = [(one.name, one.count) for one in chosen] + [(name, 0) for name in later]
    names = [selection.target_name(name) for name, _ in planned]
    return RestorePlan(
        snapshot=snapshot.id,
        target=target_url,
        engine=engine.name,
        rung=best,
        reasons=reasons,
        losses=losses,
        conversions=conversions,
        collections=tuple(PlannedCollection(name, selection.target_name(name), rows) for name, rows in planned),
        bytes=_bytes(best, chosen, installed_artifacts(snapshot, selection)),
        cost=_cost(best, snapshot, chosen),
        occupied=tuple(target.occupied(names)),
        token=_token(snapshot, target_url, selection, best, moment, erased),
        moment=moment.planned if moment else None,
        later=later,
    )


def missing_in(snapshot: Snapshot, selection: Selection) -> tuple[str, ...]:
    """The names of a selection that no collection of the snapshot has."""
    present = {collection.name for collection in snapshot.manifest.collections}
    return tuple(dict.fromkeys(name for name in (*selection.collections, *selection.renames) if name not in present))


def chosen_collections(snapshot: Snapshot, selection: Selection, later: Container[str] = ()) -> tuple[StoredCollection, ...]:
    """Raises NotFound for a name that the snapshot doesn't have, unless it is one of `later`, WrongRequest for two collections of
    one name."""
    collections = snapshot.manifest.collections
    for name in missing_in(snapshot, selection):
        if name not in later:
            there = ", ".join(sorted(one.name for one in collections))
            raise NotFound(f"snapshot {snapshot.id[:12]} has no collection {name!r}", hint=f"it has {there}")
    for name in selection.renames:
        if not selection.wants(name):
            raise WrongRequest(f"{name!r} is renamed and not restored", hint=f"add --collection {name!r}, or leave the rename out")
    chosen = tuple(collection for collection in collections if selection.wants(collection.name))
    names = Counter(selection.target_name(collection.name) for collection in chosen)
    for name, count in names.items():
        if count > 1:
            raise WrongRequest(f"two collections would be called {name!r}", hint="choose with --collection or rename one")
    return chosen


def installed_artifacts(snapshot: Snapshot, selection: Selection) -> tuple[StoredArtifact, ...]:
    """The files that an exact restore of the selection writes."""
    artifacts = snapshot.manifest.artifacts
    return tuple(one for one in artifacts if one.collection is None or selection.wants(one.collection))


def _best_rung(snapshot: Snapshot, engine: Engine) -> tuple[Rung, tuple[str, ...]]:
    manifest = snapshot.manifest
    if engine.name != manifest.engine:
        return Rung.CONVERT, (f"the snapshot is of {manifest.engine}, the target is {engine.name}",)
    if has_rows_alone(manifest):
        return Rung.REBUILD, (f"the snapshot has no files of {engine.name}'s indexes: they are built again",)
    if not engine.compatible(manifest.engine_version):
        installed = engine.version()
        return Rung.REBUILD, (f"files of {engine.name} {manifest.engine_version} are not for the installed {installed}",)
    return Rung.EXACT, (f"same engine, and version {manifest.engine_version} fits the installed {engine.version()}",)


def _unreplayable(moment: MomentPlan, engine: Engine, target: Target, later: Sequence[str]) -> str:
    """Why the engine can't apply the journal's operations itself; '' if it can."""
    if later:
        return f"the snapshot before has no collection {later[0]!r}: the rows of the moment are loaded"
    if moment.span.head.kind == SCAN:
        return "the journal is of scans, which tell rows and not what was done: the rows of the moment are loaded"
    try:
        stage = get_type_hints(type(target).stage).get("return")
    except NameError:  # what isn't known is tried
        return ""
    told = stage is None or hasattr(stage, "recover") or all(hasattr(stage, name) for name in ("identity", "apply"))
    return "" if told else f"{engine.name} can't be told what changed: the rows of the moment are loaded"


def _losses(
    target: Target, chosen: Sequence[StoredCollection], selection: Selection, rung: Rung
) -> tuple[tuple[str, ...], tuple[Conversion, ...]]:
    losses: dict[str, None] = {}
    conversions: list[Conversion] = []
    for collection in chosen:
        schema = collection.arrow_schema() if collection.schema else _empty_schema(collection)
        named = replace(collection.catalog, name=selection.target_name(collection.name))
        objections = list(target.objections(named, schema))
        known = all(one.dimension for one in named.fields) or (isinstance(target, LearnsDimension) and target.learns_dimension)
        if rung == Rung.CONVERT and not known:
            objections.insert(0, "it never held a vector, so that nobody knows its dimension")
        if objections:
            hint = "choose collections with --collection, rename them with --rename, or restore to another engine"
            raise WrongRequest(f"{collection.name} can't be loaded there: {objections[0]}", hint=hint)
        if collection.schema:
            if rung == Rung.CONVERT:
                losses.update(dict.fromkeys(_PRESUMED.format(name) for name in [presumed_payload(schema)] if name))
                schema = presumed(schema)
            losses.update(dict.fromkeys(target.losses(named, schema)))
            conversions += target.conversions(named, schema)
    return tuple(losses), tuple(conversions)


_PRESUMED = "column {!r} is taken for the payload if all its texts are JSON objects; else it is a column of text"


def _empty_schema(collection: StoredCollection) -> pa.Schema:
    """What the rows of a collection would look like if it had any."""
    columns = [("id", pa.string(), Role.ID)]
    columns += [(one.name, pa.list_(pa.float32(), one.dimension), Role.VECTOR) for one in collection.catalog.fields]
    return pa.schema([pa.field(name, kind, metadata={ROLE: role.encode()}) for name, kind, role in columns])


def _bytes(rung: Rung, chosen: Sequence[StoredCollection], artifacts: Sequence[StoredArtifact]) -> int:
    if rung == Rung.EXACT or not any(collection.segments for collection in chosen):
        return sum(artifact.size for artifact in artifacts)
    return sum(c.count * sum(f.dimension * _WIDTHS.get(f.dtype, 4) for f in c.catalog.fields) for c in chosen)


_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}


def _cost(rung: Rung, snapshot: Snapshot, chosen: Sequence[StoredCollection]) -> str:
    if rung == Rung.EXACT:
        seconds = snapshot.manifest.seconds.get("total", 0.0)
        return f"about the time of the backup ({seconds:.1f} s then); recall and answers stay as they were"
    recalls = [probe.recall for collection in chosen for probe in collection.probes if probe.recall is not None]
    was = f"; it was {min(recalls):.3f} at backup and is measured again afterwards" if recalls else ""
    return f"the engine builds its index from {sum(c.count for c in chosen):,} rows, which takes longest; recall may differ{was}"


def _token(snapshot: Snapshot, target_url: str, selection: Selection, rung: Rung, moment: MomentPlan | None, erased: Erased) -> str:
    """What was loaded before another erasure is not gone on from: it may hold what that one means."""
    asked: tuple[object, ...] = (
        *(snapshot.id, target_url, sorted(selection.collections), sorted(selection.renames.items()), rung.value),
        *((erased.why,) if erased.why else ()),
        *(one.id for one in erased.erasures),
        *(() if moment is None else (moment.stream, moment.number)),
        *(() if moment is None or moment.undone is None else (moment.undone.token,)),
        *(() if moment is None or moment.until is None else (moment.until,)),
    )
    return blake3(repr(asked).encode()).hexdigest()[:16]
