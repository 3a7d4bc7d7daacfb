"""Do all bytes come back bit for bit, do vectors really shrink, and is damage always a CodecError?"""

from __future__ import annotations

import argparse
import contextlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom import codecs
from strongroom.codecs import PLANES, RAW, ZSTD, CodecError, planes, strided
from strongroom.codecs.planes import Layout

SPECIAL_FLOAT32 = [
    *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF),
    *(0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFBFFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x3F800000),
]
SPECIAL_FLOAT16 = [0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFDFF, 0xFFFF, 0x3C00]

kinds = st.sampled_from(codecs.KINDS)
compressible = st.builds(
    lambda part, times, rest: part * times + rest, st.binary(max_size=24), st.integers(0, 400), st.binary(max_size=9)
)
any_bytes = st.one_of(st.binary(max_size=300), compressible)


def clustered(rows: int = 2000, dimension: int = 384) -> np.ndarray:
    """Unit vectors around 64 centres, float32."""
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((64, dimension))
    vectors = centres[rng.integers(0, 64, rows)] + 0.5 * rng.standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def bfloat16_bits(vectors: np.ndarray) -> np.ndarray:
    return (vectors.view(np.uint32) >> 16).astype(np.uint16)


def links(rows: int = 4000, slots: int = 32) -> np.ndarray:
    """HNSW neighbour lists, int32: half of the slots are empty (-1)."""
    rng = np.random.default_rng(8)
    lists = rng.integers(0, rows, (rows, slots), dtype=np.int32)
    lists[np.arange(slots) >= rng.integers(slots // 4, slots, (rows, 1))] = -1
    return lists


def round_trip(data: bytes, kind: str) -> tuple[int, bytes]:
    codec, payload = codecs.encode(data, kind)
    assert len(payload) <= len(data)
    back = codecs.decode(codec, payload, len(data))
    assert back == data
    return codec, bytes(payload)


def ratio(array: np.ndarray, kind: str) -> float:
    data = array.tobytes()
    return len(round_trip(data, kind)[1]) / len(data)


@settings(max_examples=300, deadline=None)
@given(any_bytes, kinds)
def test_any_bytes_of_any_length_come_back(data: bytes, kind: str) -> None:
    round_trip(data, kind)


@settings(max_examples=200, deadline=None)
@given(any_bytes, st.sampled_from([2, 4, 8]), st.booleans(), st.integers(0, 7))
def test_any_layout_gives_any_bytes_back(data: bytes, width: int, rotated: bool, head: int) -> None:
    payload = planes.encode(np.frombuffer(data, np.uint8), Layout(width, rotated, head % width))
    assert payload is None or planes.decode(payload, len(data)) == data


@pytest.mark.parametrize("kind", codecs.KINDS)
@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 7, 8, 9, (1 << 18) - 1, 1 << 18, (1 << 18) + 5, (1 << 19) + 3])
def test_lengths_around_words_and_chunks(kind: str, length: int) -> None:
    rng = np.random.default_rng(length)
    round_trip(bytes(length), kind)
    round_trip(rng.integers(0, 256, length, dtype=np.uint8).tobytes(), kind)
    round_trip(rng.standard_normal(length // 4 + 1).astype(np.float32).tobytes()[:length], kind)


@pytest.mark.parametrize("kind", codecs.KINDS)
def test_buffers_that_are_not_bytes(kind: str) -> None:
    data = clustered(50).tobytes()
    expected = codecs.encode(data, kind)
    assert codecs.encode(bytearray(data), kind) == codecs.encode(memoryview(data), kind) == expected
    codec, payload = expected
    assert codecs.decode(codec, memoryview(bytearray(payload)), len(data)) == data


@pytest.mark.parametrize(
    ("kind", "words"),
    [("float32", np.array(SPECIAL_FLOAT32, "<u4")), *((k, np.array(SPECIAL_FLOAT16, "<u2")) for k in ("float16", "bfloat16"))],
)
def test_special_floats_keep_every_bit(kind: str, words: np.ndarray) -> None:
    codec, _ = round_trip(np.tile(words, 500).tobytes(), kind)
    assert codec == PLANES


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_every_16_bit_pattern(kind: str) -> None:
    words = np.arange(1 << 16, dtype="<u2")
    codec, _ = round_trip(np.concatenate([words, np.zeros_like(words)]).tobytes(), kind)
    assert codec == PLANES


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=20), st.integers(1, 60))
def test_any_float32_pattern_among_vectors(patterns: list[int], times: int) -> None:
    words = np.concatenate([np.array(patterns * times, "<u4"), clustered(2).view("<u4").ravel()])
    round_trip(words.tobytes(), "float32")


def test_planes_are_the_rotated_bytes() -> None:
    words = np.array([0xBF812345], "<u4")  # sign 1, exponent 0x7F, mantissa 0x012345
    out = [np.empty(1, np.uint8) for _ in range(4)]
    planes.split(words, out, rotated=True)
    assert [int(plane[0]) for plane in out] == [0x45, 0x23, 0x03, 0x7F]


