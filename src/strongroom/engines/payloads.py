"""What does the text of a payload hold that other engines can hold too? Pure.

JSON has whole numbers of any length, and Python writes NaN and Infinity into it. An engine that rounds or refuses such gets them as
the text that stands there, so that no digit is lost.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from strongroom.errors import EngineFailed
from strongroom.model import Json

_LONGEST = 20
_WHOLE = range(-(1 << 63), 1 << 64)


def exact(text: str | None) -> dict[str, Json]:
    """The object, {} for none. Numbers beyond the largest double are texts; all other ones are numbers."""
    return _of(_EXACT, text)


def finite(text: str | None) -> dict[str, Json]:
    """The same, with NaN and infinity as texts."""
    return _of(_FINITE, text)


def common(text: str | None) -> dict[str, Json]:
    """The same, with whole numbers of more than 64 bits as texts too."""
    return _of(_COMMON, text)


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


def _of(decoder: json.JSONDecoder, text: str | None) -> dict[str, Json]:
    found: dict[str, Json] = decoder.decode(text) if text else {}
    return found


def _float(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def _whole(text: str) -> int | str:
    if len(text) > _LONGEST:
        return text
    value = int(text)
    return value if value in _WHOLE else text


_EXACT = json.JSONDecoder(parse_float=_float)
_FINITE = json.JSONDecoder(parse_float=_float, parse_constant=str)
_COMMON = json.JSONDecoder(parse_float=_float, parse_constant=str, parse_int=_whole)
