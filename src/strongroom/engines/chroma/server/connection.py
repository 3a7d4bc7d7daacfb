"""How is a Chroma server asked? Requests, secrets, and what its errors mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from strongroom.engines.chroma.server.place import TOKENS, Place
from strongroom.engines.retrying import Retrying
from strongroom.errors import NotFound, Refused, StrongroomError, Unreachable, Unreadable, WrongRequest, from_os_error
from strongroom.model import Json

_API = "api/v2"
_SECONDS, _SECONDS_TO_CONNECT = 300.0, 20.0
_SHOWN = 300
_REPEATABLE = ("get", "query", "add", "upsert", "update", "delete")
"""Of rows with ids of their own: what was done is not done again."""


def library() -> Any:
    """httpx. Raises WrongRequest if it isn't there."""
    try:
        import httpx
        import orjson  # noqa: F401
    except ImportError as error:
        raise WrongRequest("httpx or orjson is not installed", hint="pip install 'strongroom[chroma-server]'") from error
    return httpx


class Server:
    """A connection to a server. `failing` is what an answer means that says that a request can't be done."""

    def __init__(self, place: Place, failing: type[StrongroomError] = Unreadable) -> None:
        self.place = place
        self._failing = failing
        self._retrying = Retrying()
        httpx = library()
        token = _token()
        basic = httpx.BasicAuth(place.user, token) if place.user else None
        self._client = httpx.Client(
            base_url=f"{place.base}/{_API}/",
            auth=basic,
            verify=place.base.startswith("https:"),  # to load the authorities takes longer than a request
            headers={} if basic or not token else {"Authorization": f"Bearer {token}", "X-Chroma-Token": token},
            timeout=httpx.Timeout(_SECONDS, connect=_SECONDS_TO_CONNECT),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def ask(self, method: str, *path: str, **body: Json) -> Any:
        """The answer to a request (of a GET `body` is the query), which is made again while the server doesn't answer, unless it
        makes something: that can't be made twice. Raises Unreachable (nobody knows whether it was done), NotFound, Refused or what
        `failing` is; none of them shows what was sent."""
        if method == "POST" and path[-1] not in _REPEATABLE:
            return self._ask_once(method, path, body)
        return self._retrying.call(lambda: self._ask_once(method, path, body))

    def _ask_once(self, method: str, path: Sequence[str], body: Mapping[str, Json]) -> Any:
        import orjson

        httpx = library()
        url = "/".join(quote(one, safe="") for one in path)
        content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY) if body and method != "GET" else None
        head = {"content-type": "application/json"} if content else {}
        try:
            answer = self._client.request(method, url, content=content, headers=head, params=body if method == "GET" else None)
            if answer.status_code < 300:
                return orjson.loads(answer.content) if answer.content else None
        except (httpx.HTTPError, ValueError) as error:
            raise _silent(self.place, error) from error
        raise self._meant(answer.status_code, answer.text, answer.headers.get("retry-after", ""))

    def rows(self, where: Sequence[str], ids: Sequence[str], include: Sequence[str]) -> Iterator[Any]:
        """The answers that have the rows of these ids, as many as there are. A server may give fewer at a time than it is asked for
        (by a quota, say): the others are asked for, until no more come."""
        left = list(ids)
        while left:
            answer = self.ask("POST", *where, "get", ids=left, include=list(include))
            if not answer["ids"]:
                return
            yield answer
            given = set(answer["ids"])
            left = [one for one in left if one not in given]

    def collections(self, database: str, *path: str) -> tuple[str, ...]:
        """The path of a collection, by its name or id, or of something of it."""
        return ("tenants", self.place.tenant, "databases", database, "collections", *path)

    def _meant(self, status: int, text: str, after: str) -> StrongroomError:
        said = f"{self.place.shown}: {_message(text) or f'status {status}'}"
        if status in (401, 403):
            return Refused(said, hint=f"set {TOKENS[0]}, or {TOKENS[1]} to a file that holds it")
        if status == 404:
            return NotFound(said)
        if status in (408, 429, 502, 503, 504):
            return Unreachable(said, busy=True, after=float(after) if after.isdecimal() else None)
        return self._failing(said)


def _silent(place: Place, error: Exception) -> Unreachable:
    return Unreachable(f"{place.shown}: {type(error).__name__}", hint="check that the server runs, and its address")


def _message(text: str) -> str:
    import orjson

    try:
        found = orjson.loads(text)
        return str(found["message"])[:_SHOWN]
    except (ValueError, KeyError, TypeError):
        return text[:_SHOWN]


def _token() -> str:
    """The secret, '' if there is none. Raises NotFound or another error if its file can't be read."""
    given = os.environ.get(TOKENS[0], "")
    named = os.environ.get(TOKENS[1], "")
    if given or not named:
        return given
    try:
        return Path(named).read_text().strip()
    except OSError as error:
        raise from_os_error(error, f"{TOKENS[1]} ({named})") from error
