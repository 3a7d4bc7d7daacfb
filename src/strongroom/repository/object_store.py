"""How an object store (S3 and compatibles, GCS, Azure, memory) keeps objects. The only module that touches obstore.

obstore repeats a request a few times at once. What goes on longer, or isn't repeated by it (a write that timed out, a conflict of
two writes), is repeated here, with growing pauses, until the patience that was asked for is at its end.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import obstore
from obstore import exceptions as foreign
from obstore.store import MemoryStore, S3Store, from_url

from strongroom.errors import (
    AlreadyExists,
    NotFound,
    StoreDenied,
    StoreFull,
    StrongroomError,
    Unreachable,
    UnsafeStore,
)
from strongroom.repository import transport
from strongroom.repository.endpoints import endpoint_of
from strongroom.repository.patience import Patience
from strongroom.repository.profiles import region_of
from strongroom.repository.store import USE_ANOTHER, Listed

T = TypeVar("T")

SCHEMES = ("memory", "s3", "s3a", "gs", "az", "azure")
_AT_ONCE = 3
"""Repetitions by obstore itself, a second after the request at the latest."""
_PART_BYTES = 5 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_MEMORY: dict[str, MemoryStore] = {}


def open_objects(location: str) -> Objects:
    """The object store of a URL."""
    parts = urlsplit(location)
    if parts.scheme == "memory":
        return Objects(location, _MEMORY.setdefault(location, MemoryStore()), Patience(60.0, 0.0))
    patience = Patience.asked_for()
    with translated(location):
        return Objects(location, _cloud(location, parts.scheme, parts.netloc, parts.path.strip("/"), patience), patience)


def _cloud(location: str, scheme: str, bucket: str, prefix: str, patience: Patience) -> Any:
    retries: Any = {
        "max_retries": _AT_ONCE if patience.retries else 0,
        "retry_timeout": timedelta(seconds=patience.retries),
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
    }
    connecting = timedelta(seconds=min(5.0, patience.request))
    options: Any = {"timeout": timedelta(seconds=patience.request), "connect_timeout": connecting}
    endpoint = endpoint_of(scheme)
    if endpoint and not endpoint.lower().startswith("https://"):
        transport.require_encrypted_url(endpoint, f"name the server of {location} by https://")
        options["allow_http"] = True
    elif scheme in ("s3", "s3a"):
        options["allow_http"] = False  # whatever AWS_ALLOW_HTTP says
    if scheme in ("s3", "s3a"):
        region: Any = {} if {"AWS_REGION", "AWS_DEFAULT_REGION"} & os.environ.keys() else region_of(endpoint_of(scheme))
        return S3Store(bucket, prefix=prefix or None, client_options=options, retry_config=retries, **region)
    return from_url(location, client_options=options, retry_config=retries)


class _Passing(Unreachable):
    """It may go better the next time: no answer, a server that is busy or broken, or two writes that met."""


@contextmanager
def translated(subject: str) -> Iterator[None]:
    """Foreign errors become ours here and nowhere else."""
    try:
        yield
    except StrongroomError:
        raise
    except foreign.AlreadyExistsError as error:
        text = str(error)
        if _status(text) == "409" and "BlobAlreadyExists" not in text:  # S3: another write was under way; it may have failed
            raise _Passing(f"{subject}: two writes at once") from error
        raise AlreadyExists(f"{subject} is already there") from error
    except (foreign.NotFoundError, FileNotFoundError) as error:
        raise NotFound(f"{subject} is not there") from error
    except (foreign.PermissionDeniedError, foreign.UnauthenticatedError, PermissionError) as error:
        raise StoreDenied(f"{subject}: the store refused access") from error
    except (foreign.BaseError, OSError) as error:
        raise _by_message(subject, error) from error


def _by_message(subject: str, error: Exception) -> StrongroomError:
    """obstore reports some of what a server said only as text, in which the object's own name may hold any digits."""
    text = str(error)
    status = _status(text)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if status in ("401", "403") or first.endswith("(code: AccessDenied)"):  # S3 answers 200 to deletes that it refuses
        return StoreDenied(f"{subject}: the store refused access")
    if status == "404":
        return NotFound(f"{subject} is not there")
    if status == "507":
        return StoreFull(f"{subject}: the store has no room left")
    if isinstance(error, foreign.PreconditionError) or status == "412":
        return AlreadyExists(f"{subject} is already there")
    if status == "501":
        return UnsafeStore(f"{subject}: the store doesn't offer what is needed ({_code(text)})", hint=USE_ANOTHER)
    kind = _Passing if not status or status[0] == "5" or status in ("408", "409", "429") else Unreachable
    return kind(f"{subject}: the store did not answer as it should ({first[:200]})")


def _status(text: str) -> str:
    found = re.search(r"status code: (\d{3})\b", text)
    return found[1] if found else ""


