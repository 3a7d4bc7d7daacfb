"""In which region does a store lie? A signed word of the repository's owners, one store at a time: it is never copied."""

from __future__ import annotations

import re

from strongroom.errors import WrongRequest
from strongroom.repository.crypto import content_hash
from strongroom.repository.documents import Document, Documents
from strongroom.repository.framing import Kind
from strongroom.repository.repository import Repository

FOLDER = "region/"
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")


def region_of(repository: Repository) -> str | None:
    """The region of the store; None if nobody has named it. Raises Damaged."""
    said = declared(repository)
    return None if said is None else str(said.body["region"])


def declared(repository: Repository) -> Document | None:
    """The document that names it. Two stores never have the same one, unless one was copied by other means."""
    return _documents(repository).newest()


def name_region(repository: Repository, region: str) -> Document:
    """Say where the store lies, durably. Raises WrongRequest if that is no name."""
    require_name(region)
    return _documents(repository).publish({"region": region, "url": repository.store.url})


def require_name(region: str) -> str:
    """Raises WrongRequest."""
    if not _NAME.fullmatch(region):
        hint = "lower-case letters, digits, '-', '_' and '.', such as eu-central-1"
        raise WrongRequest(f"{region!r} is not the name of a region", hint=hint)
    return region


def _documents(repository: Repository) -> Documents:
    """Noted by the store's URL, since replicas have the same repository id."""
    scope = "-" + content_hash(repository.store.url.encode()).hex()[:16]
    return Documents(repository, FOLDER, Kind.REGION, scope)
