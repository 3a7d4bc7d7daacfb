"""How objects get from one store to another: many at once, within a budget of memory and of bandwidth, each checked on its way."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field

from strongroom.errors import AlreadyExists, Damaged, NotFound, Stopped
from strongroom.progress import Progress
from strongroom.repository.framing import require_whole
from strongroom.repository.packs import PACK_BYTES
from strongroom.repository.store import Listed, Store
from strongroom.repository.writer import create_once

_ID = re.compile("[0-9a-f]{64}")
_MOST = 16


class Pace:
    """At most so many bytes a second, of all threads together; 0 is no limit. Until `stop` is set."""

    def __init__(self, bandwidth: int, stop: threading.Event | None = None) -> None:
        self._bandwidth = bandwidth
        self.stop = stop or threading.Event()
        self._free_at = 0.0
        self._lock = threading.Lock()

    def take(self, amount: int) -> None:
        """Wait until that many bytes may go. Raises Stopped."""
        self.go_on()
        if not self._bandwidth:
            return
        with self._lock:
            start = max(self._free_at, time.monotonic())
            self._free_at = start + amount / self._bandwidth
        self.stop.wait(max(0.0, start - time.monotonic()))
        self.go_on()

    def go_on(self) -> None:
        """Raises Stopped once it is to stop."""
        if self.stop.is_set():
            raise Stopped("the copy was stopped in the middle")


@dataclass
class Transport:
    """Copies objects from `source` to `target`. What it met: `moved` objects and `moved_bytes`, `damaged` at the source (not
    copied), `gone` from it since they were listed, `different` at the target under the same name (not overwritten)."""

    source: Store
    target: Store
    memory: int
    pace: Pace
    progress: Progress
    read_back: bool = False
    moved: int = 0
    moved_bytes: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    different: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(
        self, objects: Iterable[Listed], check: Callable[[str, bytes], None] | None = None, arrived: set[str] | None = None
    ) -> set[str]:
        """Copy these; gives the names of those that are at the target now, in `arrived` also if it ends early. `check` raises
        Damaged for wrong bytes of a name. Raises what the stores raise, and Stopped once what was under way has arrived."""
        arrived = set() if arrived is None else arrived
        stopped: list[Stopped] = []
        workers = max(1, min(_MOST, self.memory // PACK_BYTES))
        waiting: dict[Future[bool], Listed] = {}
        with ThreadPoolExecutor(workers, thread_name_prefix="strongroom-copy") as pool:
            try:
                for listed in objects:
                    in_flight = sum(one.size for one in waiting.values())
                    while waiting and (len(waiting) >= workers or in_flight + listed.size > self.memory):
                        in_flight -= self._collect(waiting, arrived, stopped)
                    if stopped:
                        break
                    waiting[pool.submit(self._copy, listed, check or _by_name)] = listed
                while waiting:
                    self._collect(waiting, arrived, stopped)
            finally:
                pool.shutdown(cancel_futures=True)
        if stopped:
            raise stopped[0]
        return arrived

    def _collect(self, waiting: dict[Future[bool], Listed], arrived: set[str], stopped: list[Stopped]) -> int:
        """The bytes of those that are done."""
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        freed = 0
        for future in done:
            listed = waiting.pop(future)
            freed += listed.size
            try:
                if future.result():
                    arrived.add(listed.name)
            except Stopped as error:
                stopped.append(error)
            self.progress.advance(listed.size)
        return freed

    def _copy(self, listed: Listed, check: Callable[[str, bytes], None]) -> bool:
        self.pace.take(listed.size)
        try:
            content = self.source.read(listed.name)
            check(listed.name, content)
        except NotFound:
            self.gone.add(listed.name)
            return False
        except Damaged as error:
            self.damaged[listed.name] = error.problem
            return False
        with suppress(AlreadyExists, Damaged):  # what is there is looked at next
            create_once(self.target, listed.name, content)
        if not self._is_whole(listed.name, content):
            self.different.add(listed.name)
            return False
        with self._lock:
            self.moved += 1
            self.moved_bytes += len(content)
        return True

    def _is_whole(self, name: str, content: bytes) -> bool:
        """Arrived: with its length, and with its bytes where the name doesn't vouch for them."""
        try:
            if self.read_back or not _ID.fullmatch(name.rpartition("/")[2]):
                return self.target.read(name) == content
            return self.target.size(name) == len(content)
        except NotFound:
            return False


def _by_name(name: str, content: bytes) -> None:
    """An object that is named by its bytes is checked against them; of the others nothing is known."""
    if _ID.fullmatch(name.rpartition("/")[2]):
        require_whole(name, content)
