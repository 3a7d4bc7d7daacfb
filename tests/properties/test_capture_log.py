"""Does the local log of a captured index give back what was recorded, from every place on, and only that, whatever tore its end?"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strongroom.engines.indexfile import rowlog
from strongroom.engines.indexfile.logfolder import IndexLogFolder
from strongroom.engines.indexfile.rowlog import Numbers, append_rows, ids_of, vectors_of
from strongroom.engines.oplog import layout
from strongroom.engines.oplog import writer as oplog_writer
from strongroom.engines.oplog.layout import End, Kind, Log
from strongroom.engines.oplog.reader import OplogReader
from strongroom.engines.oplog.writer import OplogWriter
from strongroom.errors import Gap

NUMBERS = Numbers(3, "float32")
LOG = Log(bytes(range(16)), NUMBERS.about)


@dataclass(frozen=True)
class Call:
    kind: Kind
    ids: tuple[int, ...]
    tag: str
    seed: int

    @property
    def vectors(self) -> np.ndarray | None:
        if self.kind is not Kind.PUT:
            return None
        return np.random.default_rng(self.seed).standard_normal((len(self.ids), 3)).astype(np.float32)


def calls(most: int = 12) -> st.SearchStrategy[list[Call]]:
    ids = st.lists(st.integers(0, (1 << 63) - 1), min_size=1, max_size=9).map(tuple)
    one = st.builds(
        Call, st.sampled_from([Kind.PUT, Kind.DELETE]), ids, st.sampled_from(["", "b", "ünïcode " * 3]), st.integers(0, 99)
    )
    return st.lists(one, min_size=1, max_size=most)


@contextmanager
def folder() -> Iterator[IndexLogFolder]:
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        patch.setattr(oplog_writer, "SEGMENT_BYTES", 700)  # some records a segment
        patch.setattr(rowlog, "MOST_BYTES", 100)  # some rows a record
        made = IndexLogFolder(Path(place) / "x.faiss")
        made.make()
        made.set_log(LOG.id)
        yield made


def write(to: IndexLogFolder, recorded: list[Call]) -> OplogWriter:
    writer = OplogWriter(to, LOG)
    for call in recorded:
        append_rows(writer, call.kind, np.array(call.ids, np.int64), call.vectors, call.tag.encode())
        writer.sync()
        writer.make_room()
    return writer


def flat(recorded: list[Call]) -> list[tuple[Kind, int, str, bytes]]:
    """Row by row."""
    rows = []
    for call in recorded:
        for number, one in enumerate(call.ids):
            rows.append((call.kind, one, call.tag, b"" if call.vectors is None else call.vectors[number].tobytes()))
    return rows


def read(of: IndexLogFolder, mark: str = End(LOG.id).mark) -> list[tuple[Kind, int, str, bytes]]:
    rows = []
    with OplogReader(of, LOG.id) as reader:
        reader.seek(mark)
        number = layout.number_of(mark)
        for record in reader.all():
            assert record.last - record.operations == number
            assert record.offset % 8 == 0
            number = record.last
            vectors = vectors_of(record, NUMBERS.width)
            width = len(vectors) // record.operations
            for row, one in enumerate(ids_of(record).tolist()):
                rows.append((record.kind, one, record.tag, bytes(vectors[row * width : (row + 1) * width])))
    return rows


def marks(of: IndexLogFolder) -> list[str]:
    """That of every operation."""
    found = [End(LOG.id).mark]
    with OplogReader(of, LOG.id) as reader:
        reader.seek(found[0])
        for record in reader.all():
            found += [f"{number}:{layout.suffix(LOG.id, record.chain)}" for number in range(record.first, record.last + 1)]
    return found


@settings(max_examples=60, deadline=None)
@given(calls())
def test_all_comes_back_from_every_place_on(recorded: list[Call]) -> None:
    with folder() as place:
        write(place, recorded).close()
        rows = flat(recorded)
        assert read(place) == rows
        for number, mark in enumerate(marks(place)):
            assert read(place, mark) == rows[number:]


@settings(max_examples=60, deadline=None)
@given(calls(), calls(), st.booleans())
def test_a_second_writer_goes_on_where_the_first_ended(first: list[Call], second: list[Call], closed: bool) -> None:
    with folder() as place:
        writer = write(place, first)
        if closed:
            writer.close()
        end = writer.end
        again = OplogWriter(place, LOG)
        assert again.end == end
        again.close()
        write(place, second).close()
        assert read(place) == flat(first + second)


@settings(max_examples=100, deadline=None)
@given(calls(), calls(3), st.data())
def test_a_torn_end_is_cut_off_and_stays_off(recorded: list[Call], more: list[Call], data: st.DataObject) -> None:
    """The last segment is damaged somewhere: what was before is kept, nothing else is invented, and the log can go on."""
    with folder() as place:
        write(place, recorded).close()
        last = place.segments(LOG.id)[-1].path
        content = bytearray(whole := last.read_bytes())
        if len(content) == layout.HEADER_BYTES:
            return
        at = data.draw(st.integers(layout.HEADER_BYTES, len(content) - 1))
        if data.draw(st.booleans()):
            del content[at:]
            if data.draw(st.booleans()):
                content += bytes(64)
        else:
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        last.write_bytes(content)
        if whole == bytes(content[: len(whole)]):
            return  # only zeros were lost
        rows = flat(recorded)
        kept = read(place)
        assert kept == rows[: len(kept)]
        assert len(kept) < len(rows)
        write(place, more).close()
        assert read(place) == kept + flat(more)


@settings(max_examples=40, deadline=None)
@given(calls())
def test_who_reads_along_sees_each_record_once(recorded: list[Call]) -> None:
    with folder() as place:
        writer = OplogWriter(place, LOG)
        seen: list[int] = []
        with OplogReader(place, LOG.id) as reader:
            reader.seek(End(LOG.id).mark)
            for call in recorded:
                append_rows(writer, call.kind, np.array(call.ids, np.int64), call.vectors, b"")
                for record in reader.all():
                    seen += ids_of(record).tolist()
                assert reader.end == writer.end
        writer.close()
        assert seen == [one for call in recorded for one in call.ids]


@settings(max_examples=40, deadline=None)
@given(calls(), calls(), st.integers(1, 40))
def test_a_mark_of_another_history_is_no_place(one: list[Call], other: list[Call], number: int) -> None:
    with folder() as here, folder() as there:
        write(here, one).close()
        write(there, other).close()
        for mark, theirs in zip(marks(here)[1:], marks(there)[1:], strict=False):
            if mark != theirs:
                with pytest.raises(Gap):
                    read(there, mark)
        with pytest.raises(Gap):
            read(here, f"{len(flat(one)) + number}:{layout.suffix(LOG.id, 0)}")


def test_what_everybody_has_kept_is_dropped_and_nothing_else() -> None:
    with folder() as place:
        place.index.write_bytes(b"an index")
        recorded = [Call(Kind.PUT, tuple(range(9)), "", number) for number in range(30)]
        write(place, recorded).close()
        every = marks(place)
        rows = flat(recorded)
        assert place.drop() == 0, "the index file isn't known: all is needed"
        place.remember_saved(place.index.stat(), every[200])
        place.hold("slow", every[100])
        assert place.drop() > 0
        assert read(place, every[100]) == rows[100:]
        with pytest.raises(Gap):
            read(place, every[3])
        place.hold("slow", every[-1])
        place.drop()
        assert read(place, every[200]) == rows[200:], "a crash would need them"
        with pytest.raises(Gap):
            read(place, every[100])
        place.remember_saved(place.index.stat(), every[-1])
        place.drop()
        assert len(place.segments(LOG.id)) == 1
        assert read(place, every[-1]) == []


@settings(max_examples=100, deadline=None)
@given(calls(), st.lists(st.booleans(), min_size=12, max_size=12), st.randoms(use_true_random=False))
def test_a_loss_of_power_keeps_all_that_was_made_durable(recorded: list[Call], durable: list[bool], draw: random.Random) -> None:
    """Of what came since, the disk has any sectors, in any order: a part of it comes back, from its beginning on."""
    with folder() as place:
        writer = OplogWriter(place, LOG)
        kept, count, path = b"", 0, place.segments(LOG.id)[-1].path
        for call, flush in zip(recorded, durable, strict=False):
            append_rows(writer, call.kind, np.array(call.ids, np.int64), call.vectors, call.tag.encode())
            if place.segments(LOG.id)[-1].path != path:  # the one before was made durable, and so was the beginning of this one
                path = place.segments(LOG.id)[-1].path
                count = place.segments(LOG.id)[-1].first - 1
                kept = path.read_bytes()[: layout.HEADER_BYTES]
            if flush:
                writer.sync()
                kept, count = path.read_bytes(), writer.end.number
        written = path.read_bytes()
        kept = kept.ljust(len(written), b"\0") if kept else written[: layout.HEADER_BYTES].ljust(len(written), b"\0")
        sectors = range(0, len(written), 64)
        path.write_bytes(b"".join(draw.choice((kept, written))[at : at + 64] for at in sectors))
        rows = flat(recorded)
        found = read(place)
        assert len(found) >= count
        assert found == rows[: len(found)]
        OplogWriter(place, LOG).close()
        assert read(place) == found


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for memory ahead of its use")
def test_what_is_written_next_is_in_memory_before(tmp_path: Path) -> None:
    """A page of the log that is touched for the first time costs more than all the rest of a call."""

    def touched(writer: OplogWriter) -> int:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for number in range(200):
            append_rows(writer, Kind.PUT, np.array([number], np.int64), vectors[number : number + 1], b"")
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    vectors = np.zeros((200, 512), np.float32)
    place = IndexLogFolder(tmp_path / "x.faiss")
    place.make()
    place.set_log(LOG.id)
    writer = OplogWriter(place, LOG)
    unprepared = touched(writer)
    writer.sync()
    writer.make_room()
    assert touched(writer) < unprepared / 4
    writer.close()
    assert sum(segment.path.stat().st_size for segment in place.segments(LOG.id)) < 1 << 20  # and takes no room in the end
