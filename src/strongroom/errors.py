"""What can go wrong, grouped by what a caller does about it. Each error carries its exit code and advice."""

from __future__ import annotations

import errno


class StrongroomError(Exception):
    """One sentence that says what happened, a hint that says what to do next, and the process's exit code."""

    exit_code = 1
    default_hint = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = self.default_hint if hint is None else hint


class WrongRequest(StrongroomError):
    """The request can't be carried out as it was put: an unknown engine, a bad URL, an option that contradicts another."""

    exit_code = 2


class NotFound(StrongroomError):
    """The named thing (source, snapshot, collection, key slot) isn't there."""

    default_hint = "check the name or path"


class Unreadable(StrongroomError):
    """A source is there but can't be read: no permission, not such a database, damaged."""

    default_hint = "check that it is what its URL says, and whole, and that this user may read it"


class SourceChanged(StrongroomError):
    """The source changed or vanished while it was read, so no single moment could be captured."""

    default_hint = "stop or pause the writer (or take its lock) and run the backup again"


class Overtaken(StrongroomError):
    """Another process took away what this one relied on; nothing was recorded."""

    default_hint = "run the same command again"


class Gap(StrongroomError):
    """What changed since a position can't be told any more: the engine's log doesn't go back to it, or is another one."""

    default_hint = "a new snapshot closes the gap; what happened in between can't be restored moment by moment"


class Stopped(StrongroomError):
    """It was asked to stop in the middle of its work; what is done stays done."""

    exit_code = 130
    default_hint = "run it again: finished work is not repeated"


class AlreadyExists(StrongroomError):
    """A name that must be new is taken; nothing was overwritten."""


class Unreachable(StrongroomError):
    """The store or engine didn't answer; retrying later may help. `busy` if it said that it can't now, `after` so many seconds
    if it said when."""

    def __init__(self, message: str, *, hint: str | None = None, busy: bool = False, after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.busy = busy
        self.after = after

    default_hint = "check the network and the store, then run the same command again: finished work is not repeated"


class StoreFull(StrongroomError):
    """The store has no room left."""

    default_hint = "free some space and run the same command again; earlier snapshots are intact"


class StoreDenied(StrongroomError):
    """The store refused access."""

    default_hint = "check the permissions or credentials of the repository's store"


class UnsafeStore(StrongroomError):
    """The store doesn't keep a promise that the repository's safety rests on."""


class PartlyDone(StrongroomError):
    """Something that was asked for could not be read; the rest was done."""

    exit_code = 3


class Damaged(StrongroomError):
    """An object is missing, truncated, swapped or altered. `subject` names it."""

    exit_code = 4

    def __init__(self, subject: str, problem: str, *, hint: str | None = None) -> None:
        super().__init__(f"{subject}: {problem}", hint=hint)
        self.subject = subject
        self.problem = problem

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.subject, self.problem), {"hint": self.hint})

    default_hint = (
        "run 'strongroom verify' to see what else is affected, with --repair to mend it; undamaged snapshots still restore"
    )


class VerificationFailed(StrongroomError):
    """A check found that what is kept is not what was promised."""

    exit_code = 4


class EngineFailed(StrongroomError):
    """An engine crashed or answered with an error while it was asked to do its work."""


class Refused(StrongroomError):
    """Policy forbids it: an overwrite without --overwrite, a lower rung than --require allows."""

    exit_code = 5


class NoRepository(StrongroomError):
    """There is no repository at this address, or it is of another format."""

    exit_code = 10
    default_hint = "check the address, or create a repository with 'strongroom init'"


class Locked(StrongroomError):
    """Another process holds what this one needs."""

    exit_code = 11
    default_hint = "wait for the other process to finish, then try again"


class WrongKey(StrongroomError):
    """No key slot opens with the given password, key file, key service or recovery shares; or the service refused."""

    exit_code = 12
    default_hint = "check STRONGROOM_PASSWORD, STRONGROOM_PASSWORD_FILE, STRONGROOM_KEY_FILE or STRONGROOM_KMS"


class NotAdmitted(WrongKey):
    """A key service doesn't know who asks (a wrong PIN, no token): it isn't asked again, for a token locks after a few tries."""


def from_os_error(error: OSError, subject: str) -> StrongroomError:
    """What an operating system error on a local file means to the caller."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"{subject}: no space left on the device")
    if error.errno == errno.EFBIG:
        return StoreFull(
            f"{subject}: a file may not become so large here", hint="raise the limit (ulimit -f), or use another place"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreDenied(f"{subject}: permission denied", hint="check the owner and mode of the file or directory")
    if error.errno == errno.ENOENT:
        return NotFound(f"{subject} is not there")
    return StrongroomError(f"{subject}: {error.strerror or error}", hint="check the path and what is there")
