"""All rows of a database, read by the engine itself."""

from __future__ import annotations

import json
from typing import Any

from proof_writer import database


def read(engine: str, place: str) -> dict[str, dict[str, Any]]:
    """As JSON gives them back."""
    found: dict[str, dict[str, Any]] = json.loads(json.dumps(database(engine, place).read()))
    return found
