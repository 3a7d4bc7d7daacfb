"""How does the transit engine of Vault or OpenBao wrap a key? vault://host:8200/transit/keys/name

vault+http:// is the same without TLS. ?namespace=NS; ?ca=/path of a CA's certificate (else VAULT_CACERT);
?auth=approle or ?auth=kubernetes (&mount=PATH, &role=NAME) instead of a token.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from strongroom.errors import NotAdmitted, StrongroomError, WrongRequest, from_os_error
from strongroom.repository.key_services.protocol import (
    SECONDS_TO_ANSWER,
    SECONDS_TO_CONNECT,
    Context,
    NotOurs,
    denied,
    patiently,
    unreachable,
)
from strongroom.repository.transport import require_encrypted

KIND = "vault"
_FORM = "write vault://HOST:8200/transit/keys/NAME"
_TOKENS = ("BAO_TOKEN", "VAULT_TOKEN")
_ROLE_ID = ("STRONGROOM_VAULT_ROLE_ID", "STRONGROOM_VAULT_ROLE_ID_FILE")
_SECRET_ID = ("STRONGROOM_VAULT_SECRET_ID", "STRONGROOM_VAULT_SECRET_ID_FILE")
_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_OPTIONS = {"namespace", "ca", "auth", "mount", "role"}
_AUTHS = ("token", "approle", "kubernetes")
_NOT_OURS = ("authentication failed", "invalid ciphertext", "unable to decrypt", "cipher:", "no prefix", "version")


@dataclass(frozen=True, slots=True)
class Vault:
    """A key of a transit engine. `base` is the server's address, `mount` where the engine is mounted."""

    base: str
    mount: str
    name: str
    namespace: str = ""
    ca: str = ""
    auth: str = "token"
    auth_mount: str = ""
    role: str = ""

    @property
    def kind(self) -> str:
        return KIND

    @property
    def url(self) -> str:
        secure, _, host = self.base.partition("://")
        scheme = KIND if secure == "https" else "vault+http"
        return f"{scheme}://{host}/{self.mount}/keys/{self.name}" + (f"?namespace={self.namespace}" if self.namespace else "")

    def wrap(self, key: bytes, context: Context) -> bytes:
        return str(self._ask("encrypt", {"plaintext": _text(key)}, context)["ciphertext"]).encode()

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        try:
            ciphertext = wrapped.decode("ascii")
        except UnicodeDecodeError as error:
            raise NotOurs from error
        if not ciphertext.startswith("vault:v"):
            raise NotOurs
        return base64.b64decode(self._ask("decrypt", {"ciphertext": ciphertext}, context)["plaintext"])

    def _ask(self, verb: str, body: dict[str, str], context: Context) -> dict[str, Any]:
        """The context is associated data, and that from which a derived key is derived."""
        bound = _text(context.encoded())
        path = f"{self.mount}/{verb}/{quote(self.name)}"
        return patiently(lambda: self._post(path, {**body, "associated_data": bound, "context": bound}, self._token()))

    def _token(self) -> str:
        """Logged in anew for each question, of which there are one or two in a command."""
        if self.auth == "approle":
            login = {"role_id": _secret(*_ROLE_ID), "secret_id": _secret(*_SECRET_ID)}
        elif self.auth == "kubernetes":
            login = {"role": self.role, "jwt": _read(os.environ.get("STRONGROOM_VAULT_JWT_FILE") or _ACCOUNT)}
        else:
            return _own_token()
        data = self._post(f"auth/{self.auth_mount or self.auth}/login", login, "")
        return str(data["client_token"])

    def _post(self, path: str, body: dict[str, str], token: str) -> dict[str, Any]:
        host = urlsplit(self.base).hostname or ""
        if self.base.startswith("http://"):
            require_encrypted(self.url, host, "write vault:// and give the server a certificate")
        httpx = _library()
        headers = {"X-Vault-Request": "true", **({"X-Vault-Token": token} if token else {})}
        headers |= {"X-Vault-Namespace": self.namespace} if self.namespace else {}
        try:
            with httpx.Client(
                verify=self._trust(), timeout=httpx.Timeout(SECONDS_TO_ANSWER, connect=SECONDS_TO_CONNECT), follow_redirects=False
            ) as client:
                answer = client.post(f"{self.base}/v1/{path}", json=body, headers=headers)
        except httpx.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                hint = "set VAULT_CACERT to the certificate of its authority"
                raise denied(self.url, "its TLS certificate is not trusted", hint) from error
            raise unreachable(self.url, _first_line(error)) from error
        return self._read(answer)

    def _trust(self) -> Any:
        import ssl

        ca = self.ca or os.environ.get("BAO_CACERT") or os.environ.get("VAULT_CACERT")
        try:
            return ssl.create_default_context(cafile=ca or None)
        except OSError as error:
            raise WrongRequest(f"{ca}: no certificates can be read there", hint="check VAULT_CACERT or ?ca=") from error

    def _read(self, answer: Any) -> dict[str, Any]:
        """What a good answer holds, or what another one means. None of them repeats what was sent."""
        if answer.status_code == 200:
            try:
                content = answer.json()
                found = content.get("data") or content["auth"]
            except (ValueError, KeyError, AttributeError) as error:
                raise unreachable(self.url, "the answer is not Vault's") from error
            return dict(found)
        said = _said(answer)
        if answer.status_code in (412, 429, 472, 473) or answer.status_code >= 500:
            raise unreachable(self.url, f"{answer.status_code}: {said}")
        if answer.status_code == 403:
            raise denied(self.url, f"access denied ({said})", "check the token and its policy (encrypt and decrypt, update)")
        if answer.status_code == 404 or "encryption key not found" in said or "no existing key" in said:
            raise denied(self.url, f"there is no such key or engine ({said})", "check the URL, and whether the key was deleted")
        if "disallowed by policy" in said:
            hint = "lower min_decryption_version, and run 'strongroom key rewrap'"
            raise denied(self.url, f"the key's version is retired ({said})", hint)
        if answer.status_code == 400 and any(one in said for one in _NOT_OURS):
            raise NotOurs
        raise denied(self.url, f"the service refused ({answer.status_code}: {said})", "check the URL and the key")


