"""Who is it that opened the repository? What the key slot says that opened it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
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
    """The key slot that opened a repository: its id (64 hex digits), its label and its role.

    `person` is the same for all slots of one: the key whose password was changed, and the tokens that were made with it. `signer`
    is the slot's public key (32 bytes; none: an old slot), `expires` when a token ends.
    """

    slot: str
    label: str
    role: AccessRole
    person: str = ""
    signer: bytes = b""
    expires: datetime | None = None

    @property
    def is_token(self) -> bool:
        return self.expires is not None


@dataclass(frozen=True, slots=True)
class Bearer:
    """For whom a slot is made: the role, of whom it is one more (nobody's: a new person), which slot issued it, and, of a token,
    until when."""

    role: AccessRole = AccessRole.ADMIN
    person: str = ""
    issuer: str = ""
    expires: datetime | None = None
