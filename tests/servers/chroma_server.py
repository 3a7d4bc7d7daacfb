"""A real Chroma server on a free port of this machine, and bare HTTP to it, so that no adapter vouches for itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

HOME = ("default_tenant", "default_database")
ALL = ["embeddings", "documents", "metadatas", "uris"]


class Server:
    """A server of the test's own."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = taken.getsockname()[1]
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.url = f"chroma+http://127.0.0.1:{self.port}"
        self.raw = Raw(self.port)
        self.start()

    def start(self) -> None:
        program = Path(sys.executable).with_name("chroma")
        here = [str(program)] if program.exists() else [sys.executable, "-c", "from chromadb.cli.cli import app; app()"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*here, "run", "--path", str(self.directory / "data"), "--host", "127.0.0.1", "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "ANONYMIZED_TELEMETRY": "False"},
            )
        for _ in range(600):
            try:
                self.raw.ask("GET", "heartbeat")
                return
            except httpx.TransportError:
                assert self._process.poll() is None, (self.directory / "log").read_text()
                time.sleep(0.05)
        raise AssertionError("the server doesn't start")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Raw:
    """What a user could ask by HTTP."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v2/", timeout=60)

    def ask(self, method: str, path: str, **body: Any) -> Any:
        answer = self._client.request(method, path, json=body or None)
        assert answer.status_code < 300, (method, path, answer.text)
        return answer.json() if answer.content else None

    def make(self, name: str, where: tuple[str, str] = HOME, **more: Any) -> str:
        """A collection; gives its id."""
        return str(self.ask("POST", f"{_of(where)}/collections", name=name, **more)["id"])

    def describe(self, name: str, where: tuple[str, str] = HOME) -> Any:
        return self.ask("GET", f"{_of(where)}/collections/{name}")

    def drop(self, name: str, where: tuple[str, str] = HOME) -> None:
        self.ask("DELETE", f"{_of(where)}/collections/{name}")

    def do(self, what: str, name: str, where: tuple[str, str] = HOME, **body: Any) -> Any:
        """`add`, `upsert`, `update`, `delete`, `get` or `query` in a collection."""
        return self.ask("POST", f"{_of(where)}/collections/{self.describe(name, where)['id']}/{what}", **body)

    def names(self, where: tuple[str, str] = HOME) -> list[str]:
        return sorted(one["name"] for one in self.ask("GET", f"{_of(where)}/collections"))

    def rows(self, name: str, where: tuple[str, str] = HOME) -> dict[str, tuple[Any, ...]]:
        """Every row: the vector as float32 numbers, document, metadata, uri."""
        found = self.do("get", name, where, include=ALL)
        vectors = [np.asarray(one, np.float32).tolist() for one in found["embeddings"]]
        texts = zip(found["ids"], vectors, found["documents"], found["metadatas"], found["uris"], strict=True)
        return {one: (vector, document, metadata or None, uri) for one, vector, document, metadata, uri in texts}

    def clear(self) -> None:
        """Drop every collection of the default tenant."""
        for one in self.ask("GET", "tenants/default_tenant/databases"):
            where = ("default_tenant", one["name"])
            for name in self.names(where):
                self.drop(name, where)
            if where != HOME:
                self.ask("DELETE", f"tenants/default_tenant/databases/{one['name']}")


def _of(where: tuple[str, str]) -> str:
    return f"tenants/{where[0]}/databases/{where[1]}"
