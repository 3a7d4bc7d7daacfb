"""Who may do what, and who did: keys, tokens, approvals and the audit log of an opened repository."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom.access.gate import Gate, gated, noted_afterwards
from strongroom.access.recorded import outcome_of
from strongroom.clock import SYSTEM_CLOCK, Clock
from strongroom.credentials import secret_of
from strongroom.errors import WrongRequest
from strongroom.progress import SILENT, Progress
from strongroom.repository import Argon2Cost, KeySlot, Repository, Secret, open_store
from strongroom.repository.identity import AccessRole, Bearer

if TYPE_CHECKING:
    from strongroom.access.approvals import Request, Rule
    from strongroom.access.audit import Export, Findings, Operation
    from strongroom.access.tokens import Token
    from strongroom.operations.keys.close_epochs import ClosingReport
    from strongroom.operations.keys.reencrypt import ReencryptOptions, ReencryptReport
    from strongroom.operations.keys.status import KeyStatus
    from strongroom.operations.lock.extend import ExtendReport
    from strongroom.operations.lock.recover import RecoverReport
    from strongroom.operations.lock.status import LockStatus
    from strongroom.repository.lock_mode import Mode
    from strongroom.repository.rotation import Rotation


@gated
class Governed:
    """What `Strongroom` is asked about keys and people. `access` is the gate that everything passes: set its `reason` and
    `approval` before what needs one."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.access = Gate(repository)

    def key_slots(self) -> list[KeySlot]:
        """All key slots, oldest first."""
        return self.repository.key_slots()[0]

    def add_key(
        self,
        secret: Secret,
        label: str = "",
        *,
        role: AccessRole = AccessRole.ADMIN,
        cost: Argon2Cost | None = None,
        write_only: bool = False,
    ) -> KeySlot:
        """One more secret that opens the repository, for a person of its own. `write_only` is for a host that backs up, an
        operator, and can't read: not with a program of its own either."""
        if write_only and role not in (AccessRole.ADMIN, AccessRole.OPERATOR):
            raise WrongRequest("a host that can only back up has no other role", hint="leave --role away")
        bearer = Bearer(AccessRole.OPERATOR if write_only else AccessRole(role), issuer=self.repository.identity.slot)
        return self.repository.add_key(secret, label, cost=cost, bearer=bearer, write_only=write_only)

    def remove_key(self, prefix: str) -> KeySlot:
        """Remove the slot whose id begins so; never the last administrator's."""
        return self.repository.remove_key(prefix)

    def change_passphrase(self, old: Secret, new: Secret, *, cost: Argon2Cost | None = None) -> KeySlot:
        """Replace the slot that `old` opens by one for `new`, of the same person and role."""
        return self.repository.change_passphrase(old, new, cost=cost)

    def rewrap_keys(self, secret: Secret, fresh: Secret | None = None) -> list[KeySlot]:
        """Wrap each slot that `secret` opens anew: by the newest version of its service's key, or by `fresh`."""
        from strongroom.repository.key_renewal import rewrap

        return rewrap(self.repository, secret, fresh)

    def rotate_keys(self, secret: Secret, *, without: Iterable[str] = (), drop: bool = False) -> Rotation:
        """Begin a new epoch: what is written from now on, no slot of `without` and no slot that was left out can open."""
        from strongroom.repository.rotation import rotate
        from strongroom.repository.tenant_renewal import reseal

        done = rotate(self.repository, secret, without=without, drop=drop)
        reseal(self.repository)
        return done

    def reencrypt(
        self, options: ReencryptOptions | None = None, *, to: str | None = None, progress: Progress = SILENT
    ) -> ReencryptReport:
        """Write under the newest keys what older ones seal, here or in the replica at the URL `to`, within a budget; run it again
        for the rest. Takes no lock."""
        from strongroom.operations.copy import open_replica
        from strongroom.operations.keys.reencrypt import reencrypt

        where = self.repository if to is None else open_replica(self.repository, open_store(to))
        return reencrypt(where, options, progress)

    def close_epochs(
        self,
        grace: timedelta | None = None,
        without: Iterable[str] = (),
        *,
        to: str | None = None,
        progress: Progress = SILENT,
    ) -> ClosingReport:
        """Give up the keys of all epochs but the newest, once neither this store nor a replica that this machine knows needs them;
        or those that the replica at the URL `to` keeps. `without` are the URLs of replicas that are no more."""
        from strongroom.operations.copy import open_replica
        from strongroom.operations.keys.close_epochs import close_epochs
        from strongroom.operations.machine.replicas import known
        from strongroom.operations.prune.run import GRACE

        grace, gone = GRACE if grace is None else grace, set(without)
        if to is not None:
            return close_epochs(open_replica(self.repository, open_store(to)), grace=grace, progress=progress)
        replicas = [open_store(url) for url in known(self.repository.store.url) if url not in gone]
        return close_epochs(self.repository, replicas, grace=grace, progress=progress)

    def upgrade_key(self, secret: Secret) -> list[KeySlot]:
        """Have later epochs sealed to the slots that `secret` opens; gives the new ones."""
        from strongroom.repository.rotation import upgrade

        return upgrade(self.repository, secret)

    def key_status(self, max_age: timedelta | None = None) -> KeyStatus:
        """Each slot and epoch with its age, against the greatest that is allowed: by the published policy, if nothing is said."""
        from strongroom.operations.keys.status import key_status

        return key_status(self.repository, max_age)

    def create_token(self, role: AccessRole, expires: timedelta, label: str = "") -> Token:
        """A secret that opens the repository for a while, in a role below one's own."""
        from strongroom.access import tokens

        return tokens.create(self.repository, AccessRole(role), expires, label)

    def tokens(self) -> list[KeySlot]:
        """All tokens that weren't taken away, oldest first."""
        from strongroom.access import tokens

        return tokens.listed(self.repository)

    def revoke_token(self, prefix: str) -> KeySlot:
        """Take a token away; administrators any, others their own."""
        from strongroom.access import tokens

        return tokens.revoke(self.repository, prefix)

    def require_approval(
        self,
        verbs: Iterable[str],
        *,
        people: int = 2,
        expires: timedelta = timedelta(hours=24),
        reasons: Iterable[str] = (),
    ) -> Rule:
        """From now on these verbs need so many people, and `reasons` a reason. In the place of the rule before."""
        from strongroom.access import approvals

        return approvals.require(self.repository, verbs, people, expires, reasons)

    def approvals(self) -> tuple[Rule | None, list[Request]]:
        """The rule that is in force, and all requests, oldest first."""
        from strongroom.access import approvals

        return approvals.rule_of(self.repository), approvals.requests(self.repository)

    def grant_approval(self, request: str, reason: str = "") -> Request:
        """Approve what another person asked for."""
        from strongroom.access import approvals

        return approvals.answer(self.repository, request, granted=True, reason=reason)

    def deny_approval(self, request: str, reason: str = "") -> Request:
        """Refuse what somebody asked for; one voice is enough."""
        from strongroom.access import approvals

        return approvals.answer(self.repository, request, granted=False, reason=reason)

    def audit(self) -> list[Operation]:
        """What was done, refused and begun, oldest first: whatever can be read. `verify_audit` says whether it is all."""
        from strongroom.access import audit

        return audit.operations(self.repository)

    def verify_audit(self, expected: str | None = None) -> Findings:
        """Is the audit log whole, in order, and written by who it says? `expected` is the `hash` that was told earlier."""
        from strongroom.access import audit

        return audit.verify(self.repository, expected)

    def export_audit(self) -> Export:
        """The audit log as signed JSON lines, that can be checked without the repository."""
        from strongroom.access import audit

        return audit.export(self.repository)

    def set_lock(
        self, period: timedelta, mode: Mode | None = None, *, dry_run: bool = False, progress: Progress = SILENT
    ) -> ExtendReport | None:
        """Lock what the repository needs by the store's object lock, each object for `period` at least from now and from each
        `extend_locks` on; no time at all ends that for what is stored later. Raises UnsafeStore where there is none."""
        from strongroom.operations.lock.extend import set_rule
        from strongroom.repository.lock_mode import Mode

        return set_rule(self.repository, mode or Mode.COMPLIANCE, period, dry_run=dry_run, progress=progress)

    def extend_locks(self, *, dry_run: bool = False, progress: Progress = SILENT) -> ExtendReport:
        """Lock what snapshots need for as long as the rule says, where that is to run out."""
        from strongroom.operations.lock.extend import extend

        return extend(self.repository, dry_run=dry_run, progress=progress)

    def lock_status(self, progress: Progress = SILENT) -> LockStatus:
        """What is locked, until when, and what should be and isn't."""
        from strongroom.operations.lock.status import lock_status

        return lock_status(self.repository, progress)


def recover_repository(
    location: str,
    *,
    password: str | None = None,
    key_file: str | Path | None = None,
    since: datetime | None = None,
    dry_run: bool = False,
    clock: Clock = SYSTEM_CLOCK,
    progress: Progress = SILENT,
) -> RecoverReport:
    """Bring back what was hidden or overwritten in a bucket that keeps versions, be it everything. `since`: also what was
    forgotten, pruned or revoked after that time, by whoever had the repository's key as well."""
    from strongroom.operations.lock.recover import recover

    secret, store = secret_of(password, key_file), open_store(location)
    asked = {"since": since.isoformat() if since else "", "dry_run": dry_run}
    with noted_afterwards(store, secret, clock, "recover_objects", asked) as deed:
        report = recover(store, secret, since=since, dry_run=dry_run, clock=clock, progress=progress)
        deed.outcome = outcome_of(report)
    return report
