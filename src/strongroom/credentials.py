"""Where a secret comes from: never from a command line's arguments, which every process on the machine can read."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from strongroom.errors import WrongKey, WrongRequest, from_os_error
from strongroom.repository.key_slots import Secret

SHARES = "STRONGROOM_RECOVERY_SHARES_FILES"


def secret_from(
    environment: Mapping[str, str] | None = None,
    *,
    prefix: str = "STRONGROOM_",
    key_file: str | Path | None = None,
    kms: str | None = None,
) -> Secret | None:
    """The secret that a key file, a key service or the environment names, None if they name none.

    Looked at in this order: `key_file`, `kms`, STRONGROOM_RECOVERY_SHARES_FILES (with no other prefix), <prefix>KEY_FILE,
    <prefix>PASSWORD, <prefix>PASSWORD_FILE, <prefix>PASSWORD_COMMAND, <prefix>KMS.
    Raises NotFound, StoreDenied, WrongRequest or WrongKey if what is named can't be read. No service is asked.
    """
    variables = os.environ if environment is None else environment
    if not key_file and kms:
        return secret_of_service(kms)
    if not key_file and prefix == "STRONGROOM_" and variables.get(SHARES):
        return secret_of_shares(variables[SHARES].split(os.pathsep))
    named_file = key_file or variables.get(f"{prefix}KEY_FILE")
    if named_file:
        return Secret.key_file(_read(Path(named_file)))
    if f"{prefix}PASSWORD" in variables:
        return Secret.passphrase(variables[f"{prefix}PASSWORD"])
    if variables.get(f"{prefix}PASSWORD_FILE"):
        return Secret.passphrase(_text(_read(Path(variables[f"{prefix}PASSWORD_FILE"]))))
    if variables.get(f"{prefix}PASSWORD_COMMAND"):
        return Secret.passphrase(_text(_run(variables[f"{prefix}PASSWORD_COMMAND"], f"{prefix}PASSWORD_COMMAND")))
    if variables.get(f"{prefix}KMS"):
        return secret_of_service(variables[f"{prefix}KMS"])
    return None


def password_named(file: str | None, command: Sequence[str] | None, variable: str | None) -> str | None:
    """The password that a policy file names the place of, None if it names none. Raises as `secret_from`."""
    if file is not None:
        return _text(_read(Path(file)))
    if command is not None:
        return _text(_run(shlex.join(command), "password_command"))
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise WrongKey(f"the environment variable {variable} is not set", hint="the policy file says that a password is in it")
    return os.environ[variable]


def secret_named(file: str | None, command: Sequence[str] | None, variable: str | None, key_file: str | None) -> Secret:
    """That of a repository in a policy file; where it names none, the one that the environment names. Raises as `secret_of`."""
    return secret_of(password_named(file, command, variable), key_file)


def naming(file: str | None, command: Sequence[str] | None, variable: str | None, key_file: str | None) -> dict[str, str]:
    """The environment by which another process of ours finds the secret itself."""
    prefix = "STRONGROOM_"
    given = {"KEY_FILE": key_file, "PASSWORD_FILE": file, "PASSWORD_COMMAND": shlex.join(command) if command else None}
    given["PASSWORD"] = os.environ.get(variable, "") if variable else None
    named = {f"{prefix}{name}": value for name, value in given.items() if value is not None}
    others = {name: value for name, value in os.environ.items() if not (named and name.removeprefix(prefix) in given)}
    return {**others, **named}


def with_password(url: str, password: str | None) -> str:
    """The URL with a password for the user that it names. Raises WrongRequest if it names none."""
    if password is None:
        return url
    parts = urlsplit(url)
    if not parts.username:
        raise WrongRequest(f"{url} names no user", hint="write the user into the source's URL: pgvector://USER@HOST/DATABASE")
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()


def secret_of_service(url: str) -> Secret:
    """A service that is asked when a slot is opened or made. Raises WrongRequest."""
    from strongroom.repository.key_services import service_of

    return Secret.of_service(service_of(url))


def secret_of_shares(paths: Sequence[str | Path]) -> Secret:
    """What the shares in these files give together: one or more a file, each in a line of its own. Raises WrongKey, with the share
    that is wrong, NotFound or StoreDenied."""
    from strongroom.repository.recovery_shares import Share, join

    shares: list[Share] = []
    for path in (str(one) for one in paths if str(one)):
        lines = [line for line in _text(_read(Path(path))).splitlines() if line.strip() and not line.startswith("#")]
        names = [path] if len(lines) == 1 else [f"{path}, share {number}" for number in range(1, len(lines) + 1)]
        shares += [Share(name, line) for name, line in zip(names, lines, strict=True)]
    joined = join(shares)
    return Secret.recovery(joined.secret, set=joined.set)


def is_named(
    environment: Mapping[str, str] | None = None, *, prefix: str = "STRONGROOM_", key_file: str | Path | None = None
) -> bool:
    """Would `secret_from` have a secret to read? Reads nothing and runs no command."""
    variables = os.environ if environment is None else environment
    others = (variables.get(f"{prefix}{name}") for name in ("KEY_FILE", "PASSWORD_FILE", "PASSWORD_COMMAND", "KMS"))
    shares = prefix == "STRONGROOM_" and variables.get(SHARES)
    return bool(key_file or shares) or f"{prefix}PASSWORD" in variables or any(others)


def secret_of(password: str | None, key_file: str | Path | None, kms: str | None = None) -> Secret:
    """The secret that a caller gave, else the one that the environment names. Raises WrongKey if there is none, and what
    `secret_from` raises."""
    return require_secret(Secret.passphrase(password) if password is not None else secret_from(key_file=key_file, kms=kms))


def require_secret(secret: Secret | None) -> Secret:
    """Raises WrongKey if there is none."""
    if secret is None:
        raise WrongKey(
            "no password was given", hint="set STRONGROOM_PASSWORD, STRONGROOM_PASSWORD_FILE, _PASSWORD_COMMAND, _KEY_FILE or _KMS"
        )
    return secret


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def _run(command: str, variable: str) -> bytes:
    """What the command prints. Its error output goes to ours; its output is never shown."""
    try:
        return subprocess.run(shlex.split(command), stdout=subprocess.PIPE, check=True).stdout
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise WrongKey(f"the command in {variable} failed", hint="run it by hand to see why") from error


def _text(content: bytes) -> str:
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise WrongRequest("the password is not UTF-8 text", hint="check the file or command that gives it") from error
