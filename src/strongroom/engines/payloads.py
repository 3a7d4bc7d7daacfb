"""What does the text of a payload hold that other engines can hold too? Pure.

JSON has numbers of any length, and Python writes NaN and Infinity into it. An engine that rounds or refuses such gets them as the
text that stands there, so that no digit is lost.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from strongroom.errors import EngineFailed
from strongroom.model import Json

_LONGEST = 20
_WHOLE = range(-(1 << 63), 1 << 64)
_LONGEST_WHOLE = 4300
"""Digits that Python makes a number of."""
_SURELY = 15
"""So many digits every double has."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number of JSON that is no double and no int of Python's: as it stood there. `written` writes it so again."""

    text: str

    def __str__(self) -> str:
        return self.text


def exact(text: str | None) -> dict[str, Any]:
    """The object, {} for none. What a double would round, and what is beyond the largest, is a `Number`."""
    return _of(_EXACT, text)


def finite(text: str | None) -> dict[str, Any]:
    """The same, with NaN and infinity as texts."""
    return _of(_FINITE, text)


def common(text: str | None) -> dict[str, Json]:
    """Only what everybody has: texts instead of NaN, infinity, whole numbers of more than 64 bits and each `Number`."""
    return _of(_COMMON, text)


def has_halves(text: str) -> bool:
    """Are there halves of characters (lone surrogates), as in a text that was cut within an emoji? They have no UTF-8."""
    return not text.isascii() and _HALVES.search(text) is not None


def written(value: Any, *, spaced: bool = False) -> str:
    """As JSON: keys in order, numbers with all of their digits, what JSON hasn't as text, halves of characters as escapes."""
    between = (", ", ": ") if spaced else (",", ":")
    text = json.dumps(value, sort_keys=True, separators=between, ensure_ascii=False, default=_marked)
    if has_halves(text):
        text = _HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)
    return _MARKED.sub(r"\1", text) if _MARK in text else text


_HALVES = re.compile("[\ud800-\udfff]")
_MARK = f"strongroom number {secrets.token_hex(16)} "
"""Of what `written` shall not quote; nobody can know it."""
_MARKED = re.compile(f'"{_MARK}([^"]*)"')


def _marked(value: Any) -> str:
    return f"{_MARK}{value.text}" if isinstance(value, Number) else str(value)


def joined(row: object, payload: dict[str, Json], beside: Mapping[str, Json]) -> dict[str, Json]:
    """The payload of a row with what stands in columns beside it, by their names. Raises EngineFailed if a name is in both."""
    for name, value in beside.items():
        there = payload.setdefault(name, value)
        if there != value and not (there != there and value != value):  # NaN is unlike itself
            hint = "restore to an engine that has columns, or rename one of the two at the source"
            raise EngineFailed(f"row {str(row)[:40]!r} has {name!r} twice, as a column and in its payload", hint=hint)
    return payload


def plain(value: Any) -> Json:
    """A value of a column as JSON has it; what it hasn't as text, bytes in hexadecimal."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    finite = isinstance(value, float) and math.isfinite(value)
    return value if finite or value is None or isinstance(value, str | bool | int) else str(value)


def _of(decoder: json.JSONDecoder, text: str | None) -> dict[str, Any]:
    found: dict[str, Any] = decoder.decode(text) if text else {}
    return found


def _float(text: str) -> float | Number:
    value = float(text)
    return value if _is_double(text, value) else Number(text)


def _float_or_text(text: str) -> float | str:
    value = float(text)
    return value if _is_double(text, value) else text


def _is_double(text: str, value: float) -> bool:
    """Is the number `text` that double, written with as many digits as it has? Programs write doubles with 17 digits and more."""
    if repr(value) == text or (len(text) <= _SURELY and "e" not in text and "E" not in text):
        return True
    if not value or not math.isfinite(value):
        return not value and not text.lower().partition("e")[0].strip("-0.")
    said = Decimal(text)
    return said == Decimal(f"{value:.{len(said.as_tuple().digits)}g}")


def _int(text: str) -> int | Number:
    return int(text) if len(text) <= _LONGEST_WHOLE else Number(text)


def _whole(text: str) -> int | str:
    if len(text) > _LONGEST:
        return text
    value = int(text)
    return value if value in _WHOLE else text


_EXACT = json.JSONDecoder(parse_float=_float, parse_int=_int)
_FINITE = json.JSONDecoder(parse_float=_float, parse_int=_int, parse_constant=str)
_COMMON = json.JSONDecoder(parse_float=_float_or_text, parse_int=_whole, parse_constant=str)
