"""How is a Milvus server asked? Its own messages over gRPC, secrets, and what its errors mean.

Of pymilvus only the messages are used: so schemas and rows are what the server says, whichever release of the client there is.
"""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from strongroom.engines.milvus.place import DEFAULT, TOKENS, Place
from strongroom.engines.retrying import Retrying
from strongroom.errors import NotFound, Refused, StrongroomError, Unreachable, Unreadable, WrongRequest, from_os_error

_SECONDS = 600.0
_LARGEST = 512 << 20
_SHOWN = 300
_ABSENT = (100, 200, 700, 800)
"""Codes: there is no such collection, partition, index or database."""
_REPEATABLE = ("Get", "List", "Show", "Describe", "Select", "Query", "Search", "Flush", "Load")
"""How requests begin that may be made twice."""
_LIMITED = 8
_FIRST_WAIT, _LAST_WAIT = 0.25, 40.0
"""Seconds until a request is made again for which the server's limits of rates leave no room."""
_NOT_PERMITTED = (1400, 1401, 1402)
_NO_COLLECTION_BEFORE = 4
_NOT_FOUND = ("can't find collection", "collection not found", "index not found", "no index on")


class TooLarge(StrongroomError):
    """A message is longer than the server sends or takes."""

    default_hint = "raise the server's limits of messages (proxy.grpc in milvus.yaml)"


class NotOffered(StrongroomError):
    """The server doesn't know such a request."""

    default_hint = "upgrade the server"


def messages() -> tuple[Any, Any, Any]:
    """The modules milvus_pb2, schema_pb2 and common_pb2. Raises WrongRequest if pymilvus isn't there."""
    try:
        from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2
    except ImportError as error:
        raise WrongRequest("pymilvus is not installed", hint="pip install 'strongroom[milvus]'") from error
    return milvus_pb2, schema_pb2, common_pb2


class Server:
    """A connection to a server. `failing` is what an answer means that says that a request can't be done."""

    def __init__(self, place: Place, failing: type[StrongroomError] = Unreadable) -> None:
        self.place = place
        self._failing = failing
        self._retrying = Retrying()
        self.messages = messages()
        import grpc
        from pymilvus.grpc_gen import milvus_pb2_grpc

        options = [("grpc.max_receive_message_length", _LARGEST), ("grpc.max_send_message_length", _LARGEST)]
        credentials = grpc.ssl_channel_credentials() if place.secure else None
        if credentials is not None:
            self._channel = grpc.secure_channel(place.host, credentials, options)
        else:
            self._channel = grpc.insecure_channel(place.host, options)
        self._stub = milvus_pb2_grpc.MilvusServiceStub(self._channel)
        token = "" if place.host.startswith("unix:") else _token()
        said = f"{place.user}:{token}" if place.user else token
        self._secret = (("authorization", base64.b64encode(said.encode()).decode()),) if token else ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def ask(self, method: str, request: str = "", database: str = "", **said: Any) -> Any:
        """The answer to `method` of the service; `request` is its message, if that isn't called as the method is. It is made again
        while the server doesn't answer, if it changes nothing. Raises Unreachable (nobody knows whether it was done), NotFound,
        Refused, NotOffered, TooLarge or what `failing` is; none of them shows what was sent."""
        kind = getattr(self.messages[0], request or f"{method}Request")
        if "db_name" in kind.DESCRIPTOR.fields_by_name:
            said["db_name"] = database
        message = kind(**said)
        if method.startswith(_REPEATABLE):
            return self._retrying.call(lambda: self._ask_in_turn(method, message, database))
        return self._ask_in_turn(method, message, database)

    def _ask_in_turn(self, method: str, message: Any, database: str) -> Any:
        """A request that the server's limits turn away wasn't done: its turn comes later."""
        wait = _FIRST_WAIT
        while True:
            answer = self._answer(method, message, database)
            status = answer.status if hasattr(answer, "status") else answer
            if not getattr(status, "code", 0) and not getattr(status, "error_code", 0):
                return answer
            if status.code != _LIMITED or wait > _LAST_WAIT:
                raise self._meant(status)
            time.sleep(wait)
            wait *= 2

    def _answer(self, method: str, message: Any, database: str) -> Any:
        import grpc

        try:
            secret = (*self._secret, ("dbname", database or DEFAULT))
            return getattr(self._stub, method)(message, timeout=_SECONDS, metadata=secret)
        except grpc.RpcError as error:
            raise self._unanswered(error, grpc.StatusCode) from error

    def _unanswered(self, error: Any, codes: Any) -> Exception:
        code, details = error.code(), str(error.details() or "").splitlines()[:1]
        said = f"{self.place.shown}: {details[0][:_SHOWN] if details else code.name}"
        if code is codes.UNIMPLEMENTED:
            return NotOffered(said)
        if code is codes.RESOURCE_EXHAUSTED:
            return TooLarge(said)
        if code in (codes.UNAUTHENTICATED, codes.PERMISSION_DENIED):
            return self._refused(said)
        return Unreachable(said, hint="check that the server runs, and its address")

    def _meant(self, status: Any) -> Exception:
        reason = str(status.reason or status.detail or f"error {status.code or status.error_code}").splitlines()[0][:_SHOWN]
        said = f"{self.place.shown}: {reason}"
        absent = status.code in _ABSENT or status.error_code == _NO_COLLECTION_BEFORE
        if absent or any(one in reason for one in _NOT_FOUND):
            return NotFound(said)
        if "larger than max" in reason or "message larger" in reason:
            return TooLarge(said)
        if status.code in _NOT_PERMITTED or "privilege" in reason.lower():
            return self._refused(said)
        return self._failing(said)

    def _refused(self, said: str) -> Refused:
        return Refused(said, hint=f"set {TOKENS[0]}, or {TOKENS[1]} to a file that holds it")


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
