"""How does a key in an HSM wrap a key? By its PKCS#11 module, with AES-GCM: pkcs11:token=TOKEN;object=LABEL (RFC 7512)

?module-path=/path of the HSM's module, else STRONGROOM_PKCS11_MODULE. The PIN is in STRONGROOM_PKCS11_PIN, or in the file that
STRONGROOM_PKCS11_PIN_FILE names. A wrapped key is a nonce of 12 random bytes, the ciphertext, and a tag of 16.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from strongroom.errors import NotAdmitted, WrongRequest, from_os_error
from strongroom.repository.key_services.protocol import Context, NotOurs, denied, not_admitted, unreachable

KIND = "pkcs11"
_FORM = "write pkcs11:token=TOKEN;object=LABEL"
_PIN = ("STRONGROOM_PKCS11_PIN", "STRONGROOM_PKCS11_PIN_FILE")
_MODULE = "STRONGROOM_PKCS11_MODULE"
_PARTS = {"token", "object", "id", "serial", "type"}
_NONCE_BYTES, _TAG_BYTES, _KEY_BYTES = 12, 16, 32
_NOT_OURS = ("EncryptedDataInvalid", "EncryptedDataLenRange", "GeneralError", "DataInvalid", "FunctionFailed")
_PIN_PROBLEMS = ("PinIncorrect", "PinInvalid", "PinLenRange", "PinExpired", "PinLocked", "UserPinNotInitialized")


@dataclass(frozen=True, slots=True)
class Pkcs11:
    """A secret key of a token. `id` is CKA_ID as bytes, empty if the label is enough."""

    token: str
    label: str = ""
    id: bytes = b""
    serial: str = ""
    module: str = ""

    @property
    def kind(self) -> str:
        return KIND

    @property
    def url(self) -> str:
        shown = {"token": quote(self.token), "serial": quote(self.serial), "object": quote(self.label)}
        shown["id"] = "".join(f"%{byte:02X}" for byte in self.id)
        return f"{KIND}:" + ";".join(f"{name}={value}" for name, value in shown.items() if value)

    def wrap(self, key: bytes, context: Context) -> bytes:
        with self._key() as (library, wrapping, session):
            nonce = bytes(session.generate_random(_NONCE_BYTES * 8))
            return nonce + bytes(wrapping.encrypt(key, **_gcm(library, nonce, context)))

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        if len(wrapped) != _NONCE_BYTES + _KEY_BYTES + _TAG_BYTES:
            raise NotOurs
        with self._key() as (library, wrapping, _):
            try:
                return bytes(wrapping.decrypt(wrapped[_NONCE_BYTES:], **_gcm(library, wrapped[:_NONCE_BYTES], context)))
            except library.exceptions.PKCS11Error as error:
                if type(error).__name__ in _NOT_OURS:
                    raise NotOurs from error
                raise

    @contextmanager
    def _key(self) -> Iterator[tuple[Any, Any, Any]]:
        """The library, the key and a session of it. Raises WrongKey, Unreachable."""
        library, path = _library(), self._module()
        try:
            tokens = list(library.lib(path).get_tokens(token_label=self.token or None, token_serial=self.serial.encode() or None))
            if len(tokens) != 1:
                raise denied(self.url, f"{len(tokens)} tokens are called so", "check the label, or add ;serial=")
            with tokens[0].open(user_pin=_pin()) as session:
                yield library, self._find(library, session), session
        except library.exceptions.PKCS11Error as error:
            raise self._meaning(error) from error
        except (OSError, RuntimeError) as error:
            raise WrongRequest(f"{path}: this PKCS#11 module can't be loaded", hint=f"check {_MODULE}") from error

    def _find(self, library: Any, session: Any) -> Any:
        attribute = library.Attribute
        wanted = {attribute.CLASS: library.ObjectClass.SECRET_KEY}
        wanted |= {attribute.LABEL: self.label} if self.label else {}
        wanted |= {attribute.ID: self.id} if self.id else {}
        found = list(session.get_objects(wanted))
        if len(found) != 1:
            raise denied(self.url, f"{len(found)} secret keys of the token are called so", "check the label, or add ;id=%01")
        return found[0]

    def _meaning(self, error: Exception) -> Exception:
        name = type(error).__name__
        if name == "PKCS11Error":  # the library's own: of no function of the module
            return WrongRequest(f"{self._module()}: this PKCS#11 module can't be loaded", hint=f"check {_MODULE}")
        if name in _PIN_PROBLEMS:
            return not_admitted(
                self.url, f"the token refused the PIN ({name})", f"check {_PIN[0]}: a token locks after a few wrong ones"
            )
        if name in ("DeviceError", "DeviceRemoved", "TokenNotPresent", "DeviceMemory", "HostMemory", "SessionClosed"):
            return unreachable(self.url, name)
        return denied(self.url, f"the HSM refused ({name})", "check that the key is for encryption with AES-GCM")

    def _module(self) -> str:
        path = self.module or os.environ.get(_MODULE, "")
        if not path:
            raise WrongRequest("no PKCS#11 module is named", hint=f"set {_MODULE} to the path of the HSM's module")
        return path


def parse(url: str) -> Pkcs11:
    """Raises WrongRequest."""
    path, _, query = url.removeprefix(f"{KIND}:").partition("?")
    pairs = [part.partition("=") for part in path.strip("/").split(";") if part]
    parts = {name: value for name, _, value in pairs}
    options = parse_qs(query)
    if {"pin-value", "pin-source"} & (options.keys() | parts.keys()):
        raise WrongRequest("a PIN doesn't belong into a URL, where others can see it", hint=f"set {_PIN[0]} or {_PIN[1]}")
    odd = (parts.keys() - _PARTS) | (options.keys() - {"module-path"})
    named = (parts.get("token") or parts.get("serial")) and (parts.get("object") or parts.get("id"))
    if odd or not named or parts.get("type", "secret-key") != "secret-key" or not all(separator for _, separator, _ in pairs):
        raise WrongRequest(f"{KIND}:{path} names no secret key of a token", hint=_FORM)
    identifier = _bytes(parts.get("id", ""))
    token, label, serial = (unquote(parts.get(name, "")) for name in ("token", "object", "serial"))
    return Pkcs11(token, label, identifier, serial, options.get("module-path", [""])[0])


def _bytes(text: str) -> bytes:
    from urllib.parse import unquote_to_bytes

    return unquote_to_bytes(text)


def _gcm(library: Any, nonce: bytes, context: Context) -> dict[str, Any]:
    parameters = library.GCMParams(nonce, context.encoded(), _TAG_BYTES * 8)
    return {"mechanism": library.Mechanism.AES_GCM, "mechanism_param": parameters}


def _pin() -> str:
    """Raises NotAdmitted if there is none."""
    if os.environ.get(_PIN[0]):
        return os.environ[_PIN[0]]
    named = os.environ.get(_PIN[1])
    if not named:
        raise NotAdmitted("there is no PIN for the HSM", hint=f"set {_PIN[0]}, or {_PIN[1]} to a file that holds it")
    try:
        return Path(named).expanduser().read_text().strip()
    except OSError as error:
        raise from_os_error(error, named) from error


def _library() -> Any:
    try:
        import pkcs11
        import pkcs11.exceptions
    except ImportError as error:
        raise WrongRequest("python-pkcs11 is not installed", hint="pip install 'strongroom[pkcs11]'") from error
    return pkcs11
