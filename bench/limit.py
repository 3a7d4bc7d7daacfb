"""What must a backup do at least, whatever its format? Read the source once, hash it, encrypt it, and write it durably.

    python bench/limit.py SOURCE [SOURCE ...] DIRECTORY [--share 0.78]

As the repository does it (keyed BLAKE3, AES-256-GCM, packs of 16 MiB, fsync) on as many threads as there are cores, with nothing
else: no fingerprints, probes, compression or index. `share` of the bytes is written, as if a compressor had taken no time.
"""

from __future__ import annotations

import argparse
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PACK_BYTES = 16 << 20


def write_pack(source: int, offset: int, share: float, key: bytes, path: Path) -> None:
    """One pack from the source's bytes at `offset`."""
    plain = os.pread(source, PACK_BYTES, offset)
    blake3(plain, key=key).digest()
    sealed = AESGCM(key).encrypt(offset.to_bytes(12, "big"), plain[: int(len(plain) * share)], None)
    blake3(sealed).digest()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, sealed)
    os.fsync(descriptor)
    os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", type=Path, nargs="+")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--share", type=float, default=0.78)
    asked = parser.parse_args()
    asked.directory.mkdir(parents=True)
    key = secrets.token_bytes(32)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        writing = []
        for number, source in enumerate(asked.sources):
            descriptor = os.open(source, os.O_RDONLY)
            for at in range(0, source.stat().st_size, PACK_BYTES):
                path = asked.directory / f"{number}-{at}"
                writing.append(pool.submit(write_pack, descriptor, at, asked.share, key, path))
        for pack in writing:
            pack.result()


if __name__ == "__main__":
    main()