def parse(url: str) -> Vault:
    """Raises WrongRequest."""
    try:
        parts = urlsplit(url)
        port, options = parts.port, parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise WrongRequest(f"that is no URL of a transit key: {error}", hint=_FORM) from error
    if parts.username or parts.password:
        raise WrongRequest("a token doesn't belong into a URL, where others can see it", hint="set VAULT_TOKEN")
    mount, separator, name = parts.path.strip("/").rpartition("/keys/")
    auth = options.get("auth", ["token"])[0]
    known = parts.hostname and mount and separator and name and "/" not in name and not parts.fragment
    if not known or options.keys() - _OPTIONS or auth not in _AUTHS:
        raise WrongRequest(f"{parts.scheme}://{parts.netloc}{parts.path} names no transit key", hint=_FORM)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    base = f"{'http' if parts.scheme == 'vault+http' else 'https'}://{host}:{port or 8200}"
    one = {option: values[-1] for option, values in options.items()}
    return Vault(
        base, mount, name, one.get("namespace", ""), one.get("ca", ""), auth, one.get("mount", "").strip("/"), one.get("role", "")
    )


def _library() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise WrongRequest("httpx is not installed", hint="pip install 'strongroom[vault]'") from error
    return httpx


def _own_token() -> str:
    """Of BAO_TOKEN, VAULT_TOKEN, or the file that `bao login` and `vault login` write. Raises NotAdmitted."""
    for name in _TOKENS:
        if os.environ.get(name):
            return os.environ[name]
    named = os.environ.get("STRONGROOM_VAULT_TOKEN_FILE")
    if named:
        return _read(named)
    try:
        return _read(str(Path("~/.vault-token").expanduser()))
    except StrongroomError as error:
        hint = "set VAULT_TOKEN or STRONGROOM_VAULT_TOKEN_FILE, log in with 'bao login', or add ?auth=approle to the URL"
        raise NotAdmitted("there is no token for Vault", hint=hint) from error


def _secret(name: str, file: str) -> str:
    """Of a variable, or of the file that another one names. Raises NotAdmitted."""
    if os.environ.get(name):
        return os.environ[name]
    if os.environ.get(file):
        return _read(os.environ[file])
    raise NotAdmitted(f"{name} is not set", hint=f"set {name}, or {file} to a file that holds it")


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text().strip()
    except OSError as error:
        raise from_os_error(error, path) from error


def _said(answer: Any) -> str:
    try:
        return " ".join("; ".join(str(one) for one in answer.json().get("errors", [])).split())[:200] or "no reason given"
    except (ValueError, AttributeError):
        return "no reason given"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
