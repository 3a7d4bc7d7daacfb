"""What do editors need, to complete and check a policy file? Its JSON Schema."""

from __future__ import annotations

from typing import Any

from strongroom.policy.document import Document


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of strongroom.yaml."""
    found = Document.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "title": "strongroom.yaml"}
