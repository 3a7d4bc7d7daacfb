"""How is a policy file served in this process, so that a test hears every event? Real repositories, a real clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from commands import COMMAND

from strongroom.operations.run import Event
from strongroom.policy import marked, reading
from strongroom.serving import policy_service

PATIENCE = 60.0


@dataclass
class Told:
    """What a daemon says; `wait_for` an event with these fields, be it that it was said before."""

    events: list[dict[str, Any]] = field(default_factory=list)
    _lock: threading.Condition = field(default_factory=threading.Condition)

    def tell(self, event: Event) -> None:
        with self._lock:
            self.events.append(event.as_json())
            self._lock.notify_all()

    def of(self, what: str, **fields: Any) -> list[dict[str, Any]]:
        return [one for one in list(self.events) if one["event"] == what and all(one.get(k) == v for k, v in fields.items())]

    def wait_for(self, what: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The `count`-th of them."""
        with self._lock:
            heard = self._lock.wait_for(lambda: len(self.of(what, **fields)) >= count, PATIENCE)
            assert heard, (what, fields, self.events)
        return self.of(what, **fields)[count - 1]

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Looked at after each event, and now and then."""
        with self._lock:
            for _ in range(int(PATIENCE / 0.1)):
                if true():
                    return
                self._lock.wait(0.1)
        raise AssertionError(f"it never came true: {self.events}")


@contextmanager
def served(document: dict[str, Any], folder: Path) -> Iterator[Told]:
    """While the daemon runs by this document; it is asked to stop at the end, and must end."""
    told, stop = Told(), threading.Event()
    service = _service(document, folder, told)
    thread = threading.Thread(target=service.serve, args=(stop,))
    thread.start()
    try:
        yield told
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()


def once(document: dict[str, Any], folder: Path) -> tuple[int, Told]:
    """As `run --once`."""
    told = Told()
    return _service(document, folder, told).once(threading.Event()), told


def _service(document: dict[str, Any], folder: Path, told: Told) -> Any:
    file = folder / "strongroom.yaml"
    file.write_text(marked.write(document))
    return policy_service(reading.read_file(file), file, [COMMAND], told.tell)


def build(folder: Path, name: str, seed: int, rows: int = 200) -> str:
    """The URL of a small index with a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    index = faiss.IndexFlatL2(16)
    index.add(np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32))
    faiss.write_index(index, str(folder / f"{name}.fresh"))
    (folder / f"{name}.fresh").replace(folder / f"{name}.faiss")  # a daemon may be reading it
    return f"faiss://{folder}/{name}.faiss"
