"""What did the daemon do last? Kept in this machine's state directory, so that a restart repeats nothing and forgets nothing."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from strongroom.engines.staging import write_durably
from strongroom.errors import Locked, from_os_error
from strongroom.repository.state import alone_at, state_directory

_FIRST_RETRY, _LONGEST_RETRY = 60.0, 3600.0


@dataclass(frozen=True, slots=True)
class Done:
    """When a task was due last (ISO, UTC), when it ended, how, and, if it failed, how often in a row and when it is tried again."""

    due: str
    ended: str = ""
    outcome: str = ""
    failures: int = 0
    again: str = ""


class RunState:
    """The state of one policy file; each change is durable at once. Safe to use by several threads."""

    def __init__(self, path: Path) -> None:
        self.path, self.lost = path, False
        self._lock = threading.Lock()
        self._done: dict[str, Done] = {}
        self._broken: set[str] = set()
        try:
            found = json.loads(path.read_bytes())
            self._done = {str(name): Done(**one) for name, one in found["done"].items()}
            self._broken = {str(one) for one in found["broken"]}
            for one in self._done.values():
                datetime.fromisoformat(one.due)
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError):
            self._done, self._broken, self.lost = {}, set(), True
        except OSError as error:
            raise from_os_error(error, str(path)) from error

    @classmethod
    def of(cls, document: Path) -> RunState:
        """That of the policy file at a path."""
        name = hashlib.blake2b(str(document.absolute()).encode(), digest_size=8).hexdigest()
        return cls(state_directory() / "run" / f"{name}.json")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other daemon or `run --once` works by this file. Raises Locked."""
        try:
            with alone_at(self.path, wait=False):
                yield
        except BlockingIOError as error:
            raise Locked("another 'strongroom run' works by this policy file") from error
        except OSError as error:
            raise from_os_error(error, str(self.path)) from error

    def last(self, name: str) -> datetime | None:
        """When a task was due last, None if this machine never had it."""
        found = self._done.get(name)
        return datetime.fromisoformat(found.due) if found else None

    def lasts(self) -> dict[str, datetime]:
        return {name: datetime.fromisoformat(one.due) for name, one in self._done.items()}

    def retry(self, name: str, now: datetime) -> bool:
        """Did it fail, and is it time to try again?"""
        found = self._done.get(name)
        return bool(found and found.again and datetime.fromisoformat(found.again) <= now)

    def begin(self, name: str, due: datetime) -> None:
        """A task counts from here on; nothing was done yet."""
        self._put(name, Done(due.isoformat()))

    def ended(self, name: str, due: datetime, now: datetime, outcome: str) -> None:
        """A task that was due is done with: it failed ('failed'), or not."""
        before = self._done.get(name)
        failures = (before.failures if before else 0) + 1 if outcome == "failed" else 0
        wait = timedelta(seconds=min(_LONGEST_RETRY, _FIRST_RETRY * 2 ** min(failures - 1, 10))) if failures else timedelta()
        again = (now + wait).isoformat() if failures else ""
        self._put(name, Done(due.isoformat(), now.isoformat(), outcome, failures, again))

    def put_off(self, name: str) -> None:
        """Not tried again before it is due."""
        found = self._done.get(name)
        if found:
            self._put(name, replace(found, again=""))

    @property
    def broken(self) -> set[str]:
        """The names of the objectives that are broken, as it was said last."""
        return set(self._broken)

    def say_broken(self, names: set[str]) -> None:
        with self._lock:
            self._broken = set(names)
            self._save()

    def _put(self, name: str, done: Done) -> None:
        with self._lock:
            self._done[name] = done
            self._save()

    def _save(self) -> None:
        body = {"done": {name: asdict(one) for name, one in sorted(self._done.items())}, "broken": sorted(self._broken)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_durably(self.path, json.dumps(body, indent=1).encode())
        except OSError as error:
            raise from_os_error(error, str(self.path)) from error


@contextmanager
def alone_with(source: str) -> Iterator[bool]:
    """Whether no other process of this machine backs the source up by a policy, kept so meanwhile."""
    name = hashlib.blake2b(source.encode(), digest_size=8).hexdigest()
    taken = alone_at(state_directory() / "run" / f"source-{name}", wait=False)
    try:
        taken.__enter__()
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        taken.__exit__(None, None, None)
