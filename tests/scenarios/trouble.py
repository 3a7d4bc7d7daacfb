"""How do disks fill up, networks break and permissions go missing in a test, for real and for one process alone?"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

_CAPBSET_DROP = 24
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_LIBC = ctypes.CDLL(None, use_errno=True)


def without_root_powers() -> None:
    """To be run in a child before it becomes the command: modes of files bind it even if the tests run as root."""
    if os.geteuid() == 0:
        for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
            if _LIBC.prctl(_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "prctl")


class SmallDisk:
    """A directory with `size` bytes of room: a file system of its own where one may be mounted, else a limit that the command
    inherits (`limit`, to be run before it starts). `grow` gives it room."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._size = size
        path.mkdir()
        options = f"size={size},mode=0755"
        mount = ["mount", "-t", "tmpfs", "-o", options, "strongroom-test", str(path)]
        self._mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
        self._limited = not self._mounted

    def limit(self) -> None:
        if self._limited:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._size // 4, resource.RLIM_INFINITY))

    def grow(self) -> None:
        self._limited = False
        if self._mounted:
            subprocess.run(["mount", "-o", "remount,size=64m", str(self.path)], check=True, capture_output=True)

    def close(self) -> None:
        if self._mounted:
            subprocess.run(["umount", "-l", str(self.path)], check=True, capture_output=True)


class CuttingProxy:
    """A TCP proxy on 127.0.0.1 that breaks every connection once `allow` bytes have gone through, and then refuses new ones."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._left: float = float("inf")
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def allow(self, count: float) -> None:
        """From now on so many bytes more; 0 is a network that is down."""
        with self._lock:
            self._left = count
        if not count:
            self._cut()

    @property
    def broken(self) -> bool:
        """Did it cut?"""
        return self._left <= 0

    def close(self) -> None:
        self.allow(0)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.broken:
                    _reset(near)
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                with self._lock:
                    self._open |= {near, far}
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(8192):
                with self._lock:
                    self._left -= len(content)
                if self.broken:
                    self._cut()
                    break
                sink.sendall(content)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _cut(self) -> None:
        with self._lock:
            doomed, self._open = self._open, set()
        for one in doomed:
            _reset(one)


def _reset(connection: socket.socket) -> None:
    """Close it so that the other side sees a broken connection, not an orderly end."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def sabotaged(action: str, stage: str = "rows of") -> list[str]:
    """A program that is the command itself, but runs `action` (Python) the moment that its progress reaches `stage`."""
    code = f"""
import os, shutil, signal, sys, time
from strongroom.cli import bars, main
begin = bars.Bars.begin
def at_that_moment(self, name, total, unit):
    begin(self, name, total, unit)
    if name.startswith({stage!r}):
{chr(10).join("        " + text for text in action.splitlines())}
bars.Bars.begin = at_that_moment
sys.argv[0] = "strongroom"
main()
"""
    return [sys.executable, "-c", code]
