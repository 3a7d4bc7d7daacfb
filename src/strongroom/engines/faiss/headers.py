"""What do the headers of a FAISS index file say about where things lie? Pure: reads headers by position, never the data.

The format is that of facebookresearch/faiss, `faiss/impl/index_write.cpp` and `index_read.cpp`: a four-letter code says which
class follows; the fields of the parent class come first; an array is its length (u64) and its elements. All little-endian.
No length is believed before it was compared with the size of the file.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from strongroom.engines.faiss.layout import Layout, Lists, Span
from strongroom.model import Json

Read = Callable[[int, int], bytes]
"""Exactly `length` bytes from `offset`."""

METRICS = {0: "ip", 1: "l2", 2: "l1", 3: "linf", 4: "lp", 20: "canberra", 21: "braycurtis", 22: "jensenshannon", 23: "jaccard"}
SCALAR_TYPES = ("SQ8", "SQ4", "SQ8U", "SQ4U", "SQfp16", "SQ8direct", "SQ6", "SQbf16", "SQ8directsigned")  # by `qtype`
_CODE_KINDS = {"SQfp16": "float16", "SQbf16": "bfloat16"}
_MOST_LISTS = 1 << 26  # their sizes are the only array that is read whole
_NESTING = 8  # no index that the factory can build nests deeper; a damaged file might, without end


class UnknownFormat(Exception):
    """A class of index that this parser doesn't know. FAISS itself may still read the file."""


class Truncated(Exception):
    """The file ends before what its headers announce, or they contradict each other."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What one (nested) index contributes. `factory` is the index_factory string that builds such an index, if there is one."""

    dimension: int
    count: int
    metric: int
    index: dict[str, Json]
    factory: str | None = None
    vectors: Span | None = None
    lists: Lists | None = None
    id_map: Span | None = None


