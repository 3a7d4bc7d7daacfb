"""How Strongroom reads and writes LanceDB: `lancedb:///path`, a directory of `<table>.lance` folders, by their own files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.lancedb.freeze import LanceSource
    from strongroom.engines.lancedb.target import LanceTarget

__all__ = ["LanceDB"]

_SCHEME = "lancedb:"


class LanceDB:
    """The engine plug-in. A URL names the directory that `lancedb.connect` is given: absolute, or relative as `lancedb:path`. What
    it works with is imported when it is used."""

    name = "lancedb"
    loading = "strongroom.engines.lancedb.search:load"

    def version(self) -> str:
        """The version of pylance, which writes the files. Raises WrongRequest if it isn't installed."""
        try:
            return version("pylance")
        except PackageNotFoundError as error:
            raise WrongRequest("LanceDB isn't installed here", hint="pip install 'strongroom[lancedb]'") from error

    def compatible(self, written_by: str) -> bool:
        """True if the installed release is the writer's own or a later one.

        Lance reads the files of earlier releases, indices included, and doesn't promise the reverse: a manifest names the
        features that its reader must know. That a later release also answers as the earlier did is what the probes show.
        """
        writer = _release(written_by)
        return bool(writer) and _release(self.version()) >= writer

    def scratch(self, directory: Path, collections: Sequence[str]) -> str:
        """The URL of the directory itself: it holds any tables."""
        return f"{_SCHEME}//{directory.absolute()}"

    def source(self, url: str) -> LanceSource:
        """The source that `url` names. Raises WrongRequest; opens nothing."""
        from strongroom.engines.lancedb.freeze import LanceSource

        return LanceSource(_directory(url))

    def target(self, url: str) -> LanceTarget:
        """The target that `url` names. Raises WrongRequest; touches nothing."""
        from strongroom.engines.lancedb.target import LanceTarget

        return LanceTarget(_directory(url))


def _directory(url: str) -> Path:
    path = url.removeprefix(_SCHEME).removeprefix("//")
    if not url.startswith(_SCHEME) or not path:
        raise WrongRequest(f"{url!r} names no LanceDB directory", hint="write it as lancedb:///srv/lancedb")
    if "://" in url and not url.startswith(f"{_SCHEME}//"):
        raise WrongRequest(f"{url!r} names an object store", hint="only local LanceDB directories can be backed up")
    if "://" in url and not path.startswith("/"):
        raise WrongRequest(f"{url!r} names a host", hint="write lancedb:///absolute/path or lancedb:relative/path")
    directory = Path(path)
    if directory.suffix == ".lance":
        raise WrongRequest(f"{url!r} names one table", hint=f"name the directory that holds it: lancedb://{directory.parent}")
    return directory


def _release(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split(".")[:3]:
        digits = "".join(character for character in part if character.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
