"""What does the daemon say? One event after another, each a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LEVELS = {"failed": 3, "broken": 3, "missed": 4, "skipped": 4, "held_back": 4, "behind": 4, "stopping": 5}
"""Of syslog, for journald; 6 (information) for all others."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: 'started', 'done', 'failed', 'missed', 'skipped', 'broken', 'recovered', 'held_back', 'behind' ...;
    when (ISO, UTC), a sentence, and of which policy, work, source and repository it is. `facts` are numbers that go with it."""

    what: str
    at: str
    text: str
    policy: str = ""
    work: str = ""
    source: str = ""
    repository: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Only what is known."""
        named = {name: getattr(self, name) for name in ("policy", "work", "source", "repository")}
        return {"event": self.what, "at": self.at, "text": self.text, **{k: v for k, v in named.items() if v}, **self.facts}

    def line(self, *, journald: bool = False) -> str:
        """A line of JSON; under systemd with the level that journald understands."""
        start = f"<{LEVELS.get(self.what, 6)}>" if journald else ""
        return start + json.dumps(self.as_json(), sort_keys=False, ensure_ascii=False)


Tell = Callable[[Event], None]
