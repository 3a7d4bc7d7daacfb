"""What a repository is: format and id, in its `config` object, which is written once and readable without a key."""

from __future__ import annotations

import json
from dataclasses import dataclass

from strongroom.errors import Damaged, NoRepository
from strongroom.repository.crypto import content_hash

NAME = "config"
FORMAT = 1


class NewerFormat(NoRepository):
    """A newer program made this repository."""

    default_hint = "install a newer Strongroom; this one will not touch the repository"


@dataclass(frozen=True, slots=True)
class Config:
    """`repository_id` is 16 random bytes that everything in the repository is bound to. `overwriting`: it was made for a store that
    overwrites, so that nothing is kept in it that needs conditional creates."""

    repository_id: bytes
    created: str
    overwriting: bool = False

    def encode(self) -> bytes:
        body: dict[str, object] = {"strongroom": FORMAT, "repository": self.repository_id.hex(), "created": self.created}
        body |= {"overwriting": True} if self.overwriting else {}
        text = json.dumps(body, sort_keys=True)
        return json.dumps({**body, "check": content_hash(text.encode()).hex()}, sort_keys=True).encode()


def decode(content: bytes) -> Config:
    """Raises NoRepository if these are no repository's bytes, NewerFormat, or Damaged if they were altered."""
    try:
        body = json.loads(content)
        check = body.pop("check")
        version = body["strongroom"]
        intact = check == content_hash(json.dumps(body, sort_keys=True).encode()).hex()
        repository_id = bytes.fromhex(body["repository"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if b'"strongroom"' in content or b'"repository"' in content:
            raise Damaged(NAME, "altered or truncated") from error
        raise NoRepository("'config' is not a Strongroom repository's") from error
    if not intact:
        raise Damaged(NAME, "altered: its check sum doesn't fit")
    if version != FORMAT:
        raise NewerFormat(f"the repository has format {version}, this program reads format {FORMAT}")
    return Config(repository_id, str(body["created"]), body.get("overwriting") is True)
