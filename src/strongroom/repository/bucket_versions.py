"""Which versions of deleted objects does an S3 bucket keep, and how do they go for good?"""

from __future__ import annotations

import re
from dataclasses import dataclass

from strongroom.repository.bucket import Bucket

_ENTRY = re.compile(r"<(Version|DeleteMarker)>(.*?)</\1>", re.DOTALL)
_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class Kept:
    """A version of an object, or a mark that it was deleted, which holds nothing of it."""

    key: str
    version: str
    is_mark: bool


def kept_below(bucket: Bucket, folder: str) -> list[Kept] | None:
    """At most a listing's worth (1,000) of the versions below a folder of the repository; None if that can't be asked. Raises
    Unreachable."""
    answer = bucket.ask("GET", query={"prefix": bucket.prefix + folder, "versions": ""})
    if answer.status != 200:
        return None
    found = [(kind, _of("Key", body), _of("VersionId", body)) for kind, body in _ENTRY.findall(answer.body)]
    return [Kept(key, version, kind == "DeleteMarker") for kind, key, version in found]


def purge(bucket: Bucket, folder: str) -> bool:
    """Delete every version below a folder for good. False if one is left, or nobody can tell; marks go last, since without its mark
    a version that is left would be an object again. Raises Unreachable."""
    for _ in range(_ROUNDS):
        kept = kept_below(bucket, folder)
        if kept is None:
            return False
        going = [one for one in kept if not one.is_mark] or kept
        if not [one for one in going if bucket.ask("DELETE", one.key, query={"versionId": one.version}).status < 300]:
            return all(one.is_mark for one in kept)
    return False


def _of(name: str, body: str) -> str:
    found = re.search(f"<{name}>([^<]*)</{name}>", body)
    return found[1] if found else ""
