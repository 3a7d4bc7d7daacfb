"""How does a collection come to be in a staged Chroma directory, with the configuration that it had?"""

from __future__ import annotations

from pathlib import Path

from strongroom.engines import isolation
from strongroom.engines.chroma import edit
from strongroom.engines.chroma.catalog import FIELD, Address
from strongroom.model import Collection, Json

_PARAMETERS = {key: key for key in ("ef_construction", "ef_search", "max_neighbors")} | {"M": "max_neighbors"}
"""Index parameters that other engines have too, and what Chroma calls them."""


def create_like(root: Path, address: Address, collection: Collection) -> None:
    """Create an empty collection at an address; one of Chroma's gets its id, configuration, schema and metadata back. Raises
    EngineFailed if Chroma refuses."""
    where = (str(root), address.tenant, address.database, address.name)
    isolation.ask("strongroom.engines.chroma.client:create", *where, None, hnsw_of(collection))
    if "schema_str" in collection.catalog:
        edit.give_configuration(root, address, collection.catalog)
        edit.give_identity(root, address, str(collection.catalog["id"]))


def hnsw_of(collection: Collection) -> dict[str, Json]:
    """Parameters of the index that Chroma knows too."""
    field = next((field for field in collection.fields if field.name == FIELD), collection.fields[0])
    found: dict[str, Json] = {"space": field.metric}
    for key, value in field.index.items():
        if key in _PARAMETERS and isinstance(value, int) and value > 0:
            found[_PARAMETERS[key]] = value
    return found
