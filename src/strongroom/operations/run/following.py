"""How are the journals of a policy kept? A process each, started again with growing pauses when it ends."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from strongroom.policy.document import Scheduled

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0
_STEADY_SECONDS = 60.0
"""A follower that ran so long begins again with the shortest pause."""
_ENDING_SECONDS = 60.0


def arguments(url: str, repository: str, scheduled: Scheduled, every: float | None) -> list[str]:
    """Of `strongroom journal follow`."""
    options = ["--repo", repository, "--quiet", "--json", "--until-eof"]
    options += ["--every", f"{every:g}"] if every is not None else []
    options += ["--batch-key", scheduled.batch_key] if scheduled.batch_key else []
    return ["journal", "follow", url, *options, *(["--scan"] if scheduled.scan else [])]


class Follower:
    """Keeps one journal going until `stop`. A process of its own: an engine that crashes takes nothing else with it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], tell: Callable[[str, str], None]) -> None:
        """`tell` hears what happened ('started', 'failed') and a sentence."""
        self._command, self._environment, self._tell = list(command), dict(environment), tell
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="strongroom-follower", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def stop(self) -> None:
        """Ask it to seal what is pending and to end."""
        with self._lock:
            self._stop.set()
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)

    def join(self) -> None:
        """Wait for its end, killing it if it takes too long: what isn't sealed is in the engine's log still."""
        self._thread.join(_ENDING_SECONDS)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            began = time.monotonic()
            with self._lock:
                if self._stop.is_set():
                    return
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,  # it ends with us, however we end
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C is ours: it is told to stop
                )
            self._tell("started", f"follower {self._process.pid}")
            said = _awaited(self._process)
            if self._stop.is_set():
                return
            if time.monotonic() - began > _STEADY_SECONDS:
                pause = _FIRST_PAUSE
            last = (said.decode(errors="replace").strip().splitlines() or [f"ended with {self._process.returncode}"])[-1]
            self._tell("failed", f"the follower ended and is started again in {pause:g} s: {last[:300]}")
            with suppress(OSError):
                self._stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _awaited(process: subprocess.Popen[bytes]) -> bytes:
    """What it said, once it has ended. Its standard input stays open until then."""
    assert process.stderr is not None and process.stdin is not None  # noqa: S101 - both are pipes
    with process.stdin, process.stderr:
        said = process.stderr.read()
        process.wait()
    return said
