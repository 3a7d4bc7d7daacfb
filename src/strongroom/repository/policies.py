"""What the repository's owners have laid down: policy documents, which every backup and copy reads.

The body is JSON of whoever publishes it (`strongroom.yaml` as it was checked); `policy.residency` reads its "residency".
"""

from __future__ import annotations

from collections.abc import Mapping

from strongroom.model import Json
from strongroom.repository.documents import Document, Documents
from strongroom.repository.framing import Kind
from strongroom.repository.repository import Repository

FOLDER = "policies/"


def published(repository: Repository) -> Document | None:
    """The policy that counts: the newest; None if none was ever published. Raises Damaged if one can't be read, or if this machine
    saw a newer one: then nobody knows what is allowed."""
    return Documents(repository, FOLDER, Kind.POLICY).newest()


def publish(repository: Repository, body: Mapping[str, Json], *, expected: int | None = None) -> Document:
    """Publish a policy, durably; it gets the next version. `expected`: the version that it was made from (0 for none). Raises
    Overtaken if another one is there by now, or was published at the same moment."""
    return Documents(repository, FOLDER, Kind.POLICY).publish(body, expected=expected)


def versions(repository: Repository) -> list[Document]:
    """All that were published and are there, oldest first."""
    return Documents(repository, FOLDER, Kind.POLICY).all()
