"""A process with a captured Chroma client, which does what it is told, a line of JSON at a time, and dies where it is told to."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import warnings
from typing import Any

import chromadb

import strongroom
from strongroom.engines.oplog.calls import CallRecorder
from strongroom.engines.oplog.layout import Kind
from strongroom.operations.follow.run import FollowOptions


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_at(where: str) -> None:
    """From here on the process dies after the intent, the call itself, its changes, or the word that it is done is recorded."""
    real = CallRecorder._append

    def append(self: CallRecorder, kind: Kind, *rest: Any) -> None:
        real(self, kind, *rest)
        if kind.name.lower() == where:
            self._writer.sync()
            die()

    CallRecorder._append = append  # type: ignore[method-assign]


def main(url: str, port: int, tenant: str, database: str, every: float, ship_to: str = "") -> None:
    """With `ship_to`, a repository whose password the environment gives, the process keeps the journal itself."""
    client = chromadb.HttpClient(host="127.0.0.1", port=port, tenant=tenant, database=database)
    room = strongroom.open(ship_to) if ship_to else None
    options = FollowOptions(every=0.5, probes=0)
    captured = strongroom.capture(client, room, url, every_ms=every, ship=room is not None, options=options)
    print("ready", flush=True)
    for line in sys.stdin:
        said = json.loads(line)
        where = said.get("die", "")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            answer = _done(captured, said, where)
        answer["warnings"] = [str(one.message) for one in told if issubclass(one.category, RuntimeWarning)]
        print(json.dumps(answer), flush=True)


def _done(captured: Any, said: dict[str, Any], where: str) -> dict[str, Any]:
    if said["call"] in ("close", "save", "flush"):
        getattr(captured, said["call"])()
        return {}
    try:
        on = captured.get_collection(said["on"], embedding_function=None) if said.get("on") else captured
        if where and where != "call":
            dying_at(where)
        if where == "call":
            real = getattr(on._wrapped, said["call"])

            @functools.wraps(real)
            def dying(*given: Any, **named: Any) -> None:
                real(*given, **named)
                die()

            object.__setattr__(on._wrapped, said["call"], dying)
        with captured.batch(said["batch"]) if said.get("batch") else contextlib.nullcontext():
            answer = getattr(on, said["call"])(**said.get("with", {}))
        return {"answer": str(answer)}
    except Exception as error:  # noqa: BLE001 - chromadb's, httpx's and ours: all are told
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], float(sys.argv[5]), *sys.argv[6:])
