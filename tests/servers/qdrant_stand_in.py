"""Not a Qdrant server: a stand-in that answers requests of the forms that Qdrant's API reference gives, out of its client's local
mode. It shows that requests have these forms and what is made of answers; what a real server does it can't show.
"""

from __future__ import annotations

import json
import re
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from qdrant_client import QdrantClient, models
from qdrant_client.http.models import ChangeAliasesOperation as Aliases
from qdrant_client.http.models import CreateCollection, PointsList, QueryRequestBatch, ScrollRequest, UpdateCollection

VERSION = "1.20.0"


class StandIn:
    """Listens on `port`. `asked` are the requests so far: method, path, query."""

    def __init__(self, key: str = "") -> None:
        self.local = QdrantClient(":memory:")
        self.key = key
        self.version = VERSION
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.snapshots: dict[str, bytes] = {}
        self.indexes: dict[str, dict[str, Any]] = {}
        self.limits: dict[str, Any] = {}
        self.spoil: int | None = None
        """Of the next snapshots so many bytes are given and the rest kept back."""
        self._lock = threading.RLock()
        stand_in = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                status, content = stand_in.answer(self.command, self.path, body, self.headers.get("api-key", ""))
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _any  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"qdrant://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, target: str, body: bytes, key: str) -> tuple[int, bytes]:
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if self.key and key != self.key:
            return 401, _said("Must provide an API key or an Authorization bearer token")
        with self._lock:
            self.asked.append((method, parts.path, query))
            for verb, form, do in _ROUTES:
                found = re.fullmatch(form, parts.path)
                if verb == method and found:
                    try:
                        result = do(self, body, query, *map(unquote, found.groups()))
                    except ValueError as error:
                        return (404 if "not found" in str(error) else 400), _said(str(error))
                    return 200, result if isinstance(result, bytes) else _whole(result)
        return 404, _said(f"no route {method} {parts.path}")

    # -- what only a server can do ------------------------------------------------------------------------------------------------

    def make_snapshot(self, _: bytes, query: dict[str, str], name: str) -> Any:
        points, _ = self.local.scroll(name, limit=10_000, with_vectors=True)
        said = self.local.get_collection(name).config
        kept = {
            "config": {**json.loads(said.params.model_dump_json(exclude_none=True)), "metadata": said.metadata},
            "points": [json.loads(one.model_dump_json(exclude_none=True, exclude={"order_value", "shard_key"})) for one in points],
            "indexes": self.indexes.get(name, {}),
        }
        file, content = f"{name}-1.snapshot", json.dumps(kept).encode()
        self.snapshots[file] = content
        return {"name": file, "size": len(content), "checksum": sha256(content).hexdigest(), "creation_time": None}

    def give_snapshot(self, _: bytes, query: dict[str, str], name: str, file: str) -> bytes:
        content = self.snapshots[file]
        return content if self.spoil is None else content[: self.spoil]

    def drop_snapshot(self, _: bytes, query: dict[str, str], name: str, file: str) -> Any:
        return bool(self.snapshots.pop(file, None))

    def take_snapshot(self, body: bytes, query: dict[str, str], name: str) -> Any:
        content = body[body.index(b"\r\n\r\n") + 4 : body.rindex(b"\r\n--")]
        if query.get("checksum") != sha256(content).hexdigest():
            raise ValueError("Wrong input: snapshot checksum doesn't match")
        kept = json.loads(content)
        if self.local.collection_exists(name):
            self.local.delete_collection(name)
        self._make(name, models.CreateCollection(**{k: kept["config"].get(k) for k in ("vectors", "sparse_vectors", "metadata")}))
        if kept["points"]:
            self.local.upsert(name, [models.PointStruct(**{"vector": {}, **one}) for one in kept["points"]])
        self.indexes[name] = kept["indexes"]
        return True

    # -- what the local mode does --------------------------------------------------------------------------------------------

    def _make(self, name: str, wanted: CreateCollection) -> Any:
        return self.local.create_collection(name, wanted.vectors, wanted.sparse_vectors, metadata=wanted.metadata)

    def describe(self, _: bytes, query: dict[str, str], name: str) -> Any:
        said = json.loads(self.local.get_collection(name).model_dump_json())
        indexes = {key: {"data_type": _type(one), "points": 0, **_params(one)} for key, one in self.indexes.get(name, {}).items()}
        said["config"]["strict_mode_config"] = self.limits.get(name)
        return {**said, "payload_schema": indexes}

    def index(self, body: bytes, query: dict[str, str], name: str) -> Any:
        said = json.loads(body)
        self.indexes.setdefault(name, {})[said["field_name"]] = said["field_schema"]
        return _done()

    def limit(self, body: bytes, query: dict[str, str], name: str) -> Any:
        self.limits[name] = json.loads(UpdateCollection(**json.loads(body)).strict_mode_config.model_dump_json(exclude_none=True))
        return True

    def scroll(self, body: bytes, query: dict[str, str], name: str) -> Any:
        asked = ScrollRequest(**json.loads(body))
        found = self.local.scroll(name, limit=asked.limit, offset=asked.offset, with_payload=True, with_vectors=asked.with_vector)
        return {"points": [json.loads(one.model_dump_json()) for one in found[0]], "next_page_offset": found[1]}

    def upsert(self, body: bytes, query: dict[str, str], name: str) -> Any:
        self.local.upsert(name, PointsList(**json.loads(body)).points)
        return _done()

    def queries(self, body: bytes, query: dict[str, str], name: str) -> Any:
        found = self.local.query_batch_points(name, QueryRequestBatch(**json.loads(body)).searches)
        return [{"points": [json.loads(point.model_dump_json()) for point in one.points]} for one in found]

    def drop(self, name: str) -> bool:
        for kept in (self.indexes, self.limits):
            kept.pop(name, None)
        return self.local.delete_collection(name)


