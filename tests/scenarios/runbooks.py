"""How is a runbook tried as it is written? Its blocks are taken out of docs/OPERATIONS.md and pasted into a shell."""

from __future__ import annotations

import json
import os
import re
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from commands import Ended, environment, forked

PAGE = Path(__file__).parents[2] / "docs" / "OPERATIONS.md"
_HEADING = re.compile(r"^## Runbook: (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^( *)```sh\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_COMMAND = f"""#!{sys.executable} -IS
import json, os, socket, sys
order = {{"arguments": sys.argv[1:], "environment": dict(os.environ), "directory": os.getcwd()}}
with socket.socket(socket.AF_UNIX) as line:
    line.connect(os.environ["RUNBOOK_LINE"])
    line.sendall(json.dumps(order).encode() + b"\\n")
    code, out, err = json.loads(line.makefile().readline())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""
"""Stands for `strongroom` in the shell: asks the process that has it loaded."""


def titles() -> list[str]:
    return _HEADING.findall(PAGE.read_text())


def blocks(title: str) -> list[str]:
    """The shell blocks of a runbook, in their order."""
    section = re.search(rf"^## Runbook: {re.escape(title)}$\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None, f"there is no runbook {title!r}"
    return ["\n".join(line.strip() for line in body.splitlines()) for _, body in _BLOCK.findall(section[1])]


@dataclass
class Play:
    """A runbook that is being played. `names` are what its reader fills in, by the names in the text."""

    left: list[str]
    exported: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)

    def step(self, code: int = 0, **names: str | Path) -> Ended:
        """Paste the next block, with what is known by then; a name that nobody filled in ends it. It must end with `code`. What
        it exports stays, as in the shell of a person."""
        self.names |= {name: str(value) for name, value in names.items()}
        block = self.left.pop(0)
        done = subprocess.run(
            ["sh", "-eu", "-c", f'{block}\nenv -0 > "$RUNBOOK_EXPORTED"'],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**self.exported, **self.names},
            timeout=300,
        )
        assert done.returncode == code, (block, done)
        kept = Path(self.exported["RUNBOOK_EXPORTED"])
        if kept.exists():
            self.exported |= dict(one.split("=", 1) for one in kept.read_text().split("\0") if one)
        return Ended(done.returncode, done.stdout, done.stderr)


@contextmanager
def runbook(title: str, env: Mapping[str, str | None], **names: str | Path) -> Iterator[Play]:
    """Play it to its end: a block that is left over is an error."""
    with tempfile.TemporaryDirectory() as folder, _answering(Path(folder) / "line") as line:
        command = Path(folder) / "strongroom"
        command.write_text(_COMMAND)
        command.chmod(0o755)
        ours = {"PATH": f"{folder}:{os.environ['PATH']}", "RUNBOOK_LINE": str(line), "RUNBOOK_EXPORTED": f"{folder}/exported"}
        given = {name: str(value) for name, value in names.items()}
        play = Play(blocks(title), environment(**env, **ours), given)
        yield play
        assert play.left == [], f"{title}: not all of it was played"


class _Order(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        order = json.loads(self.rfile.readline())
        ended = forked(order["arguments"], order["environment"], order["directory"])
        self.wfile.write(json.dumps([ended.code, ended.out, ended.err]).encode() + b"\n")


@contextmanager
def _answering(line: Path) -> Iterator[Path]:
    with socketserver.ThreadingUnixStreamServer(str(line), _Order) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield line
        server.shutdown()
