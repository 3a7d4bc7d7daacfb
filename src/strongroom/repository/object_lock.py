"""How does an S3 bucket lock objects, and what lies behind the names that it lists? Requests of object lock and of versions.

In a bucket with object lock each name has versions: a delete only puts a marker over them, a write another version. A version that
is locked can't be removed before its time, by anybody (COMPLIANCE) or by nobody without a right of its own (GOVERNANCE).
"""

from __future__ import annotations

import hashlib
import re
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from html import unescape

from strongroom.errors import AlreadyExists, NotFound, StoreDenied, StoreFull, StrongroomError, Unreachable, UnsafeStore
from strongroom.repository.bucket import Answer, Bucket, bucket_of
from strongroom.repository.lock_mode import Mode
from strongroom.repository.patience import Patience

_PAGE = 1000
_LONGEST = 1 << 31
_PAUSE, _LONGEST_PAUSE = 0.2, 15.0
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_MAY_NOT = "these credentials must be allowed s3:PutObject and s3:PutObjectRetention"


@dataclass(frozen=True, slots=True)
class Retention:
    """Until when a version is locked, and how."""

    mode: Mode
    until: datetime


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object, or a marker that says that it was deleted; `stored` by the store's clock. Versions of one `etag`
    have the same bytes."""

    name: str
    id: str
    size: int
    stored: datetime
    is_marker: bool
    etag: str = ""


@dataclass
class ObjectLock:
    """The versions and locks of the objects below a bucket's prefix. Requests are repeated as those of the store are."""

    bucket: Bucket
    patience: Patience = field(default_factory=Patience.asked_for)
    _heard: tuple[datetime, float] | None = None

    @property
    def url(self) -> str:
        return f"s3://{self.bucket.bucket}/{self.bucket.prefix}".rstrip("/")

    def now(self) -> datetime:
        """By the store's clock: one of a machine that is years ahead would lock for years."""
        if self._heard is None:
            self._ask("HEAD")
        said, when = self._heard or (datetime.now(UTC), time.monotonic())
        return said + timedelta(seconds=time.monotonic() - when)

    def versions(self, prefix: str) -> Iterator[Version]:
        """All whose names begin so: by name, the newest first. Raises StoreDenied or UnsafeStore where they can't be asked for."""
        asked = {"versions": "", "prefix": self.bucket.prefix + prefix, "max-keys": str(_PAGE)}
        while True:
            answer = self._ask("GET", query=asked)
            if answer.status == 404:
                return
            self._require(answer, prefix)
            yield from (self._version(kind, entry) for kind, entry in _ENTRY.findall(answer.body))
            if _element("IsTruncated", answer.body) != "true":
                return
            asked["key-marker"] = unescape(_element("NextKeyMarker", answer.body))
            asked["version-id-marker"] = unescape(_element("NextVersionIdMarker", answer.body))

    def _version(self, kind: str, entry: str) -> Version:
        name = unescape(_element("Key", entry)).removeprefix(self.bucket.prefix)
        stored = datetime.fromisoformat(_element("LastModified", entry)).astimezone(UTC)
        size, etag = int(_element("Size", entry) or 0), unescape(_element("ETag", entry))
        return Version(name, _element("VersionId", entry), size, stored, kind == "DeleteMarker", etag)

    def put(self, name: str, data: bytes | memoryview, retention: Retention, *, anew: bool = True) -> None:
        """Store an object, locked from its first moment; `anew`: never over one that is there. Raises as a store's `create`."""
        headers = {
            "x-amz-object-lock-mode": retention.mode.upper(),
            "x-amz-object-lock-retain-until-date": retention.until.strftime(_TIME),
            "content-md5": _md5(data),
            **({"if-none-match": "*"} if anew else {}),
        }
        self._require(self._ask("PUT", name, body=data, headers=headers), name)

    def read(self, version: Version, offset: int = 0, length: int | None = None) -> bytes:
        """As a store's `read`, of one version."""
        if length == 0 or offset >= version.size:
            return b""
        end = "" if length is None else str(offset + length - 1)
        part = {"range": f"bytes={offset}-{end}"} if offset or end else {}
        answer = self._ask("GET", version.name, query={"versionId": version.id}, headers=part)
        self._require(answer, version.name)
        return answer.content

    def retention(self, version: Version) -> Retention | None:
        """How a version is locked, None if it isn't or its time is over. Raises NotFound."""
        answer = self._ask("HEAD", version.name, query={"versionId": version.id})
        self._require(answer, version.name)
        mode, until = (answer.headers.get(f"x-amz-object-lock-{what}", "") for what in ("mode", "retain-until-date"))
        if not mode or not until:
            return None
        found = Retention(Mode(mode.lower()), datetime.fromisoformat(until).astimezone(UTC))
        return found if found.until > self.now() else None

    def retain(self, version: Version, retention: Retention) -> None:
        """Lock a version until then: the store refuses to make that shorter. Raises StoreDenied."""
        mode, until = retention.mode.upper(), retention.until.strftime(_TIME)
        body = f"<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>".encode()
        query = {"retention": "", "versionId": version.id}
        self._require(self._ask("PUT", version.name, query=query, body=body, headers={"content-md5": _md5(body)}), version.name)

    def hide(self, name: str) -> None:
        """Put a marker over an object: it is listed no more, and its versions stay. Raises StoreDenied."""
        self._require(self._ask("DELETE", name), name)

    def remove(self, version: Version) -> bool:
        """Remove a version for good, or a marker; False if it is locked, or these credentials may not."""
        answer = self._ask("DELETE", version.name, query={"versionId": version.id})
        if answer.status in (401, 403):
            return False
        if answer.status != 404:
            self._require(answer, version.name)
        return True

    def _ask(
        self,
        method: str,
        name: str = "",
        *,
        query: str | Mapping[str, str] = "",
        body: bytes | memoryview = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Repeated while nobody answers, or the server can't now. Raises Unreachable, StoreDenied without credentials."""
        if not self.bucket.access or not self.bucket.secret:
            hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: requests about locks are signed with them"
            raise StoreDenied(f"{self.url}: no credentials for object lock", hint=hint)
        until, pause = time.monotonic() + self.patience.retries, _PAUSE
        while True:
            try:
                answer = self.bucket.ask(method, self.bucket.prefix + name if name else "", query, body, headers, longest=_LONGEST)
                self._hear(answer)
                if not _passes(answer):
                    return answer
                problem: StrongroomError = Unreachable(f"{self.url}/{name}: the store answers {answer.status}")
            except Unreachable as error:
                problem = error
            if time.monotonic() + pause > until:
                raise problem
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _hear(self, answer: Answer) -> None:
        """What time it is where the objects are, and when it was heard."""
        if "date" in answer.headers:
            self._heard = parsedate_to_datetime(answer.headers["date"]), time.monotonic()

    def _require(self, answer: Answer, name: str) -> None:
        if answer.status < 300:
            return
        subject, code = f"{self.url}/{name}", _element("Code", answer.body)
        if answer.status == 412:
            raise AlreadyExists(f"{subject} is already there")
        if answer.status in (401, 403):
            raise StoreDenied(f"{subject}: the store refused access", hint=_MAY_NOT)
        if answer.status == 404:
            raise NotFound(f"{subject} is not there")
        if answer.status == 507:
            raise StoreFull(f"{subject}: the store has no room left")
        raise UnsafeStore(f"{subject}: the store refuses ({code or answer.status})", hint=NEEDED)


NEEDED = (
    "object lock needs an S3 bucket that was made with it ('aws s3api create-bucket --object-lock-enabled-for-bucket'): make one, "
    "and bring the repository there with 'strongroom copy --to'"
)
_ENTRY = re.compile(r"<(Version|DeleteMarker)>(.*?)</\1>", re.DOTALL)


def object_lock_of(location: str) -> ObjectLock | None:
    """That of an S3 URL, None for any other store."""
    bucket = bucket_of(location)
    return None if bucket is None else ObjectLock(bucket)


def require_object_lock(location: str) -> ObjectLock:
    """That of a URL. Raises UnsafeStore, in one line that says what to do, where there is none."""
    lock = object_lock_of(location)
    if lock is None:
        hint = "keep a replica in a bucket with object lock (strongroom copy --to s3://...), or use what the store itself offers"
        raise UnsafeStore(f"{location} has no S3 object lock", hint=hint)
    if lock.bucket.object_lock() == "off":
        raise UnsafeStore(f"the bucket of {location} has no object lock", hint=NEEDED)
    return lock


def _passes(answer: Answer) -> bool:
    """May it go better the next time? A server that is busy or broken, or two writes that met."""
    if answer.status == 409:
        return _element("Code", answer.body) in ("OperationAborted", "ConditionalRequestConflict")
    return answer.status in (408, 429) or (answer.status >= 500 and answer.status not in (501, 507))


def _element(name: str, text: str) -> str:
    found = re.search(f"<{name}>([^<]*)<", text)
    return found[1] if found else ""


def _md5(data: bytes | memoryview) -> str:
    """A sum that S3 asks for with every lock; not for safety."""
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
