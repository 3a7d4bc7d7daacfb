"""Is what was restored and opened again what it must be, and are its answers right? Rows, catalog, answers, recall."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from strongroom.engines.protocol import Frozen
from strongroom.model import Answers
from strongroom.operations.drill.restarted import Question, Reply
from strongroom.operations.machine.processor import rounds_alike
from strongroom.operations.restore.replay import actual_name, field_name, names_of
from strongroom.operations.verify.answers import unprobed
from strongroom.operations.verify.examination import Examination, subject_of
from strongroom.operations.verify.restored import compare_catalog, read_rows
from strongroom.repository import SNAPSHOTS
from strongroom.snapshots import probes
from strongroom.snapshots.fingerprints import RowsRoot
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.manifest import ProbeSet, StoredCollection
from strongroom.snapshots.probes import ExactSearch, Probes

_NEAR = 1e-3
"""By which sealed and computed distances may differ: another order of summation, another number of rows at once."""


@dataclass
class CameBack:
    """The restored database after its restart, beside the snapshot; `roots` are those of the rows of a later moment."""

    look: Examination
    snapshot: Snapshot
    questions: Mapping[tuple[str, str], Question]
    roots: Mapping[str, str] | None = None
    exact: dict[tuple[str, str], Answers] = field(default_factory=dict)
    """The exact top-k of each question among the rows that came back."""
    fields: dict[str, set[str]] = field(default_factory=dict)

    def read(self, frozen: Frozen) -> None:
        """Compare catalog and rows with what they must be, and search the rows exactly."""
        if self.roots is None:
            compare_catalog(self.look, self.snapshot, frozen)
            for collection in self.snapshot.manifest.collections:
                searching = _Searching(frozen, collection, self.questions)
                self.fields[collection.name] = read_rows(self.look, self.snapshot, collection, frozen, searching.add)
                self.exact |= searching.answers()
        else:
            self._read_moment(frozen, self.roots)
        if not self.look.looked_at.get("rows"):
            self.look.find("rows", "not one row came back: nothing was checked", [self.snapshot])

    def _read_moment(self, frozen: Frozen, roots: Mapping[str, str]) -> None:
        """Against the roots that the restore noted: those of the rows that the journal leads to."""
        name = SNAPSHOTS + self.snapshot.id
        expected = {actual_name(frozen, one): root for one, root in roots.items()}
        if sorted(expected) != sorted(names_of(frozen)):
            self.look.find(name, f"{sorted(names_of(frozen))} came back instead of {sorted(expected)}", [self.snapshot])
        known = {actual_name(frozen, one.name): one for one in self.snapshot.manifest.collections}
        for actual in sorted(expected.keys() & set(names_of(frozen))):
            root = RowsRoot(self.look.fingerprinter)
            searching = _Searching(frozen, known[actual], self.questions) if actual in known else None
            for block in frozen.rows(actual):
                live = block.live()
                root.add(live)
                if searching is not None:
                    searching.add(live)
            self.look.count("rows", root.count)
            if root.digest() != expected[actual]:
                self.look.find(f"{name}, collection {actual}", "its rows are not those that the journal leads to", [self.snapshot])
            if searching is not None:
                self.exact |= searching.answers()

    def check_probed(self) -> None:
        """Every field that has vectors must have probes."""
        for collection in self.snapshot.manifest.collections:
            probed = {probe.field for probe in collection.probes}
            for one in collection.catalog.fields:
                if one.name in self.fields.get(collection.name, ()) and one.name not in probed:
                    problem = unprobed(collection, one.name)
                    self.look.find(subject_of(self.snapshot, collection), problem, [self.snapshot])

    def check_sealed(self) -> None:
        """The sealed exact answers must be exact among these rows; else the probes are wrong, and what agrees with them too."""
        if self.roots is not None:
            return
        for collection in self.snapshot.manifest.collections:
            for probe in collection.probes:
                place = collection.name, probe.field
                if place in self.exact and place in self.questions:
                    wrong = wrong_answers(self.questions[place].sealed.exact, self.exact[place])
                    if wrong:
                        subject = f"{subject_of(self.snapshot, collection)}, probes of {probe.field}"
                        problem = f"{wrong} of {probe.count} sealed answers are not the exact ones among the rows that came back"
                        self.look.find(subject, problem, [self.snapshot])


class _Searching:
    """The exact search for all questions to one collection, while its rows come by."""

    def __init__(self, frozen: Frozen, collection: StoredCollection, questions: Mapping[tuple[str, str], Question]) -> None:
        self._found: dict[tuple[str, str], tuple[str, ExactSearch]] = {}
        self._count = 0
        for place, one in questions.items():
            if place[0] == collection.name and frozen.description.has(actual_name(frozen, place[0])):
                name = field_name(frozen, actual_name(frozen, place[0]), place[1])
                there = frozen.description.collection(actual_name(frozen, place[0])).vector_field(name)
                asked = replace(there, metric=collection.catalog.vector_field(place[1]).metric)
                self._found[place] = name, ExactSearch(one.sealed.queries, asked, one.sealed.k)

    def add(self, live: pa.RecordBatch) -> None:
        numbers = np.arange(self._count, self._count + live.num_rows, dtype=np.uint32)
        self._count += live.num_rows
        for name, search in self._found.values():
            if name in live.schema.names:
                search.add(live, numbers)

    def answers(self) -> dict[tuple[str, str], Answers]:
        return {place: search.answers() for place, (_, search) in self._found.items()}


def wrong_answers(sealed: Answers, exact: Answers) -> int:
    """To how many queries the sealed answers can't be the exact ones: a distance is another, or a row is missing that is nearer
    than the last one. Rows of the same distance may stand for each other."""
    if len(sealed) != len(exact):
        return max(len(sealed), len(exact))
    return sum(_is_wrong(sealed, exact, place) for place in range(len(sealed)))


def _is_wrong(sealed: Answers, exact: Answers, place: int) -> bool:
    ours, theirs = np.asarray(exact.distances[place], np.float64), np.asarray(sealed.distances[place], np.float64)
    if len(ours) != len(theirs):
        return True
    if not len(ours):
        return False
    scale = _NEAR * max(1.0, float(np.abs(ours).max()))
    if not np.all(np.abs(ours - theirs) <= scale):
        return True
    nearer = {str(name) for name, far in zip(exact.ids[place], ours, strict=True) if far < ours[-1] - scale}
    return not nearer <= set(map(str, sealed.ids[place]))


@dataclass(frozen=True, slots=True)
class Judged:
    """A reply, what is wrong with it ('' if nothing is), and its recall against exact search (None if that wasn't done)."""

    reply: Reply
    problem: str
    recall: float | None


def judge(came_back: CameBack, replies: Iterable[Reply]) -> list[Judged]:
    """Hold each reply to what the live index answered, or, at a later moment than the snapshot's, to its recall."""
    sets = {(c.name, probe.field): probe for c in came_back.snapshot.manifest.collections for probe in c.probes}
    return [_judged(came_back, one, sets[one.collection, one.field]) for one in replies]


def _judged(came_back: CameBack, reply: Reply, probe: ProbeSet) -> Judged:
    place = reply.collection, reply.field
    sealed = came_back.questions[place].sealed
    given = reply.answers
    if given is None:
        return Judged(reply, reply.problem, None)
    if not any(given.ids):
        return Judged(reply, "the index answered nothing", None)
    if len(given) != len(sealed.queries):
        return Judged(reply, f"{len(given)} answers to {len(sealed.queries)} queries", None)
    exact = came_back.exact.get(place)
    recall = Probes(sealed.k, sealed.queries, exact, None).recall(given) if exact is not None else None
    if came_back.roots is not None:
        return Judged(reply, _worse(recall, 1.0 if probe.recall is None else probe.recall), recall)
    repeatable = probe.repeatable and rounds_alike(came_back.snapshot.manifest)
    return Judged(reply, probes.disagreement(sealed, given, repeatable=repeatable) or "", recall)


def _worse(recall: float | None, was: float) -> str:
    """At a later moment than the snapshot's nobody knows what the live index would have answered; but it found as much."""
    if recall is None:
        return "its recall was not measured"
    return f"recall fell from {was:.3f} to {recall:.3f}" if recall < was - probes.RECALL_TOLERANCE else ""
