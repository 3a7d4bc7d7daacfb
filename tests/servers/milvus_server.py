"""A real Milvus server on free ports of this machine, from the package `milvus`, of which only the binary is used."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import lzma
import os
import re
import subprocess
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ports import free_ports

_PORT = re.compile(r"\{\{ (\w+_port)\(int\): \d+ \}\}")
_OTHERS = re.compile(r"\{\{ (\w+)(?:\(\w+\))?(?:: (.*?))? \}\}")
_OWN_ADDRESS = re.compile(r"^( +)ip: #", re.MULTILINE)
_INTERVALS = {"timeTickInterval": 50, "checkInterval": 100, "distPullInterval": 100}
"""Milliseconds for which the parts of the server wait for each other."""
_SECONDS = 240


class Milvus:
    """A server of its own; with `users` it wants to know who asks: root, whose password is `Milvus`. With a certificate and its key
    it speaks TLS."""

    def __init__(self, directory: Path, *, users: bool = False, certificate: tuple[Path, Path] | None = None) -> None:
        self._package = _package()
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        template = (self._package / "config.yaml.template").read_text()
        names = _PORT.findall(template)
        *ports, self._health, self._peer = free_ports(len(names) + 2)
        self._ports = dict(zip(names, ports, strict=True))
        self.port = self._ports["proxy_port"]
        self.url = f"milvus://127.0.0.1:{self.port}"
        self.uri = f"http://127.0.0.1:{self.port}"
        self._configure(template, users=users, certificate=certificate)
        self.start()

    def _configure(self, template: str, *, users: bool, certificate: tuple[Path, Path] | None) -> None:
        said = {
            "etcd_data_dir": str(self.directory / "etcd"),
            "etcd_log_path": str(self.directory / "etcd.log"),
            "local_storage_dir": str(self.directory / "data"),
            "rocksmq_data_dir": str(self.directory / "rocksmq"),
            "system_log_path": "",
            "authorization_enabled": str(users).lower(),
            **(
                {"tls_mode": "1", "server_pem_path": str(certificate[0]), "server_key_path": str(certificate[1])}
                if certificate
                else {}
            ),
        }
        text = _PORT.sub(lambda found: str(self._ports[found[1]]), template)
        text = _OTHERS.sub(lambda found: said.get(found[1], found[2] or ""), text)
        (self.directory / "configs").mkdir(exist_ok=True)
        text = _OWN_ADDRESS.sub(r"\1ip: 127.0.0.1 #", text)
        text = text.replace("etcd:\n", f"etcd:\n  config:\n    path: {self.directory / 'configs' / 'etcd.yaml'}\n", 1)
        for name, milliseconds in _INTERVALS.items():
            text = re.sub(rf"( {name}): \d+", rf"\1: {milliseconds}", text)
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._ports["etcd_port"], self._peer))
        lines = [f"listen-client-urls: {client}", f"advertise-client-urls: {client}", f"listen-peer-urls: {peer}"]
        lines += [f"initial-advertise-peer-urls: {peer}", f"initial-cluster: default={peer}"]
        (self.directory / "configs" / "etcd.yaml").write_text("\n".join(lines) + "\n")
        (self.directory / "configs" / "milvus.yaml").write_text(text)
        (self.directory / "configs" / "glog.conf").write_text((self._package / "glog.conf").read_text())

    def start(self) -> None:
        binaries = _unpacked(self._package / "bin")
        surroundings = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "LD_LIBRARY_PATH": str(binaries),
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._health),
            "MILVUS_RUN_DIR": str(self.directory / "run"),
        }
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(binaries / "milvus"), "run", "standalone"],
                cwd=self.directory,
                env=surroundings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for _ in range(10 * _SECONDS):
            assert self._process.poll() is None, (self.directory / "log").read_text()[-3000:]
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{self._health}/healthz", timeout=5) as said,
            ):
                if b"OK" in said.read():
                    return
            time.sleep(0.1)
        raise AssertionError("the server doesn't start")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def _package() -> Path:
    found = importlib.util.find_spec("milvus")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "data"


def _unpacked(packed: Path) -> Path:
    """Where the unpacked program lies: once for all runs of tests on this machine."""
    place = Path(tempfile.gettempdir()) / f"strongroom-milvus-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [one for one in packed.glob("*.lzma") if not (place / one.stem).exists()]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda one: _unpack(one, place / one.stem), missing))
    return place


def _unpack(packed: Path, place: Path) -> None:
    fresh = place.with_name(place.name + ".new")
    fresh.write_bytes(lzma.decompress(packed.read_bytes()))
    fresh.chmod(0o755)
    fresh.rename(place)
