"""Is a snapshot found out that has the right signature and is wrong: written by a buggy program, or by somebody with the key?"""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from worlds import DIMENSION, PASSWORD, ROWS, World, restored

from strongroom import cli
from strongroom.errors import Damaged, StrongroomError
from strongroom.model import Answers, RowBlock
from strongroom.operations.restore.plan import Rung
from strongroom.operations.restore.run import RestoreOptions, restore
from strongroom.repository import Repository
from strongroom.snapshots import history, probes
from strongroom.snapshots.fingerprints import Fingerprinter, RowsRoot
from strongroom.snapshots.manifest import (
    Block,
    Manifest,
    Part,
    ProbeSet,
    Segment,
    StoredArtifact,
    StoredCollection,
    encode,
    encode_schema,
    pack_dead,
    root_of,
)
from strongroom.snapshots.segments import encode_rest, read_segment, vector_columns
from strongroom.snapshots.slots import Slots

Forgery = Callable[[Repository, Manifest, Manifest], Manifest]
"""Of a snapshot of the second source and one of the first, makes a false one."""


# -- tools of a forger ---------------------------------------------------------------------------------------------------------


def change(record: Manifest, **parts: object) -> Manifest:
    """Another collection, with the root over all of them made to fit."""
    collections = (replace(record.collections[0], **parts),)
    return replace(record, collections=collections, root=root_of(collections))


def change_catalog(record: Manifest, **parts: object) -> Manifest:
    return change(record, catalog=replace(record.collections[0].catalog, **parts))


def change_field(record: Manifest, **parts: object) -> Manifest:
    return change_catalog(record, fields=(replace(record.collections[0].catalog.fields[0], **parts),))


def change_probe(record: Manifest, **parts: object) -> Manifest:
    return change(record, probes=(replace(record.collections[0].probes[0], **parts),))


def change_artifact(record: Manifest, place: int, **parts: object) -> Manifest:
    artifacts = list(record.artifacts)
    artifacts[place] = replace(artifacts[place], **parts)
    return replace(record, artifacts=tuple(artifacts))


def change_segments(record: Manifest, *segments: Segment) -> Manifest:
    return change(record, segments=segments)


def change_block(record: Manifest, **parts: object) -> Manifest:
    return change(record, vectors={"vector": (replace(block(record), **parts),)})


def stored(repository: Repository, content: bytes) -> str:
    """The id of a blob that the forger puts into the repository."""
    with repository.writer() as writer:
        blob = writer.submit(content, "bytes").result()
        repository.add_index(writer.close())
    return blob.hex()


def block_of(repository: Repository, record: Manifest) -> RowBlock:
    collection = record.collections[0]
    slots = Slots(collection, repository.read_blob)
    return read_segment(collection.segments[0], collection.arrow_schema(), slots, repository.read_blob)


def rewritten(repository: Repository, record: Manifest, *blocks: RowBlock) -> Manifest:
    """The rows in these segments, each with a block of vectors of its own, numbered one after another."""
    segments, vectors, start = list[Segment](), list[Block](), 0
    with repository.writer() as writer:
        for one in blocks:
            values, rows = vector_columns(one.batch, first(record).catalog.fields)["vector"], one.batch.num_rows
            blob = writer.submit(values, "float32").result().hex()
            rest = writer.submit(encode_rest(one.batch.drop_columns("vector")), "text").result().hex()
            segments.append(Segment(start, rows, rest, dead=pack_dead(one.dead)))
            vectors.append(Block(start, rows, blob, used=rows))
            start += rows
        repository.add_index(writer.close())
    return change(record, segments=tuple(segments), vectors={"vector": tuple(vectors)})


