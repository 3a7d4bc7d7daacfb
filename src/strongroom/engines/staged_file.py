"""How does a target that is one database file, with files of the engine's beside it, get its new state? The old file and what lies
beside it go first, so that no log of the old one is ever found beside the new; the receipt lies beside the file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from strongroom.engines.staging import StagedEntries, sync_tree, write_durably
from strongroom.errors import Damaged, Refused, WrongRequest

FILE = "database"
"""The path of the artifact that is the file itself; what lies beside it has its suffix appended."""


def path_of(url: str, scheme: str, example: str) -> Path:
    """The file of `SCHEME:///absolute` or `SCHEME:relative`, not a link to it: the engine's logs lie beside the file itself, and a
    link is no file to be replaced. Raises WrongRequest."""
    found, _, rest = url.partition(":")
    hint = f"write it as {scheme}:///srv/{example} or {scheme}:relative/{example}"
    if rest.startswith("//"):
        rest = rest[2:]
        if not rest.startswith("/"):
            raise WrongRequest(f"{url!r} names a host, and this engine reads a file", hint=hint)
    path = Path(rest)
    if found != scheme or not rest or "\0" in rest or rest.endswith("/") or not path.name or path.name == "..":
        raise WrongRequest(f"{url!r} names no file", hint=hint)
    return Path(os.path.realpath(path))


class FileTarget:
    """The part of a `Target` that engines of one file share."""

    holds_one = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def occupied(self, collections: Sequence[str] = ()) -> Sequence[str]:
        """The file itself, if it is there."""
        return (self._path.name,) if self._path.exists() or self._path.is_symlink() else ()

    def receipt(self) -> bytes | None:
        """What the last `publish` left beside the file."""
        try:
            return _receipt(self._path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


class FileStage:
    """The part of a `Stage` that they share: `root` is the file under construction, `suffixes` those of the files beside it."""

    def __init__(self, target: Path, token: str, suffixes: Sequence[str]) -> None:
        """Open or re-open the stage of `token` beside the file. Raises Locked."""
        receipt = _receipt(target).name
        names = [*(target.name + suffix for suffix in suffixes), target.name, receipt]  # who finds the file finds its log too
        self._target = target
        self._suffixes = tuple(suffixes)
        self._staged = StagedEntries(target.parent, token, names, records=[receipt])
        self._root = self._staged.new / target.name

    @property
    def directory(self) -> Path:
        return self._staged.directory

    def artifact_path(self, path: str) -> Path:
        """Where `path` goes, under the target's own name. Raises Damaged if it is none of the files that there may be."""
        if path not in (FILE, *(FILE + suffix for suffix in self._suffixes)):
            raise Damaged(f"artifact {path!r}", "it is no file of such a database")
        return self._root.with_name(self._root.name + path.removeprefix(FILE))

    def seal(self) -> None:
        """Make everything durable."""
        sync_tree(self._staged.new)

    def publish(self, receipt: bytes, *, overwrite: bool) -> None:
        """Put the file, and the receipt beside it, in the target's place. Raises Refused if that is taken."""
        if not (self.directory / "publishing").exists():
            if not self._root.exists():
                if FileTarget(self._target).receipt() != receipt:
                    raise Refused("nothing is staged, so nothing is published", hint="run the restore again from the start")
                self._staged.discard()
                return
            write_durably(self._staged.new / _receipt(self._target).name, receipt)
        self._staged.publish(overwrite=overwrite)

    def discard(self) -> None:
        """Remove the stage."""
        self._staged.discard()

    def close(self) -> None:
        """Let go of the stage and keep it for a later run."""
        self._staged.close()


def _receipt(path: Path) -> Path:
    return path.with_name(f"{path.name}.strongroom.json")
