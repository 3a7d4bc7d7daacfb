"""How does a test open a database in a process of its own, so that a reopened one is really reopened? In a fork of a nursery that
has the engines' clients imported and nothing of them open."""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))

import forks

CLIENTS = forks.Nursery(__file__)
PRELOADED = (
    *("chromadb", "milvus_lite.adapter.grpc.server", "pyarrow.parquet", "lancedb", "faiss", "hnswlib", "usearch.index", "duckdb"),
    *("psycopg", "strongroom.library"),
)
"""Seconds to import, and nothing of them is open."""
T = TypeVar("T")


def apart(function: Callable[..., T], *arguments: object) -> T:
    """Call a function of a module in a process of its own. What it returns or raises comes back."""
    if sys.platform != "linux":
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answered:
        pickle.dump((function, arguments), asked)
        asked.seek(0)
        order = {**forks.placed(os.environ), "path": sys.path}
        code = forks.Process(CLIENTS, order, stdin=asked, stdout=answered).wait()
        assert code == 0, f"{function.__qualname__} ended with {code}"
        answered.seek(0)
        done, result = pickle.load(answered)  # noqa: S301
    if not done:
        raise result
    return result


def program(*words: str | Path, env: Mapping[str, str] | None = None, **streams: Any) -> forks.Running:
    """A program, its file or -c and its text first, as `python` would run it."""
    if sys.platform != "linux":
        return subprocess.Popen([sys.executable, *words], env=env, text=True, **streams)
    order = {**forks.placed(os.environ if env is None else env), "path": sys.path, "words": [str(one) for one in words]}
    return forks.Process(CLIENTS, order, **streams)


# -- the nursery's side ------------------------------------------------------------------------------------------------------


def _become(order: Any, descriptors: list[int]) -> None:
    forks.stand(order, descriptors)
    sys.path[:] = order["path"]
    code = 0
    try:
        _run(*order["words"]) if "words" in order else _answer()
        threading._shutdown()  # type: ignore[attr-defined] - whatever still runs is waited for, as the interpreter would
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        if code and code is not leaving.code:
            print(leaving.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as the interpreter would
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def _run(first: str, *words: str) -> None:
    if first == "-c":
        text, *words_left = words
        sys.argv[:] = ["-c", *words_left]
        exec(compile(text, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - the test's own words
        return
    sys.argv[:] = [first, *words]
    sys.path.insert(0, str(Path(first).parent))
    runpy.run_path(first, run_name="__main__")


def _answer() -> None:
    answered = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever an engine prints
    function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301
    try:
        outcome = True, function(*arguments)
    except Exception as error:  # noqa: BLE001 - the caller's
        outcome = False, error
    with answered:
        pickle.dump(outcome, answered)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", ".*fork")  # nothing of a library runs here
    gc.disable()
    for one in PRELOADED:
        with suppress(ImportError):
            importlib.import_module(one)
    forks.serve(_become)
