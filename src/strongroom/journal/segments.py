"""How operations lie in one object of the journal. Pure.

    header 6 | salt 32 | u32 length of the head | head ciphertext and tag | body ciphertext and tag
    head   signature 64 | JSON, compressed by zstandard: `Head`; nonce 0, bound to header, repository's id and the object's name
    body   JSON of what each change is, and its pieces one after another; nonce 1, bound to the same

A segment is named by its stream and its number in it, so that of two writers one finds the name taken. Its head holds the BLAKE3 of
its body's ciphertext, and that of the front (all before the body) of the segment before: heads alone prove the chain.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from sys import intern
from typing import Any

import zstandard

from strongroom import codecs
from strongroom.engines.changes import Change, from_pieces, to_pieces
from strongroom.errors import Damaged
from strongroom.model import Json
from strongroom.repository.crypto import SALT_BYTES, SIGNATURE_BYTES, NotAuthentic, content_hash
from strongroom.repository.framing import HEADER_BYTES, Kind, header, require_header
from strongroom.repository.keys import Keys

FOLDER = "journal/"
FORMAT = 1
FRONT_GUESS = 4096
"""Bytes that are read of an object to have its front; most are shorter."""

_LENGTH = struct.Struct("<I")
_LONGEST_HEAD, _LONGEST_BODY = 64 << 20, 1 << 30
_NAME = re.compile(FOLDER + r"([0-9a-f]{32})/(\d{12})")
_START = HEADER_BYTES + SALT_BYTES
_REPEATED = ("stream", "source", "engine", "host")


@dataclass(frozen=True, slots=True)
class Unseen:
    """Between two times (microseconds since 1970) it isn't known what a part of the source held: operation `number` is its end."""

    scope: str
    since: int
    until: int
    number: int


@dataclass(frozen=True, slots=True)
class Head:
    """What a segment says of itself. `first` is the number of its first operation (from 1, in the stream), `count` how many there
    are. `begins` and `ends` are the engine's marks, by scope, before and after them. Times are microseconds since 1970: `earliest`
    and `latest` those of its operations, `seen` until when all that happened in the source is in the journal, `sealed` when it was.

    `hole` is '' if this goes on where the segment before ended; else why it doesn't: then what happened between is lost. `turn` is
    the number of the last segment up to this one that begins the stream, has a hole or is `unseen` in part, `worst` how many
    microseconds an operation up to here waited at most until it was stored, -1 if there was none; `turn` is -1 if neither is known.
    `begun` is when the follower was there that began the stream, or began it anew after the last hole; 0 if that doesn't matter.
    """

    stream: str
    sequence: int
    epoch: int
    source: str
    engine: str
    host: str
    first: int
    count: int
    begins: Mapping[str, str]
    ends: Mapping[str, str]
    earliest: int
    latest: int
    seen: int
    sealed: int
    previous: str = ""
    hole: str = ""
    batches: tuple[str, ...] = ()
    kind: str = ""
    unseen: tuple[Unseen, ...] = ()
    body: str = ""
    turn: int = -1
    worst: int = -1
    begun: int = 0

    @property
    def name(self) -> str:
        return segment_name(self.stream, self.sequence)

    @property
    def last(self) -> int:
        """The number of the last operation up to here."""
        return self.first + self.count - 1


@dataclass(frozen=True, slots=True)
class Front:
    """A head that was read, with the hash of the bytes that prove it and where the body begins. `content` are those bytes, or, in a
    chain of many, only the first of them, up to the salt's end. `size` are the bytes of the object, 0 if nobody has listed it."""

    head: Head
    hash: str
    length: int
    content: bytes = field(repr=False, default=b"")
    size: int = field(compare=False, default=0)

    @property
    def salt(self) -> bytes:
        return self.content[HEADER_BYTES:_START]

    def listed(self, size: int) -> Front:
        """The same as one of many."""
        return replace(self, content=self.content[:_START], size=size)


def segment_name(stream: str, sequence: int) -> str:
    return f"{FOLDER}{stream}/{sequence:012d}"


def number_in(name: str) -> tuple[str, int] | None:
    """The stream and the number that an object's name says; None if it is no segment's."""
    found = _NAME.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def encode(keys: Keys, head: Head, changes: Iterable[Change]) -> tuple[Front, bytes]:
    """The object of a segment, and its front. `head.body` is filled in."""
    start, salt = header(Kind.JOURNAL), keys.new_salt()
    box, bound = keys.box(Kind.JOURNAL.purpose, salt), start + keys.repository_id + head.name.encode()
    body = box.seal(1, _body(changes), bound)
    said = {"strongroom_journal": FORMAT, **asdict(head), "body": content_hash(body).hex()}
    plain = zstandard.compress(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())
    sealed = box.seal(0, keys.sign(plain) + plain, bound)
    front = start + salt + _LENGTH.pack(len(sealed)) + sealed
    return Front(_head(said), content_hash(front).hex(), len(front), front), front + body


