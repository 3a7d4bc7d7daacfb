"""Do people hear of it? A real HTTP server and a real mail server on this machine."""

from __future__ import annotations

import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from ports import free_ports

from strongroom.operations.run.events import Event
from strongroom.operations.run.telling import Teller, signature
from strongroom.policy.document import Channel

EVENT = Event("failed", "2026-11-29T07:00:00+00:00", "it went wrong", "p", "full", "docs", "main", {"exit_code": 1})


class Hooked(http.server.ThreadingHTTPServer):
    """Answers with the codes of `answers`, then with 200; keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Hooked)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, dict(self.headers), body))
        code = self.server.answers.pop(0) if self.server.answers else 200
        self.send_response(code)
        if code == 302:
            self.send_header("Location", self.server.url + "/elsewhere")
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hooked() -> Iterator[Hooked]:
    server = Hooked()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def told(channel: dict[str, Any], password: str | None = None, event: Event = EVENT) -> list[str]:
    """Tell one event; gives what could not be delivered."""
    problems: list[str] = []
    teller = Teller("oncall", Channel.model_validate(channel), lambda _: password, problems.append)
    teller.tell(event)
    teller.close()
    return problems


def test_a_webhook_gets_signed_json(hooked: Hooked, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    assert told({"webhook": {"url": hooked.url, "secret_file": str(tmp_path / "secret")}}) == []
    [(_, headers, body)] = hooked.asked
    assert json.loads(body) == EVENT.as_json()
    assert headers["X-Strongroom-Signature"] == "sha256=" + signature(b"s3cret", headers["X-Strongroom-Timestamp"], body)
    assert signature(b"s3cret", "1", body) != signature(b"s3cret", "2", body)


def test_a_webhook_is_told_again_after_errors_that_pass(hooked: Hooked) -> None:
    hooked.answers = [503, 429]
    assert told({"webhook": {"url": hooked.url}}) == []
    assert len(hooked.asked) == 3


@pytest.mark.parametrize(("codes", "times"), [([403], 1), ([302], 1), ([500, 500, 500], 2)])
def test_a_webhook_that_refuses_is_said(hooked: Hooked, codes: list[int], times: int) -> None:
    hooked.answers = [*codes]
    [problem] = told({"webhook": {"url": hooked.url, "attempts": 2}})
    assert f"it answered {codes[0]}" in problem
    assert len(hooked.asked) == times


def test_only_what_a_channel_wants_is_told(hooked: Hooked) -> None:
    assert told({"webhook": {"url": hooked.url}, "on": ["recovered"]}) == []
    assert hooked.asked == []


class Sink:
    """Keeps the mails."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, list[str], bytes]] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 OK"


