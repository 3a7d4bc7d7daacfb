"""Which engines there are, and how a URL finds its own. Engines are plug-ins of the entry point group `strongroom.engines`."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from strongroom.errors import WrongRequest

if TYPE_CHECKING:
    from strongroom.engines.protocol import Engine, Source, Target

GROUP = "strongroom.engines"


def known() -> list[str]:
    """The URL schemes of all installed engine plug-ins, sorted."""
    from importlib.metadata import entry_points

    return sorted({point.name for point in entry_points(group=GROUP)})


@functools.cache
def find(scheme: str) -> Engine:
    """The engine of a URL scheme. Raises WrongRequest, with the schemes that there are."""
    from importlib.metadata import entry_points  # takes as long as to start Python, and child processes don't need it

    for point in entry_points(group=GROUP, name=scheme):
        engine: Engine = point.load()()
        return engine
    raise WrongRequest(f"no engine is called {scheme!r}", hint=f"known engines: {', '.join(known())}")


def engine_of(url: str) -> Engine:
    """The engine that a source or target URL names. Raises WrongRequest."""
    scheme, separator, _ = url.partition(":")
    if not separator:
        raise WrongRequest(f"{url!r} names no engine", hint="write it as ENGINE:///path, for example chroma:///srv/chroma")
    return find(scheme)


def is_experimental(engine: Engine) -> bool:
    """Has it never run against a real one of its engine?"""
    return bool(getattr(engine, "experimental", False))


def prepared(url: str) -> AbstractContextManager[None]:
    """While this is open the engine's own library is loaded in a child process, for the first who asks an index. Raises
    WrongRequest."""
    from strongroom.engines import isolation

    return isolation.prepared(engine_of(url).loading)


def source_of(url: str) -> Source:
    return engine_of(url).source(url)


def target_of(url: str) -> Target:
    return engine_of(url).target(url)
