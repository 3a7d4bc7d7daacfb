"""Which index file does a URL name, and which files beside it belong to it?"""

from __future__ import annotations

from pathlib import Path

from strongroom.errors import WrongRequest

SUFFIXES = (".parquet", ".jsonl")
"""The sidecars that are looked for, the preferred one first."""

ARRAY = ".npy"
"""The file that holds the vectors once more."""


def path_of(url: str, scheme: str, library: str, example: str) -> Path:
    """The index file of `SCHEME:///absolute` or `SCHEME:relative`. Raises WrongRequest."""
    found, _, rest = url.partition(":")
    hint = f"write it as {scheme}:///srv/{example} or {scheme}:relative/{example}"
    if found != scheme or not rest:
        raise WrongRequest(f"{url!r} names no {library} index", hint=hint)
    if rest.startswith("//"):
        rest = rest[2:]
        if not rest.startswith("/"):
            raise WrongRequest(f"{url!r} names a host, and a {library} index is a file", hint=hint)
    path = Path(rest)
    if "\0" in rest or rest.endswith("/") or not path.name or path.name == "..":
        raise WrongRequest(f"{url!r} names no file", hint=hint)
    if path.suffix in (*SUFFIXES, ARRAY):
        raise WrongRequest(f"{path.name} would be its own sidecar", hint=f"call the index otherwise, for example {example}")
    return path.absolute()


def beside(path: Path) -> tuple[Path, ...]:
    """The files beside an index that belong to it if they are there: its sidecars, and the array of its vectors."""
    return tuple(path.with_suffix(suffix) for suffix in (*SUFFIXES, ARRAY))
