"""Which policy holds for a repository? Documents published in it, signed: policies/<id>. The greatest version is the newest.

Who holds the repository reads from it what may be done, whatever file its machine has. A store can take one away, not make one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import zstandard

from strongroom.errors import Damaged, NotFound, WrongRequest
from strongroom.repository.crypto import SIGNATURE_BYTES, NotAuthentic
from strongroom.repository.framing import Kind, seal, unseal
from strongroom.repository.repository import Repository
from strongroom.repository.writer import create_once

FOLDER = "policies/"
FORMAT = 1
_LONGEST = 4 << 20


@dataclass(frozen=True, slots=True)
class Published:
    """One document: its id (64 hex digits), its version (from 1), when it was published (ISO, UTC), and what it says (JSON)."""

    id: str
    version: int
    at: str
    document: Mapping[str, Any]


def publish(repository: Repository, document: Mapping[str, Any]) -> Published:
    """Store a document as the newest, durably; the same again is what is there already. Raises Damaged if one that is there can't
    be read: its version isn't known then."""
    known = history(repository)
    if known and known[-1].document == document:
        return known[-1]
    version, at = (known[-1].version if known else 0) + 1, repository.clock.now().isoformat()
    body = {"strongroom_policy": FORMAT, "version": version, "at": at, "document": dict(document)}
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    if len(text) > _LONGEST:
        raise WrongRequest(f"a policy has at most {_LONGEST:,} bytes", hint="split it into several files")
    plain = zstandard.compress(text)
    object_id, content = seal(repository.keys, Kind.POLICY, repository.keys.sign(plain) + plain)
    create_once(repository.store, FOLDER + object_id, content)
    return Published(object_id, version, at, body["document"])  # type: ignore[arg-type]


def newest(repository: Repository) -> Published | None:
    """The document that holds; None if there is none. Raises Damaged if any can't be read: it may be the newest."""
    return (history(repository) or [None])[-1]  # type: ignore[list-item]


def history(repository: Repository) -> list[Published]:
    """All documents, the newest last; of two published at once with one version the later. Raises Damaged."""
    found = []
    for listed in repository.store.list(FOLDER):
        try:
            found.append(_decode(repository, listed.name, repository.store.read(listed.name)))
        except NotFound as error:
            raise Damaged(listed.name, "it is listed and not there") from error
    return sorted(found, key=lambda one: (one.version, one.at, one.id))


def _decode(repository: Repository, name: str, content: bytes) -> Published:
    plain = unseal(repository.keys, Kind.POLICY, name, content)
    try:
        repository.keys.verify(plain[:SIGNATURE_BYTES], plain[SIGNATURE_BYTES:])
        if zstandard.frame_content_size(plain[SIGNATURE_BYTES:]) > _LONGEST:
            raise Damaged(name, "it claims to be longer than any policy")
        body = json.loads(zstandard.decompress(plain[SIGNATURE_BYTES:]))
        if body["strongroom_policy"] != FORMAT:
            raise Damaged(name, "a newer Strongroom wrote this policy")
        return Published(name.rpartition("/")[2], int(body["version"]), str(body["at"]), dict(body["document"]))
    except NotAuthentic as error:
        raise Damaged(name, "its signature isn't this repository's") from error
    except (ValueError, KeyError, TypeError, RecursionError, zstandard.ZstdError) as error:
        raise Damaged(name, "it is not a policy") from error
