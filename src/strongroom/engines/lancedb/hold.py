"""How versions of a live table are kept until they are in the journal: by a second name for each of their files, as in `pins`, in a
directory that outlives who follows.

    <database>/.strongroom-journal-<holder>/    gone when the source is released
        lock                                    flock, held while somebody follows
        <number>/<table>.lance/...              hard links; a table that is dropped and made again gets another number
        <number>/looks                          what looks at the table found, as in `looks`

Lance's cleanup takes names away, never bytes, and never fails on account of these (it would on account of a tag). What is committed
and cleaned up before it was looked at is lost, and so is what is cleaned up while nobody follows: both are noticed.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from strongroom.engines.lancedb.keys import Keys
from strongroom.engines.lancedb.looks import Looks
from strongroom.engines.lancedb.manifest import Manifest, files_of, read_manifest, version_of
from strongroom.engines.lancedb.versions import SUFFIX, manifests
from strongroom.engines.staging import remove
from strongroom.errors import Gap, Locked, NotFound, Refused, Unreadable

PREFIX = ".strongroom-journal-"
_BACKWARDS = 20
"""Length of the name of a manifest that counts backwards from 2**64 - 1, so that the latest is listed first."""
_LONGEST_DROP = 10.0
"""Seconds after which a folder with versions older than the last one isn't on its way out any more: it is another table's."""


class Held:
    """Versions of one table, from the first that is needed to the newest. `at` is the last that was read, None before the first;
    `ended` when it was noticed (microseconds since 1970) that the table was dropped after the newest, 0 if it wasn't; `looked`
    until when nothing else can have been there, 0 if that isn't known. `key` and `keys` are those of `at`, as far as they
    were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.stem
        self.at: int | None = None
        self._looks = Looks(folder)
        self.looked, self.ended = self._looks.looked, self._looks.ended
        self.key: str | None = None
        self.keys: Keys | None = None
        self._odd_since: float | None = None
        self._look: tuple[int, int] | None = None
        found = sorted(manifests(folder).items())
        self.versions = {number: read_manifest(folder / path) for number, path in found}
        self._backwards = not found or len(Path(found[0][1]).stem) == _BACKWARDS

    @property
    def newest(self) -> Manifest:
        return self.versions[max(self.versions)]

    @property
    def next(self) -> Manifest | None:
        """The first version that wasn't read yet."""
        if self.at is None:
            return self.versions[min(self.versions)]
        return self.versions.get(self.at + 1)

    @property
    def mark(self) -> str | None:
        return None if self.at is None else self.versions[self.at].mark

    def path(self, version: int) -> str:
        """Where a version's manifest lies, by the scheme of the first that there was."""
        return f"_versions/{(1 << 64) - 1 - version if self._backwards else version}.manifest"

    def take(self, source: Path, path: str) -> None:
        """Keep the version whose manifest is `path` in the table's directory. Raises FileNotFoundError if it was cleaned up,
        Refused if files can't be kept here."""
        self._backwards = len(Path(path).stem) == _BACKWARDS
        unlisted = self.folder / f"{path}.taken"
        remove(unlisted)
        _link(source / path, unlisted)
        taken = read_manifest(unlisted)
        known = self.newest.entries if self.versions else ()
        for file in sorted(files_of(set(taken.entries) - set(known))):
            _link(source / file, self.folder / file)
        unlisted.rename(self.folder / path)  # last: what is listed is whole
        self.versions[taken.version] = taken

    def advance(self, source: Path) -> None:
        """Keep all versions that came since the newest; find out if the table is still there. Raises Gap if some are gone."""
        self._take_all(source)
        self._looks.keep(self.looked, self.ended)

    def _take_all(self, source: Path) -> None:
        while not self.ended:
            last, look = self.newest, (_now(), _stamp(source))
            path = self.path(last.version + 1)
            if not self._goes_on(source, last):
                return
            if not (source / path).exists():
                self._confirm(look)
                return
            try:
                self.take(source, path)
            except FileNotFoundError as error:
                if manifests(source):
                    raise Gap(f"version {last.version + 1} of table {self.name} was cleaned up before it was read") from error
                continue  # dropped meanwhile
            if not self._goes_on(source, last) and (source / self.path(last.version)).exists():
                remove(self.folder / path)  # dropped and made again meanwhile: it isn't a version of this table
                del self.versions[last.version + 1]
            elif self._look is not None:
                self.looked = self._look[0]

    def _confirm(self, look: tuple[int, int]) -> None:
        """A look counts once a later one finds that no manifest came or went since: a drop that had taken newer ones would have
        gone on."""
        if self._look is not None and self._look[1] == look[1]:
            self.looked = self._look[0]
        self._look = look

    def _goes_on(self, source: Path, last: Manifest) -> bool:
        """Is what lies there the table that we know? If not, and it is certain, it has ended."""
        if self._is_there(source, last):
            self._odd_since = None
            return True
        present = manifests(source)
        if not present or last.version in present or (min(present) == 1 and _micros(source / present[1]) > last.micros):
            self.ended = _now()
        elif last.version + 1 in present:
            return True
        elif max(present) > last.version:
            raise Gap(f"versions of table {self.name} after {last.version} were cleaned up before they were read")
        else:  # older ones alone: it is being dropped
            self._odd_since = self._odd_since or time.monotonic()
            if time.monotonic() - self._odd_since > _LONGEST_DROP:
                self.ended = _now()
        return False

    def _is_there(self, source: Path, version: Manifest) -> bool:
        """Does the table's directory hold this very version? It may be a copy of the one in which it was held."""
        path = self.path(version.version)
        try:
            return (source / path).samefile(self.folder / path) or read_manifest(source / path).mark == version.mark
        except (FileNotFoundError, Unreadable):
            return False

    def trim(self, version: int) -> None:
        """Let go of all before `version`."""
        doomed = [number for number in self.versions if number < version]
        if not doomed:
            return
        gone = set[bytes]().union(*(self.versions.pop(number).entries for number in doomed))
        kept = set[bytes]().union(*(one.entries for one in self.versions.values()))
        for number in doomed:
            remove(self.folder / self.path(number))
        for file in files_of(gone - kept) - files_of(kept):
            remove(self.folder / file)


