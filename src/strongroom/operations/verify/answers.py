"""Does a restored index answer the sealed queries as the live one did?"""

from __future__ import annotations

from strongroom.engines.protocol import Frozen
from strongroom.errors import Damaged, EngineFailed
from strongroom.model import Answers
from strongroom.operations.machine.processor import rounds_alike
from strongroom.operations.restore.replay import actual_name, ask
from strongroom.operations.verify.examination import Examination, subject_of
from strongroom.snapshots import probes
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import ProbeSet, StoredCollection
from strongroom.snapshots.probes import Probes


def check_probes(look: Examination, snapshot: Snapshot, collection: StoredCollection, fields: set[str]) -> None:
    """Every field that has vectors must have probes."""
    probed = {probe.field for probe in collection.probes}
    for one in collection.catalog.fields:
        if one.name in fields and one.name not in probed:
            problem = unprobed(collection, one.name)
            look.find(subject_of(snapshot, collection), problem, [snapshot])


def unprobed(collection: StoredCollection, name: str) -> str:
    """That a field has no probes, and why if that was meant."""
    why = ", since tenants have keys of their own: verify it at level restore" if collection.tenant_column else ""
    return f"field {name} has no probes{why}: its answers can't be checked"


def check_answers(look: Examination, snapshot: Snapshot, collection: StoredCollection, probe: ProbeSet, frozen: Frozen) -> None:
    subject = f"{subject_of(snapshot, collection)}, probes of {probe.field}"
    try:
        sealed = probes.decode(look.repository.read_blob(bytes.fromhex(probe.blob)))
        problem = _mismatch(probe, sealed)
        if problem is None:
            given = ask(frozen, actual_name(frozen, collection.name), probe.field, sealed)
            field = f", {probe.field}" if len(collection.probes) > 1 else ""
            exact = probe.repeatable and rounds_alike(snapshot.manifest)
            problem = _judge(look, f"{snapshot.id[:12]}/{collection.name}{field}", sealed, given, exact=exact)
    except (Damaged, EngineFailed) as error:
        problem = str(error)
    if problem:
        look.find(subject, problem, [snapshot])


def _judge(look: Examination, name: str, sealed: Probes, given: Answers, *, exact: bool) -> str | None:
    if not any(given.ids):
        return "the index answered nothing"
    look.count("probes", len(given))
    look.recall[name] = sealed.recall(given)
    return probes.disagreement(sealed, given, repeatable=exact)


def _mismatch(probe: ProbeSet, sealed: Probes) -> str | None:
    """What the manifest says of the probes and the probes themselves don't."""
    if not len(sealed.queries) or len(sealed.queries) != probe.count:
        return f"{len(sealed.queries)} probes are there instead of {probe.count}"
    if sealed.k != probe.k:
        return f"they ask for {sealed.k} neighbours, the manifest says {probe.k}"
    if sealed.live is not None and probe.recall is not None and sealed.recall(sealed.live) != probe.recall:
        return f"their recall is {sealed.recall(sealed.live):.3f}, the manifest says {probe.recall:.3f}"
    return None
