"""Who may end a lock of the store before its time?"""

from __future__ import annotations

from enum import StrEnum


class Mode(StrEnum):
    """COMPLIANCE: nobody. GOVERNANCE: whoever has s3:BypassGovernanceRetention."""

    COMPLIANCE = "compliance"
    GOVERNANCE = "governance"
