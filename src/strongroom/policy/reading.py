"""Is this a policy file? Every mistake with its line and, where a name is wrong, the nearest right one."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path as File
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ValidationError

from strongroom.errors import WrongRequest, from_os_error
from strongroom.policy import marked
from strongroom.policy.document import Document, Part, Policy
from strongroom.policy.marked import Path
from strongroom.policy.tasks import reason

_SECRET = re.compile(
    r"(^|[_-])(password|passwd|passphrase|pass|pwd|secret|token|api[_-]?key|apikey|credentials?|private[_-]?key|access[_-]?key)$",
    re.I,
)
_INSTEAD = "a secret must not stand in the file; use password_file, password_command or password_env"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, where: the line (from 1), the path of keys, a sentence. Never a value of the file."""

    line: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.where + ': ' if self.where else ''}{self.what}"


class WrongDocument(WrongRequest):
    """The policy file is not what it must be. `problems` are all of its mistakes, by line."""

    default_hint = "'strongroom config check' shows every mistake, 'strongroom config schema' what may stand there"

    def __init__(self, name: str, problems: Iterable[Problem]) -> None:
        self.name = name
        self.problems = tuple(sorted(problems, key=lambda one: (one.line, one.where)))
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        super().__init__(f"{name}, {self.problems[0]}{more}")


def read_file(path: File) -> Document:
    """Raises WrongDocument, WrongRequest, NotFound or StoreDenied."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    except UnicodeDecodeError as error:
        raise WrongRequest(f"{path} is not UTF-8 text", hint="check that it is the policy file") from error
    return read_text(text, str(path))


def read_text(text: str, name: str = "strongroom.yaml") -> Document:
    """Raises WrongDocument, or WrongRequest if it isn't even YAML."""
    try:
        found, lines = marked.read(text)
    except WrongRequest as error:
        raise WrongRequest(f"{name}, {error}", hint=error.hint) from error
    hidden = dict(_secrets(found, ()))
    secrets = [_problem(lines, path, what) for path, what in hidden.items()]
    try:
        document = Document.model_validate(found)
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False, include_context=False)
        raise WrongDocument(name, [*secrets, *(_told(lines, one) for one in told if tuple(one["loc"]) not in hidden)]) from None
    wrong = [_problem(lines, path, what) for path, what in contradictions(document)]
    if secrets or wrong:
        raise WrongDocument(name, [*secrets, *wrong])
    return document


def as_text(document: Document) -> str:
    """The document as YAML, with nothing that is as it would be anyway. Parses to the same."""
    return marked.write(document.model_dump(mode="json", exclude_defaults=True))


def nearest(wrong: str, right: Iterable[str]) -> str:
    """' (did you mean ...?)', or nothing if none is near."""
    by_lower = {one.lower().replace("-", "_"): one for one in right}
    near = difflib.get_close_matches(wrong.lower().replace("-", "_"), list(by_lower), 1, 0.6)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


# -- mistakes of form ------------------------------------------------------------------------------------------------------


def _told(lines: Mapping[Path, int], error: Any) -> Problem:
    path, kind, what = tuple(error["loc"]), error["type"], str(error["msg"])
    if kind == "extra_forbidden":
        names = fields_at(path[:-1])
        what = f"unknown key {path[-1]!r}{nearest(str(path[-1]), names) or '; known are ' + ', '.join(sorted(names))}"
        return _problem(lines, path, what, path[:-1])
    if kind == "missing":
        return _problem(lines, path[:-1], f"{path[-1]!r} is missing")
    if path[-1:] == ("[key]",):
        return _problem(lines, path[:-1], "a name has letters, digits, '_', '.' and '-', at most 64")
    if kind == "string_pattern_mismatch":
        what = _form(what)
    return _problem(lines, path, what.removeprefix("Value error, "))


def _form(what: str) -> str:
    if "ms|s|m|h" in what:
        return "write a time as a number and ms, s, m, h, d or w: 90s, 15m, 7d"
    if "KiB" in what:
        return "write a size as a number and B, kB, MB, GB, KiB, MiB or GiB: 50MiB"
    return "a name has letters, digits, '_', '.' and '-', at most 64"


def _problem(lines: Mapping[Path, int], path: Path, what: str, shown: Path | None = None) -> Problem:
    at = path
    while at not in lines:
        at = at[:-1]
    return Problem(lines[at], ".".join(map(str, path if shown is None else shown)), what)


def fields_at(path: Path) -> list[str]:
    """The keys that may stand at a path of the document."""
    kind: Any = Document
    for step in path:
        kind = _within(kind, step)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _within(kind: Any, step: str | int) -> Any:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        kind = kind.model_fields[str(step)].annotation
    else:
        kind = typing.get_args(kind)[-1] if typing.get_args(kind) else None
    while typing.get_origin(kind) not in (None, dict, list):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    return kind


# -- secrets ---------------------------------------------------------------------------------------------------------------


