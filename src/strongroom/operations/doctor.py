"""Does a store do what a repository needs? Tried with objects below probe/, which are removed again. Needs no key."""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum

from strongroom.errors import AlreadyExists, NotFound, StoreDenied, StrongroomError, UnsafeStore, WrongRequest
from strongroom.repository.bucket import Bucket, bucket_of
from strongroom.repository.config import Config
from strongroom.repository.packs import PACK_BYTES
from strongroom.repository.store import PROBES, Overwrites, SendsParts, Store, open_store, require_conditional_create
from strongroom.repository.unlocking import read_config

_WRITERS = 8
_ROUNDS = 3
_PARTS_BYTES = 11 << 20
_WRONG = hashlib.sha256(b"other bytes")


class Result(Enum):
    """Of one probe. UNKNOWN: it could not be tried."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Probe:
    """What was tried, what came of it, and what follows. `needed`: no repository can be written without."""

    name: str
    result: Result
    follows: str
    needed: bool = False


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What was found out about a store. `profile` names a kind of store that its address is known of."""

    url: str
    server: str
    profile: str
    repository: str
    experimental: bool
    probes: tuple[Probe, ...]

    @property
    def lacking(self) -> tuple[Probe, ...]:
        return tuple(one for one in self.probes if one.needed and one.result is not Result.YES)

    def require_fit(self) -> None:
        """Raises UnsafeStore, in one line, unless all that is needed is there."""
        if self.lacking:
            what = "; ".join(f"{one.name}: {one.follows}" for one in self.lacking)
            unknown = all(one.result is Result.UNKNOWN for one in self.lacking)
            hint = (
                "ask again with credentials that may write" if unknown else "use another store, or see docs/OPERATIONS.md, Stores"
            )
            raise UnsafeStore(
                f"{self.url} {'could not be tried' if unknown else 'lacks what a repository needs'}: {what}", hint=hint
            )


def examine_store(location: str) -> StoreReport:
    """Try the store at a path or URL. Raises WrongRequest, or Unreachable if it doesn't answer at all."""
    store = open_store(location)
    bucket = bucket_of(location)
    settings, repository = _repository(store)
    looking = _Looking(store, overwriting=settings is not None and settings.overwriting)
    try:
        probes = (*looking.basics(), *(_bucket_probes(bucket, looking) if bucket else ()))
    finally:
        looking.clear()
    return StoreReport(
        url=store.url,
        server=bucket.endpoint if bucket else "",
        profile=bucket.profile.name if bucket and bucket.profile else "",
        repository=repository,
        experimental=location.startswith("gs:"),
        probes=(*probes, looking.deleting),
    )


def _repository(store: Store) -> tuple[Config | None, str]:
    try:
        settings = read_config(store)
    except (NotFound, WrongRequest):
        raise
    except StrongroomError as error:
        if error.exit_code == 1:  # no answer, or no right to read
            raise
        return None, f"none ({error})"
    kind = ", made for a store that overwrites: no journals" if settings.overwriting else ""
    return settings, f"{settings.repository_id.hex()[:12]}, created {settings.created[:19]}{kind}"


