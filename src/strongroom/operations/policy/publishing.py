"""How does a policy file come to hold for the repositories that it names? Published in each, with the word about where it lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from strongroom.errors import Refused
from strongroom.policy.document import Document
from strongroom.repository import Repository
from strongroom.repository.policies import Published
from strongroom.repository.region import region_of


class Room(Protocol):
    """What is needed of an opened repository."""

    repository: Repository

    def publish_policy(self, document: Mapping[str, Any]) -> Published: ...

    def name_region(self, region: str) -> Any: ...


def publish_in_all(document: Document, open_: Callable[[str], Room]) -> dict[str, Published]:
    """Publish it in every repository that backups go to; replicas get it by being copied to. Where nobody has said in which region
    a store lies, the file's word is said there first. Raises Refused, before anything is stored, if one lies elsewhere."""
    rooms = {name: open_(name) for name in document.primaries()}
    known = {name: require_region(room.repository, document, name) for name, room in rooms.items()}
    said = document.model_dump(mode="json", exclude_defaults=True)
    published = {}
    for name, room in rooms.items():
        region = document.repositories[name].region
        if region is not None and known[name] is None:
            room.name_region(region)
        published[name] = room.publish_policy(said)
    return published


def require_region(repository: Repository, document: Document, name: str) -> str | None:
    """The region that was said in the repository. Raises Refused if the policy file says another one: by that its residency was
    found to be kept."""
    said, known = document.repositories[name].region, region_of(repository)
    if said is not None and known is not None and said != known:
        raise Refused(
            f"the policy file says that {name} is in {said}, the repository that it is in {known}: nothing was done",
            hint="correct the file, or the word in the repository with 'strongroom region set'",
        )
    return known