def front_length(name: str, content: bytes) -> int:
    """How long the front of an object is, of which at least the first 42 bytes are given. Raises Damaged."""
    require_header(name, Kind.JOURNAL, content)
    (length,) = _LENGTH.unpack_from(content, _START)
    if length > _LONGEST_HEAD:
        raise Damaged(name, "it claims a head longer than any")
    return _START + _LENGTH.size + int(length)


def decode_front(keys: Keys, name: str, content: bytes) -> Front:
    """The head of an object, by its first bytes. Raises Damaged, also if it belongs under another name."""
    end = front_length(name, content)
    if len(content) < end:
        raise Damaged(name, "truncated")
    front, salt = bytes(content[:end]), content[HEADER_BYTES:_START]
    try:
        plain = _box(keys, salt).open(0, front[_START + _LENGTH.size :], _bound(keys, name, front))
        signature, packed = plain[:SIGNATURE_BYTES], plain[SIGNATURE_BYTES:]
        keys.verify(signature, packed)
        if zstandard.frame_content_size(packed) > _LONGEST_HEAD:
            raise Damaged(name, "it claims a head longer than any")
        said = json.loads(zstandard.decompress(packed))
        if said["strongroom_journal"] != FORMAT:
            raise Damaged(name, "a newer Strongroom wrote this segment", hint="use a newer Strongroom")
        head = _head(said)
    except NotAuthentic as error:
        raise Damaged(name, "altered, swapped, or not written with this repository's key") from error
    except (ValueError, KeyError, TypeError, RecursionError, zstandard.ZstdError) as error:
        raise Damaged(name, "it is no journal segment") from error
    if head.name != name:
        raise Damaged(name, "it belongs under another name")
    return Front(head, content_hash(front).hex(), end, front)


def decode_changes(keys: Keys, front: Front, content: bytes) -> Iterator[Change]:
    """The operations of a whole object, in order. Raises Damaged."""
    name, body = front.head.name, content[front.length :]
    if content_hash(body).hex() != front.head.body:
        raise Damaged(name, "its operations are not the ones that its head was signed for (altered or truncated)")
    try:
        plain = _box(keys, front.salt).open(1, body, _bound(keys, name, content))
        yield from _changes(plain)
    except NotAuthentic as error:
        raise Damaged(name, "altered or swapped: it doesn't decrypt") from error
    except (ValueError, KeyError, TypeError, OSError, struct.error, codecs.CodecError) as error:
        raise Damaged(name, "its operations can't be read") from error


def _box(keys: Keys, salt: bytes) -> Any:
    return keys.box(Kind.JOURNAL.purpose, salt)


def _bound(keys: Keys, name: str, content: bytes) -> bytes:
    return content[:HEADER_BYTES] + keys.repository_id + name.encode()


def _head(said: Mapping[str, Any]) -> Head:
    known = {key: value for key, value in said.items() if key != "strongroom_journal"}
    known |= {key: intern(known[key]) for key in _REPEATED}  # a long chain holds each once
    unseen = tuple(Unseen(**one) for one in known.get("unseen", ()))
    return Head(**{**known, "batches": tuple(known["batches"]), "unseen": unseen})


def _body(changes: Iterable[Change]) -> bytes:
    heads: list[Json] = []
    payloads: list[bytes] = []
    for change in changes:
        head, pieces = to_pieces(change)
        places = []
        for kind, piece in pieces:
            codec, payload = codecs.encode(piece, kind)
            places.append([codec, len(piece), len(payload)])
            payloads.append(bytes(payload))
        heads.append({**head, "pieces": places})
    text = zstandard.compress(json.dumps(heads, separators=(",", ":")).encode())
    return b"".join([_LENGTH.pack(len(text)), text, *payloads])


def _changes(plain: bytes) -> Iterator[Change]:
    (length,) = _LENGTH.unpack_from(plain)
    at = _LENGTH.size + length
    text = plain[_LENGTH.size : at]
    if zstandard.frame_content_size(text) > _LONGEST_BODY:
        raise ValueError("it claims to be longer than any segment")
    for head in json.loads(zstandard.decompress(text)):
        pieces = []
        for codec, wide, stored in head["pieces"]:
            pieces.append(bytes(codecs.decode(codec, plain[at : at + stored], wide)))
            at += stored
        yield from_pieces(head, pieces)
    if at != len(plain):
        raise ValueError("something is left over")
