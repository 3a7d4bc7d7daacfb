"""May this be kept in that store? What the repository's published policy says of residency, asked before a byte moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from strongroom.errors import Refused
from strongroom.policy.residency import Residency, Rule, refusal, residency_of
from strongroom.repository import Repository
from strongroom.repository.policies import newest
from strongroom.repository.region import region_of
from strongroom.snapshots.history import Snapshot
from strongroom.snapshots.holding import subject_of


class Residence:
    """One store's region, under the rules of a policy."""

    def __init__(self, residency: Residency, region: str | None, place: str) -> None:
        self._residency = residency
        self._region = region
        self._place = place

    @classmethod
    def of(cls, repository: Repository) -> Residence:
        """Of the repository's own store. Without rules a listing is all that it costs. Raises Damaged if they can't be told."""
        residency = _published(repository)
        return cls(residency, region_of(repository) if residency.rules else None, repository.store.url)

    @classmethod
    def at(cls, repository: Repository, url: str, region: str | None) -> Residence:
        """Of another store, which is said to lie in a region, under the repository's rules."""
        return cls(_published(repository), region, url)

    @property
    def rules(self) -> tuple[Rule, ...]:
        return self._residency.rules

    def problem(
        self, source: str, collections: Iterable[str | None], tags: Mapping[str, str] | None = None, tenant: str | None = None
    ) -> Refused | None:
        """Why collections of a source may not be kept there; of none named, any of its collections."""
        found = self._residency.breach(collections, tenant, self._region, source=source, tags=tags)
        return None if found is None else refusal(found, self._region, source, self._place)

    def problem_of_snapshot(self, snapshot: Snapshot) -> Refused | None:
        record, names = snapshot.manifest, [one.name for one in snapshot.manifest.collections]
        whose = subject_of(snapshot.id, record).tenants or [None]
        problems = (self.problem(record.source, names, record.tags, tenant) for tenant in whose)
        return next((one for one in problems if one is not None), None)

    def require(
        self, source: str, collections: Iterable[str | None], tags: Mapping[str, str] | None = None, tenant: str | None = None
    ) -> None:
        """Raises Refused (exit code 5)."""
        problem = self.problem(source, collections, tags, tenant)
        if problem is not None:
            raise problem


def _published(repository: Repository) -> Residency:
    policy = newest(repository)
    return residency_of(policy.document if policy else None)
