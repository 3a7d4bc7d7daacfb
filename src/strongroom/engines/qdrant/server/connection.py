"""How is Qdrant's client had, with which secret, and what do its errors mean?"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from strongroom.engines.qdrant.server.place import KEYS, Place
from strongroom.engines.retrying import Retrying
from strongroom.errors import (
    Locked,
    NotFound,
    Refused,
    StrongroomError,
    Unreachable,
    Unreadable,
    WrongRequest,
    from_os_error,
)

SECONDS = 300
_SHOWN = 300
_BUSY = (408, 429, 502, 503, 504)


def library() -> Any:
    """qdrant_client. Raises WrongRequest if it isn't there."""
    try:
        import qdrant_client
    except ImportError as error:
        raise WrongRequest("qdrant-client is not installed", hint="pip install 'strongroom[qdrant]'") from error
    return qdrant_client


class Server:
    """A connection. What reads goes through `ask`, what writes through `tell`; `client` is a `QdrantClient`."""

    def __init__(self, client: Any, shown: str, failing: type[StrongroomError] = Unreadable) -> None:
        self.client = client
        self.shown = shown
        self._failing = failing
        self._retrying = Retrying()

    def ask(self, method: str, *given: Any, **named: Any) -> Any:
        """What a method of the client gives that changes nothing, or nothing more when it is done again: it is tried again while
        the server doesn't answer. Raises Unreachable, NotFound, Refused or what `failing` is."""
        return self._retrying.call(lambda: self.tell(method, *given, **named))

    def tell(self, method: str, *given: Any, **named: Any) -> Any:
        """The same once: if it raises Unreachable nobody knows whether it was done."""
        with _speaking(self.shown, self._failing):
            return getattr(self.client, method)(*given, **named)

    def version(self) -> str:
        return str(self.ask("info").version)


@contextmanager
def connected(place: Place, failing: type[StrongroomError] = Unreadable, node: int = 0) -> Iterator[Server]:
    """Raises WrongRequest, NotFound or Locked; a server isn't asked yet."""
    qdrant = library()
    with _speaking(place.shown, failing), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of secrets in the clear, of small data: said in the documentation
        if place.folder:
            client = qdrant.QdrantClient(path=place.folder, force_disable_check_same_thread=True)
        else:
            given = {"url": place.nodes[node], "api_key": api_key() or None, "timeout": SECONDS}
            client = qdrant.QdrantClient(**given, check_compatibility=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield Server(client, place.shown if place.folder else place.nodes[node], failing)
    finally:
        client.close()


def require_folder(place: Place) -> None:
    """Opening a folder of the local mode makes one. Raises NotFound."""
    if place.folder and not (Path(place.folder) / "meta.json").is_file():
        raise NotFound(f"{place.folder} is no folder of Qdrant's local mode")


@contextmanager
def _speaking(shown: str, failing: type[StrongroomError]) -> Iterator[None]:
    """Errors of the client mean ours; none of them shows what was sent."""
    from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    try:
        yield
    except StrongroomError:
        raise
    except ResourceExhaustedResponse as error:
        raise Unreachable(f"{shown}: it has no room for more requests", busy=True, after=_number(error.retry_after_s)) from error
    except ResponseHandlingException as error:
        hint = "check that the server runs, and its address"
        raise Unreachable(f"{shown}: {type(error.source).__name__}", hint=hint) from error
    except UnexpectedResponse as error:
        raise said_by(shown, error.status_code or 0, error.content, failing) from error
    except RuntimeError as error:
        if "already accessed" in str(error):
            raise Locked(f"{shown} is open in another process") from error
        raise failing(f"{shown}: {str(error)[:_SHOWN]}") from error
    except ValueError as error:
        kind = NotFound if "not found" in str(error) else failing
        raise kind(f"{shown}: {str(error)[:_SHOWN]}") from error


def said_by(shown: str, status: int, content: bytes, failing: type[StrongroomError]) -> StrongroomError:
    """What an answer means that isn't what was asked for."""
    said = f"{shown}: {_message(content) or f'status {status}'}"
    if status in (401, 403):
        return Refused(said, hint=f"set {KEYS[0]}, or {KEYS[1]} to a file that holds it")
    if status == 404:
        return NotFound(said)
    return Unreachable(said, busy=True) if status in _BUSY else failing(said)


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["status"]["error"])[:_SHOWN]
    except (ValueError, KeyError, TypeError):
        return ""


def _number(given: Any) -> float | None:
    return float(given) if str(given).isdecimal() else None


def api_key() -> str:
    """The secret, '' if there is none. Raises NotFound or another error if its file can't be read."""
    given, named = (os.environ.get(name, "") for name in KEYS)
    if given or not named:
        return given
    try:
        return Path(named).read_text().strip()
    except OSError as error:
        raise from_os_error(error, f"{KEYS[1]} ({named})") from error
