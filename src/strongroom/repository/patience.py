"""For how long is a request repeated that isn't answered?"""

from __future__ import annotations

import os

from strongroom.errors import WrongRequest


def retry_seconds() -> float:
    """STRONGROOM_RETRY_SECONDS, else 60. Raises WrongRequest if that is no number of seconds."""
    text = os.environ.get("STRONGROOM_RETRY_SECONDS", "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise WrongRequest(f"STRONGROOM_RETRY_SECONDS is {text!r}", hint="set it to a number of seconds from 0 to 86400")
    return seconds
