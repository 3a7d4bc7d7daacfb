"""How is a store had that overwrites in silence? `rclone serve s3` from its package, on a free port of 127.0.0.1."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from obstore.store import S3Store
from ports import free_ports

from strongroom.repository.bucket import Bucket

ACCESS, SECRET = "test-access", "test-secret"
PATIENCE_SECONDS = 90


class Rclone:
    """Serves a directory; each folder in it is a bucket. It remembers which files a folder has: what it has been asked for must be
    changed through it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }

    def start(self) -> None:
        program, served = Path(sys.executable).with_name("rclone"), self.folder / "served"
        (served / "ready").mkdir(parents=True)
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(program),
                    "serve",
                    "s3",
                    f"--auth-key={ACCESS},{SECRET}",
                    f"--addr=127.0.0.1:{self.port}",
                    "--config=/dev/null",
                    str(served),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.raw("ready").put("probe", b"x")
                return
            except Exception as error:  # whatever a server that is starting says
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"rclone did not start: {error}\n{(self.folder / 'log').read_text()[-2000:]}") from error
            time.sleep(0.05)

    def make_bucket(self, name: str) -> Path:
        """The folder in which its objects lie as files."""
        made = Bucket(f"http://127.0.0.1:{self.port}", name, "us-east-1", ACCESS, SECRET).ask("PUT")
        if made.status != 200:
            raise RuntimeError(f"rclone made no bucket: {made}")
        return self.folder / "served" / name

    def raw(self, bucket: str, prefix: str = "") -> S3Store:
        return S3Store(
            bucket,
            prefix=prefix or None,
            endpoint=f"http://127.0.0.1:{self.port}",
            access_key_id=ACCESS,
            secret_access_key=SECRET,
            region="us-east-1",
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
