"""How does AWS KMS wrap a key? aws-kms://alias/NAME?region=REGION, aws-kms://KEY-ID or aws-kms://ARN

&profile=NAME: whose credentials, of ~/.aws/config, if the store's are others; &endpoint=URL (else AWS_ENDPOINT_URL_KMS).
AWS_ENDPOINT_URL is not looked at: it is where an S3 look-alike is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from strongroom.errors import WrongRequest
from strongroom.repository.key_services.protocol import (
    SECONDS_TO_ANSWER,
    SECONDS_TO_CONNECT,
    Context,
    NotOurs,
    denied,
    not_admitted,
    patiently,
    unreachable,
)
from strongroom.repository.transport import require_encrypted

KIND = "aws-kms"
_FORM = "write aws-kms://alias/NAME?region=REGION, or a key's id or ARN"
_OPTIONS = {"region", "profile", "endpoint"}
_NOT_OURS = ("InvalidCiphertextException", "IncorrectKeyException")
_DENIED = ("AccessDenied", "AccessDeniedException", "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredTokenException")
_PASSING = ("ThrottlingException", "RequestLimitExceeded", "KMSInternalException", "DependencyTimeoutException", "InternalFailure")
_UNUSABLE = ("DisabledException", "KMSInvalidStateException", "NotFoundException", "KeyUnavailableException")


@dataclass(frozen=True, slots=True)
class AwsKms:
    """A key of AWS KMS, by alias, id or ARN."""

    key: str
    region: str = ""
    profile: str = ""
    endpoint: str = ""

    @property
    def kind(self) -> str:
        return KIND

    @property
    def url(self) -> str:
        return f"{KIND}://{self.key}" + (f"?region={self.region}" if self.region else "")

    def wrap(self, key: bytes, context: Context) -> bytes:
        client = self._client()
        asked = {"KeyId": self.key, "Plaintext": key, "EncryptionContext": context.pairs()}
        return bytes(patiently(lambda: self._call(client.encrypt, asked))["CiphertextBlob"])

    def unwrap(self, wrapped: bytes, context: Context) -> bytes:
        """The key is named, so that bytes which another one wrapped, be it a stranger's, are never opened."""
        client = self._client()
        asked = {"KeyId": self.key, "CiphertextBlob": wrapped, "EncryptionContext": context.pairs()}
        return bytes(patiently(lambda: self._call(client.decrypt, asked))["Plaintext"])

    def _call(self, call: Any, asked: dict[str, Any]) -> dict[str, Any]:
        with self._translated():
            answer: dict[str, Any] = call(**asked)
            return answer

    def _client(self) -> Any:
        botocore, session = _library()
        endpoint = self.endpoint or os.environ.get("AWS_ENDPOINT_URL_KMS") or None
        if endpoint and not endpoint.startswith("https://"):
            host = urlsplit(endpoint).hostname or ""
            require_encrypted(self.url, host, "give an https:// endpoint")
        with self._translated():
            return session.Session(profile=self.profile or None).create_client(
                "kms",
                region_name=self.region or None,
                endpoint_url=endpoint,
                config=botocore.config.Config(
                    connect_timeout=SECONDS_TO_CONNECT,
                    read_timeout=SECONDS_TO_ANSWER,
                    retries={"total_max_attempts": 1},
                    ignore_configured_endpoint_urls=True,
                ),
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """What AWS or its library complains about, as one line without what was sent."""
        botocore, _ = _library()
        foreign = botocore.exceptions
        try:
            yield
        except foreign.ClientError as error:
            said = error.response.get("Error", {})
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            raise self._meaning(str(said.get("Code", "")), str(said.get("Message", "")), status) from error
        except (foreign.NoCredentialsError, foreign.PartialCredentialsError, foreign.ProfileNotFound) as error:
            hint = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            raise not_admitted(self.url, _first_line(error), hint) from error
        except (foreign.NoRegionError, foreign.ParamValidationError, ValueError) as error:
            raise WrongRequest(f"{self.url}: {_first_line(error)}", hint=_FORM) from error
        except (foreign.BotoCoreError, OSError) as error:
            raise unreachable(self.url, _first_line(error)) from error

    def _meaning(self, code: str, message: str, status: int) -> Exception:
        if code in _NOT_OURS:
            return NotOurs()
        if code in _PASSING or status >= 500:
            return unreachable(self.url, code or str(status))
        if code in _DENIED or status == 403:
            return denied(self.url, f"access denied ({code})", "check the credentials, and that they may kms:Decrypt with this key")
        if code in _UNUSABLE:
            problem = " ".join(message.split())[:200]
            return denied(self.url, f"the key can't be used ({code}: {problem})", "enable the key, or cancel its deletion")
        return denied(self.url, f"the service refused ({code or status})", "check the URL and the key")


def parse(url: str) -> AwsKms:
    """Raises WrongRequest."""
    key, _, query = url.removeprefix(f"{KIND}:").removeprefix("//").partition("?")
    try:
        options = {name: values[-1] for name, values in parse_qs(query, strict_parsing=bool(query)).items()}
    except ValueError as error:
        raise WrongRequest(f"{KIND}://{key}: the options can't be read", hint=_FORM) from error
    if not key or "@" in key or options.keys() - _OPTIONS:
        raise WrongRequest(f"{KIND}://{key} names no key of AWS KMS", hint=_FORM)
    region = options.get("region", "")
    if key.startswith("arn:") and not region:
        region = (key.split(":") + [""] * 4)[3]
    return AwsKms(key, region, options.get("profile", ""), options.get("endpoint", ""))


def _library() -> tuple[Any, Any]:
    try:
        import botocore.config
        import botocore.exceptions
        import botocore.session
    except ImportError as error:
        raise WrongRequest("botocore is not installed", hint="pip install 'strongroom[aws-kms]'") from error
    return botocore, botocore.session


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
