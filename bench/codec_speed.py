"""How small and how fast are Strongroom's codecs, against zstd, Blosc2 and pcodec on the same bytes?

    python bench/codec_speed.py [--json FILE] [--plot FILE.png] [--rounds N]

One process, one thread. Codecs take turns within each round, so that a busy machine disturbs all of them alike; the median counts.
Every result is checked bit for bit. Ratio is stored / plain; speeds are GB of plain bytes a second. Not named codecs.py: type
checkers would take it for the standard library's module.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import zstandard
from pcodec import ChunkConfig, standalone
from rich.console import Console
from rich.table import Table

from strongroom import codecs

Numbers = npt.NDArray[Any]
REAL_VECTORS = Path(__file__).resolve().parents[2] / "shared/data/summaries-minilm.parquet"
ROWS, DIMENSION = 4096, 384


@dataclass(frozen=True)
class DataSet:
    """Numbers of one blob; `kind` as in `codecs.encode`. bfloat16 is held as uint16."""

    name: str
    kind: str
    numbers: Numbers


@dataclass(frozen=True)
class Codec:
    """`encode` gives whatever `decode` and `size` need."""

    name: str
    encode: Callable[[DataSet], Any]
    decode: Callable[[Any, DataSet], Any]
    size: Callable[[Any], int] = len


@dataclass(frozen=True)
class Result:
    data: str
    codec: str
    ratio: float
    encode_gbps: float
    decode_gbps: float


def data_sets() -> list[DataSet]:
    """About 6 MB of float32 and the same vectors in other types; links as HNSW keeps them."""
    vectors = clustered_vectors()
    sets = [DataSet("clustered float32 (synthetic)", "float32", vectors)]
    if REAL_VECTORS.exists():
        column = pq.read_table(REAL_VECTORS, columns=["vector"])["vector"].combine_chunks()
        vectors = np.array(column.flatten().to_numpy()[: ROWS * DIMENSION])
        sets.insert(0, DataSet("MiniLM float32 (real)", "float32", vectors))
    half = vectors.astype(np.float16)
    codes = np.rint(vectors * (127 / np.abs(vectors).max())).astype(np.int8)
    return [
        *sets,
        DataSet("float16-origin float32", "float32", half.astype(np.float32)),
        DataSet("float16", "float16", half),
        DataSet("bfloat16", "bfloat16", (vectors.view(np.uint32) >> 16).astype(np.uint16)),
        DataSet("int8", "int8", codes),
        DataSet("HNSW links int32", "int32", hnsw_links()),
    ]


def clustered_vectors() -> Numbers:
    """Unit vectors around 256 centres, float32, flat."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((256, DIMENSION), dtype=np.float32)
    vectors = centres[rng.integers(0, 256, ROWS)] + 0.5 * rng.standard_normal((ROWS, DIMENSION), dtype=np.float32)
    flat: Numbers = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32).ravel()
    return flat


def hnsw_links(rows: int = 48_000, slots: int = 32) -> Numbers:
    """Level-0 neighbour lists shaped like FAISS's: ids below `rows`, 8 to 32 of them, empty slots -1, flat int32."""
    rng = np.random.default_rng(2)
    lists = rng.integers(0, rows, (rows, slots), dtype=np.int32)
    lists[np.arange(slots) >= rng.integers(8, slots + 1, (rows, 1))] = -1
    flat: Numbers = lists.ravel()
    return flat


def strongroom_codec() -> Codec:
    return Codec(
        "strongroom",
        lambda data: codecs.encode(data.numbers.view(np.uint8).data, data.kind),
        lambda coded, data: codecs.decode(coded[0], coded[1], data.numbers.nbytes),
        lambda coded: len(coded[1]),
    )


def zstd_codec(level: int) -> Codec:
    compressor, decompressor = zstandard.ZstdCompressor(level=level), zstandard.ZstdDecompressor()
    return Codec(
        f"zstd-{level}",
        lambda data: compressor.compress(data.numbers.view(np.uint8).data),
        lambda coded, data: decompressor.decompress(coded),
    )