def halves(repository: Repository, record: Manifest) -> Manifest:
    """The rows in two segments of equal lengths: that alone is no forgery."""
    batch = block_of(repository, record).batch
    return rewritten(repository, record, RowBlock(batch.slice(0, ROWS // 2)), RowBlock(batch.slice(ROWS // 2)))


def with_dead(repository: Repository, record: Manifest, *dead: int) -> tuple[Manifest, str]:
    """A segment with one slot more than there are rows, and the deletion vector in which these slots are dead."""
    batch = block_of(repository, record).batch
    longer = pa.Table.from_batches([batch, batch.slice(0, 1)]).combine_chunks().to_batches()[0]
    slots = np.zeros(ROWS + 1, bool)
    slots[-1] = True
    other = np.zeros(ROWS + 1, bool)
    other[list(dead)] = True
    return rewritten(repository, record, RowBlock(longer, slots)), pack_dead(other)


def sealed_of(repository: Repository, record: Manifest) -> probes.Probes:
    return probes.decode(repository.read_blob(bytes.fromhex(record.collections[0].probes[0].blob)))


def with_sealed(repository: Repository, record: Manifest, sealed: probes.Probes, **parts: object) -> Manifest:
    return change_probe(record, blob=stored(repository, probes.encode(sealed)), **parts)


def first(record: Manifest) -> StoredCollection:
    return record.collections[0]


def block(record: Manifest) -> Block:
    return first(record).vectors["vector"][0]


def of_itself(record: Manifest, part: Part) -> Part:
    """The part with a blob of its own, so that it is the same in another snapshot."""
    return Part(part.length, part.kind, block(record).blob) if part.vectors else part


def vectors_part(record: Manifest) -> int:
    _place, one = index_file(record)
    return next(number for number, part in enumerate(one.parts) if part.vectors)


def index_file(record: Manifest) -> tuple[int, StoredArtifact]:
    return next((place, one) for place, one in enumerate(record.artifacts) if one.path.endswith(".faiss"))


def sidecar(record: Manifest) -> int:
    return next(place for place, one in enumerate(record.artifacts) if one.path.endswith(".parquet"))


# -- forgeries -----------------------------------------------------------------------------------------------------------------


def emptied_with_its_count_kept(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change(record, segments=())


def emptied(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
    nothing = RowsRoot(Fingerprinter(repository.keys.fingerprint)).digest()
    return change(record, segments=(), rows_root=nothing, catalog=replace(first(record).catalog, count=0), probes=())


def emptied_beside_another(repository: Repository, record: Manifest, other: Manifest) -> Manifest:
    """The snapshot as a whole has rows."""
    collections = (first(emptied(repository, record, other)), first(other))
    return replace(record, collections=collections, root=root_of(collections))


def all_empty(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return replace(record, collections=(), artifacts=(), root=root_of(()))


def collection_left_out(_: Repository, record: Manifest, other: Manifest) -> Manifest:
    """The other one's collection in this one's place."""
    return replace(record, collections=other.collections, root=other.root)


def collection_twice(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return replace(record, collections=record.collections * 2, root=root_of(record.collections * 2))


def other_dtype(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change_field(record, dtype="float16")


def probes_removed(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change(record, probes=())


def probes_of_another_collection(_: Repository, record: Manifest, other: Manifest) -> Manifest:
    return change_probe(record, blob=first(other).probes[0].blob)


def probes_that_are_none(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change_probe(record, blob=first(record).segments[0].rest)


def probes_that_are_vectors(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change_probe(record, blob=block(record).blob)


def fewer_probes(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
    one = sealed_of(repository, record)
    keep = slice(0, 5)
    live = Answers(one.live.ids[keep], one.live.distances[keep])
    exact = Answers(one.exact.ids[keep], one.exact.distances[keep])
    return with_sealed(repository, record, probes.Probes(one.k, one.queries[keep], exact, live))


def no_query(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
    one = sealed_of(repository, record)
    none = probes.Probes(one.k, np.zeros((0, DIMENSION), np.float32), Answers((), ()), Answers((), ()))
    return with_sealed(repository, record, none, count=0, recall=None)


def other_k(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change_probe(record, k=1)


def live_ids_altered(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
    one = sealed_of(repository, record)
    swapped = (one.live.ids[0][1], one.live.ids[0][0], *one.live.ids[0][2:])
    return with_sealed(repository, record, replace(one, live=Answers((swapped, *one.live.ids[1:]), one.live.distances)))


def live_distance_altered_by_a_bit(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
    one = sealed_of(repository, record)
    distances = [row.copy() for row in one.live.distances]
    distances[7][3:4].view(np.uint8)[0] ^= 1
    return with_sealed(repository, record, replace(one, live=Answers(one.live.ids, tuple(distances))))


def exact_answers_altered(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
    """So that recall would look perfect."""
    one = sealed_of(repository, record)
    return with_sealed(repository, record, replace(one, exact=one.live))


def live_answers_left_out(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
    return with_sealed(repository, record, replace(sealed_of(repository, record), live=None), live=False, recall=None)


def swapped_vectors(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
    forged = halves(repository, record)
    one, two = first(forged).vectors["vector"]
    return change(forged, vectors={"vector": (replace(one, blob=two.blob), replace(two, blob=one.blob))})


def segment_twice(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
    forged = halves(repository, record)
    one, _two = first(forged).segments
    return change_segments(forged, one, one)


def swapped_vector_and_rest(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    one = first(record).segments[0]
    return change_block(change_segments(record, replace(one, rest=block(record).blob)), blob=one.rest)


def rest_is_vectors(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change_segments(record, replace(first(record).segments[0], rest=block(record).blob))


def rest_of_another(_: Repository, record: Manifest, other: Manifest) -> Manifest:
    return change_segments(record, replace(first(record).segments[0], rest=first(other).segments[0].rest))


def rest_is_probes(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change_segments(record, replace(first(record).segments[0], rest=first(record).probes[0].blob))


def vectors_of_another(_: Repository, record: Manifest, other: Manifest) -> Manifest:
    return change(record, vectors=first(other).vectors)


def vector_column_left_out(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change(record, vectors={})


def runs_are_rest(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    """Which vectors the rows have."""
    one = first(record).segments[0]
    return change_segments(record, replace(one, vectors={"vector": one.rest}))


def order_is_rest(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change(record, order=(first(record).segments[0].rest,))


def fewer_slots(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change(record, slots=first(record).slots - 1)


def check_of_another(_: Repository, record: Manifest, other: Manifest) -> Manifest:
    place, one = index_file(record)
    number = vectors_part(record)
    forged = replace(one.parts[number], check=index_file(other)[1].parts[vectors_part(other)].check)
    return change_artifact(record, place, parts=(*one.parts[:number], forged, *one.parts[number + 1 :]))


def unknown_blob(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change_segments(record, replace(first(record).segments[0], rest="ab" * 32))


def no_blob_id(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change_segments(record, replace(first(record).segments[0], rest="../../config"))


def another_slot_dead(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
    forged, dead = with_dead(repository, record, 5)
    return change_segments(forged, replace(first(forged).segments[0], dead=dead))


def one_slot_more_dead(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
    forged, dead = with_dead(repository, record, 5, ROWS)
    return change_segments(forged, replace(first(forged).segments[0], dead=dead))


def short_deletion_vector(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
    forged, _dead = with_dead(repository, record)
    return change_segments(forged, replace(first(forged).segments[0], dead="AQ=="))


def nonsense_deletion_vector(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change_segments(record, replace(first(record).segments[0], dead="no base64!"))


def count_wrong(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change_catalog(record, count=ROWS + 1)


def count_wrong_in_segment_too(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    forged = change_catalog(record, count=ROWS + 1)
    return change_segments(forged, replace(first(record).segments[0], rows=ROWS + 1))


def rows_root_wrong(_: Repository, record: Manifest, other: Manifest) -> Manifest:
    return change(record, rows_root=first(other).rows_root)


def root_wrong(_: Repository, record: Manifest, other: Manifest) -> Manifest:
    return replace(record, root=other.root)


def parts_out_of_order(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    place, one = index_file(record)
    return change_artifact(record, place, parts=tuple(reversed(one.parts)))


def index_of_another(_: Repository, record: Manifest, other: Manifest) -> Manifest:
    """A whole index, with vectors and links of its own."""
    place, _one = index_file(record)
    _place, two = index_file(other)
    return change_artifact(record, place, parts=tuple(of_itself(other, part) for part in two.parts), size=two.size)


def vectors_of_another_index(_: Repository, record: Manifest, other: Manifest) -> Manifest:
    """The links are right, the vectors under them aren't."""
    place, one = index_file(record)
    _place, two = index_file(other)
    number = vectors_part(record)
    forged = of_itself(other, two.parts[vectors_part(other)])
    return change_artifact(record, place, parts=(*one.parts[:number], forged, *one.parts[number + 1 :]))


def links_of_another_index(_: Repository, record: Manifest, other: Manifest) -> Manifest:
    """All rows come back; only the answers are wrong."""
    place, one = index_file(record)
    _place, two = index_file(other)
    parts = [b if (a.kind, a.length) == ("int32", b.length) else a for a, b in zip(one.parts, two.parts, strict=True)]
    return change_artifact(record, place, parts=tuple(parts))


def index_missing(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    place, _one = index_file(record)
    return replace(record, artifacts=tuple(one for number, one in enumerate(record.artifacts) if number != place))


def sidecar_missing(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return replace(record, artifacts=tuple(one for number, one in enumerate(record.artifacts) if number != sidecar(record)))


def every_artifact_missing(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return replace(record, artifacts=())


def artifact_size_wrong(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    place, one = index_file(record)
    return change_artifact(record, place, size=one.size + 1)


def part_length_wrong(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    """The sum fits."""
    place, one = index_file(record)
    head, middle, *rest = one.parts
    parts = (replace(head, length=head.length - 1), replace(middle, length=middle.length + 1), *rest)
    return change_artifact(record, place, parts=parts)


def stride_wrong(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    place, one = index_file(record)
    number = vectors_part(record)
    odd = of_itself(record, one.parts[number])
    odd = replace(odd, stride=3, vector_offset=0, vector_length=2, rest=one.parts[0].blob)
    return change_artifact(record, place, parts=(*one.parts[:number], odd, *one.parts[number + 1 :]))


def two_files_of_one_path(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return replace(record, artifacts=(*record.artifacts, record.artifacts[sidecar(record)]))


def path(text: str) -> Forgery:
    def forge(_: Repository, record: Manifest, __: Manifest) -> Manifest:
        return change_artifact(record, sidecar(record), path=text)

    return forge


def schema_of_another_type(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    schema = first(record).arrow_schema()
    place = schema.get_field_index("rank")
    return change(record, schema=encode_schema(schema.set(place, schema.field(place).with_type(pa.float64()))))


def schema_with_one_column_more(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change(record, schema=encode_schema(first(record).arrow_schema().append(pa.field("secret", pa.string()))))


def schema_without_the_vector(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    schema = first(record).arrow_schema()
    return change(record, schema=encode_schema(schema.remove(schema.get_field_index("vector"))))


def schema_without_a_column(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    schema = first(record).arrow_schema()
    return change(record, schema=encode_schema(schema.remove(schema.get_field_index("document"))))


def schema_of_nonsense(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change(record, schema=base64.b64encode(b"no schema at all").decode())


def no_schema(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return change(record, schema="")


def rows_nowhere(_: Repository, record: Manifest, __: Manifest) -> Manifest:
    return replace(record, rows_plane="elsewhere")


FORGERIES: dict[str, tuple[str, str, Forgery]] = {
    # name: the level that must find it, what must be named beside the snapshot, the forgery
    "emptied, count kept": ("objects", "collection second", emptied_with_its_count_kept),
    "emptied": ("objects", "snapshots/", emptied),
    "emptied beside another": ("restore", "collection second", emptied_beside_another),
    "all empty": ("objects", "snapshots/", all_empty),
    "collection of another": ("restore", "collection second", collection_left_out),
    "collection twice": ("objects", "collection second", collection_twice),
    "dimension": ("objects", "collection second", lambda _, record, __: change_field(record, dimension=DIMENSION + 1)),
    "dimension 0": ("objects", "collection second", lambda _, record, __: change_field(record, dimension=0)),
    "dtype": ("restore", "collection second", other_dtype),
    "metric": ("restore", "collection second", lambda _, record, __: change_field(record, metric="ip")),
    "field name": ("objects", "collection second", lambda _, record, __: change_field(record, name="other")),
    "probes removed": ("answers", "collection second", probes_removed),
    "probes of another": ("answers", "probes of vector", probes_of_another_collection),
    "probes are none": ("answers", "probes of vector", probes_that_are_none),
    "probes are vectors": ("answers", "probes of vector", probes_that_are_vectors),
    "fewer probes": ("answers", "probes of vector", fewer_probes),
    "no query": ("answers", "probes of vector", no_query),
    "other k": ("answers", "probes of vector", other_k),
    "live ids": ("answers", "probes of vector", live_ids_altered),
    "one bit of a live distance": ("answers", "probes of vector", live_distance_altered_by_a_bit),
    "exact answers": ("answers", "probes of vector", exact_answers_altered),
    "live answers left out": ("answers", "probes of vector", live_answers_left_out),
    "swapped vectors of two segments": ("restore", "collection second", swapped_vectors),
    "segment twice": ("restore", "collection second", segment_twice),
    "swapped vectors and rest": ("restore", "collection second", swapped_vector_and_rest),
    "rest is vectors": ("restore", "collection second", rest_is_vectors),
    "rest of another": ("restore", "collection second", rest_of_another),
    "rest is probes": ("restore", "collection second", rest_is_probes),
    "vectors of another": ("restore", "collection second", vectors_of_another),
    "vector column left out": ("restore", "collection second", vector_column_left_out),
    "runs are rest": ("restore", "collection second", runs_are_rest),
    "order is rest": ("restore", "", order_is_rest),
    "fewer slots": ("restore", "", fewer_slots),
    "check of another": ("restore", "", check_of_another),
    "unknown blob": ("objects", "blob abababab", unknown_blob),
    "no blob id": ("objects", "snapshots/", no_blob_id),
    "another slot dead": ("restore", "collection second", another_slot_dead),
    "one slot more dead": ("objects", "collection second", one_slot_more_dead),
    "short deletion vector": ("objects", "collection second", short_deletion_vector),
    "nonsense deletion vector": ("objects", "collection second", nonsense_deletion_vector),
    "count": ("objects", "collection second", count_wrong),
    "count, in the segment too": ("restore", "collection second", count_wrong_in_segment_too),
    "rows root": ("restore", "collection second", rows_root_wrong),
    "root": ("objects", "snapshots/", root_wrong),
    "parts out of order": ("restore", "snapshots/", parts_out_of_order),
    "index of another": ("restore", "collection second", index_of_another),
    "vectors of another index": ("restore", "collection second", vectors_of_another_index),
    "links of another index": ("answers", "probes of vector", links_of_another_index),
    "index missing": ("restore", "snapshots/", index_missing),
    "sidecar missing": ("restore", "collection second", sidecar_missing),
    "every artifact missing": ("objects", "snapshots/", every_artifact_missing),
    "artifact size": ("objects", "artifact second.faiss", artifact_size_wrong),
    "part lengths": ("restore", "artifact second.faiss", part_length_wrong),
    "stride": ("restore", "blob ", stride_wrong),
    "two files of one path": ("objects", "artifact second.parquet", two_files_of_one_path),
    "path out of the target": ("objects", "artifact ../escaped.parquet", path("../escaped.parquet")),
    "path deep out of the target": ("objects", "artifact a/../../../escaped.parquet", path("a/../../../escaped.parquet")),
    "absolute path": ("objects", "artifact /", path("/tmp/strongroom-escaped/second.parquet")),  # noqa: S108 - must not be made
    "path into a folder": ("restore", "artifact", path("folder/second.parquet")),
    "empty path": ("objects", "artifact", path("")),
    "schema: another type": ("restore", "collection second", schema_of_another_type),
    "schema: one column more": ("restore", "collection second", schema_with_one_column_more),
    "schema: one column less": ("restore", "collection second", schema_without_a_column),
    "schema: no vector": ("objects", "collection second", schema_without_the_vector),
    "schema: nonsense": ("objects", "collection second", schema_of_nonsense),
    "schema: none": ("objects", "collection second", no_schema),
    "rows plane": ("objects", "snapshots/", rows_nowhere),
    "newer engine": ("restore", "snapshots/", lambda _, record, __: replace(record, engine_version="99.0.0")),
    "unknown engine": ("restore", "snapshots/", lambda _, record, __: replace(record, engine="pinecone")),
}
ROWS_PLANE_WRONG = {
    "emptied, count kept",
    "swapped vectors of two segments",
    "segment twice",
    "swapped vectors and rest",
    "rest is vectors",
    "rest of another",
    "rest is probes",
    "vectors of another",
    "vector column left out",
    "runs are rest",
    "unknown blob",
    "another slot dead",
    "one slot more dead",
    "short deletion vector",
    "nonsense deletion vector",
    "count",
    "count, in the segment too",
    "rows root",
    "dimension",
    "field name",
    "schema: another type",
    "schema: one column more",
    "schema: one column less",
    "schema: no vector",
    "schema: nonsense",
    "schema: none",
}
"""What must never be loaded from rows as if it were right."""


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_snapshot_is_found_and_the_others_restore(
    forgery: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    level, named, forge = FORGERIES[forgery]
    forged = forged_snapshot(world, forge)

    report = verify_by_command(world, level, monkeypatch, capsys)

    about = [one for one in report["findings"] if named in one["subject"] and forged in (*one["snapshots"], one["subject"][10:74])]
    assert about, report["findings"]
    assert sorted(report["healthy"]) == sorted(world.order)
    for number, (snapshot, content) in enumerate(world.expected.items()):
        assert restored(world.open().repository, snapshot, tmp_path / f"restored-{number}") == content
    assert not list(tmp_path.rglob("escaped*"))
    assert not Path("/tmp/strongroom-escaped").exists()  # noqa: S108


@pytest.mark.parametrize("rung", [Rung.EXACT, Rung.REBUILD])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_snapshot_restores_truthfully_or_not_at_all(forgery: str, rung: Rung, world: World, tmp_path: Path) -> None:
    """Whatever the manifest says, a restore ends with one of our errors, or with what it promised; and nothing lies elsewhere."""
    forged = forged_snapshot(world, FORGERIES[forgery][2])
    place = tmp_path / "out"
    try:
        options = RestoreOptions(rung=None if rung == Rung.EXACT else rung)
        report = restore(world.open().repository, forged, f"faiss://{place}/index.faiss", options)
    except StrongroomError as error:
        assert not place.exists() or not list(place.glob("*.faiss"))
        assert "Traceback" not in str(error)
    else:
        assert report.checks
        assert rung == Rung.EXACT or forgery not in ROWS_PLANE_WRONG
    assert not list(tmp_path.rglob("escaped*"))
    assert not Path("/tmp/strongroom-escaped").exists()  # noqa: S108


def test_what_the_forger_does_is_no_forgery_by_itself(world: World) -> None:
    """The tools leave a right snapshot right: rows in two segments, rows with a dead slot, probes stored again."""

    def in_halves(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
        return halves(repository, record)

    def with_a_dead_slot(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
        return with_dead(repository, record)[0]

    def sealed_again(repository: Repository, record: Manifest, _: Manifest) -> Manifest:
        return with_sealed(repository, record, sealed_of(repository, record))

    made = [forged_snapshot(world, forge) for forge in (in_halves, with_a_dead_slot, sealed_again)]
    for name in made:
        report = world.open().verify(name, level=4)
        assert (report.findings, report.healthy) == ((), (name,))


def test_a_check_of_nothing_fails_at_every_level(world: World, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Only an all-empty snapshot, and nothing else: no level may pass."""
    room = world.open()
    record = room.snapshot(world.order[1]).manifest
    for snapshot in world.order:
        (world.folder / "snapshots" / snapshot).unlink()
    room.repository.add_manifest(encode(replace(all_empty(room.repository, record, record), parents=())))
    for level in ("objects", "data", "restore", "answers"):
        report = verify_by_command(world, level, monkeypatch, capsys)
        assert report["healthy"] == []


def test_a_probe_set_says_what_this_test_thinks(world: World) -> None:
    """If the format gains a field, a forgery of it belongs above."""
    assert [one.name for one in dataclasses.fields(ProbeSet)] == ["field", "k", "count", "blob", "live", "repeatable", "recall"]
    assert [one.name for one in dataclasses.fields(Segment)] == ["start", "rows", "rest", "prints", "vectors", "dead"]
    assert [one.name for one in dataclasses.fields(Block)] == ["start", "count", "blob", "prints", "used"]


def test_the_restore_of_an_outside_path_names_it(world: World, tmp_path: Path) -> None:
    forged = forged_snapshot(world, path("../escaped.parquet"))
    with pytest.raises(Damaged, match="escaped"):
        restore(world.open().repository, forged, f"faiss://{tmp_path}/out/index.faiss")


def forged_snapshot(world: World, forge: Forgery) -> str:
    """Signed and sealed with the right key."""
    repository = world.open().repository
    second, other = (history.read(repository, world.order[place]).manifest for place in (1, 2))
    record = replace(forge(repository, second, other), created="2099-01-01T00:00:00+00:00", parents=(world.order[2],))
    return repository.add_manifest(encode(record))


def verify_by_command(world: World, level: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict:
    """What `strongroom verify --json` prints; it must end with 4."""
    monkeypatch.setenv("STRONGROOM_REPOSITORY", str(world.folder))
    monkeypatch.setenv("STRONGROOM_PASSWORD", PASSWORD)
    monkeypatch.setattr(sys, "argv", ["strongroom", "verify", "--level", level, "--json", "--quiet"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert ended.value.code == 4, printed
    return json.loads(printed.out or printed.err)