def test_float_vectors_shrink() -> None:
    vectors = clustered()
    assert ratio(vectors, "float32") < 0.87
    assert ratio(vectors.astype(np.float16), "float16") < 0.88
    assert ratio(bfloat16_bits(vectors), "bfloat16") < 0.70


def test_what_was_of_half_width_shrinks_by_half() -> None:
    vectors = clustered()
    assert ratio(vectors.astype(np.float16).astype(np.float32), "float32") < 0.47
    assert ratio(bfloat16_bits(vectors).astype(np.uint32) << 16, "float32") < 0.36


def test_links_ids_and_codes_shrink() -> None:
    assert ratio(links(), "int32") < 0.45
    assert ratio(np.arange(50_000, dtype=np.int64), "int64") < 0.01
    assert ratio(np.full(50_000, -1, np.int64), "int64") < 0.001
    assert ratio(np.rint(clustered() * 400).clip(-127, 127).astype(np.int8), "int8") < 0.9


def test_a_wrong_kind_costs_space_only() -> None:
    for kind in codecs.KINDS:
        round_trip(clustered(300).tobytes(), kind)
        round_trip(links(500).tobytes(), kind)


@pytest.mark.parametrize("lead", [0, 1, 2, 3, 33])
def test_bytes_that_are_float32_are_found_at_any_alignment(lead: int) -> None:
    data = bytes(range(lead)) + clustered().tobytes()
    codec, payload = round_trip(data, "bytes")
    assert codec == PLANES
    assert len(payload) < 0.87 * len(data)


def test_bytes_that_are_text_or_noise() -> None:
    text = Path(argparse.__file__).read_bytes()
    codec, payload = round_trip(text, "bytes")
    assert codec == ZSTD
    assert len(payload) < 0.3 * len(text)
    noise = np.random.default_rng(1).integers(0, 256, 200_000, dtype=np.uint8).tobytes()
    for kind in codecs.KINDS:
        assert codecs.encode(noise, kind) == (RAW, noise)


def test_encoding_is_the_same_in_every_thread() -> None:
    blobs = [
        (clustered(900).tobytes(), "float32"),
        (links().tobytes(), "int32"),
        (b"strongroom " * 9000, "bytes"),
        (bytes(70_001), "int8"),
    ]
    expected = [codecs.encode(data, kind) for data, kind in blobs]

    def once(turn: int) -> None:
        for i in range(len(blobs)):
            data, kind = blobs[(i + turn) % len(blobs)]
            codec, payload = codecs.encode(data, kind)
            assert (codec, payload) == expected[(i + turn) % len(blobs)]
            assert codecs.decode(codec, payload, len(data)) == data

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(once, range(24)))


def samples() -> list[tuple[int, bytes, int]]:
    """Codec, payload and length of one blob of each codec, and of a plane payload with head and tail."""
    data = clustered(20, 64).tobytes()
    edged = np.frombuffer(b"abc" + data + b"de", np.uint8)
    with_edges = planes.encode(edged, Layout(4, rotated=True, head=3))
    assert with_edges is not None
    encoded = [
        (*round_trip(data, "float32"), len(data)),
        (*round_trip(b"strongroom " * 99, "bytes"), 1089),
        (RAW, data, len(data)),
    ]
    assert [codec for codec, _, _ in encoded] == [PLANES, ZSTD, RAW]
    return [*encoded, (PLANES, bytes(with_edges), len(edged))]


def decode_or_refuse(codec: int, payload: bytes, length: int) -> None:
    """Nothing but CodecError or bytes of the promised length may come out."""
    with contextlib.suppress(CodecError):
        assert len(codecs.decode(codec, payload, length)) == length


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3), st.data())
def test_truncation_and_growth_are_refused(which: int, data: st.DataObject) -> None:
    codec, payload, length = samples()[which]
    cut = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(CodecError):
        codecs.decode(codec, payload[:cut], length)
    with pytest.raises(CodecError):
        codecs.decode(codec, payload + b"\0", length)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 3), st.integers(0, 1 << 40))
def test_a_wrong_length_is_refused(which: int, other: int) -> None:
    codec, payload, length = samples()[which]
    if other != length:
        with pytest.raises(CodecError):
            codecs.decode(codec, payload, other)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 3), st.data())
def test_altered_bytes_never_raise_anything_else(which: int, data: st.DataObject) -> None:
    codec, payload, length = samples()[which]
    altered = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        altered[data.draw(st.one_of(st.integers(0, min(60, len(payload) - 1)), st.integers(0, len(payload) - 1)))] = data.draw(
            st.integers(0, 255)
        )
    decode_or_refuse(codec, bytes(altered), length)


@settings(max_examples=300, deadline=None)
@given(st.integers(-1, 5), st.binary(max_size=100), st.integers(0, 200))
def test_arbitrary_payloads_never_raise_anything_else(codec: int, payload: bytes, length: int) -> None:
    decode_or_refuse(codec, payload, length)


