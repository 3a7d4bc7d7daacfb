"""Which index file does a URL name, and which files beside it are its sidecar?"""

from __future__ import annotations

from pathlib import Path

from strongroom.errors import WrongRequest

SUFFIXES = (".parquet", ".jsonl")
"""The sidecars that are looked for, the preferred one first."""


def path_of(url: str) -> Path:
    """The index file of `faiss:///absolute` or `faiss:relative`. Raises WrongRequest."""
    scheme, _, rest = url.partition(":")
    hint = "write it as faiss:///srv/index.faiss or faiss:relative/index.faiss"
    if scheme != "faiss" or not rest:
        raise WrongRequest(f"{url!r} names no FAISS index", hint=hint)
    if rest.startswith("//"):
        rest = rest[2:]
        if not rest.startswith("/"):
            raise WrongRequest(f"{url!r} names a host, and a FAISS index is a file", hint=hint)
    path = Path(rest)
    if "\0" in rest or rest.endswith("/") or not path.name or path.name == "..":
        raise WrongRequest(f"{url!r} names no file", hint=hint)
    if path.suffix in SUFFIXES:
        raise WrongRequest(f"{path.name} would be its own sidecar", hint="call the index otherwise, for example index.faiss")
    return path.absolute()