def knows(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
    assert isinstance(data, LoginPassword)
    return AuthResult(success=(data.login, data.password) == (b"me", b"pw"), handled=False)


@pytest.fixture
def sink() -> Iterator[tuple[Sink, int]]:
    kept, port = Sink(), free_ports(1)[0]
    controller = Controller(kept, "127.0.0.1", port, authenticator=knows, auth_require_tls=False)
    controller.start()
    yield kept, port
    controller.stop()


def test_a_mail_says_what_happened(sink: tuple[Sink, int]) -> None:
    kept, port = sink
    smtp = {"host": "127.0.0.1", "port": port, "security": "none", "sender": "a@example.com", "to": ["b@example.com"], "user": "me"}
    odd = Event("failed", EVENT.at, "it went wrong", source="docs\nBcc: x@example.com")
    assert told({"smtp": smtp}, "pw") == []
    [(sender, to, content)] = kept.mails
    assert (sender, to) == ("a@example.com", ["b@example.com"])
    message = message_from_bytes(content)
    assert message["Subject"] == "[strongroom] failed: docs"
    assert "it went wrong" in message.get_payload()
    assert "exit_code: 1" in message.get_payload()
    assert told({"smtp": smtp}, "pw", odd) == []
    assert kept.mails[1][1] == ["b@example.com"]


def test_a_mail_that_is_refused_is_said_without_the_password(sink: tuple[Sink, int]) -> None:
    kept, port = sink
    smtp = {"host": "127.0.0.1", "port": port, "security": "none", "sender": "a@example.com", "to": ["b@example.com"], "user": "me"}
    [problem] = told({"smtp": smtp}, "another")
    assert "the mail was not sent: SMTPAuthenticationError" in problem
    assert "another" not in problem
    [problem] = told({"smtp": {**smtp, "security": "starttls"}}, "pw")  # it has no TLS: nothing is sent in the clear
    assert "the mail was not sent" in problem
    assert kept.mails == []


def test_a_command_gets_the_event_and_its_failure_is_said(tmp_path: Path) -> None:
    command = {"command": {"command": ["/bin/sh", "-c", f"cat > {tmp_path}/told; echo no >&2; exit 3"]}}
    [problem] = told(command)
    assert "/bin/sh ended with 3: no" in problem
    assert json.loads((tmp_path / "told").read_text()) == EVENT.as_json()


# -- TLS -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """Of 127.0.0.1, signed by itself: who trusts `file` trusts it."""

    file: str
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate_for("127.0.0.1", tmp_path_factory.mktemp("tls"))


def certificate_for(address: str, folder: Path) -> Certificate:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "certificate").write_bytes(pem)
    (folder / "both").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain) + pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "both")
    return Certificate(str(folder / "certificate"), context)


@pytest.fixture(params=["starttls", "tls"])
def secured(request: pytest.FixtureRequest, certificate: Certificate) -> Iterator[tuple[Sink, dict[str, Any]]]:
    """A mail server that takes nothing in the clear, and how it is reached."""
    kept, port = Sink(), free_ports(1)[0]
    wish = {"tls_context": certificate.context, "require_starttls": True} if request.param == "starttls" else {}
    over = certificate.context if request.param == "tls" else None
    controller = Controller(kept, "127.0.0.1", port, ssl_context=over, authenticator=knows, auth_require_tls=False, **wish)
    controller.start()
    yield kept, {"host": "127.0.0.1", "port": port, "security": request.param, "sender": "a@b", "to": ["c@d"], "user": "me"}
    controller.stop()


def test_a_mail_goes_by_tls_to_a_server_that_is_trusted(secured: tuple[Sink, dict[str, Any]], certificate: Certificate) -> None:
    kept, smtp = secured
    assert told({"smtp": {**smtp, "ca_file": certificate.file}}, "pw") == []
    assert len(kept.mails) == 1


def test_no_mail_and_no_password_goes_to_a_server_that_is_not(secured: tuple[Sink, dict[str, Any]], tmp_path: Path) -> None:
    kept, smtp = secured
    (tmp_path / "other").mkdir()
    another = certificate_for("127.0.0.1", tmp_path / "other").file
    for trusted in ({}, {"ca_file": another}):
        [problem] = told({"smtp": {**smtp, **trusted}}, "pw")
        assert "the mail was not sent: untrusted certificate (self-signed certificate" in problem
    [problem] = told({"smtp": {**smtp, "ca_file": str(tmp_path / "none")}}, "pw")
    assert "is not there" in problem
    assert kept.mails == []


def test_a_webhook_is_called_by_tls_only_where_its_certificate_is_trusted(certificate: Certificate, tmp_path: Path) -> None:
    server = Hooked()
    server.socket = certificate.context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = server.url.replace("http:", "https:")
        assert told({"webhook": {"url": url, "ca_file": certificate.file}}) == []
        [problem] = told({"webhook": {"url": url}})
        assert "untrusted certificate (self-signed certificate" in problem
        [problem] = told({"webhook": {"url": url.replace("127.0.0.1", "localhost"), "ca_file": certificate.file}})
        assert "untrusted certificate (Hostname mismatch" in problem
        (tmp_path / "no").write_text("no certificate")
        [problem] = told({"webhook": {"url": url, "ca_file": str(tmp_path / "no")}})
        assert "holds no certificate" in problem
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert len(server.asked) == 1