def _secrets(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Where a secret stands, be it as a key, in a URL, or as an argument of a command."""
    if isinstance(value, dict):
        for key, one in value.items():
            if _SECRET.search(key) and path[-1:] not in ((), ("tags",), ("tag",)) and one is not None:
                yield (*path, key), _INSTEAD
            else:
                yield from _secrets(one, (*path, key))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _secrets(one, (*path, number))
            before = str(value[number - 1]) if number else ""
            if isinstance(one, str) and before.startswith("-") and _SECRET.search(before.lstrip("-")):
                yield (*path, number), f"{_INSTEAD}, or have the command read it itself"
    elif isinstance(value, str) and _in_text(value):
        yield path, _INSTEAD


def _in_text(text: str) -> bool:
    try:
        parts = urlsplit(text)
        if parts.scheme and parts.password is not None:
            return True
        if parts.scheme and any(_SECRET.search(key) and value for key, value in parse_qsl(parts.query)):
            return True
    except ValueError:
        return False
    name, equals, value = text.partition("=")
    return bool(equals and value and name.startswith("-") and _SECRET.search(name.lstrip("-")))


# -- what contradicts itself -----------------------------------------------------------------------------------------------


def contradictions(document: Document) -> Iterator[tuple[Path, str]]:
    """Names that mean nothing, and what can't be kept."""
    yield from _of_repositories(document)
    seen: dict[str, str] = {}
    for name, source in document.sources.items():
        if source.url in seen:
            yield ("sources", name, "url"), f"it is the URL of {seen[source.url]!r}, too: retention couldn't tell them apart"
        seen.setdefault(source.url, name)
    for name, policy in document.policies.items():
        at: Path = ("policies", name)
        for pattern in policy.match.source or ():
            if not any(fnmatchcase(one, pattern) for one in document.sources):
                yield (*at, "match", "source"), f"no source matches {pattern!r}{nearest(pattern, document.sources)}"
        yield from _unknown((*at, "repository"), policy.repository, document.repositories)
        if _needs_password(document, policy):
            yield (*at, "schedule"), "a journal's source has its password from the engine's own variables, not from password_*"
        for number, one in enumerate(policy.replicas):
            yield from _unknown((*at, "replicas", number), one, document.repositories)
            yield from _as_replica((*at, "replicas", number), one, policy.repository, document)
        for number, one in enumerate(policy.notifications):
            yield from _unknown((*at, "notifications", number), one, document.notifications)
        yield from _of_policy(document, policy, at)


def _needs_password(document: Document, policy: Policy) -> bool:
    """Would a journal's follower, which is a process of its own, need a password that only this file names the place of?"""
    named = [one for name, one in document.sources.items() if reason(name, one, policy.match) is not None]
    journals = any(one.kind == "journal" for one in policy.schedule)
    return journals and any(one.password_file or one.password_command or one.password_env for one in named)


def _of_policy(document: Document, policy: Policy, at: Path) -> Iterator[tuple[Path, str]]:
    if policy.residency is not None:
        for name in dict.fromkeys(_places(document, policy)):
            place = document.repositories.get(name)
            if place is not None and not any(fnmatchcase(place.region or "", one) for one in policy.residency.regions):
                said = f"region {place.region}" if place.region else "no region"
                yield (*at, "residency"), f"repository {name!r} is in {said}, which this doesn't allow"
    if policy.pitr is not None and not any(one.kind == "journal" for one in policy.schedule):
        yield (*at, "pitr"), "a moment is restored by a journal: add one to the schedule"
    if policy.objectives.rpo is not None and not policy.schedule:
        yield (*at, "objectives"), "nothing is scheduled that could meet an RPO"
    if policy.objectives.rto is not None and not policy.drills:
        yield (*at, "objectives"), "an RTO is measured by drills: add one"
    primary = document.repositories.get(policy.repository)
    if policy.objectives.lag is not None and not policy.replicas and not (primary and primary.replicas):
        yield (*at, "objectives"), "there is no replica that could be behind: name one in 'replicas'"


def _places(document: Document, policy: Policy) -> Iterator[str]:
    """Where something of a policy's sources would be kept, by any policy; not replicas that leave out what they may not have."""
    of_policy = _matched(document, policy)
    for other in document.policies.values():
        if other is policy or of_policy & _matched(document, other):
            yield other.repository
            primary = document.repositories.get(other.repository)
            for name in (*other.replicas, *(primary.replicas if primary else ())):
                place = document.repositories.get(name)
                if place is None or not place.replication.leave_out:
                    yield name


def _matched(document: Document, policy: Policy) -> set[str]:
    return {name for name, source in document.sources.items() if reason(name, source, policy.match) is not None}


def _of_repositories(document: Document) -> Iterator[tuple[Path, str]]:
    for name, repository in document.repositories.items():
        for number, one in enumerate(repository.replicas):
            yield from _unknown(("repositories", name, "replicas", number), one, document.repositories)
            yield from _as_replica(("repositories", name, "replicas", number), one, name, document)


def _as_replica(path: Path, replica: str, repository: str, document: Document) -> Iterator[tuple[Path, str]]:
    if replica == repository:
        yield path, "that is the repository itself"
    elif replica in document.primaries():
        yield path, f"{replica!r} is a policy's own repository: a replica is only copied to"


def _unknown(path: Path, name: str, known: Mapping[str, Part]) -> Iterator[tuple[Path, str]]:
    if name not in known:
        yield path, f"nothing is called {name!r}{nearest(name, known)}"
