"""Who says that a drill came out so? Reports are signed with the repository's key; who has its public half can check one."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from strongroom.errors import Damaged, StrongroomError, VerificationFailed, WrongRequest
from strongroom.operations.drill.report import DrillReport, as_body, canonical, from_body
from strongroom.repository.crypto import signed_by
from strongroom.repository.keys import Keys

_PURPOSE = b"strongroom drill report\0"
"""Before what is signed, so that no other object's signature can stand for a report's."""
_KEY = re.compile("[0-9a-f]{64}")


def signed(report: DrillReport, keys: Keys) -> DrillReport:
    """With its `document`."""
    body = as_body(report)
    signature = keys.sign(_PURPOSE + canonical(body))
    document = {"report": body, "public_key": keys.public_key.hex(), "signature": signature.hex()}
    return dataclasses.replace(report, document=json.dumps(document, sort_keys=True, indent=1).encode() + b"\n")


def check(name: str, document: bytes, public_key: str | None) -> DrillReport:
    """The report that a document holds, if the holder of the key that is meant signed it as it is. Raises VerificationFailed,
    Damaged (no such document), or WrongRequest without a key: a report that vouches for itself proves nothing."""
    body, said, signature = _taken_apart(name, document)
    if public_key is None:
        hint = f"give --public-key: the report says {said}; compare that with 'strongroom drill history --json'"
        raise WrongRequest("nobody said whose signature it must be", hint=hint)
    wanted = public_key.strip().lower()
    if not _KEY.fullmatch(wanted):
        hint = "it has 64 hexadecimal digits: 'strongroom drill history --json' shows it"
        raise WrongRequest(f"{public_key!r} is no public key", hint=hint)
    if not signed_by(bytes.fromhex(wanted), signature, _PURPOSE + canonical(body)):
        hint = "it was altered since" if said == wanted else f"it says that it is signed by {said}"
        raise VerificationFailed(f"{name}: its signature isn't that of {wanted}", hint=hint)
    return dataclasses.replace(from_body(name, body), document=document)


def claimed(document: bytes, known: Sequence[str]) -> str:
    """The one of these keys that a document claims to be signed by; else the newest, the last."""
    with suppress(StrongroomError):
        said = _taken_apart("", document)[1]
        return said if said in known else known[-1]
    return known[-1]


def _taken_apart(name: str, document: bytes) -> tuple[Any, str, bytes]:
    try:
        parts = json.loads(document)
        body, said, signature = parts["report"], str(parts["public_key"]), bytes.fromhex(parts["signature"])
        canonical(body)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(
            name, "it is no signed report of a drill", hint="give the report.json that 'strongroom drill --out' wrote"
        ) from error
    return body, said, signature
