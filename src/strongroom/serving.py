"""What does the work of a policy file? A service over the repositories that it names, each opened with its own secret."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from strongroom.clock import SYSTEM_CLOCK, Clock
from strongroom.credentials import naming, password_named, secret_named, with_password
from strongroom.library import Strongroom
from strongroom.repository import Repository, open_store

if TYPE_CHECKING:
    from strongroom.operations.run import Event, Service
    from strongroom.policy.document import Document


def open_named(document: Document, name: str, clock: Clock = SYSTEM_CLOCK) -> Strongroom:
    """Open a repository of a policy file, with the secret that it names. Raises as `open_repository`."""
    one = document.repositories[name]
    secret = secret_named(one.password_file, one.password_command, one.password_env, one.key_file)
    return Strongroom(Repository.open(open_store(one.url), secret, clock=clock))


def policy_service(
    document: Document, file: Path, program: Sequence[str], tell: Callable[[Event], None], clock: Clock = SYSTEM_CLOCK
) -> Service:
    """What does the work of a policy file: `serve` it, or do what is due `once`. `program` is how `strongroom` is called."""
    from strongroom.operations.run import RunState, Service, Surroundings

    def environment(name: str) -> dict[str, str]:
        one = document.repositories[name]
        return naming(one.password_file, one.password_command, one.password_env, one.key_file)

    def url(name: str) -> str:
        one = document.sources[name]
        return with_password(one.url, password_named(one.password_file, one.password_command, one.password_env))

    around = Surroundings(
        lambda name: open_named(document, name, clock),
        url,
        lambda smtp: password_named(smtp.password_file, smtp.password_command, smtp.password_env),
        environment,
        program,
        document.variables(),
    )
    return Service(document, RunState.of(file), around, tell, clock)
