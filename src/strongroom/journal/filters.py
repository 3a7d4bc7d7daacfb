"""Which rows does a text like `source=crawler-7 and year>2020` mean? Pure.

A condition is a key, one of = != > >= < <=, and a value; conditions are joined by `and`. `id` is the row's id, `collection` the
name of its collection, every other key one of its payload or a column. A row without the key matches no condition on it.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from strongroom.errors import WrongRequest
from strongroom.model import Json

_OPERATORS: dict[str, Callable[[Json, Json], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_CONDITION = re.compile(r"""\s*([^\s=!<>"']+)\s*(!=|>=|<=|=|>|<)\s*("(?:[^"\\]|\\.)*"|[^\s=!<>"']+)\s*""")
_AND = re.compile(r"and\b\s*", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_ADVICE = '''write KEY=VALUE (or != > >= < <=), joined by 'and'; a value with blanks goes in quotes: lang=en and title="a b"'''


@dataclass(frozen=True, slots=True)
class Condition:
    """`key` `sign` `value`; `text` is the value as it was written."""

    key: str
    sign: str
    value: Json
    text: str

    def holds(self, found: Json) -> bool:
        """Is it true of this value? Numbers are compared as numbers, all else as text; a number is neither more nor less than a
        text."""
        if found is None:
            return False
        numbers = _is_number(found), _is_number(self.value)
        if all(numbers):
            return _OPERATORS[self.sign](found, self.value)
        if any(numbers) and self.sign not in ("=", "!="):
            return False
        return _OPERATORS[self.sign](_as_text(found), self.text)


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that must all be true."""

    text: str
    conditions: tuple[Condition, ...]

    def judge(self, known: Mapping[str, Json]) -> bool | None:
        """True or False of a row with these values; None if it depends on keys of which nothing is known."""
        verdict: bool | None = True
        for one in self.conditions:
            if one.key not in known:
                verdict = None
            elif not one.holds(known[one.key]):
                return False
        return verdict


def parse(text: str) -> Filter:
    """Raises WrongRequest."""
    found, at = [], 0
    while True:
        match = _CONDITION.match(text, at)
        if match is None:
            rest = text[at:].strip()[:40]
            raise WrongRequest(f"--where can't be understood {f'at {rest!r}' if rest else 'to its end'}", hint=_ADVICE)
        found.append(_condition(*match.groups()))
        if match.end() == len(text):
            return Filter(text.strip(), tuple(found))
        joined = _AND.match(text, match.end())
        if joined is None:
            raise WrongRequest(f"--where needs 'and' before {text[match.end() :].strip()[:40]!r}", hint=_ADVICE)
        at = joined.end()


def _condition(key: str, sign: str, written: str) -> Condition:
    if not written.startswith('"'):
        number = _NUMBER.fullmatch(written)
        value: Json = written if not number else float(written) if number[1] or number[2] else int(written)
        return Condition(key, sign, value, written)
    try:
        plain = json.loads(written)
    except ValueError as error:
        raise WrongRequest(f"--where has a value that can't be read: {written[:40]}", hint=_ADVICE) from error
    return Condition(key, sign, plain, plain)


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_text(value: Json) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str)
