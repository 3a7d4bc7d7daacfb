"""All rows of a database, read by the engine itself: python proof_reader.py ENGINE PLACE prints them as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

from proof_writer import database


def read(engine: str, place: str) -> dict[str, dict[str, Any]]:
    """As JSON gives them back."""
    found: dict[str, dict[str, Any]] = json.loads(json.dumps(database(engine, place).read()))
    return found


if __name__ == "__main__":
    json.dump(read(*sys.argv[1:]), sys.stdout)
