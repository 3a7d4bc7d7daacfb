"""Where may what is backed up be kept? Pure: no clock, no storage.

A rule matches by source, collection, tenant and tag, and says which regions are allowed. All rules that match must allow a region;
a store of which nobody has said where it lies is in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from strongroom.errors import Damaged, Refused

_WORDS = {"name", "source", "collection", "tenant", "tags", "regions"}


@dataclass(frozen=True, slots=True)
class Rule:
    """`source`, `collection`, `tenant`, the values of `tags` and `regions` are patterns (* ? [...]). Without a tenant's pattern a
    rule is for all; with one, it is for that tenant, and for what names none a rule of '*' alone."""

    name: str
    regions: tuple[str, ...]
    source: str = "*"
    collection: str = "*"
    tenant: str = "*"
    tags: Mapping[str, str] = field(default_factory=dict)

    def matches(self, source: str, collection: str | None, tenant: str | None, tags: Mapping[str, str] | None) -> bool:
        """`collection` None: of any name, `tags` None: not known; a rule that might match does."""
        return (
            fnmatchcase(source, self.source)
            and (collection is None or fnmatchcase(collection, self.collection))
            and (self.tenant == "*" or (tenant is not None and fnmatchcase(tenant, self.tenant)))
            and (tags is None or all(key in tags and fnmatchcase(tags[key], value) for key, value in self.tags.items()))
        )

    def allows(self, region: str | None) -> bool:
        return region is not None and any(fnmatchcase(region, one) for one in self.regions)


@dataclass(frozen=True, slots=True)
class Breach:
    """The rule that forbids it, and of which collection (None: of the source as a whole)."""

    rule: Rule
    collection: str | None


@dataclass(frozen=True, slots=True)
class Residency:
    """All rules of a policy."""

    rules: tuple[Rule, ...] = ()

    def breach(
        self,
        collections: Iterable[str | None],
        tenant: str | None,
        region: str | None,
        *,
        source: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Breach | None:
        """The first rule that keeps one of the collections out of a region. A source without collections is looked at too."""
        for collection in [*collections] or [None]:
            for rule in self.rules:
                if rule.matches(source, collection, tenant, tags) and not rule.allows(region):
                    return Breach(rule, collection)
        return None

    def check(
        self,
        collections: Iterable[str | None],
        tenant: str | None,
        region: str | None,
        *,
        source: str = "",
        tags: Mapping[str, str] | None = None,
        place: str = "",
    ) -> None:
        """Raises Refused (exit code 5), which names the rule and the collection, and says what to do."""
        found = self.breach(collections, tenant, region, source=source, tags=tags)
        if found is not None:
            raise refusal(found, region, source, place)


def refusal(found: Breach, region: str | None, source: str = "", place: str = "") -> Refused:
    """What is said of a breach. `place` is the store that is meant."""
    what = f"collection {found.collection!r}" if found.collection is not None else "what it holds"
    of = f" of {source}" if source else ""
    where = f"{place or 'the repository'} is in {region}" if region else f"nobody has said in which region {place or 'it'} lies"
    allowed = ", ".join(found.rule.regions) or "no region"
    if region is None:
        hint = "name its region: 'strongroom region set REGION'"
    else:
        hint = f"use a store in {allowed}; a copy can leave such snapshots out with --leave-out, or take others with --collection"
    return Refused(f"residency rule {found.rule.name!r} keeps {what}{of} in {allowed}, and {where}: nothing was sent", hint=hint)


def residency_of(body: Mapping[str, Any] | None) -> Residency:
    """The rules of a policy document's "residency": a list of objects with the fields of `Rule`. Raises Damaged if it can't be
    understood: then nobody knows what is allowed."""
    said = (body or {}).get("residency") or []
    if not isinstance(said, list):
        raise _not_understood("it is no list of rules")
    return Residency(tuple(_rule(number, one) for number, one in enumerate(said, 1)))


def _rule(number: int, said: Any) -> Rule:
    if not isinstance(said, dict) or said.keys() - _WORDS:
        raise _not_understood(f"rule {number} has more than {', '.join(sorted(_WORDS))}")
    regions, tags = said.get("regions"), said.get("tags") or {}
    if not isinstance(regions, list) or not isinstance(tags, dict) or not _texts([*regions, *tags, *tags.values()]):
        raise _not_understood(f"rule {number} must name its regions, and its tags by name")
    patterns = {word: said.get(word) or "*" for word in ("source", "collection", "tenant")}
    if not _texts(patterns.values()):
        raise _not_understood(f"rule {number} has a pattern that is no text")
    return Rule(str(said.get("name") or f"rule {number}"), tuple(regions), tags=dict(tags), **patterns)


def _texts(values: Iterable[object]) -> bool:
    return all(isinstance(one, str) for one in values)


def _not_understood(problem: str) -> Damaged:
    return Damaged(
        "the published policy, residency", problem, hint="publish a policy that this Strongroom understands, or use a newer one"
    )