def blosc_codec(name: str, shuffle: Any, codec: Any) -> Codec:
    def encode(data: DataSet) -> Any:
        settings = {"codec": codec, "clevel": 5, "filters": [shuffle], "typesize": data.numbers.itemsize, "nthreads": 1}
        return blosc2.compress2(data.numbers, **settings)

    return Codec(f"blosc2 {name}", encode, lambda coded, data: blosc2.decompress2(coded, nthreads=1))


def pcodec_codec() -> Codec:
    """pcodec at its default level; it has no bfloat16 and gets its bits as uint16."""
    config = ChunkConfig(enable_8_bit=True)
    return Codec(
        "pcodec",
        lambda data: standalone.simple_compress(data.numbers, config),
        lambda coded, data: standalone.simple_decompress(coded),
    )


def all_codecs() -> list[Codec]:
    blosc2.set_nthreads(1)
    shuffle, bits = blosc2.Filter.SHUFFLE, blosc2.Filter.BITSHUFFLE
    zstd, lz4 = blosc2.Codec.ZSTD, blosc2.Codec.LZ4
    return [
        strongroom_codec(),
        zstd_codec(1),
        zstd_codec(3),
        blosc_codec("shuffle+zstd", shuffle, zstd),
        blosc_codec("bitshuffle+zstd", bits, zstd),
        blosc_codec("bitshuffle+lz4", bits, lz4),
        pcodec_codec(),
    ]


def measure(data: DataSet, contestants: list[Codec], rounds: int) -> list[Result]:
    """One result a codec; the codecs take turns `rounds` times. Raises AssertionError if any of them loses a bit."""
    plain = data.numbers.tobytes()
    encoding: dict[str, list[float]] = {c.name: [] for c in contestants}
    decoding: dict[str, list[float]] = {c.name: [] for c in contestants}
    sizes: dict[str, int] = {}
    for _ in range(rounds):
        for codec in contestants:
            started = time.perf_counter()
            coded = codec.encode(data)
            encoded = time.perf_counter()
            back = codec.decode(coded, data)
            decoding[codec.name].append(time.perf_counter() - encoded)
            encoding[codec.name].append(encoded - started)
            sizes[codec.name] = codec.size(coded)
            if memoryview(back).cast("B") != plain:
                raise AssertionError(f"{codec.name} changed {data.name}")

    def speed(seconds: list[float]) -> float:
        return len(plain) / statistics.median(seconds) / 1e9

    return [Result(data.name, name, sizes[name] / len(plain), speed(encoding[name]), speed(decoding[name])) for name in encoding]


def render(results: list[Result], rounds: int) -> Table:
    table = Table(title=f"stored / plain, and GB/s of plain bytes, one thread, median of {rounds} (bit-exact)")
    for heading in ("data", "codec"):
        table.add_column(heading)
    for heading in ("ratio", "encode GB/s", "decode GB/s"):
        table.add_column(heading, justify="right")
    last = ""
    for r in results:
        if last and r.data != last:
            table.add_section()
        style = "bold" if r.codec == "strongroom" else ""
        numbers = (f"{r.ratio:.3f}", f"{r.encode_gbps:.2f}", f"{r.decode_gbps:.2f}")
        table.add_row(r.data if r.data != last else "", r.codec, *numbers, style=style)
        last = r.data
    return table


def plot(results: list[Result], file: Path) -> None:
    """One panel a data set: ratio (down is better) against encode speed (right is better)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(r.data for r in results))
    figure, axes = pyplot.subplots(2, (len(names) + 1) // 2, figsize=(4.2 * ((len(names) + 1) // 2), 7.5), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        for r in results:
            if r.data == name:
                axis.scatter(r.encode_gbps, r.ratio, s=90 if r.codec == "strongroom" else 35, label=r.codec)
        axis.set(title=name, xscale="log", xlabel="encode, GB/s", ylabel="stored / plain")
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(names) :]:
        axis.axis("off")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="lower right")
    figure.tight_layout()
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    contestants = all_codecs()
    results = [result for data in data_sets() for result in measure(data, contestants, options.rounds)]
    Console().print(render(results, options.rounds))
    if options.json:
        report = {"rounds": options.rounds, "cpus": os.cpu_count(), "results": [asdict(r) for r in results]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