@dataclass
class _Cursor:
    """Reads scalars one after another and skips arrays, noting where they were."""

    read: Read
    size: int
    position: int = 0
    spans: list[Span] = field(default_factory=list)
    listed: list[Lists] = field(default_factory=list)
    named: Counter[str] = field(default_factory=Counter)

    def take(self, length: int) -> bytes:
        self.room(length)
        content = self.read(self.position, length)
        self.position += length
        return content

    def room(self, length: int) -> None:
        if length < 0 or length > self.size - self.position:
            raise Truncated(f"{length:,} bytes are announced at offset {self.position:,}, {self.size - self.position:,} are left")

    def scalars(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def array(self, item: int, kind: str, record: int = 0, *, name: str = "") -> Span:
        """Skip an array of items of `item` bytes. `name` says what it holds, if it isn't 'bytes'."""
        (count,) = self.scalars("Q")
        return self.block(count * item, kind, record or item, name)

    def block(self, length: int, kind: str, record: int, name: str = "") -> Span:
        self.room(length)
        span = Span(self.position, length, kind, record, self.name(name))
        self.position += length
        if length and kind != "bytes":
            self.spans.append(span)
        return span

    def name(self, name: str) -> str:
        """The name, with a number if the file has more than one such array."""
        self.named[name] += 1
        return name if self.named[name] == 1 else f"{name} ({self.named[name]})"


def parse(read: Read, size: int) -> Layout:
    """The layout of an index file of `size` bytes. Raises UnknownFormat, or Truncated if it is damaged."""
    cursor = _Cursor(read, size)
    part = _index(cursor, _NESTING)
    index = {**part.index, "ntotal": part.count, "metric_type": part.metric}
    if part.factory is not None:
        index["factory"] = part.factory
    return Layout(
        size,
        part.dimension,
        part.count,
        METRICS.get(part.metric, f"metric_{part.metric}"),
        index,
        tuple(cursor.spans),
        tuple(cursor.listed),
        part.vectors,
        part.lists,
        part.id_map,
    )


def _index(cursor: _Cursor, depth: int) -> _Part:
    code = cursor.take(4).decode("latin-1")
    reader = _READERS.get(code)
    if reader is None or depth == 0:
        raise UnknownFormat(code if code.isprintable() else code.encode("latin-1").hex())
    return reader(cursor, code, depth)


def _header(cursor: _Cursor) -> _Part:
    dimension, count, _, _, trained, metric = cursor.scalars("iqqqBi")
    argument = cursor.scalars("f")[0] if metric > 1 else None
    if dimension < 0 or count < 0 or trained > 1:
        raise Truncated(f"impossible header: dimension {dimension}, {count} vectors")
    return _Part(dimension, count, metric, {} if argument is None else {"metric_arg": argument})


def _agree(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise Truncated(f"{what}: {found:,} where the header announces {expected:,}")


def _flat(cursor: _Cursor, _code: str, _depth: int) -> _Part:
    part = _header(cursor)
    span = cursor.array(4, "float32", 4 * max(1, part.dimension), name="vectors")
    _agree("bytes of vectors", span.length, part.count * part.dimension * 4)
    return replace(part, index={"kind": "Flat", **part.index}, factory="Flat", vectors=span)


def _hnsw(cursor: _Cursor, code: str, depth: int) -> _Part:
    part = _header(cursor)
    cursor.array(8, "bytes")  # probability of each level
    levels = cursor.array(4, "bytes")  # links of a node on all levels up to each
    cumulated = np.frombuffer(cursor.read(levels.offset, min(levels.length, 4 * 64)), "<i4")
    level_of = cursor.array(4, "int32", name="levels")
    cursor.array(8, "int64", name="offsets")
    cursor.array(4, "int32", name="neighbors")
    _agree("levels", level_of.length // 4, part.count)
    entry, top, construction, search, _ = cursor.scalars("iiiii")
    storage = _index(cursor, depth - 1)
    _agree("vectors in the storage of the graph", storage.count, part.count)
    m = int(cumulated[1]) // 2 if len(cumulated) > 1 else 32
    index = {"kind": "HNSW" + str(storage.index["kind"]), "M": m, "efConstruction": construction, "efSearch": search}
    index |= {"entry_point": entry, "max_level": top}
    index |= {key: value for key, value in {**storage.index, **part.index}.items() if key != "kind"}
    factory = None if storage.factory is None else f"HNSW{m},{storage.factory}"
    return replace(part, index=index, factory=factory, vectors=storage.vectors)


def _product_quantizer(cursor: _Cursor) -> tuple[int, dict[str, Json]]:
    dimension, m, bits = cursor.scalars("QQQ")
    if not (0 < dimension <= 1 << 31 and 0 < m <= dimension and 0 < bits <= 24):
        raise Truncated(f"impossible product quantizer: dimension {dimension}, M {m}, {bits} bits")
    codebook = cursor.array(4, "float32", 4 * (dimension // m), name="code book")
    _agree("bytes of the code book", codebook.length, 4 * dimension * (1 << bits))
    return (m * bits + 7) // 8, {"m": m, "nbits": bits}


def _scalar_quantizer(cursor: _Cursor) -> tuple[int, str, dict[str, Json]]:
    kind, statistic, _, _dimension, code_size = cursor.scalars("iifQQ")
    cursor.array(4, "float32", name="ranges")
    if not 0 <= kind < len(SCALAR_TYPES) or code_size > 1 << 31:
        raise UnknownFormat(f"scalar quantizer of type {kind}")
    return code_size, SCALAR_TYPES[kind], {"sq": SCALAR_TYPES[kind], "rangestat": statistic}


def _pq(cursor: _Cursor, code: str, _depth: int) -> _Part:
    part = _header(cursor)
    code_size, parameters = _product_quantizer(cursor)
    codes = cursor.array(1, "uint8", code_size, name="codes")
    _agree("bytes of codes", codes.length, part.count * code_size)
    if code != "IxPQ":
        cursor.scalars("iBi")  # search type, encode signs, polysemous threshold
    return replace(part, index={"kind": "PQ", **parameters, **part.index}, factory=f"PQ{parameters['m']}x{parameters['nbits']}")


def _sq(cursor: _Cursor, _code: str, _depth: int) -> _Part:
    part = _header(cursor)
    code_size, name, parameters = _scalar_quantizer(cursor)
    codes = cursor.array(1, _CODE_KINDS.get(name, "uint8"), code_size, name="codes")
    _agree("bytes of codes", codes.length, part.count * code_size)
    return replace(part, index={"kind": "SQ", **parameters, **part.index}, factory=name)


def _ivf_header(cursor: _Cursor, depth: int) -> tuple[_Part, str | None]:
    part = _header(cursor)
    nlist, nprobe = cursor.scalars("QQ")
    quantizer = _index(cursor, depth - 1)
    (direct_map,) = cursor.scalars("B")
    cursor.array(8, "int64", name="direct map")
    if direct_map == 2:
        cursor.array(16, "int64", name="direct hash")
    index = {"nlist": nlist, "nprobe": nprobe, "quantizer": quantizer.index["kind"], **part.index}
    factory = None
    if quantizer.index["kind"] in ("Flat", "HNSWFlat"):
        factory = f"IVF{nlist}" + (f"_HNSW{quantizer.index['M']}" if quantizer.index["kind"] == "HNSWFlat" else "")
    return replace(part, index=index), factory


def _ivf_flat(cursor: _Cursor, _code: str, depth: int) -> _Part:
    part, coarse = _ivf_header(cursor, depth)
    lists = _lists(cursor, part, 4 * part.dimension, "float32")
    return _ivf(part, "IVFFlat", {}, coarse, "Flat", lists)


def _ivf_pq(cursor: _Cursor, _code: str, depth: int) -> _Part:
    part, coarse = _ivf_header(cursor, depth)
    residual, code_size = cursor.scalars("BQ")
    _, parameters = _product_quantizer(cursor)
    fine = f"PQ{parameters['m']}x{parameters['nbits']}"
    lists = _lists(cursor, part, code_size, "uint8")
    return _ivf(part, "IVFPQ", {**parameters, "by_residual": bool(residual)}, coarse, fine, lists)


def _ivf_sq(cursor: _Cursor, code: str, depth: int) -> _Part:
    part, coarse = _ivf_header(cursor, depth)
    _, name, parameters = _scalar_quantizer(cursor)
    (code_size,) = cursor.scalars("Q")
    residual = bool(cursor.scalars("B")[0]) if code == "IwSq" else True
    lists = _lists(cursor, part, code_size, _CODE_KINDS.get(name, "uint8"))
    return _ivf(part, "IVFSQ", {**parameters, "by_residual": residual}, coarse, name, lists)


def _ivf(part: _Part, kind: str, parameters: dict[str, Json], coarse: str | None, fine: str, lists: Lists) -> _Part:
    factory = None if coarse is None else f"{coarse},{fine}"
    return replace(part, index={"kind": kind, **parameters, **part.index}, factory=factory, lists=lists)


def _lists(cursor: _Cursor, part: _Part, code_size: int, kind: str) -> Lists:
    if (found := cursor.take(4)) != b"ilar":  # lists in a file of their own (ilod), or none at all (il00)
        raise UnknownFormat(f"inverted lists {found!r}")
    nlist, stored = cursor.scalars("QQ")
    _agree("inverted lists", nlist, part.index["nlist"])
    _agree("bytes of a code", stored, code_size)
    sizes = _list_sizes(cursor, nlist)
    if len(sizes) and (sizes.min() < 0 or sizes.max() > part.count):
        raise Truncated("an inverted list is longer than the index")
    _agree("vectors in inverted lists", int(sizes.sum()), part.count)
    start = cursor.block(part.count * (code_size + 8), "bytes", 1).offset
    ends = np.cumsum(sizes) * (code_size + 8)
    lists = Lists(sizes, start + ends - sizes * (code_size + 8), code_size, kind, cursor.name("lists"))
    cursor.listed.append(lists)
    return lists


def _list_sizes(cursor: _Cursor, nlist: int) -> npt.NDArray[np.int64]:
    form = cursor.take(4)
    announced = cursor.array(8, "bytes")
    if nlist > _MOST_LISTS or announced.length > 16 * nlist:
        raise Truncated(f"{announced.length // 8:,} sizes for {nlist:,} inverted lists")
    numbers = np.frombuffer(cursor.read(announced.offset, announced.length), "<i8")
    if form == b"full":
        _agree("sizes of inverted lists", len(numbers), nlist)
        return numbers.astype(np.int64)
    if form != b"sprs":
        raise UnknownFormat(f"inverted lists of form {form!r}")
    which, filled = numbers[0::2], numbers[1::2]
    if len(which) != len(filled) or (len(which) and (which.min() < 0 or which.max() >= nlist)):
        raise Truncated("sizes of inverted lists point outside of the index")
    sizes = np.zeros(nlist, np.int64)
    sizes[which] = filled
    return sizes


def _id_map(cursor: _Cursor, code: str, depth: int) -> _Part:
    header = _header(cursor)
    part = _index(cursor, depth - 1)
    ids = cursor.array(8, "int64", name="ids")
    _agree("ids", ids.length // 8, part.count)
    _agree("vectors under the id map", part.count, header.count)
    if part.id_map is not None:
        raise UnknownFormat("an id map of an id map")
    return replace(part, index={**part.index, "id_map": "IDMap2" if code == "IxM2" else "IDMap"}, id_map=ids)


def _refine(cursor: _Cursor, _code: str, depth: int) -> _Part:
    header = _header(cursor)
    base, refined = _index(cursor, depth - 1), _index(cursor, depth - 1)
    (factor,) = cursor.scalars("f")
    _agree("vectors to refine with", refined.count, header.count)
    if base.id_map or refined.id_map or refined.lists:
        raise UnknownFormat("a refined index of parts that are not in order of position")
    index = {**base.index, "kind": "Refine", "base": base.index["kind"], "refine": refined.index["kind"], "k_factor": factor}
    factory = None
    if base.factory and refined.index["kind"] == "Flat":
        factory = f"{base.factory},RFlat"
    return replace(header, index=index, factory=factory, vectors=refined.vectors)


def _pre_transform(cursor: _Cursor, _code: str, depth: int) -> _Part:
    header = _header(cursor)
    (steps,) = cursor.scalars("i")
    if not 0 <= steps <= 64:
        raise Truncated(f"{steps} transforms")
    chain = [_transform(cursor) for _ in range(steps)]
    part = _index(cursor, depth - 1)
    if part.id_map is not None:
        raise UnknownFormat("an id map under a transform")
    index = {**part.index, "kind": "PreTransform", "transforms": [name for name, _ in chain], "inner": part.index["kind"]}
    prefixes = [prefix for _, prefix in chain]
    if part.factory and prefixes == [None] and part.index.get("m"):
        prefixes = [f"OPQ{part.index['m']}_{part.dimension}"]  # a general linear transform before a PQ is an OPQ
    factory = None if not part.factory or None in prefixes else ",".join([*map(str, prefixes), part.factory])
    return replace(header, index=index, factory=factory, lists=part.lists)


def _transform(cursor: _Cursor) -> tuple[str, str | None]:
    """Skip one vector transform; its class and how the index factory calls it."""
    code = cursor.take(4).decode("latin-1")
    if code in ("rrot", "LTra", "Pcam"):
        if code == "Pcam":
            cursor.scalars("ffBi")
            cursor.array(4, "float32", name="transform")
            cursor.array(4, "float32", name="transform")
            cursor.array(4, "float32", name="transform")
        cursor.scalars("B")
        cursor.array(4, "float32", name="transform")
        cursor.array(4, "float32", name="transform")
    elif code == "VNrm":
        cursor.scalars("f")
    elif code == "VCnt":
        cursor.array(4, "float32", name="transform")
    elif code == "RmDT":
        cursor.array(4, "int32", name="transform")
    else:
        raise UnknownFormat(f"transform {code!r}")
    _, out, _ = cursor.scalars("iiB")
    return code, {"rrot": f"RR{out}", "Pcam": f"PCA{out}", "VNrm": "L2norm", "RmDT": f"Pad{out}"}.get(code)


_READERS: dict[str, Callable[[_Cursor, str, int], _Part]] = {
    **dict.fromkeys(("IxF2", "IxFI", "IxFl"), _flat),
    **dict.fromkeys(("IHNf", "IHNs", "IHNp"), _hnsw),
    **dict.fromkeys(("IxPQ", "IxPo", "IxPq"), _pq),
    **dict.fromkeys(("IwSQ", "IwSq"), _ivf_sq),
    **dict.fromkeys(("IxMp", "IxM2"), _id_map),
    "IxSQ": _sq,
    "IwFl": _ivf_flat,
    "IwPQ": _ivf_pq,
    "IxPT": _pre_transform,
    "IxRF": _refine,
}
