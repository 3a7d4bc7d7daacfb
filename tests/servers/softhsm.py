"""A token of SoftHSM for tests: the PKCS#11 module that Debian's softhsm2 installs, with a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PIN, TOKEN = "4711-0815", "backups"
_PLACES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)
_MISSING = "SoftHSM is not installed, and nothing stands in for it: run 'make servers' as root, or 'apt-get install softhsm2'"


class SoftHSM:
    """One token. The module reads its settings once a process: who uses it is another process, with `env`."""

    def __init__(self, folder: Path) -> None:
        found = [place for place in _PLACES if Path(place).exists()]
        assert found and shutil.which("softhsm2-util"), _MISSING
        (folder / "tokens").mkdir(parents=True)
        settings = folder / "softhsm2.conf"
        settings.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.env = {"SOFTHSM2_CONF": str(settings), "STRONGROOM_PKCS11_MODULE": found[0], "STRONGROOM_PKCS11_PIN": PIN}
        self._run("softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--so-pin", "so-pin-1234", "--pin", PIN)

    def make_key(self, label: str) -> str:
        """A new AES-256 key that never leaves the token; its URL."""
        self._in_token(f"session.generate_key(pkcs11.KeyType.AES, 256, label={label!r}, store=True)")
        return f"pkcs11:token={TOKEN};object={label}"

    def destroy_key(self, label: str) -> None:
        self._in_token(f"session.get_key(label={label!r}).destroy()")

    def _in_token(self, statement: str) -> None:
        program = f"""
import os, pkcs11
token = pkcs11.lib(os.environ["STRONGROOM_PKCS11_MODULE"]).get_token(token_label={TOKEN!r})
with token.open(rw=True, user_pin=os.environ["STRONGROOM_PKCS11_PIN"]) as session:
    {statement}
"""
        self._run(sys.executable, "-c", program)

    def _run(self, *words: str) -> None:
        done = subprocess.run(words, env={**os.environ, **self.env}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
