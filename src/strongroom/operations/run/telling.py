"""How do people hear of it? Webhook, mail, command: each from a thread of its own, so that no backup waits for them."""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
import smtplib
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from strongroom.errors import StrongroomError, WrongRequest, from_os_error
from strongroom.operations.run.events import Event
from strongroom.operations.run.programs import run, surroundings
from strongroom.policy.document import Channel, Smtp, Webhook
from strongroom.policy.quantities import seconds

_MOST_WAITING = 1000
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0


class NotTold(StrongroomError):
    """A notification could not be delivered."""

    default_hint = "check the channel's address, and what answers there"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is signed for one address is not sent to another."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Teller:
    """One channel. `tell` returns at once; what can't be delivered is given to `failed`."""

    def __init__(
        self,
        name: str,
        channel: Channel,
        password: Callable[[Smtp], str | None],
        failed: Callable[[str], None],
        secret: frozenset[str] = frozenset(),
    ) -> None:
        """`password` gives that of a mail server; the variables `secret` are kept from commands."""
        self._name, self._channel, self._password, self._failed, self._secret = name, channel, password, failed, secret
        self._waiting: queue.Queue[Event | None] = queue.Queue(_MOST_WAITING)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._deliver_all, name=f"strongroom-tell-{name}", daemon=True)
        self._thread.start()

    def tell(self, event: Event) -> None:
        if event.what in self._channel.on:
            try:
                self._waiting.put_nowait(event)
            except queue.Full:
                self._failed(f"{self._name}: too much waits already; not told: {event.text}")

    def close(self, patience: float = 30.0) -> None:
        """Deliver what waits, for so long at most."""
        self._waiting.put(None)
        self._thread.join(patience)
        self._over.set()

    def _deliver_all(self) -> None:
        while (event := self._waiting.get()) is not None:
            try:
                self._deliver(event)
            except StrongroomError as error:
                self._failed(f"{self._name}: {error}")
            except Exception as error:  # noqa: BLE001 - what is told next must not be lost with this one
                self._failed(f"{self._name}: {type(error).__name__}")

    def _deliver(self, event: Event) -> None:
        content = json.dumps(event.as_json(), ensure_ascii=False).encode()
        if self._channel.webhook is not None:
            post(self._channel.webhook, content, self._over)
        elif self._channel.smtp is not None:
            mail(self._channel.smtp, event, self._password(self._channel.smtp))
        elif self._channel.command is not None:
            program = self._channel.command
            environment = surroundings({"STRONGROOM_EVENT": event.what}, self._secret)
            run(program.command, seconds(program.timeout), environment, content)


def signature(secret: bytes, timestamp: str, content: bytes) -> str:
    """HMAC-SHA256 of the timestamp, a full stop and the content, in hex."""
    return hmac.new(secret, timestamp.encode() + b"." + content, hashlib.sha256).hexdigest()


def post(webhook: Webhook, content: bytes, over: threading.Event) -> None:
    """Send it, again after errors that pass (no answer, 408, 429, 5xx). Raises NotTold, NotFound or StoreDenied."""
    headers = {"Content-Type": "application/json", "User-Agent": "strongroom"}
    if webhook.secret_file is not None:
        timestamp = str(int(time.time()))
        headers["X-Strongroom-Timestamp"] = timestamp
        headers["X-Strongroom-Signature"] = f"sha256={signature(_secret(webhook.secret_file), timestamp, content)}"
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=_trusting(webhook.ca_file)))
    wait, problem = _FIRST_WAIT, ""
    for attempt in range(webhook.attempts):
        if attempt and over.wait(wait):
            break
        wait = min(2 * wait, _LONGEST_WAIT)
        request = urllib.request.Request(webhook.url, content, headers, method="POST")  # noqa: S310 - the model has looked
        try:
            with opener.open(request, timeout=seconds(webhook.timeout)):
                return
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"it answered {error.code}"
            if error.code not in (408, 429) and error.code < 500:
                break
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None)
            problem = _untrusted(reason) or str(reason or type(error).__name__)
            if _untrusted(reason):  # it doesn't pass
                break
    raise NotTold(f"the webhook was not told: {problem}")


def _trusting(ca_file: str | None) -> ssl.SSLContext:
    """Certificates and names of servers are always looked at. Raises WrongRequest, or what reading the file raises."""
    path = None if ca_file is None else Path(ca_file).expanduser()
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise WrongRequest(f"{ca_file} holds no certificate", hint="give a file of certificates in PEM") from error
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def _untrusted(error: object) -> str:
    """What is wrong with a server's certificate; '' if it isn't that."""
    return f"untrusted certificate ({error.verify_message})" if isinstance(error, ssl.SSLCertVerificationError) else ""


def _secret(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes().strip()
    except OSError as error:
        raise from_os_error(error, path) from error


def mail(smtp: Smtp, event: Event, password: str | None) -> None:
    """Raises NotTold."""
    message = EmailMessage()
    message["From"], message["To"] = smtp.sender, ", ".join(smtp.to)
    subject = f"[strongroom] {event.what}: {event.source or event.repository or event.policy}"
    message["Subject"] = " ".join(subject.split())  # no header of its own
    message.set_content(f"{event.text}\n\n{_listed(event.as_json())}\n")
    context = _trusting(smtp.ca_file)
    try:
        with _connected(smtp, context) as server:
            if smtp.security == "starttls":
                server.starttls(context=context)
            if smtp.user is not None:
                server.login(smtp.user, password or "")
            server.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise NotTold(f"the mail was not sent: {_untrusted(error) or type(error).__name__} of {smtp.host}") from error


def _connected(smtp: Smtp, context: ssl.SSLContext) -> smtplib.SMTP:
    if smtp.security == "tls":
        return smtplib.SMTP_SSL(smtp.host, smtp.port, timeout=seconds(smtp.timeout), context=context)
    return smtplib.SMTP(smtp.host, smtp.port, timeout=seconds(smtp.timeout))


def _listed(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in facts.items())
