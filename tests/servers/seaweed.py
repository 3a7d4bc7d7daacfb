"""How is a real S3 server had for a test? SeaweedFS from its package, on free ports of 127.0.0.1, always killed at the end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from obstore.store import S3Store
from ports import free_ports

ACCESS, SECRET = "test-access", "test-secret"
HOST, APPENDING, READER = "host", "appending", "reader"
"""A backup host, which may do all to objects but end locks before their time; one that may only add and read; one that reads."""
_HOST_MAY = ["Read", "Write", "List", "PutObjectRetention", "GetBucketObjectLockConfiguration", "GetBucketVersioning"]
_APPENDING_MAY = [
    "s3:PutObject",
    "s3:PutObjectRetention",
    "s3:GetObject",
    "s3:GetObjectVersion",
    "s3:GetObjectRetention",
    "s3:ListBucket",
    "s3:ListBucketVersions",
    "s3:GetBucketObjectLockConfiguration",
]
PATIENCE_SECONDS = 90


class SeaweedFS:
    """One server: its owner's identity, and those of three hosts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "data").mkdir(parents=True)
        identity = {
            "name": "test",
            "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        host = {"name": HOST, "credentials": [{"accessKey": HOST, "secretKey": SECRET}], "actions": _HOST_MAY}
        adding = {"name": APPENDING, "credentials": [{"accessKey": APPENDING, "secretKey": SECRET}], "policyNames": [APPENDING]}
        reading = {"name": READER, "credentials": [{"accessKey": READER, "secretKey": SECRET}], "actions": ["Read", "List"]}
        statement = {"Effect": "Allow", "Action": _APPENDING_MAY, "Resource": ["arn:aws:s3:::*"]}
        policy = {"name": APPENDING, "content": json.dumps({"Version": "2012-10-17", "Statement": [statement]})}
        settings = {"identities": [identity, host, adding, reading], "policies": [policy]}
        (folder / "s3.json").write_text(json.dumps(settings))
        names = ("master", "volume", "filer", "s3")
        ports = free_ports(2 * len(names))
        self._ports = {
            option: port
            for name, pair in zip(names, zip(ports[::2], ports[1::2], strict=True), strict=True)
            for option, port in zip((f"{name}.port", f"{name}.port.grpc"), pair, strict=True)
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self._ports["s3.port"]

    def environment(self, port: int | None = None, who: str = ACCESS) -> dict[str, str]:
        """The standard variables with which any S3 client reaches the server, or a proxy before it."""
        return {
            "AWS_ACCESS_KEY_ID": who,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
        }

    def start(self) -> None:
        program = Path(sys.executable).with_name("weed")
        options = [f"-{name}={port}" for name, port in self._ports.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(program),
                    "server",
                    f"-dir={self._folder / 'data'}",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    "-master.volumeSizeLimitMB=64",
                    "-master.telemetry=false",
                    "-volume.max=400",
                    "-filer",
                    "-s3",
                    f"-s3.config={self._folder / 's3.json'}",
                    "-s3.iam=false",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        """Until an object can be written and read."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.make_bucket("ready")
                raw = self.raw("ready")
                raw.put("probe", b"x")
                if bytes(raw.get("probe").bytes()) == b"x":
                    return
            except Exception as error:  # whatever a server that is starting says
                if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                    tail = (self._folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"SeaweedFS did not start: {error}\n{tail}") from error
            time.sleep(0.2)

    def make_bucket(self, name: str) -> None:
        """A bucket is a folder of the filer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._ports["filer.port"], timeout=5)
        try:
            connection.request("POST", f"/buckets/{name}/")
            answer = connection.getresponse()
            if answer.status >= 300 and answer.status != 409:  # it is there already
                raise RuntimeError(f"the filer made no bucket: {answer.status} {answer.read(200)!r}")
        finally:
            connection.close()

    def raw(self, bucket: str, prefix: str = "") -> S3Store:
        """The raw client, to seed and inspect around Strongroom's own store."""
        return S3Store(
            bucket,
            prefix=prefix or None,
            endpoint=f"http://127.0.0.1:{self.port}",
            access_key_id=ACCESS,
            secret_access_key=SECRET,
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )

    def stop(self) -> None:
        """Kill it with all that it started."""
        if self._process is not None:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
