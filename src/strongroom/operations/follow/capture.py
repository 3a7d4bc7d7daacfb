"""How are the changes of an engine without a log recorded, and shipped from the very process that makes them?"""

from __future__ import annotations

import threading
from typing import Any

from strongroom import engines
from strongroom.engines.protocol import Capturing
from strongroom.errors import WrongRequest
from strongroom.operations.follow.run import FollowOptions, follow
from strongroom.repository import Repository

_AGAIN_SECONDS = 30.0


def capture(
    client: Any, source: str, *, every: float = 0.0, anew: bool = False, ship: tuple[Repository, FollowOptions] | None = None
) -> Any:
    """The client, wrapped: see `protocol.Capturing`. With `ship` a thread of this process follows the source until `close`. Raises
    WrongRequest if the engine has a log of its own."""
    engine = engines.engine_of(source)
    if not isinstance(engine, Capturing):
        raise WrongRequest(
            f"{engine.name} needs no capture, or has none", hint=f"'strongroom journal follow {source}' if it has a log of its own"
        )
    captured = engine.capture(client, source, every, anew)
    if ship is not None:
        captured.shipped_by(Shipping(*ship, source))
    return captured


class Shipping:
    """A thread that follows a source. What stops it is raised by `stop`; before that it tries again."""

    def __init__(self, repository: Repository, options: FollowOptions, source: str) -> None:
        self._repository, self._options, self._source = repository, options, source
        self._stop = threading.Event()
        self.problem: Exception | None = None
        """What went wrong last."""
        self._thread = threading.Thread(target=self._run, name="strongroom-ship", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Seal what is pending and end. Raises what kept that from being done."""
        self._stop.set()
        self._thread.join()
        if self.problem is not None:
            raise self.problem

    def _run(self) -> None:
        while True:
            self.problem = None
            try:
                follow(self._repository, self._source, self._options, stop=self._stop)
                return
            except Exception as error:  # noqa: BLE001 - whatever it was (a full disk, say), who closes the capture hears of it
                self.problem = error
            if self._stop.wait(_AGAIN_SECONDS):
                return
