"""Which files does a version of a Lance table consist of? Those, and no others, are taken into a pin.

_versions/<v>.manifest          names all the others but the index files, which lie in _indices/<uuid>/
data/<key>.lance, data/<key>/   columns of a fragment, and its large blobs beside them
_deletions/  _transactions/     rows that are gone, and what the commit did
_refs/tags/<tag>.json           the user's names for versions
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strongroom.engines.lancedb.columns import has_blob_files
from strongroom.engines.lancedb.library import failing_as, open_table
from strongroom.engines.lancedb.pins import Pin
from strongroom.errors import SourceChanged, Unreadable

SUFFIX = ".lance"
HINT = "_versions/latest_version_hint.json"
_ATTEMPTS = 50
_SAME_VERSION = 3


@dataclass(frozen=True, slots=True)
class Tag:
    """A user's name for a version; `branch` is None for the main line."""

    name: str
    version: int
    branch: str | None
    content: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class PinnedTable:
    """A table at one version, with the versions that its tags name. `directory` holds just their files.

    `files` are paths below `directory`, in the order in which they should be installed. `left_out` are the tags whose version
    is not there to take, `other_versions` the number of versions that no tag names.
    """

    name: str
    directory: Path
    version: int
    tags: tuple[Tag, ...]
    left_out: tuple[Tag, ...]
    other_versions: int
    files: tuple[str, ...]


class Vanished(SourceChanged):
    """A writer removed a file of the version while it was being taken: take the version that is current now."""


def pin_table(source: Path, pin: Pin) -> PinnedTable:
    """Take the current version of the table in the directory `source`, and every version that a tag names, into `pin`.

    A writer that commits and cleans up meanwhile makes it start again from the version that is then current. Raises SourceChanged
    if the table vanishes, Unreadable if it is damaged or keeps files outside of its directory.
    """
    failures: Counter[int] = Counter()
    while failures.total() < _ATTEMPTS:
        version = max(manifests(source), default=-1)
        if version < 0:
            raise SourceChanged(f"table {source.stem} vanished during the backup")
        try:
            return _pin_once(source, pin)
        except (Vanished, FileNotFoundError, Unreadable) as error:
            pin.drop(source.name)
            failures[version] += 1
            if failures[version] == _SAME_VERSION:  # no cleanup's doing: those spare the current version
                if isinstance(error, FileNotFoundError):
                    raise Unreadable(f"table {source.stem} lacks a file of its version {version}: {error.filename}") from error
                raise
    raise SourceChanged(f"table {source.stem} was cleaned up faster than its files could be taken, {_ATTEMPTS} times over")


def manifests(table: Path) -> dict[int, str]:
    """The versions in a table's directory, and the path of each one's manifest. Empty if it is no Lance table."""
    found = {}
    for file in (table / "_versions").glob("*.manifest"):
        number = int(file.stem) if file.stem.isdigit() else -1  # a detached version's name starts with a letter
        if number >= 0:
            # Lance names them by 2**64 - 1 - version, so that the latest lists first; tables of old by the version.
            found[(1 << 64) - 1 - number if len(file.stem) == 20 else number] = f"_versions/{file.name}"
    return found


def _pin_once(source: Path, pin: Pin) -> PinnedTable:
    present = manifests(source)
    if not present:
        raise FileNotFoundError(source)
    version = max(present)
    tags = tuple(_tags(source))
    named = tuple(tag for tag in tags if tag.branch is None and tag.version in present)
    wanted = sorted({version, *(tag.version for tag in named)})
    for number in wanted:
        pin.take(source / present[number], f"{source.name}/{present[number]}")
    rows = _tracked(source, pin, wanted)
    tracked = {row["path"] for row in rows}
    tracked |= {blob for path in tracked if path.startswith("data/") for blob in _blobs(source, path)}
    for path in tracked:
        pin.take(source / path, f"{source.name}/{path}")
    directory = pin.directory / source.name
    for tag in named:
        _write(directory / f"_refs/tags/{tag.name}.json", tag.content)
    _write(directory / HINT, json.dumps({"version": version}, separators=(",", ":")).encode())
    _expect_whole(source, directory, version, wanted)
    refs = [f"_refs/tags/{tag.name}.json" for tag in named]
    return PinnedTable(
        name=source.stem,
        directory=directory,
        version=version,
        tags=named,
        left_out=tuple(tag for tag in tags if tag not in named),
        other_versions=len(present) - len(wanted),
        files=(*sorted(tracked, key=_install_order), *refs, HINT, *(present[number] for number in wanted)),
    )


