"""Can a repository be read from docs/FORMAT.md alone? This is a reader written from that page; it does not import Strongroom."""

from __future__ import annotations

import base64
import functools
import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyroaring
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

PACK, INDEX, SNAPSHOT, TENANT = 1, 2, 3, 16
PURPOSES = {PACK: "pack", INDEX: "index", SNAPSHOT: "snapshot", TENANT: "tenant"}
ENTRY = struct.Struct("<32sBII")


def derive(ikm, salt, purpose):
    return HKDF(SHA256(), 32, salt or None, f"strongroom/1/{purpose}".encode()).derive(ikm)


def json_without(members, *names):
    return json.dumps({name: value for name, value in members.items() if name not in names}, sort_keys=True).encode()


def nonce(number):
    return number.to_bytes(12, "big")


class Reader:
    """An opened repository in a local directory. Every hash, tag and signature is checked on the way."""

    def __init__(self, folder, *, passphrase=None, key_file=None):
        self.folder = Path(folder)
        config = json.loads((self.folder / "config").read_bytes())
        assert config["strongroom"] == 1
        assert config["check"] == blake3(json_without(config, "check")).hexdigest()
        self.id = bytes.fromhex(config["repository"])
        self.master = self._master(passphrase, key_file)
        self.blob_ids = derive(self.master, self.id, "blob id")
        self.fingerprints = Fingerprints(derive(self.master, self.id, "row fingerprint"))
        seed = derive(self.master, self.id, "manifest signature")
        self.signatures = Ed25519PrivateKey.from_private_bytes(seed).public_key()
        self.places = dict(self._blob_index())

    # -- keys --------------------------------------------------------------------------------------------------------------

    def _master(self, passphrase, key_file):
        for name in self.names("keys"):
            slot = json.loads(self.object(f"keys/{name}", name))
            assert slot["repository"] == self.id.hex()
            salt = base64.b64decode(slot["salt"])
            if slot["kind"] == "passphrase" and passphrase is not None:
                cost = slot["argon2id"]
                stretch = Argon2id(
                    salt=salt, length=32, iterations=cost["passes"], lanes=cost["lanes"], memory_cost=cost["memory_kib"]
                )
                wrapping = derive(stretch.derive(passphrase.encode()), b"", "passphrase slot")
            elif slot["kind"] == "key file" and key_file is not None:
                prefix, _, secret = Path(key_file).read_text().strip().partition(":")
                assert prefix == "strongroom-key-1"
                wrapping = derive(base64.b64decode(secret), salt, "key file slot")
            else:
                continue
            return AESGCM(wrapping).decrypt(bytes(12), base64.b64decode(slot["wrapped"]), json_without(slot, "wrapped"))
        raise LookupError("no slot for this secret")

    # -- objects -----------------------------------------------------------------------------------------------------------

    def names(self, folder):
        return sorted(path.name for path in (self.folder / folder).rglob("*") if path.is_file() and len(path.name) == 64)

    def object(self, path, name):
        content = (self.folder / path).read_bytes()
        assert blake3(content).hexdigest() == name
        return content

    def _key(self, content, kind):
        assert content[:6] == b"SRRM" + bytes([1, kind])
        return AESGCM(derive(self.master, content[6:38] + self.id, PURPOSES[kind]))

    def _opened(self, content, kind):
        return self._key(content, kind).decrypt(nonce(0), content[38:], content[:6] + self.id)

    # -- packs and blobs ---------------------------------------------------------------------------------------------------

    def _blob_index(self):
        """(blob id, (pack, pack key, number, codec, plain length, offset, stored length))"""
        for name in self.names("index"):
            plain, at = self._opened(self.object(f"index/{name}", name), INDEX), 0
            while at < len(plain):
                pack, salt, length, entries = struct.unpack_from("<32s32sQI", plain, at)
                directory = plain[at + 76 : at + 76 + entries * ENTRY.size]
                at += 76 + len(directory)
                content = self.object(f"packs/{pack.hex()[:2]}/{pack.hex()}", pack.hex())
                assert (len(content), content[6:38]) == (length, salt)
                assert directory == self._directory(content)
                offset = 38
                for number, (blob, codec, size, stored) in enumerate(ENTRY.iter_unpack(directory)):
                    yield blob.hex(), (pack.hex(), number, codec, size, offset, stored)
                    offset += stored

    def _directory(self, content):
        (length,) = struct.unpack("<I", content[-4:])
        return self._key(content, PACK).decrypt(nonce(0), content[-4 - length : -4], content[:6] + self.id)

    def blob(self, name):
        pack, number, codec, size, offset, stored = self.places[name]
        content = (self.folder / "packs" / pack[:2] / pack).read_bytes()
        bound = self.id + bytes.fromhex(name) + struct.pack("<BI", codec, size)
        coded = self._key(content, PACK).decrypt(nonce(number + 1), content[offset : offset + stored], bound)
        plain = {0: bytes, 1: unzstd, 2: lambda payload: join_planes(payload, size)}[codec](coded)
        assert len(plain) == size
        assert blake3(plain, key=self.blob_ids).hexdigest() == name
        return plain

    # -- snapshots ---------------------------------------------------------------------------------------------------------

    def snapshots(self):
        """{id: manifest}, oldest first."""
        found = {name: self._manifest(name) for name in self.names("snapshots")}
        return dict(sorted(found.items(), key=lambda pair: pair[1]["created"]))

    def _manifest(self, name):
        plain = self._opened(self.object(f"snapshots/{name}", name), SNAPSHOT)
        self.signatures.verify(plain[:64], plain[64:])
        manifest = json.loads(unzstd(plain[64:]))
        assert manifest["strongroom_manifest"] in (1, 2, 3)
        for collection in manifest["collections"] if manifest["strongroom_manifest"] == 1 else ():
            number_through(collection)
        return manifest

    def artifact(self, manifest, artifact):
        collections = {one["catalog"]["name"]: one for one in manifest["collections"]}
        content = b"".join(self._part(part, collections) for part in artifact["parts"])
        assert len(content) == artifact["size"]
        return content

    def _part(self, part, collections):
        """By the first line of the table that fits."""
        part = {"stride": 0, "rest": "", "vectors": None, "check": "", "ranges": [], "sources": [], "differences": [], **part}
        if part["ranges"] or part["sources"]:
            sources = [self.blob(source) for source in part["sources"]]
            sources += [b"".join(self.referred(collections, one)) for one in part["ranges"]]
            content = follow(self.blob(part["blob"]), sources)
            proof = self.hash(content)
        elif part["vectors"]:
            content = vectors = b"".join(self.referred(collections, part["vectors"]))
            proof = self.hash(vectors)
            if part["rest"]:
                rest = self._changed(part["rest"], part["differences"])
                content, proof = interleave(part, vectors, rest), self.hash(proof + self.hash(rest))
        elif part["stride"]:
            content, proof = interleave(part, self.blob(part["blob"]), self.blob(part["rest"])), None
        else:
            content = self._changed(part["blob"], part["differences"])
            proof = self.hash(content) if part["differences"] else None
        assert proof is None or proof.hex() == part["check"]
        assert len(content) == part["length"]
        return content

    def hash(self, content):
        return blake3(content, key=self.blob_ids).digest()

    def _changed(self, blob, differences):
        content = self.blob(blob)
        for one in differences:
            content = differing(self.blob(one), content)
        return content

    def referred(self, collections, reference):
        """The vectors that a reference names, a list."""
        collection, field = collections[reference["collection"]], reference["field"]
        first, count = reference["first"], reference["count"]
        if reference["places"]:
            numbers = applied(self.blob(reference["places"]), [None] * count)
        elif reference["by"] == "numbers":
            numbers = range(first, first + count)
        else:
            assert reference["by"] == "slots"
            numbers = self.vectors_of_rows(collection, field, self.order(collection)[first : first + count])
        return [self.vector(collection, field, number) for number in numbers]

    # -- rows --------------------------------------------------------------------------------------------------------------

    def order(self, collection):
        """The number of the row in each slot."""
        numbers = list(range(collection["slots"]))
        for blob in collection["order"]:
            numbers = applied(self.blob(blob), numbers)
        assert len(set(numbers)) == len(numbers)
        return numbers

    def vectors_of_rows(self, collection, field, rows):
        """The number of each row's vector."""
        found = dict(zip(rows, rows, strict=True))
        for segment in collection["segments"]:
            if field in segment["vectors"]:
                mapped = applied(self.blob(segment["vectors"][field]), [None] * segment["rows"])
                found.update(enumerate(mapped, segment["start"]))
        return [found[row] for row in rows]

    def vector(self, collection, field, number):
        for block in collection["vectors"][field]:
            if block["start"] <= number < block["start"] + block["count"]:
                content = self._kept(block["blob"])
                assert len(content) % block["count"] == 0
                width, at = len(content) // block["count"], number - block["start"]
                return content[at * width : (at + 1) * width]
        raise LookupError(f"no vector {number} of {field}")

    @functools.lru_cache(maxsize=64)  # noqa: B019 (readers live as long as a test)
    def _kept(self, name):
        return self.blob(name)

    def schema(self, collection):
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(collection["schema"])))

    def rows(self, collection):
        """An Arrow table of the live rows of all segments, with the columns of the schema."""
        schema = self.schema(collection)
        tables = [self._segment(collection, segment, schema) for segment in collection["segments"]]
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def _segment(self, collection, segment, schema):
        rest = pa.ipc.open_stream(self.blob(segment["rest"])).read_all().combine_chunks()
        assert rest.num_rows == segment["rows"]
        live = [place for place in range(segment["rows"]) if place not in roaring(base64.b64decode(segment["dead"]))]
        rest, columns = rest.take(live), []
        for field in schema:
            if field.name in rest.column_names:
                columns.append(rest[field.name])
            else:
                numbers = self.vectors_of_rows(collection, field.name, [segment["start"] + place for place in live])
                vectors = [self.vector(collection, field.name, number) for number in numbers]
                columns.append(bare_vectors(field.type, len(live), b"".join(vectors)))
        return pa.table(columns, schema=schema)

    def rows_of_tenants(self, collection):
        """{tenant: an Arrow table of his rows} of those whose keys are there."""
        parts = [(part, self._tenants_key(part)) for part in collection["tenants"]]
        lines = sorted(f"{part['key']}\0{part['record']}\0{part['rows']}" for part, _ in parts)
        assert collection["rows_root"] == blake3("\n".join(lines).encode()).hexdigest()
        assert collection["catalog"]["count"] == sum(part["rows"] for part, _ in parts)
        return {part["tenant"]: self._rows_of_part(collection, part, key) for part, key in parts if key is not None}

    def _tenants_key(self, part):
        folder = blake3(part["tenant"].encode(), key=derive(self.blob_ids, b"", "tenant name")).hexdigest()[:32]
        for name in self.names(f"tenants/{folder}"):
            plain = self._opened(self.object(f"tenants/{folder}/{name}", name), TENANT)
            self.signatures.verify(plain[:64], plain[64:])
            body = json.loads(unzstd(plain[64:]))
            assert (body["strongroom_tenant"], body["tenant"]) == (1, part["tenant"])
            key = bytes.fromhex(body["key"])
            if derive(key, self.id, "tenant key id").hex()[:32] == part["key"]:
                return key
        return None

    def _rows_of_part(self, collection, part, key):
        record = json.loads(unzstd(self._unsealed(part["record"], key)))
        apart = Unsealing(self, key)
        rows = Reader.rows(apart, {**collection, **record, "order": [], "slots": 0})
        assert rows.num_rows == part["rows"]
        sums = unzstd(base64.b64decode(record["root"]))
        assert blake3(sums, key=self.fingerprints.root_key).hexdigest() == self.fingerprints.rows_root(rows)
        assert apart.met <= set(part["blobs"])
        return rows

    def _unsealed(self, name, key):
        sealed = Reader.blob(self, name)
        content = AESGCM(derive(key, sealed[:32] + self.id, "tenant blob")).decrypt(nonce(0), sealed[32:], self.id)
        assert sealed[:32] == blake3(content, key=derive(key, self.id, "tenant blob salt")).digest()
        codec, size = struct.unpack_from("<BI", content)
        plain = {0: bytes, 1: unzstd, 2: lambda payload: join_planes(payload, size)}[codec](content[5:])
        assert len(plain) == size
        return plain

    def short_prints(self, blob):
        """The short fingerprints in a blob of `prints`."""
        content = self.blob(blob)
        assert len(content) % 12 == 0
        return [content[at : at + 12] for at in range(0, len(content), 12)]

    def probes(self, probe_set):
        """The batch and its settings."""
        table = pa.ipc.open_stream(self.blob(probe_set["blob"])).read_all()
        assert table.num_rows == probe_set["count"]
        return table, {key.decode(): value.decode() for key, value in table.schema.metadata.items()}

    def root(self, manifest):
        lines = [f"{one['catalog']['name']}\0{one['rows_root']}\0{one['catalog']['count']}" for one in manifest["collections"]]
        return blake3("\n".join(sorted(lines)).encode()).hexdigest()


