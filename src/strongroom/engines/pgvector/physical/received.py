"""How does a base backup become a directory that is known to be what the server sent?

The files come as a tar stream and are written as they come, into a private folder; then each is compared with the manifest that the
server made of them while it read them (length and SHA-256). The log that makes them consistent comes with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from strongroom.engines.pgvector.moment import lsn_number
from strongroom.engines.pgvector.physical.place import Server
from strongroom.engines.pgvector.physical.replication import Replication, reading
from strongroom.errors import Refused, SourceChanged, Unreadable
from strongroom.progress import Progress

MANIFEST = "backup_manifest"
_BUFFER = 1 << 20
_ORDER = "LABEL 'strongroom', PROGRESS, CHECKPOINT 'fast', WAL, WAIT false, MANIFEST 'yes', MANIFEST_CHECKSUMS 'SHA256'"


@dataclass(frozen=True, slots=True)
class Received:
    """A base backup in a folder: of which cluster, on which timeline, from where to where in the log. `folders` are all folders
    of it, `read` is how many bytes the server sent, `version` its own (160004). `incremental` says how that was less than all."""

    path: Path
    system: str
    timeline: int
    start: int
    stop: int
    version: int
    segment_bytes: int
    folders: tuple[str, ...]
    read: int
    incremental: str = ""

    @property
    def files(self) -> Iterator[str]:
        """All files, with forward slashes, in order; the manifest comes last."""
        found = sorted(one.relative_to(self.path).as_posix() for one in self.path.rglob("*") if one.is_file())
        yield from (one for one in found if one != MANIFEST)
        yield MANIFEST


def receive(server: Server, path: Path, progress: Progress, before: Path | None = None) -> Received:
    """Copy a running cluster into an empty folder, and prove what arrived. With the manifest of a base backup of `before` only
    blocks that changed since come, as files INCREMENTAL.*. Raises Unreadable (also if the server can't tell what changed),
    Unreachable, Refused (tablespaces, a standby), SourceChanged (what arrived isn't what the manifest says)."""
    with closing(Replication(server)) as connection:
        identity = connection.identity()
        if connection.shown("in_hot_standby") == "on":
            raise Refused(f"{server.shown} is a standby", hint="name its primary: that is where a base backup ends with its log")
        slot = f"strongroom_backup_{os.urandom(8).hex()}"
        connection.ask(f'CREATE_REPLICATION_SLOT "{slot}" TEMPORARY PHYSICAL (RESERVE_WAL true)')
        if before is not None:
            connection.send("UPLOAD_MANIFEST", _pieces(before))
        results = connection.results(f"BASE_BACKUP ({_ORDER}{', INCREMENTAL' if before else ''})")
        start, timeline = _place(next(results))
        total = _bytes_of(next(results), server)
        progress.begin("base backup", total, "bytes")
        next(results)
        read = _write(path, reading(connection.copied(), progress.advance))
        stop, _ = _place(next(results))
        for _ in results:
            pass
        segment = connection.segment_bytes()
        folders = tuple(sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_dir()))
        found = Received(path, identity.system, timeline, start, stop, connection.version, segment, folders, read)
    prove(found.path, progress)
    return found


def prove(path: Path, progress: Progress) -> None:
    """Is each file what the manifest says? Raises SourceChanged, naming the first that isn't."""
    said = read_manifest(path)
    progress.begin("compared with the server's manifest", sum(int(one["Size"]) for one in said), "bytes")
    for one in said:
        file = path / _name(one)
        if not file.is_file() or file.stat().st_size != one["Size"]:
            raise SourceChanged(f"{_name(one)} did not arrive as the server's manifest says", hint="run the backup again")
        if _proves_itself(_name(one)) and "Checksum" not in one:
            continue
        with file.open("rb") as content:
            same = hashlib.file_digest(content, "sha256").hexdigest() == one.get("Checksum")
        if not same:
            raise SourceChanged(f"{_name(one)} arrived with another checksum than the server's manifest has")
        progress.advance(int(one["Size"]))
    known = {_name(one) for one in said}
    for file in path.rglob("*"):
        name = file.relative_to(path).as_posix()
        if file.is_file() and name not in known and name != MANIFEST and not _proves_itself(name):
            raise SourceChanged(f"{name} arrived, and the server's manifest doesn't have it")


def read_manifest(path: Path) -> Sequence[dict[str, Any]]:
    """The files of a base backup as its manifest has them, once that has proven itself. Raises Unreadable."""
    content = (path / MANIFEST).read_bytes()
    try:
        body = json.loads(content)
        end = content.rindex(b'"Manifest-Checksum"')
        if hashlib.sha256(content[:end]).hexdigest() != body["Manifest-Checksum"]:
            raise ValueError
        return cast("Sequence[dict[str, Any]]", body["Files"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"{MANIFEST} does not prove itself", hint="run the backup again") from error


def _proves_itself(name: str) -> bool:
    """The log's records have checksums of their own; manifests don't have its files, or only their lengths."""
    return name.startswith("pg_wal/")


def _name(entry: dict[str, Any]) -> str:
    return str(entry["Path"]) if "Path" in entry else os.fsdecode(bytes.fromhex(entry["Encoded-Path"]))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_BUFFER):
            yield piece


def _place(result: Any) -> tuple[int, int]:
    return lsn_number(result.get_value(0, 0).decode()), int(result.get_value(0, 1))


def _bytes_of(result: Any, server: Server) -> int:
    """How much comes, about. Raises Refused if there are tablespaces."""
    for row in range(result.ntuples):
        if result.get_value(row, 0) is not None:
            place = result.get_value(row, 1).decode(errors="replace")
            raise Refused(
                f"{server.shown} has a tablespace in {place}: clusters with tablespaces are not copied",
                hint="move its tables (ALTER TABLE ... SET TABLESPACE pg_default), or back its databases up with pgvector://",
            )
    return sum(int(result.get_value(row, 2) or 0) * 1024 for row in range(result.ntuples))


def _write(path: Path, pieces: Iterator[tuple[str, bytes]]) -> int:
    """Write the files of the tar stream, then the manifest. Gives how many bytes came."""
    stream = _Pieces(pieces)
    with tarfile.open(fileobj=cast("BinaryIO", stream), mode="r|", bufsize=_BUFFER) as archive:
        for member in archive:
            _extract(archive, member, path)
    while stream.read(_BUFFER):
        pass
    with (path / MANIFEST).open("wb") as file:
        file.write(stream.held)
        for _, piece in pieces:
            file.write(piece)
    return stream.bytes


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise Unreadable(f"the server sent a file {member.name!r}, outside of its directory")
    place = path / name
    if member.isdir():
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif member.isfile():
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = archive.extractfile(member)
        assert content is not None  # noqa: S101 - it is a file
        with place.open("xb") as file:
            shutil.copyfileobj(content, file, _BUFFER)
    else:
        raise Refused(f"{member.name} is a link out of the data directory: that is not copied")


class _Pieces:
    """The tar stream as a file, up to where the manifest begins: its first piece is `held`."""

    def __init__(self, pieces: Iterator[tuple[str, bytes]]) -> None:
        self._pieces = pieces
        self._rest = b""
        self.held = b""
        self.bytes = 0

    def read(self, size: int) -> bytes:
        """So many bytes; fewer at the end."""
        parts, length = [self._rest], len(self._rest)
        while length < size and not self.held:
            what, piece = next(self._pieces, ("manifest", b""))
            if what == "manifest":
                self.held = piece
                if not piece:
                    break
                continue
            parts.append(piece)
            length += len(piece)
            self.bytes += len(piece)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]
