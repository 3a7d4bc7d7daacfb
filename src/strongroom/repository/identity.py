"""Who is it that opened the repository? What the key slot says that opened it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class AccessRole(StrEnum):
    """What a key is for. A slot that names none is an administrator's."""

    OBSERVER = "observer"  # sees that there are snapshots, and whether they are sound
    OPERATOR = "operator"  # makes snapshots and keeps journals
    RESTORER = "restorer"  # restores
    AUDITOR = "auditor"  # reads the audit log and the reports
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Identity:
    """The key slot that opened a repository: its id (64 hex digits), its label and its role."""

    slot: str
    label: str
    role: AccessRole
