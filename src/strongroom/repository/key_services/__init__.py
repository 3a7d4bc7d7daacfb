"""Which services can wrap the key of a key slot? Each one in a module of its own, behind one small protocol.

protocol.py   what a service promises, and how long it is asked      aws_kms.py   AWS Key Management Service
vault.py      the transit engine of Vault or OpenBao                  gcp_kms.py   Google Cloud KMS (experimental)
pkcs11.py     a key in an HSM, by its PKCS#11 module

A service is only ever asked at the URL that the user gave: what a key slot says of one is shown, and never followed.
"""

from __future__ import annotations

from importlib import import_module

from strongroom.errors import WrongRequest
from strongroom.repository.key_services.protocol import Context, KeyService, NotOurs

__all__ = ["KINDS", "Context", "KeyService", "NotOurs", "is_experimental", "service_of"]

KINDS = {"aws-kms": "aws_kms", "gcp-kms": "gcp_kms", "vault": "vault", "pkcs11": "pkcs11"}
"""The kinds of slots, and the modules that know them."""
_SCHEMES = {**{kind: kind for kind in KINDS}, "vault+http": "vault"}
_FORMS = (
    "write aws-kms://alias/NAME?region=REGION, gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K, "
    "vault://HOST:8200/transit/keys/NAME, or pkcs11:token=TOKEN;object=LABEL"
)


def service_of(url: str) -> KeyService:
    """The service and the key in it that a URL names. Asks nothing. Raises WrongRequest."""
    kind = _SCHEMES.get(url.partition(":")[0])
    if kind is None:
        raise WrongRequest(f"{url.partition('?')[0]!r} names no key service", hint=_FORMS)
    service: KeyService = import_module(f"{__name__}.{KINDS[kind]}").parse(url)
    return service


def is_experimental(kind: str) -> bool:
    """Has it never met the real service?"""
    return kind == "gcp-kms"
