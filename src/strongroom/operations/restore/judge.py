"""Does a restored index answer as the live one did?"""

from __future__ import annotations

from collections.abc import Iterable

from strongroom.errors import VerificationFailed
from strongroom.operations.machine.processor import rounds_alike
from strongroom.operations.restore.replay import Replayed
from strongroom.snapshots import probes
from strongroom.snapshots.manifest import Manifest, ProbeSet

_ROUNDS = "the backup was made on another kind of processor, which rounds otherwise"
_DRIFTS = "the engine doesn't repeat its own answers from these files, see the ledger"


class Judge:
    """Compares answers with sealed ones. `recall` is that of each collection that was asked; a line for each finding goes to
    `checks`."""

    def __init__(self, manifest: Manifest, checks: list[str]) -> None:
        self.recall: dict[str, float] = {}
        self._manifest = manifest
        self._checks = checks
        self._several = any(len(collection.probes) > 1 for collection in manifest.collections)

    def require_same(self, replayed: Iterable[Replayed]) -> None:
        """Of an exact restore. Raises VerificationFailed."""
        exact, alike = 0, rounds_alike(self._manifest)
        for collection, probe, sealed, given in replayed:
            name = self._asked_of(collection, probe)
            self.recall[name] = sealed.recall(given)
            if sealed.live is None:
                continue
            repeatable = probe.repeatable and alike
            problem = probes.disagreement(sealed, given, repeatable=repeatable)
            if problem:
                raise VerificationFailed(f"{name}: {problem}")
            if repeatable:
                exact += probe.count
            else:
                same, reason = probe.count - len(probes.differences(sealed.live, given)), _DRIFTS if alike else _ROUNDS
                self._checks.append(f"{name}: {same} of {probe.count} answers identical, recall as before ({reason})")
        if exact:
            self._checks.append(f"{exact} sealed queries replayed: ids and distances identical bit for bit")

    def measure(self, replayed: Iterable[Replayed]) -> None:
        """Of an index that was built anew."""
        for collection, probe, sealed, given in replayed:
            name = self._asked_of(collection, probe)
            self.recall[name] = sealed.recall(given)
            was = f" (was {probe.recall:.3f} at backup)" if probe.recall is not None else ""
            self._checks.append(f"{name}: recall@{sealed.k} {self.recall[name]:.3f}{was}")

    def _asked_of(self, name: str, probe: ProbeSet) -> str:
        """The collection, and the field too if the snapshot has several vectors a row somewhere."""
        return f"{name}, {probe.field}" if self._several else name
