"""How is an Azure Blob Storage had for a test? Azurite from its npm package (`make servers`), on a free port of 127.0.0.1."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import os
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from obstore.store import AzureStore
from ports import free_ports

PROGRAM = Path(__file__).parent / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
ACCOUNT, KEY = "testaccount", base64.b64encode(b"a key of the tests, known to all!").decode()
_VERSION = "2021-12-02"
_NO_STANDARD_HEADERS = 12 * "\n"
PATIENCE_SECONDS = 90


class Azurite:
    """One server with one account."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self, port: int | None = None) -> dict[str, str]:
        """The standard variables with which a client reaches the server, or a proxy before it."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port or self.port}/{ACCOUNT}",
        }

    def start(self) -> None:
        if not PROGRAM.exists():
            raise RuntimeError(f"{PROGRAM} is not there: run 'make servers', which needs npm")
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--location", str(self._folder / "data")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["node", str(PROGRAM), *options, "--silent", "--skipApiVersionCheck", "--disableTelemetry"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"},
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.make_container("ready")
                return
            except OSError as error:
                if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                    tail = (self._folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"azurite did not start: {error}\n{tail}") from error
            time.sleep(0.1)

    def make_container(self, name: str) -> None:
        """By a request that is signed with the account's key, since the client makes none."""
        path = f"/{ACCOUNT}/{name}"
        headers = {
            "x-ms-date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "x-ms-version": _VERSION,
            "Content-Length": "0",
        }
        signed = "".join(f"{one}:{headers[one]}\n" for one in ("x-ms-date", "x-ms-version"))
        text = f"PUT{_NO_STANDARD_HEADERS}{signed}/{ACCOUNT}{path}\nrestype:container"
        mark = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(
                "PUT", f"{path}?restype=container", headers={**headers, "Authorization": f"SharedKey {ACCOUNT}:{mark}"}
            )
            answer = connection.getresponse()
            if answer.status not in (201, 409):
                raise RuntimeError(f"azurite made no container: {answer.status} {answer.read(500)!r}")
        finally:
            connection.close()

    def raw(self, container: str, prefix: str = "") -> AzureStore:
        """The raw client, to seed and inspect around Strongroom's own store."""
        return AzureStore(
            container,
            prefix=prefix or None,
            account_name=ACCOUNT,
            account_key=KEY,
            endpoint=self.environment()["AZURE_STORAGE_ENDPOINT"],
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )

    def stop(self) -> None:
        """It writes down what it has: killed, it would lose what was answered for."""
        if self._process is not None:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGINT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process = None
