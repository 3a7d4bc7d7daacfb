"""How fast is a replica made? `strongroom copy` between two directories, beside `cp -r` and, if it is installed, `rclone copy`.

    python bench/copying.py [--mib 256] [--runs 3]

The repository holds random vectors in a FAISS index. Times are of whole processes; `sync` is part of each, since our copies are
durable when they end. Medians, in seconds; then a second copy that has nothing to move.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

STRONGROOM = str(Path(sys.executable).with_name("strongroom"))


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    os.sync()
    return time.perf_counter() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--mib", type=int, default=256)
    options.add_argument("--runs", type=int, default=3)
    wish = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-copy-") as place:
        folder = Path(place)
        os.environ |= {"STRONGROOM_PASSWORD": "bench", "STRONGROOM_STATE_DIR": str(folder / "state")}
        os.environ["STRONGROOM_REPOSITORY"] = primary = str(folder / "primary")
        index = faiss.IndexFlatL2(256)
        index.add(np.random.default_rng(1).standard_normal((wish.mib << 10, 256)).astype(np.float32))
        faiss.write_index(index, str(folder / "index.faiss"))
        seconds(STRONGROOM, "init")
        seconds(STRONGROOM, "backup", "-q", f"faiss://{folder}/index.faiss")
        ways = {"strongroom copy": [STRONGROOM, "copy", "-q", "--to"], "cp -r": ["cp", "-r", primary]}
        if shutil.which("rclone"):
            ways["rclone copy"] = ["rclone", "copy", primary]
        taken: dict[str, list[float]] = {}
        for _ in range(wish.runs):
            for name, command in ways.items():
                target = folder / "target"
                taken.setdefault(name, []).append(seconds(*command, str(target)))
                if name == "strongroom copy":
                    taken.setdefault("again, nothing new", []).append(seconds(*command, str(target)))
                shutil.rmtree(target)
        for name, times in taken.items():
            print(f"{name:<20} {statistics.median(times):6.2f} s  of {wish.mib} MiB")


if __name__ == "__main__":
    main()
