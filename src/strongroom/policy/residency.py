"""Where may what is backed up be kept? Pure: no clock, no storage.

A rule matches by source, collection, tenant and tag, and says which regions are allowed. All rules that match must allow a region;
a store of which nobody has said where it lies is in none.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from strongroom.errors import Damaged, Refused

_WORDS = {"name", "source", "collection", "tenant", "tags", "regions"}
_ANY = ("*",)


@dataclass(frozen=True, slots=True)
class Rule:
    """Patterns (* ? [...]), of which one must match: of the source's URL, the collection's name, the tenant; and all of `tags`, by
    their values. What names no tenant is matched by '*' alone. `regions` are those that are allowed."""

    name: str
    regions: tuple[str, ...]
    source: tuple[str, ...] = _ANY
    collection: tuple[str, ...] = _ANY
    tenant: tuple[str, ...] = _ANY
    tags: Mapping[str, str] = field(default_factory=dict)

    def matches(self, source: str, collection: str | None, tenant: str | None, tags: Mapping[str, str] | None) -> bool:
        """`collection` None: of any name, `tags` None: not known; a rule that might match does."""
        return (
            _fits(source, self.source)
            and (collection is None or _fits(collection, self.collection))
            and ("*" in self.tenant or (tenant is not None and _fits(tenant, self.tenant)))
            and (tags is None or all(key in tags and fnmatchcase(tags[key], value) for key, value in self.tags.items()))
        )

    def allows(self, region: str | None) -> bool:
        return region is not None and _fits(region, self.regions)


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


def residency_of(document: Mapping[str, Any] | None) -> Residency:
    """The rules of a published policy: those of each policy of a policy file that has a "residency", and those of a list of that
    name, objects with the fields of `Rule`. Raises Damaged if it can't be understood: then nobody knows what is allowed."""
    said = document or {}
    listed, policies = said.get("residency") or [], said.get("policies") or {}
    if not isinstance(listed, list) or not isinstance(policies, dict):
        raise _not_understood("it is no list of rules")
    rules = [_rule(one, f"rule {number}") for number, one in enumerate(listed, 1)]
    try:
        rules += [_of_policy(name, one, said.get("sources") or {}) for name, one in policies.items() if one.get("residency")]
    except (AttributeError, KeyError, TypeError) as error:
        raise _not_understood("its policies aren't those of a policy file") from error
    return Residency(tuple(rules))


def _of_policy(name: str, policy: Mapping[str, Any], sources: Mapping[str, Any]) -> Rule:
    """A policy of a policy file matches sources by their names there."""
    match = policy.get("match") or {}
    urls = list(_ANY)
    if match.get("source") is not None:
        urls = [glob.escape(_shown(one["url"])) for called, one in sources.items() if _fits(called, match["source"])]
    words = {"collection": match.get("collection"), "tenant": match.get("tenant"), "tags": match.get("tag")}
    return _rule({"name": name, "source": urls, "regions": policy["residency"]["regions"], **words}, name)


def _shown(url: str) -> str:
    """As snapshots name their source: without a password."""
    parts = urlsplit(url)
    return url if parts.password is None else parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@")).geturl()


def _rule(said: Any, name: str) -> Rule:
    if not isinstance(said, dict) or said.keys() - _WORDS:
        raise _not_understood(f"{name} has more than {', '.join(sorted(_WORDS))}")
    regions, tags = said.get("regions"), said.get("tags") or {}
    if not isinstance(regions, list) or not isinstance(tags, dict) or not _texts([*regions, *tags, *tags.values()]):
        raise _not_understood(f"{name} must name its regions, and its tags by name")
    patterns = {word: _patterns(said.get(word), name) for word in ("source", "collection", "tenant")}
    return Rule(str(said.get("name") or name), tuple(regions), tags=dict(tags), **patterns)


def _patterns(said: Any, name: str) -> tuple[str, ...]:
    """None is anything; an empty list is nothing."""
    patterns = [said] if isinstance(said, str) else list(_ANY) if said is None else said
    if not isinstance(patterns, list) or not _texts(patterns):
        raise _not_understood(f"{name} has a pattern that is no text")
    return tuple(patterns)


def _fits(text: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(text, one) for one in patterns)


def _texts(values: Iterable[object]) -> bool:
    return all(isinstance(one, str) for one in values)


def _not_understood(problem: str) -> Damaged:
    hint = "publish a policy that this Strongroom understands, or use a newer one"
    return Damaged("the published policy, residency", problem, hint=hint)
