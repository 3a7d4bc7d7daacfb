"""What kind of processor computes here? Another one rounds otherwise: sums of many products differ in their last bits.

So distances, and vectors that are decoded from lossy codes, are the same bit for bit only where they are computed on the same kind.
"""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from strongroom.snapshots.manifest import Manifest, StoredCollection

_DESCRIBES = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
_WIDENS = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "asimd", "sve", "sve2")
_CHOOSES = ("OPENBLAS_CORETYPE", "MKL_CBWR", "FAISS_OPT_LEVEL", "FAISS_SIMD_LEVEL")


@functools.cache
def processor() -> str:
    """Vendor, model and vector instructions, and the variables by which libraries are told to compute as on another one."""
    try:
        first = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    return _described(platform.machine(), told, os.environ)


def _described(machine: str, told: Mapping[str, str], environment: Mapping[str, str]) -> str:
    abilities = told.get("flags", told.get("Features", "")).split()
    chosen = (f"{name}={environment[name]}" for name in _CHOOSES if environment.get(name))
    kind = (told[name] for name in _DESCRIBES if name in told)
    return " ".join([machine, *kind, *(one for one in _WIDENS if one in abilities), *chosen])


def rounds_alike(record: Manifest) -> bool:
    """Was the snapshot made on the kind of processor that computes here?"""
    return record.processor == processor()


def reproducible(record: Manifest, collection: StoredCollection) -> bool:
    """Must the collection's rows have the root that the manifest says, wherever they are read from?"""
    decoded = record.rows_plane == "artifacts" and any(field.decoded for field in collection.catalog.fields)
    return rounds_alike(record) or not decoded
