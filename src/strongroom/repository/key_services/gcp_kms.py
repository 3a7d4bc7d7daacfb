"""How does Google Cloud KMS wrap a key? gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K

Experimental: no test has met the real service, nor an emulator of it. Credentials are Application Default Credentials.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Any

from strongroom.errors import WrongRequest
from strongroom.repository.key_services.protocol import (
    SECONDS_TO_ANSWER,
    Context,
    NotOurs,
    denied,
    not_admitted,
    patiently,
    unreachable,
)

KIND = "gcp-kms"
SERVICE = "https://cloudkms.googleapis.com/v1"
_SCOPE = "https://www.googleapis.com/auth/cloudkms"
_PART = r"[A-Za-z0-9._:-]{1,63}"
_NAME = re.compile(rf"projects/{_PART}/locations/{_PART}/keyRings/{_PART}/cryptoKeys/{_PART}")
_FORM = "write gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K"


@dataclass(frozen=True, slots=True)
class GcpKms:
    """A symmetric key of Cloud KMS; its primary version wraps."""

    name: str
    service: str = SERVICE

    @property
    def kind(self) -> str:
        return KIND

    @property
    def url(self) -> str:
        return f"{KIND}://{self.name}"

    def wrap(self, key: bytes, context: Context) -> bytes:
        return base64.b64decode(self._ask("encrypt", "plaintext", key, context)["ciphertext"])

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        return base64.b64decode(self._ask("decrypt", "ciphertext", wrapped, context)["plaintext"])

    def _ask(self, verb: str, what: str, data: bytes, context: Context) -> dict[str, Any]:
        body = {what: _text(data), "additionalAuthenticatedData": _text(context.encoded())}
        session = self._session()
        return patiently(lambda: self._post(session, verb, body))

    def _session(self) -> Any:
        auth, requests, _ = _library()
        try:
            credentials, _project = auth.default(scopes=[_SCOPE])
        except auth.exceptions.GoogleAuthError as error:
            hint = "set GOOGLE_APPLICATION_CREDENTIALS, or run 'gcloud auth application-default login'"
            raise not_admitted(self.url, "there are no credentials for Google Cloud", hint) from error
        return requests.AuthorizedSession(credentials)

    def _post(self, session: Any, verb: str, body: dict[str, str]) -> dict[str, Any]:
        auth, _, transport = _library()
        try:
            answer = session.post(f"{self.service}/{self.name}:{verb}", json=body, timeout=SECONDS_TO_ANSWER, allow_redirects=False)
        except (auth.exceptions.TransportError, transport.RequestException) as error:
            raise unreachable(self.url, type(error).__name__) from error
        except auth.exceptions.GoogleAuthError as error:
            raise not_admitted(self.url, "the credentials were refused", "check GOOGLE_APPLICATION_CREDENTIALS") from error
        return self._read(answer)

    def _read(self, answer: Any) -> dict[str, Any]:
        """What a good answer holds, or what another one means. None of them repeats what was sent."""
        try:
            content = answer.json()
        except ValueError as error:
            raise unreachable(self.url, f"{answer.status_code}, and the answer is not JSON") from error
        if answer.status_code == 200:
            return dict(content)
        failure = content.get("error", {}) if isinstance(content, dict) else {}
        status, said = str(failure.get("status", "")), " ".join(str(failure.get("message", "")).split())[:200]
        if answer.status_code == 429 or answer.status_code >= 500:
            raise unreachable(self.url, f"{answer.status_code} {status}")
        if answer.status_code == 400 and status == "INVALID_ARGUMENT":
            raise NotOurs
        if answer.status_code in (401, 403):
            raise denied(self.url, f"access denied ({said or status})", "grant roles/cloudkms.cryptoKeyEncrypterDecrypter")
        if answer.status_code == 404 or status == "FAILED_PRECONDITION":
            raise denied(self.url, f"the key can't be used ({said or status})", "enable or restore its version, or check the URL")
        raise denied(self.url, f"the service refused ({answer.status_code} {status})", "check the URL and the key")


def parse(url: str) -> GcpKms:
    """Raises WrongRequest."""
    name = url.removeprefix(f"{KIND}:").removeprefix("//")
    if not _NAME.fullmatch(name):
        raise WrongRequest(f"{KIND}://{name} names no key of Cloud KMS", hint=_FORM)
    return GcpKms(name)


def _library() -> tuple[Any, Any, Any]:
    """google.auth, its transport over requests, and what that raises."""
    try:
        import google.auth
        import google.auth.exceptions
        import google.auth.transport.requests
        import requests.exceptions
    except ImportError as error:
        raise WrongRequest("google-auth is not installed", hint="pip install 'strongroom[gcp-kms]'") from error
    return google.auth, google.auth.transport.requests, requests.exceptions


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