def _tracked(source: Path, pin: Pin, versions: Sequence[int]) -> list[dict[str, Any]]:
    """Every file but the manifests that `versions` consist of, as Lance itself lists them: version, path and type of each.

    Lance is shown a table that has just these manifests, so that neither newer ones nor their removal can come in between; it
    lists index files by looking into `_indices`, which is lent to it.
    """
    directory = pin.directory / source.name
    lent = directory / "_indices"
    if (source / "_indices").is_dir():
        lent.symlink_to((source / "_indices").absolute(), target_is_directory=True)
    try:
        rows = _list(directory, source)
    finally:
        lent.unlink(missing_ok=True)
    here = {row["base_uri"] for row in rows if row["type"] == "manifest"}
    elsewhere = {row["base_uri"] for row in rows} - here
    if elsewhere:
        raise Unreadable(
            f"table {source.stem} keeps files outside of its directory, in {min(elsewhere)}",
            hint="it is a shallow clone: make it whole with deep_clone() and back that up",
        )
    return [row for row in rows if row["version"] in versions and row["type"] != "manifest"]


def _list(directory: Path, source: Path) -> list[dict[str, Any]]:
    with failing_as(Unreadable, f"table {source.stem}"):
        listed: list[dict[str, Any]] = open_table(directory.absolute()).tracked_files().read_all().to_pylist()
        return listed


def _blobs(source: Path, data_file: str) -> Iterator[str]:
    """Large blobs of a data file lie in a folder of its name; Lance doesn't list them among the tracked files."""
    for file in (source / data_file.removesuffix(SUFFIX)).rglob("*"):
        if file.is_file():
            yield file.relative_to(source).as_posix()


def _expect_whole(source: Path, directory: Path, version: int, wanted: Sequence[int]) -> None:
    """Raises Vanished if index files may have been removed before they were listed.

    Nothing else can be missing: the manifest names it, and taking it would have failed. Files of the current version and of
    tagged ones are never cleaned up, so if the version is still current nothing was; else the sizes in the manifest tell.
    """
    if max(manifests(source), default=-1) == version:
        return
    for number in wanted:
        with failing_as(Unreadable, f"table {source.stem}"):
            table = open_table(directory, number)
            indices = table.describe_indices()
        if has_blob_files(table.schema):  # which blob files there should be stands nowhere
            raise Vanished(f"table {source.stem} was cleaned up during the backup")
        for segment in (segment for index in indices for segment in index.segments):
            files = (directory / "_indices" / str(segment.uuid)).rglob("*")
            if sum(file.stat().st_size for file in files if file.is_file()) != segment.size_bytes:
                raise Vanished(f"table {source.stem} was cleaned up during the backup")


def _tags(source: Path) -> Iterator[Tag]:
    for file in sorted((source / "_refs" / "tags").glob("*.json")):
        try:
            content = file.read_bytes()
            tag = json.loads(content)
            yield Tag(file.stem, int(tag["version"]), tag.get("branch"), content)
        except FileNotFoundError:  # deleted since it was listed
            continue
        except (ValueError, KeyError, TypeError) as error:
            raise Unreadable(f"table {source.stem}: its tag {file.stem} can't be read") from error


def _install_order(path: str) -> tuple[int, str]:
    order = ("data", "_deletions", "_indices", "_transactions")
    top = path.partition("/")[0]
    return (order.index(top) if top in order else len(order), path)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
