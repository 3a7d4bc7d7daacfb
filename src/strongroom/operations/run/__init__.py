"""What is done by a policy file, when it is due: the daemon, and what it needs of whoever starts it."""

from __future__ import annotations

from strongroom.operations.run.events import Event
from strongroom.operations.run.service import Service, Surroundings
from strongroom.operations.run.state import RunState

__all__ = ["Event", "RunState", "Service", "Surroundings"]
