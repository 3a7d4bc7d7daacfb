"""Which cases of many are for every run, and which only for `make soak`?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def part_of(chosen: Iterable[Any], of: Iterable[Any]) -> list[Any]:
    """All of them as parameters; those that aren't chosen are marked `soak`."""
    always = list(chosen)
    return [one if one in always else pytest.param(one, marks=pytest.mark.soak) for one in of]
