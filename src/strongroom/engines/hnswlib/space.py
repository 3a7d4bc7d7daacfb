"""For which space is an index, and with which `ef` is it asked? hnswlib writes neither into its file, nor can it be told from it.

The URL says so, `hnswlib:///srv/index.bin?space=cosine&ef=100`, or a small file beside the index, `index.bin.json`:

    {"space": "cosine", "dim": 384, "ef": 100}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from strongroom.engines.indexfile.held import OpenFile
from strongroom.engines.indexfile.place import path_of
from strongroom.errors import Unreadable, WrongRequest

SPACES = ("l2", "ip", "cosine")
DEFAULT_SPACE = "l2"
DEFAULT_EF = 64
"""How many candidates a search keeps if nobody says; part of what sealed answers mean, so that it must not change."""

_MOST_EF = 100_000
_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody said about an index: empty and 0 for what they didn't."""

    space: str = ""
    ef: int = 0
    dimension: int = 0


NOTHING_SAID = Said()


def asked_of(url: str) -> tuple[Path, Said]:
    """The index file and what the URL says about it. Raises WrongRequest."""
    location, _, query = url.partition("?")
    said: dict[str, str] = dict(parse_qsl(query, keep_blank_values=True))
    path = path_of(location, "hnswlib", "hnswlib", "index.bin")
    if path.suffix == ".json":
        raise WrongRequest(f"{path.name} can't be an index", hint="call it otherwise, for example index.bin")
    unknown = sorted(said.keys() - {"space", "ef"})
    if unknown or (query and not said):
        raise WrongRequest(f"{url!r} asks for {unknown or query}", hint="after ? stand space= and ef=, joined by &")
    space, ef = said.get("space", ""), said.get("ef", "0")
    if "space" in said and space not in SPACES:
        raise WrongRequest(f"hnswlib has no space {space!r}", hint=f"it has {', '.join(SPACES)}")
    if not (ef.isascii() and ef.isdigit() and (("ef" not in said) or 0 < int(ef) <= _MOST_EF)):
        raise WrongRequest(f"ef={ef} is no number of candidates", hint=f"give a whole number from 1 to {_MOST_EF}")
    return path, Said(space, int(ef))


def beside(path: Path) -> Path:
    """The file that says of which space the index at `path` is."""
    return path.with_name(path.name + ".json")


def read(file: OpenFile) -> Said:
    """What the file beside the index says. Raises Unreadable."""
    hint = 'write {"space": "l2"}, "ip" or "cosine" into it, with "ef" and "dim" if you like, or call it otherwise'
    try:
        said = json.loads(file.read(0, min(file.size, _LONGEST)))
        space, ef, dimension = said["space"], said.get("ef", 0), said.get("dim", 0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable(f"{file.path} doesn't say which space its index is for", hint=hint) from error
    numbers = all(type(one) is int and one >= 0 for one in (ef, dimension))
    if space not in SPACES or not numbers or ef > _MOST_EF:
        raise Unreadable(f"{file.path} says what can't be: space {space!r}, ef {ef!r}, dim {dimension!r}", hint=hint)
    return Said(space, ef, dimension)


def written(said: Said) -> bytes:
    """The content of that file."""
    return json.dumps({"space": said.space, "dim": said.dimension, "ef": said.ef}).encode() + b"\n"


def agreed(asked: Said, file: OpenFile | None, dimension: int) -> Said:
    """What holds of an index of this dimension; an empty space if nobody said. Raises WrongRequest if URL and file contradict
    each other, Unreadable if the file is of another dimension."""
    found = read(file) if file is not None else NOTHING_SAID
    for name, one, other in (("space", asked.space, found.space), ("ef", asked.ef, found.ef)):
        if one and other and one != other:
            raise WrongRequest(f"the URL says {name}={one}, the file beside the index {other}", hint="correct one of them")
    if file is not None and found.dimension and dimension and found.dimension != dimension:
        raise Unreadable(f"{file.path} says dimension {found.dimension}, and the index has {dimension}", hint="correct it")
    return Said(asked.space or found.space, asked.ef or found.ef or DEFAULT_EF, dimension)
