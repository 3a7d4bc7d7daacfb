"""How are a server's search indexes defined, and how are they made again? FT.INFO to a definition, a definition to FT.CREATE."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from strongroom.engines.redis.names import PLAIN, Names, raw_of, text_of
from strongroom.engines.redis.server import library
from strongroom.model import Collection, Field, Json

_DTYPES = {"FLOAT32": "float32", "FLOAT16": "float16", "BFLOAT16": "bfloat16", "INT8": "int8", "UINT8": "uint8"}
_METRICS = {"L2": "l2", "IP": "ip", "COSINE": "cosine"}
_WIDTHS = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
_PLAIN_PATH = re.compile(r"\$(\.[A-Za-z_][A-Za-z0-9_]*)+")
_VALUED = ("WEIGHT", "SEPARATOR", "PHONETIC", "COORD_SYSTEM")
HASH, JSON, VECTOR_SET = "hash", "json", "vector set"


@dataclass(frozen=True, slots=True)
class VectorField:
    """A vector field of an index. `source` is the hash's field or the document's path; `options` what FT.CREATE is told."""

    name: str
    source: str
    algorithm: str
    options: Mapping[str, Json]

    @property
    def dtype(self) -> str:
        return _DTYPES.get(str(self.options["TYPE"]), "")

    @property
    def dimension(self) -> int:
        return int(self.options["DIM"])

    @property
    def bytes(self) -> int:
        return self.dimension * _WIDTHS[self.dtype]

    def field(self) -> Field:
        index = {"kind": self.algorithm, **{name.lower(): value for name, value in self.options.items()}}
        return Field(self.name, self.dtype, self.dimension, _METRICS[str(self.options["DISTANCE_METRIC"])], index)


@dataclass(frozen=True, slots=True)
class Definition:
    """An index over the hashes or JSON documents whose keys begin with one of the prefixes; `schema` are its other fields, each as
    FT.CREATE takes it. Names and prefixes are as `text_of` writes them."""

    name: str
    kind: str
    prefixes: tuple[str, ...]
    head: tuple[str, ...]
    vectors: tuple[VectorField, ...]
    schema: tuple[tuple[str, ...], ...]
    strip: str = ""
    """What rows leave out in front of a key: rows of another engine have ids of their own."""

    @property
    def followed(self) -> bool:
        """Has it vectors, all of a kind that rows can hold?"""
        plain = all(one.dtype and (self.kind == HASH or _PLAIN_PATH.fullmatch(one.source)) for one in self.vectors)
        return bool(self.vectors) and plain

    def body(self) -> dict[str, Json]:
        """As JSON has it."""
        found: dict[str, Json] = json.loads(json.dumps(asdict(self)))
        return found

    def id_of(self, key: bytes) -> str:
        """What its rows call a key."""
        return text_of(key.removeprefix(raw_of(self.strip)) if self.strip else key)

    def key_of(self, name: str) -> bytes:
        return (raw_of(self.strip) if self.strip else b"") + raw_of(name)

    def covers(self, key: bytes) -> bool:
        return any(key.startswith(raw_of(prefix)) for prefix in self.prefixes)

    def create(self, name: bytes, prefix: bytes = b"") -> list[bytes]:
        """The arguments of FT.CREATE, all prefixes behind `prefix`."""
        words: list[Any] = [name, "ON", self.kind.upper(), "PREFIX", len(self.prefixes)]
        words += [prefix + raw_of(one) for one in self.prefixes]
        words += [*self.head, "SCHEMA"]
        for one in self.vectors:
            options = [word for pair in one.options.items() for word in pair]
            words += [raw_of(one.source), "AS", raw_of(one.name), "VECTOR", one.algorithm, len(options), *options]
        words += [raw_of(word) if place in (0, 2) else word for each in self.schema for place, word in enumerate(each)]
        return [word if isinstance(word, bytes) else str(word).encode() for word in words]

    def collection(self, count: int) -> Collection:
        fields = tuple(one.field() for one in self.vectors)
        return Collection(self.name, count, fields, {"kind": self.kind, "definition": self.body()})


def definition_from(body: Mapping[str, Any]) -> Definition:
    """The inverse of `body`."""
    vectors = tuple(VectorField(**one) for one in body["vectors"])
    lists = {name: tuple(body[name]) for name in ("prefixes", "head")}
    schema = tuple(tuple(one) for one in body["schema"])
    return Definition(**{**body, **lists, "vectors": vectors, "schema": schema})


def definition_for(collection: Collection, prefix: str) -> Definition:
    """An index for a collection of another engine: hashes whose keys begin with `prefix`."""
    vectors = tuple(
        VectorField(
            one.name,
            one.name,
            "HNSW",
            {
                "TYPE": one.dtype.upper(),
                "DIM": one.dimension,
                "DISTANCE_METRIC": one.metric.upper() if one.metric in _METRICS.values() else "L2",
            },
        )
        for one in collection.fields
    )
    return Definition(collection.name, HASH, (prefix,), (), vectors, (), prefix)


@dataclass(frozen=True, slots=True)
class Definitions:
    """Indexes of a server; were all their parameters to be had (`tuned`), and does it search at all?"""

    indexes: tuple[Definition, ...] = ()
    tuned: bool = True
    searches: bool = field(default=True, compare=False)


def read_definitions(client: Any, names: Names = PLAIN) -> Definitions:
    """The indexes that a server has now under these names."""
    listed = _listed(client)
    if listed is None:
        return Definitions(searches=False)
    strips = {key: text_of(value) for key, value in client.hgetall(names.prefixes).items()}
    found = [_read(client, name, names, strips) for name in sorted(listed) if names.is_index(name)]
    return Definitions(tuple(one for one, _ in found), all(tuned for _, tuned in found))


def _listed(client: Any) -> list[bytes] | None:
    """None if the server has no search."""
    try:
        return list(client.execute_command("FT._LIST"))
    except library().ResponseError as error:
        if "unknown command" in str(error).lower():
            return None
        raise


def _read(client: Any, name: bytes, names: Names, strips: Mapping[bytes, str]) -> tuple[Definition, bool]:
    info = _pairs(client.execute_command("FT.INFO", name))
    of = _pairs(info["index_definition"])
    kind = of["key_type"].decode().lower()
    head: list[Any] = list(info.get("index_options") or [])
    for word, key in (("FILTER", "filter"), ("LANGUAGE", "default_language"), ("LANGUAGE_FIELD", "language_field")):
        head += [word, of[key]] if of.get(key) else []
    head += ["SCORE", of["default_score"]] if of.get("default_score", b"1") != b"1" else []
    head += ["SCORE_FIELD", of["score_field"]] if of.get("score_field") else []
    head += ["PAYLOAD_FIELD", of["payload_field"]] if of.get("payload_field") else []
    if "stopwords_list" in info:
        head += ["STOPWORDS", len(info["stopwords_list"]), *info["stopwords_list"]]
    vectors, schema, tuned = [], [], True
    for attribute in info["attributes"]:
        if attribute[5] == b"VECTOR":
            one, known = _vector(client, name, _pairs(attribute))
            vectors.append(one)
            tuned &= known
        else:
            schema.append(_attribute(attribute))
    prefixes = tuple(text_of(one.removeprefix(names.keys)) for one in of["prefixes"])
    words = tuple(_text(word) for word in head)
    plain = name.removeprefix(names.indexes)
    found = Definition(text_of(plain), kind, prefixes, words, tuple(vectors), tuple(schema), strips.get(plain, ""))
    return found, tuned


def _vector(client: Any, index: bytes, info: Mapping[str, Any]) -> tuple[VectorField, bool]:
    """And whether its search parameters could be read."""
    algorithm = _text(info["algorithm"])
    options: dict[str, Json] = {
        "TYPE": _text(info["data_type"]),
        "DIM": int(info["dim"]),
        "DISTANCE_METRIC": _text(info["distance_metric"]),
    }
    for word, key in (("M", "M"), ("EF_CONSTRUCTION", "ef_construction")):
        if key in info:
            options[word] = int(info[key])
    inner = _debug(client, index, info["attribute"])
    if algorithm == "HNSW" and "EF_RUNTIME" in inner:
        options |= {"EF_RUNTIME": int(inner["EF_RUNTIME"]), "EPSILON": _text(inner["EPSILON"])}
    return VectorField(text_of(info["attribute"]), text_of(info["identifier"]), algorithm, options), bool(inner)


def _debug(client: Any, index: bytes, field: bytes) -> dict[str, Any]:
    """What FT.INFO leaves out; nothing where it may not be asked."""
    for command in ("_FT.DEBUG", "FT.DEBUG"):
        try:
            found = _pairs(client.execute_command(command, "VECSIM_INFO", index, field))
        except library().ResponseError:
            continue
        return _pairs(found["BACKEND_INDEX"]) if "BACKEND_INDEX" in found else found
    return {}


def _attribute(attribute: Sequence[Any]) -> tuple[str, ...]:
    """A field that is no vector: identifier AS name TYPE, then its options with those that have a value first."""
    kind = _text(attribute[5])
    words = [text_of(attribute[1]), "AS", text_of(attribute[3]), kind]
    rest = [_text(word) for word in attribute[6:]]
    first, flags = [], []
    while rest:
        word = rest.pop(0)
        first += [word, rest.pop(0)] if word.upper() in _VALUED and rest else []
        flags += [word] if word.upper() not in _VALUED else []
    if kind == "GEOSHAPE" and len(first) > 1:
        first = first[1:2]
    if kind not in ("TEXT", "TAG"):
        flags = [word for word in flags if word != "UNF"]  # FT.INFO tells it of numbers too, for which it is no option
    late = [word for word in flags if word in ("SORTABLE", "UNF", "NOINDEX")]
    return (*words, *first, *(word for word in flags if word not in late), *late)


def _pairs(flat: Sequence[Any]) -> dict[str, Any]:
    return {_text(name): value for name, value in zip(flat[::2], flat[1::2], strict=False)}


def _text(word: Any) -> str:
    return text_of(word) if isinstance(word, bytes) else str(word)
