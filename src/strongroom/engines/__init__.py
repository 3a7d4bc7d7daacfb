"""Which engines there are, and how a URL finds its own. Engines are plug-ins of the entry point group `strongroom.engines`."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strongroom.errors import WrongRequest
from strongroom.repository import transport

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


@dataclass(frozen=True, slots=True)
class Installed:
    """An engine of this machine. `version` is None if its library isn't installed; `note` says how to get it."""

    name: str
    version: str | None
    note: str
    experimental: bool


def installed() -> list[Installed]:
    """All engines, by their URL schemes."""
    return [_installed(scheme) for scheme in known()]


def _installed(scheme: str) -> Installed:
    engine: Engine | None = None
    try:
        engine = find(scheme)
        return Installed(scheme, engine.version(), "", is_experimental(engine))
    except (WrongRequest, ImportError) as error:
        note = error.hint if isinstance(error, WrongRequest) else str(error)
        return Installed(scheme, None, note, engine is not None and is_experimental(engine))


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
    """Opens nothing. Raises WrongRequest, or Refused if it is on another machine and the URL means no TLS."""
    source = engine_of(url).source(url)
    _require_encrypted(url)
    return source


def target_of(url: str) -> Target:
    """The same."""
    target = engine_of(url).target(url)
    _require_encrypted(url)
    return target


def _require_encrypted(url: str) -> None:
    encrypted = getattr(engine_of(url), "encrypted_scheme", "")
    if encrypted:
        transport.require_encrypted_url(url, f"write {encrypted}://")
