"""In which region does a store lie? A signed word of the repository's owners, one store at a time: it is never copied.

    region/<id>   sealed like a manifest: signature 64 | zstd of JSON {"strongroom_region", "version", "at", "region", "url"}

The greatest version is the newest, and it counts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import zstandard

from strongroom.errors import Damaged, NotFound, WrongRequest
from strongroom.repository.crypto import SIGNATURE_BYTES, NotAuthentic
from strongroom.repository.framing import Kind, seal, unseal
from strongroom.repository.repository import Repository
from strongroom.repository.versions import VersionMemory, withdraw_if_met
from strongroom.repository.writer import create_once

FOLDER = "region/"
FORMAT = 1
_LONGEST = 1 << 16
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Region:
    """What was said: the object's id, its version (from 1), when (ISO, UTC), and the store's URL as it was called then."""

    id: str
    version: int
    at: str
    name: str
    url: str


def region_of(repository: Repository) -> str | None:
    """The region of the store; None if nobody has named it. Raises Damaged."""
    said = declared(repository)
    return None if said is None else said.name


def declared(repository: Repository) -> Region | None:
    """The word that counts. Two stores never have the same one, unless one was copied by other means. Raises Damaged if one can't
    be read, or if this machine saw a newer one than is there."""
    found = _all(repository)
    VersionMemory.of(repository, "region").require(FOLDER, found[-1].version if found else 0)
    return found[-1] if found else None


def name_region(repository: Repository, region: str) -> Region:
    """Say where the store lies, durably. Raises WrongRequest if that is no name, Overtaken if somebody else says it now, too."""
    require_name(region)
    known, memory = _all(repository), VersionMemory.of(repository, "region")
    version, at = max(known[-1].version if known else 0, memory.version) + 1, repository.clock.now().isoformat()
    body = {"strongroom_region": FORMAT, "version": version, "at": at, "region": region, "url": repository.store.url}
    plain = zstandard.compress(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    object_id, content = seal(repository.keys, Kind.REGION, repository.keys.sign(plain) + plain)
    create_once(repository.store, FOLDER + object_id, content)
    withdraw_if_met(repository, FOLDER + object_id, (one.id for one in _all(repository) if one.version >= version))
    memory.saw(version)
    return Region(object_id, version, at, region, repository.store.url)


def require_name(region: str) -> str:
    """Raises WrongRequest."""
    if not _NAME.fullmatch(region):
        hint = "lower-case letters, digits, '-', '_' and '.', such as eu-central-1"
        raise WrongRequest(f"{region!r} is not the name of a region", hint=hint)
    return region


def _all(repository: Repository) -> list[Region]:
    found = []
    for listed in repository.store.list(FOLDER):
        try:
            found.append(_decode(repository, listed.name, repository.store.read(listed.name)))
        except NotFound as error:
            raise Damaged(listed.name, "it is listed and not there", hint="run the same command again") from error
    return sorted(found, key=lambda one: (one.version, one.at, one.id))


def _decode(repository: Repository, name: str, content: bytes) -> Region:
    plain = unseal(repository.keys, Kind.REGION, name, content)
    try:
        repository.keys.verify(plain[:SIGNATURE_BYTES], plain[SIGNATURE_BYTES:])
        if zstandard.frame_content_size(plain[SIGNATURE_BYTES:]) > _LONGEST:
            raise Damaged(name, "it claims to be longer than any word about a region")
        body = json.loads(zstandard.decompress(plain[SIGNATURE_BYTES:]))
        if body["strongroom_region"] != FORMAT:
            raise Damaged(name, "a newer Strongroom wrote it")
        return Region(name.rpartition("/")[2], int(body["version"]), str(body["at"]), str(body["region"]), str(body["url"]))
    except NotAuthentic as error:
        raise Damaged(name, "its signature isn't this repository's") from error
    except (ValueError, KeyError, TypeError, RecursionError, zstandard.ZstdError) as error:
        raise Damaged(name, "it says no region") from error