def _done() -> Any:
    return {"operation_id": 1, "status": "completed"}


def _type(schema: Any) -> str:
    return schema if isinstance(schema, str) else schema["type"]


def _params(schema: Any) -> dict[str, Any]:
    return {} if isinstance(schema, str) else {"params": schema}


def _whole(result: Any) -> bytes:
    return json.dumps({"time": 0.0, "status": "ok", "result": result}).encode()


def _said(error: str) -> bytes:
    return json.dumps({"time": 0.0, "status": {"error": error}, "result": None}).encode()


_C = "/collections/([^/]+)"
_ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/", lambda s, b, q: json.dumps({"title": "qdrant - vector search engine", "version": s.version}).encode()),
    ("GET", "/collections", lambda s, b, q: json.loads(s.local.get_collections().model_dump_json())),
    ("GET", "/aliases", lambda s, b, q: json.loads(s.local.get_aliases().model_dump_json())),
    ("POST", "/collections/aliases", lambda s, b, q: s.local.update_collection_aliases(Aliases(**json.loads(b)).actions)),
    ("GET", _C, StandIn.describe),
    ("PUT", _C, lambda s, b, q, name: s._make(name, CreateCollection(**json.loads(b)))),
    ("PATCH", _C, StandIn.limit),
    ("DELETE", _C, lambda s, b, q, name: s.drop(name)),
    ("PUT", _C + "/index", StandIn.index),
    ("POST", _C + "/points/scroll", StandIn.scroll),
    ("POST", _C + "/points/count", lambda s, b, q, name: json.loads(s.local.count(name).model_dump_json())),
    ("PUT", _C + "/points", StandIn.upsert),
    ("POST", _C + "/points/query/batch", StandIn.queries),
    ("POST", _C + "/snapshots", StandIn.make_snapshot),
    ("POST", _C + "/snapshots/upload", lambda s, b, q, name: s.take_snapshot(b, q, name)),
    ("GET", _C + "/snapshots/([^/]+)", StandIn.give_snapshot),
    ("DELETE", _C + "/snapshots/([^/]+)", StandIn.drop_snapshot),
]
