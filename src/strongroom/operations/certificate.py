"""How is it shown to somebody who has no key that rows were erased? By a certificate that the repository signs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from strongroom.errors import NotFound, VerificationFailed
from strongroom.operations.erase import where_it_lies
from strongroom.repository import Repository
from strongroom.repository.crypto import signed_by
from strongroom.repository.erasures import Erasure, erasures
from strongroom.snapshots import history

FORMAT = 1


def certify(repository: Repository, prefix: str) -> dict[str, Any]:
    """The certificate of the erasure whose id begins so, as JSON: `signature` (Ed25519, hex) is of the UTF-8 bytes of `certificate`
    as canonical JSON (sorted keys, no blanks). It names no row. Raises NotFound."""
    found = [one for one in erasures(repository) if prefix and one.id.startswith(prefix.lower())]
    if len(found) != 1:
        raise NotFound(f"{len(found)} erasures' ids begin with {prefix!r}", hint="see 'strongroom certificate list'")
    erasure = found[0]
    snapshots, damaged = history.read_all(repository)
    body = {
        "strongroom_certificate": FORMAT,
        "repository": repository.config.repository_id.hex(),
        "erasure": erasure.id,
        "erased": erasure.erased.isoformat(),
        "by_key_slot": erasure.by,
        "reason": erasure.reason,
        "what": described(erasure),
        "lay_in": dict(sorted(erasure.found.items())),
        "still_encrypted_in": where_it_lies(repository, erasure, snapshots),
        "unreadable_snapshots": sorted(one.subject.rpartition("/")[2] for one in damaged),
        "promise": "no restore of this repository gives these rows, of any snapshot or moment",
        "issued": repository.clock.now().isoformat(),
    }
    keys = repository.keys
    return {"certificate": body, "public_key": keys.public_key.hex(), "signature": keys.sign(_canonical(body)).hex()}


def check(document: Mapping[str, Any], public_key: str | None = None) -> dict[str, Any]:
    """What a certificate says, if it is signed by its key, which is `public_key` (hex), if given. Raises VerificationFailed."""
    try:
        body, key, signature = document["certificate"], bytes.fromhex(document["public_key"]), bytes.fromhex(document["signature"])
        if not isinstance(body, dict):
            raise TypeError
    except (KeyError, ValueError, TypeError) as error:
        raise VerificationFailed("it is no certificate", hint="give the file that 'strongroom certificate show' wrote") from error
    if public_key is not None and key.hex() != public_key.lower():
        raise VerificationFailed(
            f"it is signed by {key.hex()}, not by {public_key}", hint="it isn't of the repository that is meant"
        )
    if not signed_by(key, signature, _canonical(body)):
        raise VerificationFailed("its signature is wrong: it was altered, or forged", hint="ask who gave it for another one")
    return body


def described(erasure: Erasure) -> dict[str, Any]:
    """What is erased, without an id or a value that names somebody."""
    what = erasure.what
    found: dict[str, Any] = {"tenant": what.tenant, "collection": what.collection, "source": what.source}
    return {name: value for name, value in found.items() if value} | {"ids": len(what.ids), "by_filter": bool(what.where)}


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
