"""Moto's AWS server, on a free port of this machine, for tests of KMS."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import botocore.config
import botocore.session
import httpx
from ports import free_ports

PATIENCE_SECONDS = 60
REGION = "eu-central-1"


class Moto:
    """Its KMS really encrypts, with AES-GCM and the context as associated data."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"},
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (folder / "log").read_text()
            try:
                httpx.get(f"{self.endpoint}/moto-api/")
                break
            except httpx.HTTPError:
                time.sleep(0.05)
        else:
            raise AssertionError("the server doesn't start")
        session = botocore.session.Session()
        session.set_credentials("test", "test")
        self.kms: Any = session.create_client("kms", region_name=REGION, endpoint_url=self.endpoint)

    @property
    def env(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL_KMS": self.endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

    def make_key(self, alias: str) -> str:
        """The key's id."""
        key = self.kms.create_key(Description=alias)["KeyMetadata"]["KeyId"]
        self.kms.create_alias(AliasName=f"alias/{alias}", TargetKeyId=key)
        return str(key)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
