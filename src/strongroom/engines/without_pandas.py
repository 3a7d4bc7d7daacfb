"""Does Arrow have to know pandas? Its first array loads pandas wherever that is installed, to see whether it is made of that: a
quarter of a second, for a command that never has such."""

from __future__ import annotations

import importlib.abc
import sys
from importlib.machinery import ModuleSpec
from typing import Any

import pyarrow as pa


class _WithoutPandas(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname, name=fullname)
        return None


def do_without_pandas() -> None:
    """Have Arrow look for pandas once, now, and find none; whoever imports it later gets it all the same."""
    if "pandas" in sys.modules:
        return
    finder = _WithoutPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(finder)