@dataclass
class _Looking:
    """Probes of one store, and the names that they left in it."""

    store: Store
    overwriting: bool
    folder: str = field(default_factory=lambda: f"{PROBES}{secrets.token_hex(8)}/")
    deleting: Probe = Probe("delete", Result.UNKNOWN, "nothing could be written that might be deleted")
    denied: bool = False
    refused: bool = False

    def basics(self) -> Iterator[Probe]:
        for name, needed, probe in (
            ("create and read back", True, self._create),
            ("conditional create", not self.overwriting, self._conditional),
            ("list after write", True, self._list),
            ("range reads", False, self._ranges),
            ("object of a pack's size", True, self._large),
            ("multipart", False, self._parts),
        ):
            yield self.tried(name, probe, needed=needed)

    def tried(self, name: str, probe: Callable[[], tuple[Result, str]], *, needed: bool = False) -> Probe:
        if self.denied:
            return Probe(name, Result.UNKNOWN, "these credentials may not create objects", needed)
        try:
            return Probe(name, *probe(), needed)
        except StoreDenied:
            self.denied = name == "create and read back"
            return Probe(name, Result.UNKNOWN, "these credentials may not", needed)
        except StrongroomError as error:
            return Probe(name, Result.NO, str(error), needed)

    def _create(self) -> tuple[Result, str]:
        try:
            self._put("first", b"0123456789")
        except UnsafeStore:
            self.refused = True
            self._put("first", b"0123456789")
        if self.store.read(self.folder + "first") != b"0123456789":
            return Result.NO, "other bytes came back than were stored"
        return Result.YES, "the bytes that were stored came back"

    def _conditional(self) -> tuple[Result, str]:
        if self.refused:
            return Result.NO, "it refuses the condition: no journal can be kept, see 'init --without-conditional-creates'"
        try:
            require_conditional_create(self.store, self.folder + "first", b"0123456789")
        except UnsafeStore:
            return Result.NO, "it overwrites what is there: no journal can be kept, see 'init --without-conditional-creates'"
        for number in range(_ROUNDS):
            won = self._race(f"race{number}")
            if won != 1:
                return Result.NO, f"of {_WRITERS} that created one object at once, {won} were told that they did"
        return Result.YES, f"an object that is there is not overwritten; of {_WRITERS} at once one wins"

    def _race(self, name: str) -> int:
        def create(number: int) -> bool:
            try:
                self._put(name, bytes([number]))
            except AlreadyExists:
                return False
            return True

        with ThreadPoolExecutor(_WRITERS) as pool:
            return sum(pool.map(create, range(_WRITERS)))

    def _list(self) -> tuple[Result, str]:
        self._put("listed", b"1")
        if self.folder + "listed" not in {one.name for one in self.store.list(self.folder)}:
            return Result.NO, "a listing lacks what was stored before it: backups and prunes could overlook each other's work"
        self._put("later", b"1")
        after = self.folder + "late"
        if {one.name for one in self.store.list(self.folder, after)} != {
            one.name for one in self.store.list(self.folder) if one.name > after
        }:
            return (
                Result.NO,
                "a listing after a name lacks what comes after it: followers may not find the end of a long journal",
            )
        return Result.YES, "a listing has what was stored before it"

    def _ranges(self) -> tuple[Result, str]:
        if self.store.read(self.folder + "first", 2, 3) != b"234":
            return Result.NO, "a part of an object came back wrong: nothing can be restored from here"
        if not getattr(self.store, "answers_ranges", True):
            return Result.NO, "whole objects are read for every part of one: restores are slow"
        return Result.YES, "parts of objects can be read"

    def _large(self) -> tuple[Result, str]:
        content = secrets.token_bytes(PACK_BYTES)
        self._put("large", content)
        if self.store.size(self.folder + "large") != len(content):
            return Result.NO, "it was cut"
        return Result.YES, f"{PACK_BYTES >> 20} MiB in one request"

    def _parts(self) -> tuple[Result, str]:
        if not isinstance(self.store, SendsParts):
            return Result.UNKNOWN, "there is no such thing in a directory"
        content = secrets.token_bytes(_PARTS_BYTES)
        self.store.send_parts(self.folder + "parts", content)
        if self.store.read(self.folder + "parts") != content:
            return Result.NO, "other bytes came back; Strongroom doesn't use it"
        return Result.YES, "works; Strongroom stores each object in one request and doesn't use it"

    def _put(self, name: str, content: bytes) -> None:
        if self.refused and isinstance(self.store, Overwrites):
            self.store.overwrite(self.folder + name, content)
        else:
            self.store.create(self.folder + name, content)

    def clear(self) -> None:
        """Remove what the probes left, and tell by it whether deleting works."""
        try:
            names = [one.name for one in self.store.list(self.folder)]
            for name in names:
                self.store.delete(name)
            left = sum(1 for _ in self.store.list(self.folder))
        except StrongroomError as error:
            self.deleting = Probe("delete", Result.NO, f"{error}: forget and prune can't work; what was tried stays below {PROBES}")
            return
        if names:
            gone = "works" if not left else f"{left} objects are still listed after it: prune frees nothing"
            self.deleting = Probe("delete", Result.NO if left else Result.YES, gone)


def _bucket_probes(bucket: Bucket, looking: _Looking) -> Iterator[Probe]:
    yield looking.tried("checksums", lambda: _checksums(bucket, looking.folder))
    versioning, lock = bucket.versioning(), bucket.object_lock()
    yield Probe("versioning", *versioning_of(versioning))
    yield Probe("object lock", *lock_of(lock))


def versioning_of(status: str | None) -> tuple[Result, str]:
    """What follows of a bucket's versioning ('Enabled', 'Suspended', ''; None if it can't be asked)."""
    if status is None:
        return Result.UNKNOWN, "could not be asked"
    if status == "Enabled":
        return (
            Result.YES,
            "on: what prune deletes stays as old versions, and takes room, until a lifecycle rule expires those",
        )
    return Result.NO, "off: what is deleted is gone"


def lock_of(rule: str | None) -> tuple[Result, str]:
    """What follows of a bucket's object lock ('off', 'on', or its default retention; None if it can't be asked)."""
    if rule is None:
        return Result.UNKNOWN, "could not be asked"
    if rule == "off":
        return Result.NO, "off: whoever may delete can delete backups; it is turned on when a bucket is made"
    if rule == "on":
        return Result.YES, "on, without a default retention: 'strongroom lock set' has it lock what a repository needs"
    return Result.YES, f"{rule}: until then deleting only hides objects, and prune frees nothing, nor are these probes gone"


def _checksums(bucket: Bucket, folder: str) -> tuple[Result, str]:
    """Are bytes refused that aren't the ones that were meant?"""
    sha = b64encode(_WRONG.digest()).decode()
    md5 = b64encode(hashlib.md5(b"other bytes", usedforsecurity=False).digest()).decode()
    wrong = {
        "x-amz-content-sha256": bucket.refuses(f"{folder}sha", b"bytes", {}, _WRONG.hexdigest()),
        "x-amz-checksum-sha256": bucket.refuses(f"{folder}sum", b"bytes", {"x-amz-checksum-sha256": sha}),
        "Content-MD5": bucket.refuses(f"{folder}md5", b"bytes", {"content-md5": md5}),
    }
    known = {name: refused for name, refused in wrong.items() if refused is not None}
    if not known:
        return Result.UNKNOWN, "could not be asked"
    checked = ", ".join(name for name, refused in known.items() if refused)
    if known.get("x-amz-content-sha256"):
        return Result.YES, f"bytes altered on the way are refused ({checked})"
    also = f" ({checked} is, which isn't sent)" if checked else ""
    return Result.NO, f"the sum that each request carries isn't checked{also}: what is altered on the way is found by verify"
