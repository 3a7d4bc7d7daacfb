"""What is said of a repository and may be said anew: signed documents of one folder, of which the newest counts.

    <folder>/<id>   sealed like a manifest: signature 64 | zstd of JSON

Versions only grow. A store can take a document away, not make one; this machine remembers which version it saw, so that one that
was taken away is missed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import zstandard

from strongroom.errors import Damaged, NotFound, Overtaken, StrongroomError
from strongroom.model import Json
from strongroom.repository.crypto import SIGNATURE_BYTES, NotAuthentic
from strongroom.repository.framing import Kind, seal, unseal
from strongroom.repository.repository import Repository
from strongroom.repository.state import alone_at, state_directory
from strongroom.repository.writer import create_once

FORMAT = 1
_LONGEST = 16 << 20
_LOOKS = 5
_READERS = 8


@dataclass(frozen=True, slots=True)
class Document:
    """One document: `version` from 1 on, `after` the id of the one before ('' for the first), `created` ISO 8601 in UTC."""

    id: str
    version: int
    after: str
    created: str
    body: Mapping[str, Json]


class Documents:
    """The documents of one folder of a repository. `scope` names them in this machine's notes."""

    def __init__(self, repository: Repository, folder: str, kind: Kind, scope: str = "") -> None:
        self._repository = repository
        self._folder = folder
        self._kind = kind
        self._notes = state_directory() / f"{repository.config.repository_id.hex()}-{folder.strip('/')}{scope}.json"

    def all(self) -> list[Document]:
        """Oldest first. Raises Damaged if one can't be read: it may be the newest."""
        for look in range(_LOOKS):
            names = [listed.name for listed in self._repository.store.list(self._folder)]
            try:
                with ThreadPoolExecutor(_READERS) as pool:
                    return sorted(pool.map(self._read, names), key=lambda one: (one.version, one.id))
            except NotFound as error:  # one that was withdrawn since it was listed
                if look == _LOOKS - 1:
                    raise Damaged(self._folder, "its listing names objects that are not there") from error
        raise AssertionError("the last look returns or raises")

    def newest(self) -> Document | None:
        """The one that counts; None if there never was any. Raises Damaged if this machine saw a newer one than is there."""
        found = self.all()
        version, seen = found[-1].version if found else 0, self._seen()
        if version < seen:
            hint = "find out who took it away; publish it again, which makes it the newest"
            raise Damaged(self._folder, f"version {seen} was here, and the newest now is {version}: rolled back", hint=hint)
        self._saw(version)
        return found[-1] if found else None

    def publish(self, body: Mapping[str, Json], *, expected: int | None = None) -> Document:
        """Say it anew, durably. `expected` is the version that it is meant to follow (0 for none). Raises Overtaken if another one
        is there, or was published at the same moment: then nothing of this one stays."""
        found = self.all()
        newest = found[-1].version if found else 0
        if expected is not None and expected != newest:
            raise _overtaken(self._folder, f"version {newest} is there, not {expected}")
        version = max(newest, self._seen()) + 1
        made = self._store(Document("", version, found[-1].id if found else "", self._now(), dict(body)))
        # each stores its own before it looks: of two at once one sees the other at least, and takes its own back
        if any(one.version >= version and one.id != made.id for one in self.all()):
            with suppress(StrongroomError):
                self._repository.store.delete(self._folder + made.id)
            raise _overtaken(self._folder, "another one was published at the same moment")
        self._saw(version)
        return made

    def _now(self) -> str:
        return self._repository.clock.now().isoformat()

    def _store(self, document: Document) -> Document:
        body = {"strongroom_document": FORMAT, "kind": self._kind.purpose, "version": document.version}
        body |= {"after": document.after, "created": document.created, "body": document.body}
        keys = self._repository.keys
        plain = zstandard.compress(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
        object_id, content = seal(keys, self._kind, keys.sign(plain) + plain)
        create_once(self._repository.store, self._folder + object_id, content)
        return Document(object_id, document.version, document.after, document.created, document.body)

    def _read(self, name: str) -> Document:
        keys = self._repository.keys
        plain = unseal(keys, self._kind, name, self._repository.store.read(name))
        try:
            keys.verify(plain[:SIGNATURE_BYTES], plain[SIGNATURE_BYTES:])
            if zstandard.frame_content_size(plain[SIGNATURE_BYTES:]) > _LONGEST:
                raise Damaged(name, "it claims to be longer than any document")
            return self._document(name, json.loads(zstandard.decompress(plain[SIGNATURE_BYTES:])))
        except NotAuthentic as error:
            raise Damaged(name, "its signature isn't this repository's") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zstandard.ZstdError) as error:
            raise Damaged(name, f"it is no {self._kind.purpose} document") from error

    def _document(self, name: str, said: dict[str, Any]) -> Document:
        if said["strongroom_document"] != FORMAT:
            raise Damaged(name, "a newer Strongroom wrote it")
        version, body = said["version"], said["body"]
        if said["kind"] != self._kind.purpose or type(version) is not int or version < 1 or not isinstance(body, dict):
            raise ValueError("it isn't what its folder says")
        return Document(name.rpartition("/")[2], version, str(said["after"]), str(said["created"]), body)

    def _seen(self) -> int:
        try:
            version = json.loads(self._notes.read_bytes())["version"]
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return version if type(version) is int else 0

    def _saw(self, version: int) -> None:
        """Best effort: a machine that can't remember can still work."""
        with suppress(OSError):
            if version > self._seen():
                with alone_at(self._notes):
                    fresh = self._notes.with_suffix(".fresh")
                    fresh.write_text(json.dumps({"version": max(version, self._seen())}))
                    fresh.replace(self._notes)


def _overtaken(folder: str, what: str) -> Overtaken:
    return Overtaken(f"{folder}: {what}", hint="look at what is published now, then publish again")
