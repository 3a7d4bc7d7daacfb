"""Does the client of Google Cloud KMS keep to the public REST API? Against a stand-in of it: the real service was never met."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from commands import strongroom
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from strongroom.errors import NotAdmitted, Unreachable, WrongKey
from strongroom.repository.key_services import Context, NotOurs, is_experimental
from strongroom.repository.key_services.gcp_kms import GcpKms

NAME = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
HERE, KEY = Context("11" * 16, "22" * 16), bytes(range(32))


@dataclass
class StandIn:
    """Token and KMS endpoints. `failure` is what KMS answers instead, as the API's documentation has it."""

    failure: tuple[int, str, str] | None = None
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str, body: bytes, authorization: str) -> tuple[int, object]:
        self.asked.append(path)
        if path == "/token":
            assert parse_qs(body.decode())["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
            return 200, {"access_token": "s3cret", "expires_in": 3600, "token_type": "Bearer"}
        if self.failure:
            code, status, message = self.failure
            return code, {"error": {"code": code, "status": status, "message": message}}
        assert authorization == "Bearer s3cret"
        asked, box = {name: base64.b64decode(text) for name, text in json.loads(body).items()}, AESGCM(b"k" * 32)
        bound = asked["additionalAuthenticatedData"]
        if path == f"/v1/{NAME}:encrypt":
            return 200, {"name": NAME, "ciphertext": base64.b64encode(box.encrypt(b"n" * 12, asked["plaintext"], bound)).decode()}
        assert path == f"/v1/{NAME}:decrypt"
        try:
            return 200, {"plaintext": base64.b64encode(box.decrypt(b"n" * 12, asked["ciphertext"], bound)).decode()}
        except InvalidTag:
            return 400, {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "Decryption failed"}}


@pytest.fixture
def google(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn()

    class Front(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, content = stand_in.answer(self.path, body, self.headers.get("Authorization", ""))
            sent = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    account = {
        "type": "service_account",
        "project_id": "p",
        "private_key": rsa.generate_private_key(65537, 2048).private_bytes(*pem).decode(),
        "client_email": "backup@p.iam.gserviceaccount.com",
        "token_uri": f"{stand_in.url}/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    monkeypatch.setenv("STRONGROOM_RETRY_SECONDS", "0")
    yield stand_in
    server.shutdown()
    server.server_close()


def test_what_is_wrapped_comes_back_in_its_context_only(google: StandIn) -> None:
    service = GcpKms(NAME, f"{google.url}/v1")
    wrapped = service.wrap(KEY, HERE)
    assert KEY not in wrapped
    assert service.unwrap(wrapped, HERE) == KEY
    for content, context in ((wrapped, Context("33" * 16, "22" * 16)), (wrapped[:-1] + b"x", HERE), (b"", HERE)):
        with pytest.raises(NotOurs):
            service.unwrap(content, context)


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        ((403, "PERMISSION_DENIED", "Permission denied on resource"), WrongKey, "access denied"),
        ((404, "NOT_FOUND", "CryptoKey not found"), WrongKey, "can't be used"),
        ((400, "FAILED_PRECONDITION", "is not enabled, current state is: DESTROYED"), WrongKey, "DESTROYED"),
        ((429, "RESOURCE_EXHAUSTED", "Quota exceeded"), Unreachable, "429"),
        ((503, "UNAVAILABLE", "try again"), Unreachable, "503"),
    ],
)
def test_what_it_answers_is_told_in_one_line(
    google: StandIn, failure: tuple[int, str, str], kind: type[Exception], words: str
) -> None:
    google.failure = failure
    with pytest.raises(kind, match=words) as raised:
        GcpKms(NAME, f"{google.url}/v1").unwrap(b"x" * 60, HERE)
    assert "s3cret" not in str(raised.value)


def test_it_is_called_experimental_and_needs_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_experimental("gcp-kms")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "empty.json"))
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(NotAdmitted, match="no credentials"):
        GcpKms(NAME).wrap(KEY, HERE)
    help_text = strongroom("key", "add", "--help").out
    assert "--kms" in help_text