def _code(text: str) -> str:
    found = re.search(r"<Code>(\w+)</Code>", text)
    return found[1] if found else "501"


def _starts_past_the_end(error: foreign.BaseError) -> bool:
    return _status(str(error)) == "416" or "Wanted range starting at" in str(error)


class Objects:
    """Objects in any store that obstore speaks to."""

    def __init__(self, url: str, backend: Any, patience: Patience) -> None:
        self._url = url
        self._backend = backend
        self._patience = patience
        self.answers_ranges = True
        """Whether no part of an object had to be read as the whole so far."""

    @property
    def url(self) -> str:
        return self._url

    def create(self, name: str, data: bytes | memoryview) -> None:
        self._put(name, data, "create")

    def overwrite(self, name: str, data: bytes | memoryview) -> None:
        """As `create`, whatever is there: for stores that can't refuse."""
        self._put(name, data, "overwrite")

    def send_parts(self, name: str, data: bytes) -> None:
        """As `overwrite`, in parts of 5 MiB."""
        options: Any = {"use_multipart": True, "chunk_size": _PART_BYTES}
        self._patiently(name, lambda: obstore.put(self._backend, name, data, **options))

    def _put(self, name: str, data: bytes | memoryview, mode: Any) -> None:
        # the store in memory keeps what it is given: not a whole pack's buffer for a few bytes in it
        content = bytes(data) if isinstance(self._backend, MemoryStore) else data
        self._patiently(name, lambda: obstore.put(self._backend, name, content, mode=mode, use_multipart=False))

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._patiently(name, lambda: self._read(name, offset, length))

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        if length is None and offset == 0:
            return bytes(obstore.get(self._backend, name).bytes())
        if length == 0:
            obstore.head(self._backend, name)
            return b""
        try:
            if length is None:
                return bytes(obstore.get(self._backend, name, options={"range": {"offset": offset}}).bytes())
            return bytes(obstore.get_range(self._backend, name, start=offset, length=length))
        except foreign.BaseError as error:
            if _starts_past_the_end(error):
                return b""
            if "non-partial response" not in str(error):
                raise
        self.answers_ranges = False
        whole = memoryview(bytes(obstore.get(self._backend, name).bytes()))  # rclone answers no range as S3 does
        return bytes(whole[offset : None if length is None else offset + length])

    def size(self, name: str) -> int:
        return self._patiently(name, lambda: int(obstore.head(self._backend, name)["size"]))

    def list(self, prefix: str, after: str = "") -> Iterator[Listed]:
        """Begun anew after a failure, without what was given already: no order of the names is relied on."""
        given: set[str] = set()
        counted, pauses = 0, self._pauses()
        while True:
            try:
                with translated(self._named(prefix)):
                    for chunk in obstore.list(self._backend, prefix.rstrip("/"), offset=after or None, chunk_size=1000):
                        fresh = [item for item in chunk if item["path"] > after and item["path"] not in given]
                        given.update(item["path"] for item in fresh)
                        yield from (Listed(item["path"], int(item["size"]), item["last_modified"].timestamp()) for item in fresh)
                return
            except NotFound:  # there isn't even a bucket
                return
            except _Passing:
                if len(given) > counted:
                    counted, pauses = len(given), self._pauses()
                _wait_or_raise(pauses)

    def folders(self, prefix: str) -> Sequence[str]:
        def ask() -> list[str]:
            try:
                found = obstore.list_with_delimiter(self._backend, prefix.rstrip("/"))
            except (foreign.NotFoundError, FileNotFoundError):  # there isn't even a bucket
                return []
            return sorted(one.rstrip("/").rpartition("/")[2] for one in found["common_prefixes"])

        return self._patiently(prefix, ask)

    def delete(self, name: str) -> None:
        def remove() -> None:
            try:
                obstore.delete(self._backend, name)
            except (foreign.NotFoundError, FileNotFoundError):
                return

        self._patiently(name, remove)

    def _patiently(self, name: str, ask: Callable[[], T]) -> T:
        pauses = self._pauses()
        while True:
            try:
                with translated(self._named(name)):
                    return ask()
            except _Passing:
                _wait_or_raise(pauses)

    def _pauses(self) -> Iterator[float]:
        return _pauses(time.monotonic() + self._patience.retries)

    def _named(self, name: str) -> str:
        return f"{self._url.rstrip('/')}/{name}"


def _pauses(until: float) -> Iterator[float]:
    """Growing and uneven, as long as there is time for one more try."""
    pause = _FIRST_PAUSE
    while (left := until - time.monotonic()) > 0:
        yield min(left, pause * random.uniform(0.5, 1.0))  # noqa: S311
        pause = min(2 * pause, _LONGEST_PAUSE)


def _wait_or_raise(pauses: Iterator[float]) -> None:
    """Raises the error that is being handled if there is no time left."""
    pause = next(pauses, None)
    if pause is None:
        raise
    time.sleep(pause)
