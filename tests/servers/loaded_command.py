"""What does every command do first? `load` does it once, in a process whose forks carry commands out: all modules are imported,
with the clients that take long. Nothing is opened."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import warnings
from contextlib import suppress

import strongroom
from strongroom.cli.commands import every_command

CLIENTS = ("lance", "psycopg", "redis", "pymilvus", "qdrant_client", "httpx", "botocore.session")


def load() -> None:
    """The garbage collector has nothing of it to touch: pages that nobody writes to are shared with the forks."""
    warnings.filterwarnings("ignore", "lance is not fork-safe")  # nothing of it runs here
    gc.disable()
    every_command()  # in the order of --help
    ours = [one.name for one in pkgutil.walk_packages(strongroom.__path__, "strongroom.") if not one.name.endswith("__main__")]
    for name in (*ours, *CLIENTS):
        with suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()
    gc.enable()
