"""How do the children that engines run in (see `strongroom.engines.isolation`) start in milliseconds? Each is a fork of a nursery
that has the engines' libraries imported.

`fork_children` has the calling process and its forks use that nursery. A child whose surroundings (a variable that libraries read,
a limit) differ from the nursery's is started as it is without us, and so are all off Linux.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))

import forks

from strongroom import engines
from strongroom.engines import isolation
from strongroom.errors import StrongroomError

MORE = ("pyarrow.parquet", "pysqlite3", "strongroom.operations.drill.restarted")
"""What children import besides the library that their engine loads."""
_NOT_READ = ("STRONGROOM_", "PYTEST_", "AWS_", "AZURE_", "GOOGLE_", "VAULT_", "LANCE_", "TMPDIR", "COLUMNS", "LINES", "HOME", "PWD")
"""Variables that no library reads while it is imported, but Lance those that `load` sets."""
_LIMITS = (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_AS)
START = isolation._started
"""How a child starts anywhere else."""


CHILDREN = forks.Nursery(__file__, env=isolation._environment)


def fork_children() -> None:
    """From here on children are forks of the nursery. Off Linux nothing is changed."""
    isolation._started = _started if sys.platform == "linux" else START


def _started(command: Sequence[str], channel: int, complaints: IO[bytes]) -> Any:
    order = {**forks.placed(isolation._environment()), "loading": command[-1], "limits": _limits()}
    reading, writing = os.pipe()
    try:
        pid, connection = CHILDREN.ordered(order, [channel, writing, complaints.fileno()])
    finally:
        os.close(writing)
    if pid:
        return Child(pid, connection, reading)
    os.close(reading)
    connection.close()
    return START(command, channel, complaints)


class Child(forks.Fork):
    """What `isolation` wants of a `subprocess.Popen`."""

    def __init__(self, pid: int, connection: Any, reading: int) -> None:
        super().__init__(pid, connection)
        self.stdout = os.fdopen(reading, "rb")

    def communicate(self) -> None:
        self.stdout.close()
        self.wait()


def _limits() -> list[list[int]]:
    return [list(resource.getrlimit(one)) for one in _LIMITS]


# -- the nursery's side ------------------------------------------------------------------------------------------------------


def _read(variables: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if not name.startswith(_NOT_READ)}


def _become(order: dict[str, Any], descriptors: list[int]) -> None:
    channel, *outputs = descriptors
    forks.stand(order, outputs)
    isolation._die_with(os.getppid())
    isolation._serve(channel, order["loading"])


def main() -> None:
    ours = _read(dict(os.environ))
    warnings.filterwarnings("ignore", ".*fork")  # nothing of a library runs here
    gc.disable()
    for scheme in engines.known():
        with suppress(ImportError, StrongroomError):  # what can't be loaded is reported by the call that needs it
            isolation._found(engines.find(scheme).loading)()
    for one in MORE:
        with suppress(ImportError):
            importlib.import_module(one)
    forks.serve(_become, lambda order: order["limits"] == _limits() and _read(order["environment"]) == ours)


if __name__ == "__main__":
    main()
