"""Which programs of PostgreSQL's server are on this machine? Only those of the same major version open a cluster's files."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from strongroom.errors import EngineFailed, WrongRequest

VARIABLE = "STRONGROOM_POSTGRES_BIN"
_PATIENCE_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder of programs of one version, such as '18.6'."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    def path(self, program: str) -> str | None:
        """None if it isn't there."""
        found = self.folder / program
        return str(found) if found.exists() else None


def programs_of(major: int) -> Programs:
    """Raises WrongRequest if there are none of this version."""
    found = next((one for one in installed() if one.major == major), None)
    if found is None:
        others = ", ".join(one.version for one in installed()) or "none"
        raise WrongRequest(
            f"the programs of PostgreSQL {major}'s server are not on this machine (found: {others})",
            hint=f"install postgresql-{major} and its pgvector, or name the folder of its programs in {VARIABLE}",
        )
    return found


def installed() -> list[Programs]:
    """Those of the folders that the variable names, of PATH, and of where Debian and Red Hat put them."""
    return list(filter(None, map(_in, dict.fromkeys(_folders()))))


def run(program: str, *arguments: str) -> None:
    """Raises EngineFailed with the program's first complaint."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, cwd="/", timeout=_PATIENCE_SECONDS, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineFailed(lines[0])


def _folders() -> Iterator[Path]:
    yield from (Path(one) for one in os.environ.get(VARIABLE, "").split(os.pathsep) if one)
    onpath = shutil.which("postgres")
    if onpath:
        yield Path(onpath).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    yield from sorted(Path("/usr").glob("pgsql-*/bin"), reverse=True)


@functools.cache
def _in(folder: Path) -> Programs | None:
    try:
        said = subprocess.run([folder / "postgres", "-V"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"\) (\d+(?:\.\d+)?)", said)
    return Programs(folder, found[1]) if found else None
