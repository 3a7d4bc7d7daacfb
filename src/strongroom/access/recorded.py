"""What of a call is written into the audit log? What was asked and what came of it, without secrets, in a few lines. Pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import PurePath
from typing import Any

from strongroom.repository.key_slots import KeySlot, Secret
from strongroom.snapshots.history import Snapshot

LONGEST_TEXT = 2_000
MOST_ITEMS = 200
_DEEPEST = 4
_PASSWORD = re.compile(r"(//[^/@:\s]*):[^/@\s]*@")
_KEY = re.compile(r"(?i)([?&;](?:[a-z_-]*(?:password|passwd|secret|token|api[_-]?key|sig|signature)[a-z_-]*)=)[^&;\s]*")
_LEFT_OUT = object()


def without_secrets(text: str) -> str:
    """A text, no longer than need be, whose URLs say no password and no key."""
    shown = _KEY.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))
    return shown if len(shown) <= LONGEST_TEXT else shown[:LONGEST_TEXT] + "…"


def arguments_of(method: Callable[..., Any], *given: Any, **named: Any) -> dict[str, Any]:
    """What a method was called with, by the names of its parameters: only what differs from their defaults. The first is `self`."""
    signature = inspect.signature(method)
    bound = signature.bind(*given, **named)
    bound.apply_defaults()
    said: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        told, usual = _told(value, 0), _told(signature.parameters[name].default, 0)
        if told is not _LEFT_OUT and told != usual and told not in ([], {}):
            said[name] = told
    return said


def outcome_of(result: Any) -> dict[str, Any]:
    """What came of it: ids and counts."""
    if isinstance(result, list | tuple):
        slots = [_simple(one) for one in result if isinstance(one, KeySlot)]
        return {"count": len(result), "slots": slots} if slots else {"count": len(result)}
    told = _told(result, 0, brief=True)
    if told is _LEFT_OUT or told is None:
        return {}
    return {name: one for name, one in told.items() if one not in ([], {}, None)} if isinstance(told, dict) else {"result": told}


def _told(value: Any, depth: int, *, brief: bool = False) -> Any:
    if value is None or (isinstance(value, bool | int | float) and not isinstance(value, Enum)):
        return value
    if isinstance(value, str) and not isinstance(value, Enum):
        return without_secrets(value)
    simple = _simple(value)
    if simple is not _LEFT_OUT or depth >= _DEEPEST:
        return simple
    if isinstance(value, Mapping):
        pairs = ((str(key), _told(one, depth + 1, brief=brief)) for key, one in list(value.items())[:MOST_ITEMS])
        return {key: one for key, one in pairs if one is not _LEFT_OUT}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes):
        return _listed(value, depth, brief=brief)
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((one.name, _told(getattr(value, one.name), depth + 1, brief=brief)) for one in fields(value) if one.repr)
        return {key: one for key, one in pairs if one is not _LEFT_OUT}
    return _LEFT_OUT


def _simple(value: Any) -> Any:
    """Of what has a short name of its own."""
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, PurePath | datetime):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Snapshot):
        return value.id
    if isinstance(value, Secret):
        return value.kind
    if isinstance(value, KeySlot):
        said, who = {"slot": value.id, "kind": value.kind, "label": value.label}, value.identity
        return {**said, "role": who.role.value, "person": who.person, "signer": who.signer.hex()}
    return _LEFT_OUT


def _listed(value: Any, depth: int, *, brief: bool) -> Any:
    """All of a short list; of an outcome only texts and slots are told, of others how many there are."""
    told = [one for one in (_told(one, depth + 1, brief=brief) for one in list(value)[:MOST_ITEMS]) if one is not _LEFT_OUT]
    known = all(isinstance(one, str) or (isinstance(one, dict) and "signer" in one) for one in told)
    whole = len(value) <= MOST_ITEMS and (known or not brief)
    return told if whole else len(value)
