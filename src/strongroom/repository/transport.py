"""May this be sent without TLS? To this machine itself, yes; to any other only where somebody said so.

STRONGROOM_ALLOW_PLAINTEXT holds hosts, with commas between them, or '*'. One rule for stores, engines and key services.
"""

from __future__ import annotations

import ipaddress
import os
import warnings
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from strongroom.errors import Refused, WrongRequest

VARIABLE = "STRONGROOM_ALLOW_PLAINTEXT"
EVERYWHERE = "*"


class PlaintextWarning(UserWarning):
    """Something is sent without TLS because STRONGROOM_ALLOW_PLAINTEXT allows it."""


def _warn(message: str) -> None:
    warnings.warn(message, PlaintextWarning, stacklevel=4)


tell: Callable[[str], None] = _warn
"""Who is told of connections without TLS; a program with a screen of its own puts something else here."""
_told: set[str] = set()


def is_local(host: str) -> bool:
    """Does it stay on this machine: a loopback address, 'localhost', no host at all, or the folder of a socket? Names are not
    looked up: what one means can change."""
    bare = host.strip("[]").rstrip(".").partition("%")[0].lower()
    if not bare or bare == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def may_be_plain(host: str, allowed: str) -> bool:
    """The rule itself. `allowed` is what the variable holds."""
    named = {one.strip().strip("[]").lower() for one in allowed.split(",")} - {""}
    return is_local(host) or EVERYWHERE in named or host.strip("[]").lower() in named


def is_allowed(host: str) -> bool:
    """By what the variable holds now."""
    return may_be_plain(host, os.environ.get(VARIABLE, ""))


def require_encrypted(subject: str, host: str, instead: str) -> None:
    """Before anything is sent to `host` without TLS. `instead` says how to have it with TLS. Raises Refused."""
    if not is_allowed(host):
        raise Refused(
            f"{subject}: without TLS, everybody on the way to {host} could read and alter what is sent; nothing was",
            hint=f"{instead}; or allow it with --allow-plaintext or {VARIABLE}={host}",
        )
    if not is_local(host) and host not in _told:
        _told.add(host)
        tell(f"{subject}: nothing is encrypted on the way to {host}, as {VARIABLE} allows")


def require_encrypted_url(url: str, instead: str) -> None:
    """The same for a URL whose scheme means no TLS, and for the further servers that its query names as `node`. Raises Refused, or
    WrongRequest if it is no URL."""
    try:
        parts = urlsplit(url)
        hosts = [parts.hostname or "", *(urlsplit(f"//{node}").hostname or "" for node in parse_qs(parts.query).get("node", []))]
    except ValueError as error:
        raise WrongRequest(f"{url!r} is not a URL ({error})", hint="check how it is written") from error
    for host in hosts:
        require_encrypted(f"{parts.scheme}://{host}", host, instead)
