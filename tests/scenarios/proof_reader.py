"""A program that prints all rows of a database as JSON, read by the engine itself: python proof_reader.py ENGINE PLACE."""

from __future__ import annotations

import json
import sys

from proof_writer import database

if __name__ == "__main__":
    json.dump(database(*sys.argv[1:]).read(), sys.stdout)