class Unsealing(Reader):
    """The same repository, all of whose blobs are sealed with a tenant's key; `met` are those that were read."""

    def __init__(self, reader, key):
        self.__dict__.update({**reader.__dict__, "key": key, "met": set()})

    def blob(self, name):
        self.met.add(name)
        return self._unsealed(name, self.key)


def number_through(collection):
    """A collection of a manifest of format 1, as format 2 says the same."""
    start, collection["vectors"] = 0, {}
    for segment in collection["segments"]:
        rows = segment["rows"]
        for name, blob in segment["vectors"].items():
            collection["vectors"].setdefault(name, []).append({"start": start, "count": rows, "blob": blob, "prints": ""})
        bits = base64.b64decode(segment["dead"])
        dead = [place for place in range(rows) if bits and bits[place // 8] >> place % 8 & 1]
        segment.update(start=start, vectors={}, prints="", dead=base64.b64encode(pyroaring.BitMap(dead).serialize()).decode())
        start += rows
    collection.update(order=[], slots=start)


# -- codecs ----------------------------------------------------------------------------------------------------------------


def unzstd(frame):
    return zstandard.ZstdDecompressor().decompress(frame)


def join_planes(payload, size):
    width, rotated, head = payload[:3]
    heads = [struct.unpack_from("<BQ", payload, 3 + 9 * plane) for plane in range(width)]
    words, tail = divmod(size - head, width)
    at = 3 + 9 * width
    first, last = payload[at : at + head], payload[at + head : at + head + tail]
    at += head + tail
    joined = np.empty((words, width), np.uint8)
    for plane, (method, stored) in enumerate(heads):
        coded = payload[at : at + stored]
        if method == 2 and stored:
            joined[:, :2] = np.frombuffer(coded, np.uint8).reshape(words, 2)
        elif method != 2:
            joined[:, plane] = np.frombuffer(coded if method == 0 else unzstd(coded), np.uint8)
        at += stored
    assert at == len(payload)
    if rotated:
        top = joined[:, -2].astype(np.uint16) | joined[:, -1].astype(np.uint16) << 8
        top = top >> 1 | top << 15
        joined[:, -2], joined[:, -1] = top & 0xFF, top >> 8
    return first + joined.tobytes() + last


def applied(runs, numbers):
    """A list with runs put into it."""
    columns = np.frombuffer(runs, "<u4").reshape(3, -1).tolist()
    numbers, at, number = list(numbers), 0, 0
    for gap, length, jump in zip(*columns, strict=True):
        assert length
        at, number = at + gap, (number + jump) % 2**32
        for step in range(min(length, len(numbers) - at)):
            numbers[at + step] = number + step
        at, number = at + length, number + length
    return numbers


def differing(difference, base):
    length, method = struct.unpack_from("<IB", difference)
    payload = difference[5:]
    if method == 0:
        codec, coded = payload[0], payload[1:]
        plain = {0: bytes, 1: unzstd, 2: lambda planes: join_planes(planes, length)}[codec](coded)
        content = bytes(one ^ other for one, other in zip(plain, base[:length].ljust(length, b"\0"), strict=True))
    else:
        assert method == 1
        dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        content = zstandard.ZstdDecompressor(dict_data=dictionary).decompress(payload)
    assert len(content) == length
    return content


def roaring(bitmap):
    """The numbers in a bitmap, by RoaringFormatSpec."""
    if not bitmap:
        return set()
    cookie, at = struct.unpack_from("<I", bitmap)[0], 4
    containers, is_run = (cookie >> 16) + 1, b""
    if cookie & 0xFFFF == 12347:
        is_run, at = bitmap[4 : 4 + (containers + 7) // 8], 4 + (containers + 7) // 8
    else:
        assert cookie == 12346
        (containers,), at = struct.unpack_from("<I", bitmap, 4), 8
    heads = [struct.unpack_from("<HH", bitmap, at + 4 * number) for number in range(containers)]
    at += 4 * containers + (4 * containers if not is_run or containers >= 4 else 0)
    found = set()
    for number, (key, less_one) in enumerate(heads):
        if is_run and is_run[number // 8] >> number % 8 & 1:
            (count,), at = struct.unpack_from("<H", bitmap, at), at + 2
            pairs = [struct.unpack_from("<HH", bitmap, at + 4 * run) for run in range(count)]
            low, at = [first + step for first, length in pairs for step in range(length + 1)], at + 4 * count
        elif less_one < 4096:
            low, at = struct.unpack_from(f"<{less_one + 1}H", bitmap, at), at + 2 * (less_one + 1)
        else:
            bits, at = bitmap[at : at + 8192], at + 8192
            low = [place for place in range(65536) if bits[place // 8] >> place % 8 & 1]
        found.update(key << 16 | one for one in low)
    assert at == len(bitmap)
    return found


def bare_vectors(type_, rows, content):
    if pa.types.is_fixed_size_binary(type_):
        return pa.Array.from_buffers(type_, rows, [None, pa.py_buffer(content)])
    values = pa.Array.from_buffers(type_.value_type, rows * type_.list_size, [None, pa.py_buffer(content)])
    return pa.FixedSizeListArray.from_arrays(values, type=type_)


def follow(recipe, sources):
    """Literals of the recipe and parts of the sources, in turn."""
    (count,) = struct.unpack_from("<I", recipe)
    at, made = 4 + 16 * count, []
    for literal, source, offset, length in struct.iter_unpack("<4I", recipe[4:at]):
        made += [recipe[at : at + literal], sources[source][offset : offset + length]]
        at += literal
    return b"".join([*made, recipe[at:]])


def interleave(part, inserted, rest):
    """Records of `stride` bytes: each one's own bytes with a vector put in at `vector_offset`."""
    stride, length, offset = part["stride"], part["vector_length"], part["vector_offset"]
    own, records = stride - length, []
    for record in range(part["length"] // stride):
        mine = rest[record * own : (record + 1) * own]
        records.append(mine[:offset] + inserted[record * length : (record + 1) * length] + mine[offset:])
    return b"".join(records)


# -- fingerprints ----------------------------------------------------------------------------------------------------------


class Fingerprints:
    """Keyed hashes of rows; 16-byte blocks are integers here, so that XOR is one operator."""

    def __init__(self, key):
        self.root_key = derive(key, b"", "root")
        block_cipher = modes.ECB()  # noqa: S305 (PMAC is made of single blocks)
        self._cipher = Cipher(algorithms.AES256(derive(key, b"", "pmac")), block_cipher).encryptor()

    def rows_root(self, table):
        sums, counts = [[0, 0] for _ in range(1024)], [0] * 1024
        for a, b in (struct.unpack("<QQ", one) for one in self.of(table)):
            bucket = sums[a % 1024]
            bucket[0], bucket[1] = (bucket[0] + a) % 2**64, (bucket[1] + b) % 2**64
            counts[a % 1024] += 1
        content = b"".join(struct.pack("<QQ", *pair) for pair in sums) + struct.pack("<1024q", *counts)
        return blake3(content, key=self.root_key).hexdigest()

    def of(self, table):
        """16 bytes a row."""
        totals = [0] * table.num_rows
        vectors = [field.name for field in table.schema if role(field) == "vector"]
        for field, column in zip(table.schema, table.columns, strict=True):
            kind, whole, values = values_of(column)
            name = self._name(f"{kind}:{column_name(field, vectors)}")
            for row, value in enumerate(values):
                totals[row] ^= 0 if value is None else self._term(value, whole, name)
        return [self._encrypt(total ^ words(1, 0)).to_bytes(16, "little") for total in totals]

    def _term(self, value, whole, name):
        return self._encrypt(self._encrypt(self._sum(value, whole) ^ name ^ words(len(value), 0)))

    def of_vector(self, value):
        digest = self._encrypt(self._sum(value, len(value) % 16 == 0) ^ self._name("vector") ^ words(len(value), 0))
        return digest.to_bytes(16, "little")

    def _sum(self, value, whole):
        padded = value if whole else value + b"\x80" + bytes(-(len(value) + 1) % 16)
        total = 0
        for place in range(len(padded) // 16):
            block = int.from_bytes(padded[16 * place : 16 * place + 16], "little")
            total ^= self._encrypt(block ^ self._encrypt(words(place, 0x6D61736B)))
        return total

    def _name(self, text):
        return int.from_bytes(blake3(text.encode(), key=self.root_key).digest()[:16], "little")

    def _encrypt(self, block):
        return int.from_bytes(self._cipher.update(block.to_bytes(16, "little")), "little")


def words(a, b):
    return a | b << 64


def role(field):
    return (field.metadata or {}).get(b"strongroom.role", b"").decode()


def column_name(field, vectors):
    if role(field) == "vector":
        return "@vector" if len(vectors) == 1 else f"@vector {field.name}"
    return f"@{role(field)}" if role(field) in ("id", "document", "uri", "payload") else field.name


def values_of(column):
    """(kind, are values cut into blocks without padding, the bytes of each value or None)"""
    array, type_ = column.combine_chunks(), column.type
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "text", False, [None if one is None else one.encode() for one in array.to_pylist()]
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return "bytes", False, array.to_pylist()
    if pa.types.is_boolean(type_) or (pa.types.is_integer(type_) and type_ != pa.uint64()):
        return "int", False, [None if one is None else struct.pack("<q", one) for one in array.to_pylist()]
    if pa.types.is_fixed_size_list(type_) and pa.types.is_primitive(type_.value_type):
        dtype = type_.value_type.to_pandas_dtype()
        bare = [None if one is None else np.array(one, dtype).tobytes() for one in array.to_pylist()]
        return f"list {type_.value_type}", type_.list_size * np.dtype(dtype).itemsize % 16 == 0, bare
    if pa.types.is_primitive(type_) or pa.types.is_fixed_size_binary(type_):
        return str(type_), type_.byte_width % 16 == 0, _fixed(array, type_.byte_width)
    return (
        "nested",
        False,
        [None if one is None else json.dumps(one, sort_keys=True, default=repr).encode() for one in array.to_pylist()],
    )


def _fixed(array, width):
    content = array.buffers()[1].to_pybytes()
    start = array.offset
    values = [content[(start + row) * width : (start + row + 1) * width] for row in range(len(array))]
    return [value if valid.as_py() else None for value, valid in zip(values, array.is_valid(), strict=True)]