@pytest.mark.parametrize("length", [1 << 20, 1 << 40, 1 << 62])
def test_a_frame_that_promises_too_much_allocates_nothing(length: int) -> None:
    sized = b"\x28\xb5\x2f\xfd\xe0" + length.to_bytes(8, "little") + b"\x01\x00\x00"
    unsized = b"\x28\xb5\x2f\xfd\x00\x38\x01\x00\x00"
    for frame in (sized, unsized):
        with pytest.raises(CodecError):
            codecs.decode(ZSTD, frame, length)


def plane_payload(*entries: tuple[int, bytes]) -> bytes:
    """Two words of four bytes, by hand: method and content of each plane."""
    directory = b"".join(bytes([method]) + len(content).to_bytes(8, "little") for method, content in entries)
    return b"\x04\0\0" + directory + b"".join(content for _, content in entries)


def test_planes_are_laid_out_as_specified() -> None:
    """Raw planes one by one or the two lowest side by side: the same words."""
    words = b"\x01\x02\x03\x04\x11\x12\x13\x14"
    one_by_one = plane_payload((0, b"\x01\x11"), (0, b"\x02\x12"), (0, b"\x03\x13"), (0, b"\x04\x14"))
    paired = plane_payload((2, b"\x01\x02\x11\x12"), (2, b""), (0, b"\x03\x13"), (0, b"\x04\x14"))
    assert codecs.decode(PLANES, one_by_one, 8) == words
    assert codecs.decode(PLANES, paired, 8) == words


@pytest.mark.parametrize(
    "entries",
    [
        ((0, b"\x01"), (0, b"\x02\x12\x12"), (0, b"\x03\x13"), (0, b"\x04\x14")),
        ((2, b"\x01\x02\x11"), (2, b"\x12"), (0, b"\x03\x13"), (0, b"\x04\x14")),
        ((2, b"\x01\x02\x11\x12"), (0, b""), (0, b"\x03\x13"), (0, b"\x04\x14")),
        ((2, b"\x01\x11"), (0, b"\x02\x12"), (0, b"\x03\x13"), (0, b"\x04\x14")),
        ((0, b"\x01\x11"), (0, b"\x02\x12"), (2, b"\x03\x13"), (2, b"\x04\x14")),
        ((3, b"\x01\x11"), (0, b"\x02\x12"), (0, b"\x03\x13"), (0, b"\x04\x14")),
    ],
)
def test_planes_of_other_lengths_or_methods_are_refused(entries: tuple[tuple[int, bytes], ...]) -> None:
    with pytest.raises(CodecError, match=r"planes|method"):
        codecs.decode(PLANES, plane_payload(*entries), 8)


def test_unknown_codecs_and_kinds_are_refused() -> None:
    with pytest.raises(CodecError, match="unknown codec 9"):
        codecs.decode(9, b"", 0)
    with pytest.raises(ValueError, match="no such kind"):
        codecs.encode(b"", "float64")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_records_come_apart_and_together(data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, 40))
    offset = data.draw(st.integers(0, stride))
    length = data.draw(st.integers(0, stride - offset))
    count = data.draw(st.integers(0, 20))
    buffer = data.draw(st.binary(min_size=count * stride, max_size=count * stride))
    vectors, rest = strided.split(buffer, stride, offset, length)
    records = [buffer[i : i + stride] for i in range(0, len(buffer), stride)]
    assert vectors == b"".join(record[offset : offset + length] for record in records)
    assert rest == b"".join(record[:offset] + record[offset + length :] for record in records)
    assert strided.join(vectors, rest, stride, offset, length) == buffer
    cuts = sorted({0, count, *data.draw(st.lists(st.integers(0, count)))})
    pieces = [buffer[start * stride : stop * stride] for start, stop in pairwise(cuts)]
    proven = strided.split_proven(pieces, count, stride, offset, length)
    assert tuple(part.tobytes() for part in proven) == (vectors, rest)


def test_records_are_proven_to_come_together_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [bytes(range(24)), bytes(range(24, 32))]
    for count in (3, 5):
        with pytest.raises(CodecError, match="records of 8 bytes"):
            strided.split_proven(pieces, count, 8, 2, 4)
    monkeypatch.setattr(strided, "join", lambda *_: memoryview(bytes(24)))
    with pytest.raises(CodecError, match="come together"):
        strided.split_proven(pieces, 4, 8, 2, 4)


def test_records_that_do_not_fit_are_refused() -> None:
    for geometry in [(0, 0, 0), (-8, 0, 0), (8, -1, 4), (8, 0, -4), (8, 5, 4)]:
        with pytest.raises(ValueError, match="fits"):
            strided.split(bytes(16), *geometry)
    with pytest.raises(ValueError, match="whole records"):
        strided.split(bytes(15), 8, 0, 4)
    for vectors, rest in [(12, 4), (8, 7), (8, 16)]:
        with pytest.raises(CodecError):
            strided.join(bytes(vectors), bytes(rest), 8, 0, 4)
