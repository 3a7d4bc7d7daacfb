"""How is a command of the policy file run? Without a shell, for a limited time, without our secrets in its surroundings."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from strongroom.errors import StrongroomError

_SECRETS = tuple(f"{new}{name}" for new in ("", "NEW_") for name in ("PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND", "KEY_FILE"))
_SHOWN = 200


class CommandFailed(StrongroomError):
    """A command of the policy file ended with an error, took too long, or isn't there."""

    default_hint = "run it by hand, as the user that runs strongroom"


def surroundings(told: Mapping[str, str], secret: Collection[str] = ()) -> dict[str, str]:
    """The environment of a command: ours, without what opens repositories and the variables `secret`, and what it is told."""
    prefix = "STRONGROOM_"
    hidden = {f"{prefix}{name}" for name in _SECRETS} | set(secret)
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, **told}


def run(command: Sequence[str], timeout: float, environment: Mapping[str, str], given: bytes = b"") -> None:
    """Run it to its end; its whole group of processes is killed after `timeout` seconds. Raises CommandFailed."""
    name = command[0]
    try:
        process = subprocess.Popen(
            [os.path.expanduser(name), *command[1:]],  # noqa: PTH111 - a name that is looked up stays one
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{name} could not be started: {getattr(error, 'strerror', None) or error}") from error
    try:
        _, said = process.communicate(given, timeout)
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{name} took longer than {timeout:g} s and was killed") from error
    finally:
        with suppress(ProcessLookupError, PermissionError):  # also what it left running
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        last = (said.decode(errors="replace").strip().splitlines() or [""])[-1][:_SHOWN]
        raise CommandFailed(f"{name} ended with {process.returncode}{': ' + last if last else ''}")
