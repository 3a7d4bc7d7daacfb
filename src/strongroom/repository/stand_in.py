"""Who gives what a store can't give? The seam at which replicas come in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from strongroom.model import Bytes
from strongroom.repository.packs import CodedBlob


class StandIn(Protocol):
    """Gives what `here` can't; raises what `here` raised if nobody else can either."""

    def blob(self, blob_id: bytes, here: Callable[[bytes], tuple[CodedBlob, Bytes]]) -> tuple[CodedBlob, Bytes]:
        """A blob, as it is coded and plain, checked."""

    def manifest(self, snapshot_id: str, here: Callable[[str], bytes]) -> bytes:
        """The signed bytes of a manifest."""

    def require_fresh(self) -> None:
        """Before the newest snapshot there is passes for the newest. Raises Refused where a newer one is known."""
