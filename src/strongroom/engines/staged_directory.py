"""How does a target that is one directory get its new state? The receipt lies inside; the directory is replaced as a whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from strongroom.engines.staging import StagedEntries, write_durably
from strongroom.errors import Damaged, Refused

RECEIPT = "strongroom.json"


class DirectoryTarget:
    """The part of a `Target` that engines of one directory share. Of a link it is the directory that it names."""

    def __init__(self, place: Path) -> None:
        self._place = Path(os.path.realpath(place))

    def occupied(self, collections: Sequence[str] = ()) -> Sequence[str]:
        """The directory itself, if it has anything in it. Raises Refused if it can't be replaced as a whole."""
        if os.path.ismount(self._place):
            hint = "restore to a directory inside of it, which is on the same disk"
            raise Refused(f"{self._place} is where a disk or volume is mounted, and can't be replaced as a whole", hint=hint)
        if self._place.is_dir() and not any(self._place.iterdir()):
            return ()
        return (str(self._place),) if self._place.exists() or self._place.is_symlink() else ()

    def receipt(self) -> bytes | None:
        """What the last `publish` left inside of the directory."""
        try:
            return (self._place / RECEIPT).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


class DirectoryStage:
    """The part of a `Stage` that they share: `root` is the directory under construction."""

    def __init__(self, target: Path, token: str) -> None:
        """Open or re-open the stage of `token` beside the directory. Raises Locked."""
        self._target = Path(os.path.realpath(target))
        self._staged = StagedEntries(self._target.parent, token, (self._target.name,))
        self._root = self._staged.new / self._target.name

    @property
    def directory(self) -> Path:
        return self._staged.directory

    def artifact_path(self, path: str) -> Path:
        """Where `path` goes, with its directory made. Raises Damaged if it points outside of the stage."""
        if path.startswith("/"):
            raise Damaged(f"artifact {path!r}", "its path points outside of the target")
        place = self._staged.contained(f"{self._target.name}/{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def publish(self, receipt: bytes, *, overwrite: bool) -> None:
        """Put the directory, with the receipt inside, in the target's place. Raises Refused if that is taken."""
        there = DirectoryTarget(self._target)
        if self._root.exists():
            if not overwrite and not (self.directory / "publishing").exists() and there.occupied():
                raise Refused(
                    f"{self._target} is already there",
                    hint="restore to another place, or give --overwrite to replace it once the new state is verified",
                )
            write_durably(self._root / RECEIPT, receipt)
            if self._target.is_dir() and not self._target.is_symlink() and not any(self._target.iterdir()):
                self._target.rmdir()
        elif not (self.directory / "publishing").exists():
            if there.receipt() != receipt:
                raise Refused("nothing is staged, so nothing is published", hint="run the restore again from the start")
            self._staged.discard()
            return
        self._staged.publish(overwrite=overwrite)

    def discard(self) -> None:
        """Remove the stage."""
        self._staged.discard()

    def close(self) -> None:
        """Let go of the stage and keep it for a later run."""
        self._staged.close()
