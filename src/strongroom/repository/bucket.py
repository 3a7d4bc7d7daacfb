"""What does an S3 bucket say of itself (versioning, object lock, checksums)? obstore can't ask: requests are signed here."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlencode, urlsplit

from strongroom.errors import Unreachable
from strongroom.repository.endpoints import endpoint_of
from strongroom.repository.profiles import Profile, profile_of, region_of

_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a server; names of `headers` are in small letters."""

    status: int
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> str:
        return self.content.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Bucket:
    """Requests to one bucket, path style. Not repeated; the secret stays in here. Without keys nothing can be asked."""

    endpoint: str
    bucket: str
    region: str
    access: str
    secret: str
    token: str = ""
    prefix: str = ""

    @property
    def profile(self) -> Profile | None:
        return profile_of(self.endpoint)

    def __repr__(self) -> str:
        return f"Bucket({self.endpoint}/{self.bucket})"

    def ask(
        self,
        method: str,
        key: str = "",
        query: str | Mapping[str, str] = "",
        body: bytes | memoryview = b"",
        headers: Mapping[str, str] | None = None,
        sha256: str = "",
        longest: int = _LONGEST,
    ) -> Answer:
        """`query` is one word, such as 'versioning', or several with their values; `sha256` is said to be the body's, whatever it
        is; `longest` are the bytes that are read of the answer. Raises Unreachable."""
        parts = urlsplit(self.endpoint)
        path = quote(f"{parts.path.rstrip('/')}/{self.bucket}" + (f"/{key}" if key else ""))
        sent = {"host": parts.netloc, "x-amz-content-sha256": sha256 or hashlib.sha256(body).hexdigest(), **(headers or {})}
        sent |= {"x-amz-date": datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")}
        sent |= {"x-amz-security-token": self.token} if self.token else {}
        asked = urlencode(sorted(({query: ""} if isinstance(query, str) else query).items()), quote_via=quote) if query else ""
        signed = self._signed(method, path, asked, sent)
        kind = http.client.HTTPConnection if parts.scheme == "http" else http.client.HTTPSConnection
        connection = kind(parts.hostname or "", parts.port, timeout=30)
        try:
            connection.request(method, f"{path}?{asked}" if asked else path, body, {**sent, "Authorization": signed})
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, answer.read(longest), named)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self.endpoint}/{self.bucket}: {error or type(error).__name__}") from error
        finally:
            connection.close()

    def versioning(self) -> str | None:
        """'Enabled', 'Suspended' or '', None if it can't be asked."""
        answer = self._asked("versioning")
        if answer is None or answer.status != 200:
            return None
        return _element("Status", answer.body)

    def object_lock(self) -> str | None:
        """'off', 'on', or the default retention, such as 'COMPLIANCE for 30 days'; None if it can't be asked."""
        answer = self._asked("object-lock")
        if answer is None or (answer.status != 200 and "ObjectLockConfigurationNotFound" not in answer.body):
            return None
        if _element("ObjectLockEnabled", answer.body) != "Enabled":
            return "off"
        found = re.search(r"<(Days|Years)>(\d+)<", answer.body)
        return f"{_element('Mode', answer.body)} for {found[2]} {found[1].lower()}" if found else "on"

    def refuses(self, key: str, body: bytes, headers: Mapping[str, str], sha256: str = "") -> bool | None:
        """Whether an object of these bytes is refused whose sums are said to be others; None if that can't be asked."""
        answer = self._asked("", "PUT", f"{self.prefix}{key}", body, headers, sha256)
        return None if answer is None or answer.status in (401, 403) or answer.status >= 500 else answer.status >= 400

    def _asked(
        self,
        query: str,
        method: str = "GET",
        key: str = "",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        sha256: str = "",
    ) -> Answer | None:
        if not self.access or not self.secret:
            return None
        try:
            return self.ask(method, key, query, body, headers, sha256)
        except Unreachable:
            return None

    def _signed(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> str:
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        asked = "\n".join((method, path, query, lines, names, headers["x-amz-content-sha256"]))
        when = headers["x-amz-date"]
        scope = f"{when[:8]}/{self.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{when}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
        key = f"AWS4{self.secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        return f"AWS4-HMAC-SHA256 Credential={self.access}/{scope}, SignedHeaders={names}, Signature={signature}"


def bucket_of(location: str) -> Bucket | None:
    """That of an S3 URL, with the keys of the standard variables; None for any other store."""
    parts = urlsplit(location)
    if parts.scheme not in ("s3", "s3a"):
        return None
    said, named = os.environ.get, endpoint_of(parts.scheme)
    region = said("AWS_REGION") or said("AWS_DEFAULT_REGION") or region_of(named).get("region") or "us-east-1"
    path = parts.path.strip("/")
    return Bucket(
        endpoint=named or f"https://s3.{region}.amazonaws.com",
        bucket=parts.netloc,
        region=region,
        access=said("AWS_ACCESS_KEY_ID", ""),
        secret=said("AWS_SECRET_ACCESS_KEY", ""),
        token=said("AWS_SESSION_TOKEN", ""),
        prefix=f"{path}/" if path else "",
    )


def _element(name: str, body: str) -> str:
    found = re.search(f"<{name}>([^<]*)<", body)
    return found[1] if found else ""
