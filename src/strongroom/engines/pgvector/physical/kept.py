"""How is no more sent than what changed? The base backup before stays in a folder, and PostgreSQL 17 and later send the rest.

<keep>/lock         one backup at a time
<keep>/base/        the last base backup, whole
<keep>/arriving/    what the server sends: of a file that has blocks of before only those that changed
<keep>/combined/    the two put together by pg_combinebackup, which becomes the next base

What is kept is compared with its manifest before it is relied on. Whatever prevents an incremental one, all is sent.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from strongroom.engines.pgvector.physical.place import Server
from strongroom.engines.pgvector.physical.programs import Programs, run
from strongroom.engines.pgvector.physical.received import MANIFEST, Received, prove, receive
from strongroom.engines.staging import remove
from strongroom.errors import EngineFailed, Locked, SourceChanged, Unreadable, from_os_error
from strongroom.progress import Progress

_FIRST = 17


@contextmanager
def whole(server: Server, place: Path, programs: Programs, progress: Progress) -> Iterator[Received]:
    """A whole base backup, in the empty folder `place` or where the URL keeps it. Raises what `receive` does, and Locked."""
    if server.keep is None:
        yield receive(server, place, progress)
        return
    with _alone(server.keep) as keep:
        for leftover in ("arriving", "combined", "old"):
            remove(keep / leftover)
        found, why = _combined(server, keep, programs, progress)
        if found is None:
            remove(keep / "base")  # it is of no more use, and takes the room
            (keep / "arriving").mkdir(mode=0o700)
            found = replace(receive(server, keep / "arriving", progress), incremental=f"no, all was sent: {why}")
        if (keep / "base").exists():
            os.rename(keep / "base", keep / "old")
        os.rename(found.path, keep / "base")
        for leftover in ("arriving", "old"):
            remove(keep / leftover)
        yield replace(found, path=keep / "base")


def _combined(server: Server, keep: Path, programs: Programs, progress: Progress) -> tuple[Received | None, str]:
    """The base backup of before with what changed since; None, and why, if that can't be had."""
    program = programs.path("pg_combinebackup")
    if not (keep / "base" / MANIFEST).exists():
        return None, "there is none of before"
    if programs.major < _FIRST or program is None:
        return None, f"PostgreSQL {programs.major} can't tell what changed"
    arriving, combined = keep / "arriving", keep / "combined"
    try:
        prove(keep / "base", progress)
        arriving.mkdir(mode=0o700)
        came = receive(server, arriving, progress, keep / "base" / MANIFEST)
        run(program, "--no-sync", "--manifest-checksums=SHA256", "-o", str(combined), str(keep / "base"), str(arriving))
        prove(combined, progress)
    except (Unreadable, SourceChanged, EngineFailed) as error:
        remove(arriving)
        remove(combined)
        return None, str(error)
    folders = tuple(sorted(one.relative_to(combined).as_posix() for one in combined.rglob("*") if one.is_dir()))
    return replace(came, path=combined, folders=folders, incremental=f"{came.read:,} bytes were sent"), ""


@contextmanager
def _alone(keep: Path) -> Iterator[Path]:
    try:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        keep.chmod(0o700)
        lock = os.open(keep / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise from_os_error(error, str(keep)) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Locked(f"another backup keeps its files in {keep}") from error
        yield keep
    finally:
        os.close(lock)
