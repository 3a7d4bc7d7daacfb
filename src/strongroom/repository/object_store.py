"""How an object store (S3 and compatibles, GCS, Azure, memory) keeps objects. The only module that touches obstore."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore import exceptions as foreign
from obstore.store import MemoryStore, S3Store, from_url

from strongroom.errors import AlreadyExists, NotFound, StoreDenied, StoreFull, StrongroomError, Unreachable
from strongroom.repository.patience import retry_seconds
from strongroom.repository.store import Listed

SCHEMES = ("memory", "s3", "s3a", "gs", "az", "azure")
_ANY_NUMBER = 10_000  # of retries: time alone ends them
_MEMORY: dict[str, MemoryStore] = {}


def open_objects(location: str) -> Objects:
    """The object store of a URL. Requests are repeated for at most STRONGROOM_RETRY_SECONDS (60)."""
    parts = urlsplit(location)
    if parts.scheme == "memory":
        return Objects(location, _MEMORY.setdefault(location, MemoryStore()))
    with translated(location):
        return Objects(location, _cloud(location, parts.scheme, parts.netloc, parts.path.strip("/")))


def _cloud(location: str, scheme: str, bucket: str, prefix: str) -> Any:
    seconds = retry_seconds()
    retries: Any = {"max_retries": _ANY_NUMBER, "retry_timeout": timedelta(seconds=seconds)}
    endpoint = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", ""))
    options: Any = {"timeout": timedelta(seconds=max(30.0, seconds)), "connect_timeout": timedelta(seconds=5)}
    if endpoint.startswith("http://"):
        options["allow_http"] = True
    if scheme in ("s3", "s3a"):
        return S3Store(bucket, prefix=prefix or None, client_options=options, retry_config=retries)
    return from_url(location, client_options=options, retry_config=retries)


@contextmanager
def translated(subject: str) -> Iterator[None]:
    """Foreign errors become ours here and nowhere else."""
    try:
        yield
    except StrongroomError:
        raise
    except foreign.AlreadyExistsError as error:
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
    return Unreachable(f"{subject}: the store did not answer as it should ({first[:200]})")


def _status(text: str) -> str:
    found = re.search(r"status code: (\d{3})\b", text)
    return found[1] if found else ""


def _starts_past_the_end(error: foreign.BaseError) -> bool:
    return _status(str(error)) == "416" or "Wanted range starting at" in str(error)


class Objects:
    """Objects in any store that obstore speaks to."""

    def __init__(self, url: str, backend: Any) -> None:
        self._url = url
        self._backend = backend

    @property
    def url(self) -> str:
        return self._url

    def create(self, name: str, data: bytes | memoryview) -> None:
        with translated(self._named(name)):
            # the store in memory keeps what it is given: not a whole pack's buffer for a few bytes in it
            content = bytes(data) if isinstance(self._backend, MemoryStore) else data
            obstore.put(self._backend, name, content, mode="create", use_multipart=False)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        with translated(self._named(name)):
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
                raise

    def size(self, name: str) -> int:
        with translated(self._named(name)):
            return int(obstore.head(self._backend, name)["size"])

    def list(self, prefix: str) -> Iterator[Listed]:
        try:
            with translated(self._named(prefix)):
                for chunk in obstore.list(self._backend, prefix=prefix.rstrip("/"), chunk_size=1000):
                    for item in chunk:
                        yield Listed(item["path"], int(item["size"]))
        except NotFound:  # there isn't even a bucket
            return

    def delete(self, name: str) -> None:
        with translated(self._named(name)):
            try:
                obstore.delete(self._backend, name)
            except (foreign.NotFoundError, FileNotFoundError):
                return

    def _named(self, name: str) -> str:
        return f"{self._url.rstrip('/')}/{name}"
