"""What does PostgreSQL make of a cluster's files? It is started on a private copy of them, and reaches the consistent point itself.

The copy lies in a folder of the system user who runs the server (PostgreSQL refuses root), and spoken to by a socket in it.
The cluster's own settings don't matter: nothing of it is sent, archived, vacuumed or loaded.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from strongroom.engines.pgvector.address import Address
from strongroom.engines.pgvector.physical.programs import Programs, run
from strongroom.engines.pgvector.physical.recovery import settings_of
from strongroom.engines.staging import remove
from strongroom.errors import EngineFailed

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl(2)
_USERS = ("postgres", "nobody")
_PORT = 5432
_SECONDS = 0.05
_EVENT_TRIGGERS = 17  # from here on some run when somebody connects, and can be turned off
_STOPPING_SECONDS = 60
_NOT_COPIED = ("postgresql.auto.conf", "standby.signal", "postmaster.pid", "strongroom.json")
_FOLDERS = (
    *(
        "pg_commit_ts",
        "pg_dynshmem",
        "pg_notify",
        "pg_replslot",
        "pg_serial",
        "pg_snapshots",
        "pg_stat",
        "pg_stat_tmp",
        "pg_subtrans",
    ),
    *("pg_tblspc", "pg_twophase", "pg_multixact/members", "pg_multixact/offsets", "pg_logical/mappings"),
    *("pg_logical/snapshots", "pg_wal/archive_status", "pg_wal/summaries"),
)
"""PostgreSQL wants them, empty or not: a stage under construction has only those that have files."""
_SETTINGS = {
    "archive_mode": "off",
    "autovacuum": "off",
    "fsync": "off",
    "hot_standby": "off",
    "listen_addresses": "''",
    "logging_collector": "off",
    "max_prepared_transactions": "1000",
    "max_wal_senders": "0",
    "port": str(_PORT),
    "restart_after_crash": "off",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
}


@dataclass(frozen=True, slots=True)
class Scratch:
    """A running server over a copy: `user` is the role that initdb made."""

    programs: Programs
    socket: Path
    user: str

    def address(self, database: str) -> Address:
        return Address(str(self.socket), _PORT, self.user, database)

    def databases(self) -> list[tuple[str, bool]]:
        """All that may be connected to, and whether they have pgvector."""
        with _connected(self.address("template1")) as connection:
            query = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY datname"
            names = [str(name) for (name,) in connection.execute(query).fetchall()]
        found = []
        for name in names:
            with _connected(self.address(name)) as connection:
                there = connection.execute("SELECT 1 FROM pg_catalog.pg_extension WHERE extname = 'vector'").fetchone()
            found.append((name, there is not None))
        return found

    def examine(self) -> str:
        """Have pg_amcheck look at every table and B-tree. Gives why it couldn't, '' if it did; raises EngineFailed if something is
        damaged."""
        program = self.programs.path("pg_amcheck")
        if program is None:
            return "pg_amcheck is not among the programs"
        with _connected(self.address("template1")) as connection:
            query = "SELECT 1 FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'"
            if connection.execute(query).fetchone() is None:
                return "the extension amcheck is not among the programs"
        where = ("-h", str(self.socket), "-p", str(_PORT), "-U", self.user)
        run(program, *where, "--all", "--install-missing")
        return ""


@contextmanager
def running(files: Path, programs: Programs) -> Iterator[Scratch]:
    """A server over a copy of a data directory, once it has gone on to the moment that it was told. Raises EngineFailed if it
    doesn't come up."""
    place = Path(tempfile.mkdtemp(prefix="strongroom-pg-"))
    try:
        data, owner = place / "data", _owner()
        shutil.copytree(files, data, ignore=lambda folder, _: _NOT_COPIED if Path(folder) == files else ())
        _prepare(place, data, programs.major, settings_of(files))
        if owner is not None:
            _give(place, owner)
        user = _superuser(programs, data, owner)
        process = _start(programs, place, data, owner)
        try:
            scratch = Scratch(programs, place, user)
            _wait(process, scratch, place / "log")
            yield scratch
        finally:
            _stop(process)
    finally:
        remove(place)


def _prepare(place: Path, data: Path, major: int, recovery: Mapping[str, str]) -> None:
    newer = {"event_triggers": "off"} if major >= _EVENT_TRIGGERS else {}
    (place / "hba.conf").write_text("local all all trust\n")
    (place / "ident.conf").write_text("")
    own = {"hba_file": place / "hba.conf", "ident_file": place / "ident.conf", "unix_socket_directories": place}
    lines = [f"{name} = {value}" for name, value in {**_SETTINGS, **newer, **recovery}.items()] + [
        f"{name} = '{value}'" for name, value in own.items()
    ]
    (place / "server.conf").write_text("\n".join(lines) + "\n")
    (place / "log").touch()
    for folder in _FOLDERS:
        (data / folder).mkdir(parents=True, exist_ok=True)
    data.chmod(0o700)


def _owner() -> pwd.struct_passwd | None:
    """Who runs the server: this user, or another one if that is root."""
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise EngineFailed("PostgreSQL refuses root, and there is no user 'postgres'", hint="run this as another user than root")


def _give(place: Path, owner: pwd.struct_passwd) -> None:
    os.chown(place, owner.pw_uid, owner.pw_gid)
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            os.chown(Path(folder) / name, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def _as(owner: pwd.struct_passwd | None) -> dict[str, Any]:
    ids = {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    return {**ids, "cwd": "/", "env": {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}, "umask": 0o077}


def _command(programs: Programs, data: Path, *first: str) -> list[str]:
    return [str(programs.folder / "postgres"), *first, "-D", str(data), "-c", f"config_file={data.parent / 'server.conf'}"]


def _superuser(programs: Programs, data: Path, owner: pwd.struct_passwd | None) -> str:
    """The role that initdb made may have any name. Asking brings the files to their consistent point too."""
    command = [*_command(programs, data, "--single"), "template1"]
    query = "SELECT rolname FROM pg_catalog.pg_authid WHERE oid = 10\n"
    done = subprocess.run(command, input=query, capture_output=True, text=True, check=False, **_as(owner))
    found = re.search(r'rolname = "(.*)"\t\(typeid', done.stdout)
    if found is None:
        raise EngineFailed(f"PostgreSQL does not open the files: {_complaint(done.stderr)}")
    return found[1]


def _start(programs: Programs, place: Path, data: Path, owner: pwd.struct_passwd | None) -> subprocess.Popen[bytes]:
    with (place / "log").open("ab") as log:
        return subprocess.Popen(
            _command(programs, data),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_us if sys.platform == "linux" else None,
            **_as(owner),
        )


def _end_with_us() -> None:
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGQUIT)


def _wait(process: subprocess.Popen[bytes], scratch: Scratch, log: Path) -> None:
    """Until it answers. Raises EngineFailed if it ends instead."""
    while True:
        try:
            with _connected(scratch.address("template1")):
                return
        except psycopg.OperationalError:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS)
        if process.returncode is not None:
            raise EngineFailed(f"PostgreSQL does not start on the files: {_complaint(log.read_text(errors='replace'))}")


def _connected(address: Address) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(host=address.host, port=address.port, user=address.user, dbname=address.database, autocommit=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The copy is thrown away: nothing need be written."""
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(_STOPPING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _complaint(log: str) -> str:
    lines = [line for line in log.splitlines() if "FATAL:" in line or "PANIC:" in line or "ERROR:" in line]
    return re.sub(r"^.*?(FATAL|PANIC|ERROR):\s*", "", lines[-1]) if lines else "it said nothing"
