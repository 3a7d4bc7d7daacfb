"""How is it shown to somebody who has no key that rows were erased? By a certificate that the repository signs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from strongroom.errors import NotFound, VerificationFailed
from strongroom.operations.erase.run import sealed_rows, where_it_lies
from strongroom.operations.machine.replicas import known
from strongroom.repository import Repository
from strongroom.repository.crypto import signed_by
from strongroom.repository.erasures import Erasure, destructions, erasures
from strongroom.repository.tenants import key_objects
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
    rows = where_it_lies(repository, erasure, snapshots)
    tenant = erasure.what.tenant if erasure.what.is_of_whole_tenant else ""
    sealed = {one.id: sealed_rows(one, tenant) for one in snapshots if tenant and sealed_rows(one, tenant)}
    body = {
        "strongroom_certificate": FORMAT,
        "repository": repository.config.repository_id.hex(),
        "erasure": erasure.id,
        "erased": erasure.erased.isoformat(),
        "by_key_slot": erasure.by,
        "reason": erasure.reason,
        "what": described(erasure),
        "lay_in": dict(sorted(erasure.found.items())),
        "still_encrypted_in": {one: count - sealed.get(one, 0) for one, count in rows.items() if count > sealed.get(one, 0)},
        **(_keys(repository, erasure, sealed) if tenant else {}),
        "unreadable_snapshots": sorted(one.subject.rpartition("/")[2] for one in damaged),
        "promise": "no restore of this repository gives these rows, of any snapshot or moment",
        "issued": repository.clock.now().isoformat(),
    }
    keys = repository.keys
    return {"certificate": body, "public_key": keys.public_key.hex(), "signature": keys.sign(_canonical(body)).hex()}


def _keys(repository: Repository, erasure: Erasure, sealed: Mapping[str, int]) -> dict[str, Any]:
    """What became of the tenant's own keys; nothing if he had none. An object's name is the BLAKE3 of its bytes."""
    gone = destructions(repository, erasure.id)
    left = key_objects(repository.store, repository.keys, erasure.what.tenant)
    if not (gone or left or sealed):
        return {}
    told = [{"place": one.place, "at": one.destroyed.isoformat(), "keys": list(one.keys), "by_key_slot": one.by} for one in gone]
    sealed_in = "sealed_in" if left else "unreadable_in"
    unseen = sorted({*known(repository.store.url)} - {one.place for one in gone})
    return {"keys_destroyed": told, "keys_left": left, "replicas_not_reached": unseen, sealed_in: dict(sorted(sealed.items()))}


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