class Hold:
    """All that is held for one follower. Raises Locked if another process follows for it, Refused if nothing can be kept here."""

    def __init__(self, database: Path, holder: str) -> None:
        self._database = database
        self.directory = directory_of(database, holder)
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError as error:
            raise NotFound(f"there is no directory {database}") from error
        except OSError as error:
            raise Refused(f"{database} can't be followed: {error.strerror}", hint=_HINT) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise Locked(f"{database} is followed by another process") from error

    def tables(self) -> list[Held]:
        """What an earlier process held, in the order in which it began."""
        found = []
        for number in sorted(self.directory.glob("[0-9]*")):
            for folder in number.glob(f"*{SUFFIX}"):
                if manifests(folder):
                    found.append(Held(folder))
                else:
                    remove(number)
        return found

    def begin(self, name: str, first: int) -> Held | None:
        """Hold a table from its version `first` on; None if it was dropped or cleaned up meanwhile."""
        taken = [int(one.name) for one in self.directory.glob("[0-9]*")]
        folder = self.directory / f"{max(taken, default=0) + 1:08d}" / f"{name}{SUFFIX}"
        folder.mkdir(parents=True)
        source = self._database / folder.name
        held = Held(folder)
        try:
            held.take(source, manifests(source)[first])
        except (FileNotFoundError, KeyError):
            remove(folder.parent)
            return None
        return held

    def drop(self, held: Held) -> None:
        remove(held.folder.parent)

    def close(self) -> None:
        """Let go of the lock; what is held stays."""
        os.close(self._lock)


def directory_of(database: Path, holder: str) -> Path:
    return database / f"{PREFIX}{holder[:32]}"


def held_at(tables: list[Held], name: str, mark: str) -> Held | None:
    """The one that holds this very version."""
    version = version_of(mark)
    for held in tables:
        if held.name == name and version in held.versions and held.versions[version].mark == mark:
            return held
    return None


_HINT = "who follows must own the database's directory, on a file system that has hard links"


def _stamp(source: Path) -> int:
    """Another one if a manifest came or went; 0 if there are none."""
    try:
        return (source / "_versions").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _now() -> int:
    return time.time_ns() // 1000


def _micros(path: Path) -> int:
    """When a version was committed; 0 if it can't be told."""
    try:
        return read_manifest(path).micros
    except (FileNotFoundError, Unreadable):
        return 0


def _link(original: Path, name: Path) -> None:
    if os.path.lexists(name):
        return
    name.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(original, name)
    except (FileNotFoundError, FileExistsError):
        if not os.path.lexists(name):
            raise
    except OSError as error:
        raise Refused(f"{original} can't be kept: {error.strerror}", hint=_HINT) from error
