"""Which hosts may be spoken to without TLS?"""

from __future__ import annotations

import ipaddress
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.errors import Refused, WrongRequest
from strongroom.repository import transport


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "[::1]",
        "/run/pg",
        "@abstract",
        "::ffff:127.0.0.1",
    ],
)
def test_this_machine(host: str) -> None:
    assert transport.may_be_plain(host, "")


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1",
        "0.0.0.0",  # noqa: S104
        "::",
        "127.0.0.1.example.com",
        "localhost.example.com",
        "mylocalhost",
        "127.1",
        "2130706433",
        "fe80::1%lo",
    ],
)
def test_another_machine(host: str) -> None:
    """Also what a resolver might take for this one: names aren't looked up."""
    assert not transport.may_be_plain(host, "")


@given(st.ip_addresses())
def test_an_address_is_local_only_if_it_is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    assert transport.may_be_plain(str(address), "") == (mapped or address).is_loopback


def test_what_is_allowed_is_that_host_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(transport.VARIABLE, "db.example.com, 10.0.0.5 ,::2")
    monkeypatch.setattr(transport, "tell", transport._warn)  # a command that ran in this process has put its own there
    monkeypatch.setattr(transport, "_told", set())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for host in ("db.example.com", "DB.example.com", "10.0.0.5", "::2", "[::2]"):
            transport.require_encrypted(f"x://{host}", host, "write y://")
    assert any("nothing is encrypted" in str(one.message) for one in told)
    for host in ("10.0.0.50", "example.com", "a.db.example.com", "10.0.0.5.nip.io"):
        with pytest.raises(Refused, match="without TLS") as refusal:
            transport.require_encrypted(f"x://{host}", host, "write y://")
        assert refusal.value.exit_code == 5
        assert "write y://" in refusal.value.hint


def test_every_server_that_a_url_names_is_looked_at() -> None:
    with pytest.raises(Refused):
        transport.require_encrypted_url("qdrant://localhost:6333?node=10.0.0.9:6333", "write qdrants://")
    with pytest.raises(WrongRequest):
        transport.require_encrypted_url("qdrant://[::1", "write qdrants://")
    transport.require_encrypted_url("qdrant://localhost:6333?node=127.0.0.2:6333", "write qdrants://")
