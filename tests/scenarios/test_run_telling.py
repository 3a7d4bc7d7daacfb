"""Do people hear of it? A real HTTP server and a real mail server on this machine."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
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
    thread = threading.Thread(target=server.serve_forever)
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
